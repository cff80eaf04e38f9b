/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of a connection; the first says in which pieces the others come. */
#include "tests/fuzz/fuzz.h"

#include "server/http/http_parser.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const HttpParserLimits limits = { .header_bytes_max = 512, .body_bytes_max = 256 };
    CLEANUP(http_parser_deinit) HttpParser parser;
    size_t piece = size ? (size_t)data[0] + 1 : 1, at = 1, used;

    http_parser_init(&parser, &limits);
    while (at < size) {
        size_t n = piece < size - at ? piece : size - at;
        HttpParse parse = http_parser_feed(&parser, (const char *)data + at, n, &used);

        assert(used <= n);
        assert(parser.request.body.size <= limits.body_bytes_max);
        if (parse == HTTP_PARSE_BAD) {
            assert(parser.status >= 400 && parser.why.text[0]);
            break;
        }
        at += parse == HTTP_PARSE_MORE ? n : used;
        if (parse == HTTP_PARSE_DONE) {
            assert(buffer_text(&parser.request.path)[0] == '/');
            http_parser_next(&parser);
        }
    }
    return 0;
}
