/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Commands that read a JSON object a line from standard input and write one a line, in order. A
 * line that cannot be answered gets {"error"} in its place.
 */

#include "util/json.h"
#include "util/json_writer.h"

typedef struct LineCommand {
    const char *name; /* of the subcommand, for errors */
    /* Puts the members of the answer to `request`, an object. 0, or -errno with a sentence. */
    int (*answer)(void *ctx, const json_t *request, JsonWriter *writer, Reason *why);
    void *ctx;
} LineCommand;

/* The exit status: 0; 1 if a line had no answer, or input or output failed. */
int line_command_run(const LineCommand *command);
