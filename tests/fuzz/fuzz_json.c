/* SPDX-License-Identifier: Apache-2.0 */
/* JSON trees: what was read is written and read again, and means the same; no charge is left. */
#include "tests/fuzz/fuzz.h"

#include "util/json.h"
#include "util/json_writer.h"

#include <string.h>

static void write_and_read(const json_t *tree, size_t flags) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer again = BUFFER_NULL;
    CLEANUP(json_unref) json_t *back = NULL;
    char description[32];

    json_write(tree, &text);
    fuzz_touch(text.data, text.size);
    assert(!json_parse(&back, text.data, text.size, flags, NULL));
    json_write(back, &again);
    assert(again.size == text.size && !memcmp(again.data, text.data, text.size));
    if (flags & JSON_REJECT_DUPLICATES)
        assert(json_equal(tree, back));
    json_describe(tree, description, sizeof(description));
    assert(memchr(description, 0, sizeof(description)));
}

static void read_tree(const uint8_t *data, size_t size, size_t flags, uint64_t limit) {
    Account account;
    Reason why = REASON_NULL;
    json_t *tree = NULL;

    account_init(&account, NULL, limit, "limit");
    if (json_parse_charged(&tree, (const char *)data, size, flags, &account, &why))
        assert(why.text[0] && !tree);
    else
        write_and_read(tree, flags);
    json_unref(tree);
    account_deinit(&account);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    read_tree(data, size, JSON_DECODE_ANY, UINT64_MAX);
    read_tree(data, size, JSON_REJECT_DUPLICATES, UINT64_MAX);
    read_tree(data, size, JSON_DECODE_ANY, size ? data[0] * (uint64_t)64 : 0);
    return 0;
}
