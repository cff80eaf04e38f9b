/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Who is at the other end of a connection, and whether anybody still is.
 */

#include <netinet/in.h>
#include <stdint.h>

typedef struct HttpPeer {
    char address[INET6_ADDRSTRLEN]; /* without the port; "?" where the system does not know it */
    uint64_t key; /* the same for all connections of what may be one client: an IPv4 address, or
                     the first 64 bits of an IPv6 one, which is what one subscriber gets */
} HttpPeer;

/* An IPv4 address that came as IPv6 ("::ffff:192.0.2.1") is that IPv4 address. `address` may be
 * NULL. */
void http_peer_set(HttpPeer *peer, const struct sockaddr *address);

typedef enum HttpPeerState {
    HTTP_PEER_THERE,
    HTTP_PEER_FINISHED, /* it said that it sends no more, be it behind bytes not read yet; it may
                           still wait for its answer, or have gone: only its reply to what is sent
                           to it tells */
    HTTP_PEER_GONE,     /* nobody is there: the system heard a reset */
} HttpPeerState;

HttpPeerState http_peer_state(int fd);
