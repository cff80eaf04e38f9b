/* SPDX-License-Identifier: Apache-2.0 */
#include "server/http/http_peer.h"

#include "util/hash.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>

#define IPV6_CLIENT_BYTES 8

static void set(HttpPeer *peer, int family, const void *bytes, size_t n_key_bytes) {
    if (!inet_ntop(family, bytes, peer->address, sizeof(peer->address)))
        snprintf(peer->address, sizeof(peer->address), "?");
    peer->key = hash128(bytes, n_key_bytes, 0).low;
}

void http_peer_set(HttpPeer *peer, const struct sockaddr *address) {
    const struct sockaddr_in *in4 = (const struct sockaddr_in *)(const void *)address;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)address;

    if (address && address->sa_family == AF_INET)
        set(peer, AF_INET, &in4->sin_addr, sizeof(in4->sin_addr));
    else if (address && address->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
        set(peer, AF_INET, &in6->sin6_addr.s6_addr[12], sizeof(in4->sin_addr));
    else if (address && address->sa_family == AF_INET6)
        set(peer, AF_INET6, &in6->sin6_addr, IPV6_CLIENT_BYTES);
    else
        *peer = (HttpPeer){ .address = "?" };
}

HttpPeerState http_peer_state(int fd) {
    struct tcp_info info;
    socklen_t size = sizeof(info);

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) || info.tcpi_state == TCP_CLOSE)
        return HTTP_PEER_GONE;
    return info.tcpi_state == TCP_CLOSE_WAIT ? HTTP_PEER_FINISHED : HTTP_PEER_THERE;
}
