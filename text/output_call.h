/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A tool's call as a section of a model's output has it, read and checked.
 */

#include "text/tool_family.h"
#include "util/buffer.h"

typedef struct OutputCall {
    Buffer name;           /* its account is the caller's to set */
    json_t *tree;          /* owned; `arguments` may be borrowed from it */
    const char *arguments; /* [arguments_size]: the text of a JSON object, the model's own bytes */
    size_t arguments_size;
} OutputCall;

void output_call_deinit(OutputCall *call);
CLEANUP_DEINIT_DEFINE(OutputCall, output_call_deinit);

enum {
    _OUTPUT_CALL_E_SUCCESS,
    /* What is written there is no call: no JSON, no name, arguments that are no object. */
    OUTPUT_CALL_E_NONE = 2,
};

/* Appends the name; charged to the account of `name`. 0, the outcome above, -ENOMEM, -ECANCELED. */
int output_call_name(const ToolSection *section, Buffer *name);
/* Reads the call that ends at section->at. The same. */
int output_call_read(const ToolSection *section, OutputCall *call);
