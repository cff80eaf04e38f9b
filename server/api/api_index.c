/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page is one file: no script, no style sheet or picture of somebody else's.
 */
#include "server/api/api_index.h"

#include "util/html.h"

#include <string.h>

static const char page_head[] =
    "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n<title>kvasird</title>\n"
    "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:44em;margin:3em auto;padding:0 1em}"
    "pre{background:#8881;padding:1em;overflow:auto}:root{color-scheme:light dark}</style>\n";

static const char *const states[] = { "loading", "ready", "finishing what it has, to end" };

/* With the address that the browser came by. */
static void put_example(Buffer *out, const Api *api, const HttpRequest *request) {
    buffer_append_text(out, "<pre>curl http://");
    html_escape(out, request->host.size ? buffer_text(&request->host) : "127.0.0.1:8000");
    buffer_append_text(out, "/v1/chat/completions -H 'Content-Type: application/json' -d '\n"
                            "  {\"model\": \"");
    html_escape(out, api->name);
    buffer_append_text(out, "\",\n   \"messages\": [{\"role\": \"user\", \"content\": "
                            "\"Hello!\"}]}'</pre>\n");
}

static void reply_page(HttpExchange *exchange, const Api *api) {
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    size_t n;
    const Route *routes = api_routes(&n);

    buffer_append_text(&body, page_head);
    buffer_append_text(&body, "<h1>kvasird " KVASIR_VERSION "</h1>\n"
                              "<p>An LLM inference server that speaks the OpenAI API. Model: <b>");
    html_escape(&body, api->name);
    buffer_printf(&body, "</b>, %s.</p>\n", states[api->state]);
    put_example(&body, api, exchange->request);
    buffer_append_text(&body, "<p>Clients of OpenAI's take this address and <code>/v1</code> as "
                              "their base URL. What there is:</p>\n<ul>\n");
    for (size_t i = 0; i < n; i++)
        if (routes[i].summary)
            buffer_printf(&body, "<li><code>%s %s</code> %s</li>\n",
                          http_method_name(routes[i].method), routes[i].path, routes[i].summary);
    buffer_append_text(&body,
                       "</ul>\n<p><a href=\"docs\">What each takes and answers</a></p>\n</html>\n");
    http_exchange_reply(exchange, &(HttpReply){ .status = 200,
                                                .content_type = "text/html; charset=utf-8",
                                                .headers = "Vary: Accept\r\n",
                                                .moved = &body });
}

static void reply_json(HttpExchange *exchange, const Api *api) {
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    size_t n;
    const Route *routes = api_routes(&n);
    JsonWriter w = JSON_WRITER(&body);

    json_begin_object(&w, NULL);
    json_put_text(&w, "name", "kvasird");
    json_put_text(&w, "version", KVASIR_VERSION);
    json_put_text(&w, "model", api->name);
    json_put_text(&w, "state", states[api->state]);
    json_begin_array(&w, "paths");
    for (size_t i = 0; i < n; i++) {
        if (!routes[i].summary)
            continue;
        json_begin_object(&w, NULL);
        json_put_text(&w, "method", http_method_name(routes[i].method));
        json_put_text(&w, "path", routes[i].path);
        json_end_object(&w);
    }
    json_end_array(&w);
    json_end_object(&w);
    api_reply_json(exchange, 200, &body);
}

void api_index(HttpExchange *exchange, void *userdata) {
    const Api *api = userdata;

    if (strcasestr(buffer_text(&exchange->request->accept), "text/html"))
        reply_page(exchange, api);
    else
        reply_json(exchange, api);
}
