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

/* A model that has seen BOS before every text is another one without it. */
static int begin_windows(const Tokenizer *tokenizer, TokenIds *tokens, uint32_t window) {
    CLEANUP(token_ids_deinit) TokenIds around = TOKEN_IDS_NULL;
    uint32_t bos = tokenizer_bos(tokenizer);
    int r = tokenizer_encode(tokenizer, "", 0, &(EncodeOptions){ .add_special = true }, &around);

    if (r || bos == TOKEN_NONE || !around.n || around.ids[0] != bos)
        return r;
    for (size_t i = 0; i < tokens->n; i += window)
        tokens->ids[i] = bos;
    return 0;
}

int text_tokens_read(TokenIds *out, const char *model_path, const char *text_path, uint32_t window,
                     Reason *why) {
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
    if (!r)
        r = begin_windows(tokenizer, out, window);
    if (r && !why->text[0])
        return reason_set(why, r, "%s: %s", text_path ? text_path : "the built-in text",
                          r == -EILSEQ ? "not UTF-8" : "could not be tokenized");
    if (!r && !out->n)
        return reason_set(why, -EINVAL, "%s: there is no text in it", text_path);
    return r;
}
