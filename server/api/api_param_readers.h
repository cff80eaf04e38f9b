/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Readers of those parameters whose values are more than one number, word or flag, for the rows of
 * api_param_table.c; the schema that a row states is what its reader takes. Each puts what it reads
 * into the reading's parameters; 0, -EINVAL or -ENOMEM with the error filled.
 */

#include "server/api/api_param_table.h"

int api_read_top_k(const ApiReading *r, const char *name, const json_t *value);
int api_read_seed(const ApiReading *r, const char *name, const json_t *value);
int api_read_stop(const ApiReading *r, const char *name, const json_t *value);
int api_read_stop_sequences(const ApiReading *r, const char *name, const json_t *value);
int api_read_stop_tokens(const ApiReading *r, const char *name, const json_t *value);
int api_read_logit_bias(const ApiReading *r, const char *name, const json_t *value);
int api_read_stream_options(const ApiReading *r, const char *name, const json_t *value);
int api_read_reasoning(const ApiReading *r, const char *name, const json_t *value);
/* All those that ask for a form of the answer. */
int api_read_grammar(const ApiReading *r, const char *name, const json_t *value);

/* For readers: a value that is not `expected`. -EINVAL. */
int api_param_wrong(const ApiReading *r, const char *name, const json_t *value,
                    const char *expected);
/* A name that this endpoint does not have, with a value; at `path` in the body. `near`: what the
 * client may have meant, or NULL. 0 where such names are taken, else -EINVAL. */
int api_param_unknown(const ApiReading *r, const char *path, const json_t *name, const char *near);
