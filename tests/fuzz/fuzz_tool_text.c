/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a model writes: the first byte chooses what is looked for, the second how the text is cut.
 * In pieces it comes to the same as in one; nothing is held in the end, and no charge is left.
 */
#include "tests/fuzz/fuzz.h"

#include "text/output_parser.h"
#include "util/utf8.h"

#include <string.h>

/* Events, adjacent pieces of one kind joined. */
typedef struct Collected {
    Buffer text;
    OutputKind last;
    bool any, is_utf8;
} Collected;

static int collect(void *userdata, const OutputEvent *event) {
    Collected *c = userdata;

    if (!c->any || c->last != event->kind || event->kind > OUTPUT_REASONING)
        if (!c->any || c->last != OUTPUT_ARGUMENTS || event->kind != OUTPUT_ARGUMENTS)
            buffer_printf(&c->text, "\n%d %u ", (int)event->kind, event->call);
    if (event->size)
        buffer_append(&c->text, event->text, event->size);
    if (c->is_utf8)
        assert(utf8_is_valid(event->text ? event->text : "", event->size));
    c->last = event->kind;
    c->any = true;
    return 0;
}

static void parse(Collected *c, const OutputForms *forms, const char *text, size_t size,
                  size_t piece) {
    OutputParser parser;
    Account account;

    account_init(&account, NULL, UINT64_MAX, "limit");
    output_parser_init(&parser, forms, &account);
    c->is_utf8 = utf8_is_valid(text, size);
    for (size_t at = 0, n; at < size; at += n) {
        n = size - at < piece ? size - at : piece;
        assert(!output_parser_push(&parser, text + at, n, collect, c));
    }
    assert(!output_parser_finish(&parser, collect, c));
    assert(!parser.held.size);
    output_parser_deinit(&parser);
    account_deinit(&account);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data + 2;
    Collected whole = { .any = false }, pieces = { .any = false };
    OutputForms forms;

    if (size < 2)
        return 0;
    forms =
        (OutputForms){ .tools = tool_family_at(data[0] & 15),
                       .reasoning = reasoning_family_at(data[0] >> 4 & 3),
                       .reasoning_begun = data[0] >> 6 & 1,
                       .trust = data[0] >> 7 ? data[1] >> 7 ? OUTPUT_TRUST_ALL : OUTPUT_TRUST_MARKED
                                             : OUTPUT_TRUST_NONE };
    parse(&whole, &forms, text, size - 2, SIZE_MAX);
    parse(&pieces, &forms, text, size - 2, data[1] % 16 + 1u);
    assert(whole.text.size == pieces.text.size &&
           !memcmp(buffer_text(&whole.text), buffer_text(&pieces.text), whole.text.size));
    if (!forms.tools && !forms.reasoning && size > 2)
        assert(whole.text.size == size - 2 + strlen("\n0 0 "));
    buffer_deinit(&whole.text);
    buffer_deinit(&pieces.text);
    return 0;
}
