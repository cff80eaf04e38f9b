/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which handler a request goes to: a table of method, path and handler, with words on each.
 */

#include "server/http/http_exchange.h"

typedef void (*RouteHandlerFn)(HttpExchange *exchange, void *userdata);

typedef struct Route {
    HttpMethod method;
    const char *path; /* one that ends in '/' takes everything below it */
    RouteHandlerFn handler;
    /* What the API's description says of it; its schemas are known by names. */
    const char *summary; /* a sentence; NULL: it only refuses, which no description tells */
    const char *below;   /* what stands behind a path that ends in '/': "model" */
    unsigned body;       /* the endpoint whose parameters are its body; 0: it has none */
    const char *answer;  /* schema of its JSON; NULL: it answers none */
    const char *media;   /* the type of what it answers beside JSON; NULL: nothing */
    const char *stream;  /* schema of the events that it can answer with; NULL: none */
    bool names_events;   /* those events have names, and none is "[DONE]" */
    const char *error;   /* schema of its errors; NULL: that of all others */
} Route;

enum {
    _ROUTE_E_SUCCESS,
    ROUTE_E_NO_PATH,
    ROUTE_E_NO_METHOD, /* `allow` has the methods of this path: "GET, HEAD" */
};

/* The path most like one that nothing is at; NULL if none is close. */
const char *route_nearest(const Route *routes, size_t n, const char *path);

/* HEAD goes where GET does. */
int route_find(const Route *routes, size_t n, const HttpRequest *request, const Route **routep,
               Buffer *allow);
