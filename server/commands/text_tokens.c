/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/text_tokens.h"

#include "server/commands/builtin_text.h"
#include "util/buffer.h"
#include "util/mapped_file.h"

#include <errno.h>

/* Line ends as one LF each, as Python's text files are read, which published perplexities rest on.
 */
static int read_lines(const char *path, Buffer *out, Reason *why) {
    CLEANUP(mapped_file_close) MappedFile file = MAPPED_FILE_NULL;
    int r = mapped_file_open(&file, path, why);

    if (r)
        return r;
    for (size_t i = 0; i < file.size; i++) {
        char c = (char)file.data[i];

        if (c == '\n' && i && file.data[i - 1] == '\r')
            continue;
        buffer_append_char(out, c == '\r' ? '\n' : c);
    }
    return buffer_failed(out) ? reason_set(why, -ENOMEM, "out of memory") : 0;
}

int text_tokens_read(TokenIds *out, const char *model_path, const char *text_path, Reason *why) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    const EncodeOptions options = { .add_special = false };
    int r;

    r = tokenizer_open(&tokenizer, model_path, why);
    if (r)
        return r;
    if (text_path)
        r = read_lines(text_path, &text, why);
    else
        buffer_append(&text, builtin_text, builtin_text_SIZE);
    if (!r)
        r = buffer_failed(&text)
                ? -ENOMEM
                : tokenizer_encode(tokenizer, buffer_text(&text), text.size, &options, out);
    if (r && !why->text[0])
        return reason_set(why, r, "%s: %s", text_path ? text_path : "the built-in text",
                          r == -EILSEQ ? "not UTF-8" : "could not be tokenized");
    if (!r && !out->n)
        return reason_set(why, -EINVAL, "%s: there is no text in it", text_path);
    return r;
}
