/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listener, and what concerns all connections.
 */
#include "server/http/http_server.h"

#include "server/http/http_connection.h"
#include "util/log.h"

#include <assert.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

#define BACKLOG 1024

void http_server_init(HttpServer *server, const HttpServerOptions *options) {
    *server = (HttpServer){ .options = *options };
    list_init(&server->connections);
    list_init(&server->idle);
    http_clients_init(&server->clients, options->account, options->client_bytes_max);
}

static void on_connection(uv_stream_t *listener, int status) {
    HttpServer *server = listener->data;

    if (status) {
        log_client_line(LOG_LEVEL_WARNING, "a connection was not accepted", "reason=\"%s\"",
                        uv_strerror(status));
        return;
    }
    http_connection_accept(server);
}

static int resolve(const char *host, uint16_t port, struct sockaddr_storage *out, Reason *why) {
    struct addrinfo hints = { .ai_family = AF_UNSPEC,
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    struct addrinfo *found;
    char service[8];
    int r;

    snprintf(service, sizeof(service), "%u", port);
    r = getaddrinfo(host, service, &hints, &found);
    if (r)
        return reason_set(why, -EADDRNOTAVAIL, "host %s: %s", host, gai_strerror(r));
    memcpy(out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return 0;
}

int http_server_listen(HttpServer *server, const char *host, uint16_t port, Reason *why) {
    struct sockaddr_storage address;
    int r;

    r = resolve(host, port, &address, why);
    if (r)
        return r;
    r = uv_tcp_init(server->options.loop, &server->listener);
    if (r)
        return reason_set(why, r, "there can be no socket to listen on: %s", uv_strerror(r));
    server->listener.data = server;
    server->listening = true;
    r = uv_tcp_bind(&server->listener, (const struct sockaddr *)&address, 0);
    if (!r)
        r = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    if (r)
        return reason_set(why, r, "cannot listen on %s, port %u: %s (options host, port)", host,
                          port, uv_strerror(r));
    return 0;
}

const char *http_server_address(const HttpServer *server, char *text, size_t size) {
    struct sockaddr_storage address;
    char host[INET6_ADDRSTRLEN];
    int n = sizeof(address);

    if (uv_tcp_getsockname(&server->listener, (struct sockaddr *)&address, &n)) {
        snprintf(text, size, "?");
    } else if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address;

        uv_ip6_name(in6, host, sizeof(host));
        snprintf(text, size, "[%s]:%u", host, ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)&address;

        uv_ip4_name(in4, host, sizeof(host));
        snprintf(text, size, "%s:%u", host, ntohs(in4->sin_port));
    }
    return text;
}

static void on_listener_closed(uv_handle_t *handle) {
    HttpServer *server = handle->data;

    server->listening = false;
    http_server_check_empty(server);
}

void http_server_check_empty(HttpServer *server) {
    if (server->draining && !server->listening && list_is_empty(&server->connections) &&
        server->options.on_empty)
        server->options.on_empty(server->options.on_empty_userdata);
}

void http_server_drain(HttpServer *server) {
    if (server->draining)
        return;
    server->draining = true;
    server->accept_waits = false;
    if (server->listening)
        uv_close((uv_handle_t *)&server->listener, on_listener_closed);
    list_for_each_safe(link, &server->idle)
        http_connection_close(container_of(link, HttpConnection, idle_link));
    http_server_check_empty(server);
}

/* Closing leaves `connections` as it is until the handles are gone. */
void http_server_abort(HttpServer *server) {
    list_for_each(link, &server->connections)
        http_connection_close(container_of(link, HttpConnection, link));
}
