/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/line_command.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

static int fail(const LineCommand *command, const char *words) {
    fprintf(stderr, "kvasird %s: %s\n", command->name, words);
    return 1;
}

static int answer_text(const LineCommand *command, const char *line, size_t size,
                       JsonWriter *writer, Reason *why) {
    CLEANUP(json_unref) json_t *request = NULL;
    int r = json_parse(&request, line, size, 0, why);

    if (r)
        return r;
    if (!json_is_object(request))
        return reason_set(why, -EINVAL, "expected an object");
    return command->answer(command->ctx, request, writer, why);
}

/* Whether there was an answer; there is a line in `out` in any case. */
static bool answer_line(const LineCommand *command, const char *line, size_t size, Buffer *out) {
    JsonWriter writer = JSON_WRITER(out);
    Reason why = REASON_NULL;
    int r;

    json_begin_object(&writer, NULL);
    r = answer_text(command, line, size, &writer, &why);
    if (r) {
        buffer_clear(out);
        writer = (JsonWriter)JSON_WRITER(out);
        json_begin_object(&writer, NULL);
        json_put_text(&writer, "error", why.text[0] ? why.text : strerror(-r));
        reason_log_origin(&why);
    }
    json_end_object(&writer);
    buffer_append_char(out, '\n');
    return !r;
}

int line_command_run(const LineCommand *command) {
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
    CLEANUP(free) char *line = NULL;
    size_t capacity = 0;
    ssize_t size;
    bool all_answered = true;

    for (errno = 0; (size = getline(&line, &capacity, stdin)) >= 0; errno = 0) {
        buffer_clear(&out);
        all_answered &= answer_line(command, line, (size_t)size, &out);
        if (buffer_failed(&out))
            return fail(command, "no memory for the answer");
        if (fwrite(out.data, 1, out.size, stdout) != out.size)
            return fail(command, "standard output: cannot be written");
    }
    if (!feof(stdin))
        return fail(command, errno == ENOMEM
                                 ? "standard input: a line is too long for this machine's memory"
                                 : "standard input: cannot be read");
    if (fflush(stdout))
        return fail(command, "standard output: cannot be written");
    return all_answered ? 0 : 1;
}
