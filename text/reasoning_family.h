/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How models mark what they think before they answer. The marks stand at the beginning of an
 * answer, or the chat template has already written the first of them at the end of the prompt.
 */

#include <stdbool.h>
#include <stddef.h>

typedef struct ReasoningFamily {
    const char *name;
    const char *begins[4], *ends[4]; /* marks around it; NULL behind the last */
    const char *others[3];           /* around the answer, and no part of it; likewise */
    const char *signs[3];            /* what templates of the family hold, each by itself */
} ReasoningFamily;

/* The one of this name; NULL: there is none. */
const ReasoningFamily *reasoning_family_find(const char *name);
/* The one whose signs the text of a chat template has; NULL: it has no signs of any. */
const ReasoningFamily *reasoning_family_detect(const char *template_text);
/* By index, for lists; NULL behind the last. */
const ReasoningFamily *reasoning_family_at(size_t i);

/* Whether the answer to this prompt begins within reasoning: nothing but white space stands behind
 * a mark that begins it. */
bool reasoning_is_begun(const ReasoningFamily *family, const char *prompt, size_t size);
/* The same of a prompt that ends within an answer's text: whether the last mark begins reasoning.
 */
bool reasoning_is_open(const ReasoningFamily *family, const char *prompt, size_t size);
