/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `kvasird chat-template`: requests on standard input, a JSON object a line; what the model would
 * be given to read on standard output, {"text"} or {"error"}, a line for each line, in order.
 *
 * A line goes to the template's Python as it is, and its messages are understood as those of the
 * API's clients are; what Transformers would make of them comes with "as_written". A request that
 * the template refuses is an answer like any other: the exit status stays 0.
 */
#include "server/commands/commands.h"
#include "text/chat_template.h"
#include "util/json_writer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

static void answer(ChatTemplate *chat_template, const char *line, size_t size, Buffer *prompt,
                   Buffer *out) {
    JsonWriter writer = JSON_WRITER(out);
    Reason why = REASON_NULL;
    int r;

    buffer_clear(prompt);
    r = chat_template_render(chat_template, line, size, NULL, prompt, &why);
    json_begin_object(&writer, NULL);
    if (r) {
        json_put_text(&writer, "error", why.text);
        reason_log_origin(&why);
    } else {
        json_put_string(&writer, "text", buffer_text(prompt), prompt->size);
    }
    json_end_object(&writer);
    buffer_append_char(out, '\n');
}

static int fail(const char *words) {
    fprintf(stderr, "kvasird chat-template: %s\n", words);
    return 1;
}

static int answer_lines(ChatTemplate *chat_template) {
    CLEANUP(buffer_deinit) Buffer prompt = BUFFER_NULL, out = BUFFER_NULL;
    CLEANUP(free) char *line = NULL;
    size_t capacity = 0;
    ssize_t size;

    for (errno = 0; (size = getline(&line, &capacity, stdin)) >= 0; errno = 0) {
        buffer_clear(&out);
        answer(chat_template, line, (size_t)size, &prompt, &out);
        if (buffer_failed(&out))
            return fail("no memory for the answer");
        if (fwrite(out.data, 1, out.size, stdout) != out.size || fflush(stdout))
            return fail("standard output: cannot be written");
    }
    if (!feof(stdin))
        return fail(errno == ENOMEM ? "standard input: a line is too long for this machine's memory"
                                    : "standard input: cannot be read");
    return 0;
}

int cmd_chat_template(const Config *config) {
    CLEANUP(chat_template_free) ChatTemplate *chat_template = NULL;
    const ChatTemplateOptions limits = {
        .time_ms_max = (uint32_t)config->chat_template_timeout_ms,
        .output_bytes_max = config->chat_template_output_bytes_max,
        .n_workers = 1,
        .source_path = config->chat_template,
    };
    Reason why = REASON_NULL;

    if (chat_template_open(&chat_template, config->model, &limits, &why)) {
        reason_log_origin(&why);
        return fail(why.text);
    }
    return answer_lines(chat_template);
}
