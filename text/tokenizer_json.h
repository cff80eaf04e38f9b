/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The components of a tokenizer.json: each function reads one of its keys into the part of the
 * Tokenizer that does that work. An unknown component is refused by its name. -EINVAL, -ENOMEM.
 */

#include "text/tokenizer_impl.h"
#include "util/json.h"

/* Sequences of sequences end somewhere. */
#define TOKENIZER_JSON_DEPTH_MAX 8

/* "pattern": {"String": ...} or {"Regex": ...}. */
int tokenizer_json_pattern(const json_t *component, TextPattern **outp, Reason *why);
/* A copy of the text under `key`, at most `size_max` bytes; it must be there. */
int tokenizer_json_copy(const json_t *component, const char *key, size_t size_max, char **outp,
                        size_t *size, Reason *why);

int tokenizer_json_normalizer(Tokenizer *tokenizer, const json_t *component, Reason *why);
int tokenizer_json_pretokenizer(Tokenizer *tokenizer, const json_t *component, Reason *why);
int tokenizer_json_decoder(Tokenizer *tokenizer, const json_t *component, Reason *why);
/* After the vocabulary and the added tokens: ids are checked against them. */
int tokenizer_json_postprocessor(Tokenizer *tokenizer, const json_t *component, Reason *why);

/* A kind of component: its name in the file, and who reads it. */
typedef struct ComponentReader {
    const char *type;
    int (*read)(Tokenizer *tokenizer, const json_t *component, Reason *why);
} ComponentReader;

/* Reads a component by its "type": "Sequence" is a list, under `list_key`, of the others. A null
 * component is none. `what` names the part in errors. */
int tokenizer_json_component(Tokenizer *tokenizer, const json_t *component, const char *what,
                             const char *list_key, const ComponentReader *readers, size_t n_readers,
                             Reason *why);
