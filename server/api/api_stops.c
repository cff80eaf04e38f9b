/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_stops.h"

uint32_t api_stops_find_tokens(const Tokenizer *tokenizer, const StopSet *stops, uint32_t *ids) {
    uint32_t n = 0;

    for (uint32_t i = 0; i < stops->n_stops; i++) {
        uint32_t id = tokenizer_find_special(tokenizer, stops->stops[i].text, stops->stops[i].size);

        if (id != TOKEN_NONE)
            ids[n++] = id;
    }
    return n;
}

const char *api_stops_find_text(const Tokenizer *tokenizer, const StopSet *stops, uint32_t token) {
    for (uint32_t i = 0; i < stops->n_stops; i++)
        if (token != TOKEN_NONE &&
            tokenizer_find_special(tokenizer, stops->stops[i].text, stops->stops[i].size) == token)
            return stops->stops[i].text;
    return NULL;
}
