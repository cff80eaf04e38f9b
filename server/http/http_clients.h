/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The clients that have connections now, by the key of their address (http_peer.h), each with an
 * account that all its requests and unread answers are charged to: what one client can hold is
 * bounded, so that it cannot take what the others need. Loop's thread.
 */

#include "util/account.h"
#include "util/list.h"

#include <stdint.h>

#define HTTP_CLIENT_BUCKETS 256

typedef struct HttpClient {
    List link;
    uint64_t key;
    Account *account;       /* owned reference */
    uint32_t n_connections; /* that hold it, closing ones among them */
    uint32_t n_open;        /* of them, those that are not closing; the connections count it */
} HttpClient;

typedef struct HttpClients {
    List buckets[HTTP_CLIENT_BUCKETS]; /* HttpClient.link, by the low bits of the key */
    Account *parent;                   /* of their accounts; borrowed */
    uint64_t limit_bytes;              /* of each */
} HttpClients;

void http_clients_init(HttpClients *clients, Account *parent, uint64_t limit_bytes);

/* The client of one more connection; NULL without memory. */
HttpClient *http_clients_enter(HttpClients *clients, uint64_t key);
/* A connection less; the last one's call frees the client. Its account lives on while a request
 * holds it. */
void http_clients_leave(HttpClient *client);
