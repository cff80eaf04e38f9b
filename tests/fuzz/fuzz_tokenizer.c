/* SPDX-License-Identifier: Apache-2.0 */
/* A tokenizer.json; one that opens must encode and decode, and give streams what it gives wholes.
 */
#include "tests/fuzz/fuzz.h"

#include "text/tokenizer.h"

#include <string.h>

static const char text[] =
    "Hello, World's 123 <s> <|end|>\xc3\xa9\xe6\x97\xa5\xf0\x9f\x98\x80\n\t  x";

static void check_stream(const Tokenizer *tokenizer, const TokenIds *ids, const Buffer *whole) {
    CLEANUP(text_stream_free) TextStream *stream = NULL;
    CLEANUP(buffer_deinit) Buffer pieces = BUFFER_NULL;

    assert(text_stream_new(&stream, tokenizer, false) == 0);
    for (size_t i = 0; i < ids->n; i++)
        assert(text_stream_push(stream, ids->ids[i], &pieces) == 0);
    assert(text_stream_finish(stream, &pieces) == 0);
    assert(pieces.size == whole->size);
    assert(memcmp(buffer_text(&pieces), buffer_text(whole), whole->size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    CLEANUP(token_ids_deinit) TokenIds ids = TOKEN_IDS_NULL;
    CLEANUP(buffer_deinit) Buffer decoded = BUFFER_NULL;
    Reason why = REASON_NULL;

    if (tokenizer_open(&tokenizer, fuzz_file("tokenizer.json", data, size), &why)) {
        assert(why.text[0]);
        return 0;
    }
    if (tokenizer_encode(tokenizer, text, sizeof(text) - 1,
                         &(EncodeOptions){ .add_special = true, .parse_special = true }, &ids))
        return 0;
    for (size_t i = 0; i < ids.n; i++)
        assert(ids.ids[i] < tokenizer_size(tokenizer));
    assert(tokenizer_decode(tokenizer, ids.ids, ids.n, false, &decoded) == 0);
    check_stream(tokenizer, &ids, &decoded);
    return 0;
}
