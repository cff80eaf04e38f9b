/* SPDX-License-Identifier: Apache-2.0 */
#include "server/route.h"

#include <string.h>

static bool path_matches(const Route *route, const Buffer *path) {
    size_t n = strlen(route->path);
    bool is_prefix = route->path[n - 1] == '/';

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
