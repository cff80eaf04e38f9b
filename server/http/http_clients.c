/* SPDX-License-Identifier: Apache-2.0 */
#include "server/http/http_clients.h"

#include "server/http/http_request.h"

#include <stdlib.h>

void http_clients_init(HttpClients *clients, Account *parent, uint64_t limit_bytes) {
    clients->parent = parent;
    clients->limit_bytes = limit_bytes;
    for (uint32_t i = 0; i < HTTP_CLIENT_BUCKETS; i++)
        list_init(&clients->buckets[i]);
}

static HttpClient *client_new(const HttpClients *clients, uint64_t key) {
    HttpClient *client = calloc(1, sizeof(*client));

    if (!client)
        return NULL;
    client->key = key;
    client->account = account_new(clients->parent, clients->limit_bytes, HTTP_CLIENT_LIMIT);
    if (!client->account) {
        free(client);
        return NULL;
    }
    return client;
}

HttpClient *http_clients_enter(HttpClients *clients, uint64_t key) {
    List *bucket = &clients->buckets[key % HTTP_CLIENT_BUCKETS];
    HttpClient *client = NULL;

    list_for_each(link, bucket) {
        HttpClient *known = container_of(link, HttpClient, link);

        if (known->key == key)
            client = known;
    }
    if (!client) {
        client = client_new(clients, key);
        if (!client)
            return NULL;
        list_push_back(bucket, &client->link);
    }
    client->n_connections++;
    return client;
}

void http_clients_leave(HttpClient *client) {
    if (--client->n_connections)
        return;
    list_remove(&client->link);
    account_unref(client->account);
    free(client);
}
