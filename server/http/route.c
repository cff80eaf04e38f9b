/* SPDX-License-Identifier: Apache-2.0 */
#include "server/http/route.h"

#include "util/nearest.h"

#include <string.h>

static bool path_matches(const Route *route, const Buffer *path) {
    size_t n = strlen(route->path);
    bool is_prefix = n > 1 && route->path[n - 1] == '/';

    if (is_prefix ? path->size <= n : path->size != n)
        return false;
    return !memcmp(buffer_text(path), route->path, n);
}

static void put_allowed(Buffer *allow, HttpMethod method) {
    if (allow->size)
        buffer_append_text(allow, ", ");
    buffer_append_text(allow, method == HTTP_METHOD_GET ? "GET, HEAD" : http_method_name(method));
}

int route_find(const Route *routes, size_t n, const HttpRequest *request, const Route **routep,
               Buffer *allow) {
    HttpMethod method = request->method == HTTP_METHOD_HEAD ? HTTP_METHOD_GET : request->method;

    for (size_t i = 0; i < n; i++) {
        if (!path_matches(&routes[i], &request->path))
            continue;
        if (routes[i].method == method) {
            *routep = &routes[i];
            return 0;
        }
        put_allowed(allow, routes[i].method);
    }
    return allow->size ? ROUTE_E_NO_METHOD : ROUTE_E_NO_PATH;
}

static bool ends_in(const char *text, const char *end) {
    size_t n = strlen(text), n_end = strlen(end);

    return n >= n_end && n_end > 1 && !strcmp(text + n - n_end, end);
}

/* "/chat/completions" and "/v1/v1/chat/completions" come of a wrong base URL and are not far. */
const char *route_nearest(const Route *routes, size_t n, const char *path) {
    size_t n_path = strlen(path), best = n_path / 3 + 1;
    const char *nearest = NULL;

    if (n_path >= NEAREST_BYTES_MAX)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        bool is_part = ends_in(routes[i].path, path) || ends_in(path, routes[i].path);
        size_t distance = is_part ? 0 : nearest_distance(routes[i].path, path, n_path);

        if (distance > best || (nearest && distance == best))
            continue;
        nearest = routes[i].path;
        best = distance;
    }
    return nearest;
}
