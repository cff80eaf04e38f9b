/* SPDX-License-Identifier: Apache-2.0 */
#include "server/text_tokens.h"

#include "server/builtin_text.h"
#include "util/mapped_file.h"

#include <errno.h>

int text_tokens_read(TokenIds *out, const char *model_path, const char *text_path, Reason *why) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    CLEANUP(mapped_file_close) MappedFile file = MAPPED_FILE_NULL;
    const char *text = (const char *)builtin_text;
    size_t size = builtin_text_SIZE;
    int r;

    r = tokenizer_open(&tokenizer, model_path, why);
    if (!r && text_path) {
        r = mapped_file_open(&file, text_path, why);
        text = (const char *)file.data;
        size = file.size;
    }
    if (r)
        return r;
    r = tokenizer_encode(tokenizer, text, size, false, false, out);
    if (r)
        return reason_set(why, r, "%s: %s", text_path ? text_path : "the built-in text",
                          r == -EILSEQ ? "not UTF-8" : "could not be tokenized");
    if (!out->n)
        return reason_set(why, -EINVAL, "%s: there is no text in it", text_path);
    return 0;
}
