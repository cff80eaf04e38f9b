/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table. Rows stand in the order in which templates are looked at.
 */
#include "text/reasoning_family.h"

#include "util/json_scan.h"

#include <string.h>

static const ReasoningFamily families[] = {
    /* Magistral and later models of Mistral. */
    { .name = "mistral",
      .begins = { "[THINK]", NULL },
      .ends = { "[/THINK]", NULL },
      .others = { NULL },
      .signs = { "[THINK]", NULL } },
    /* Granite 3.2 writes sentences, 3.3 marks. */
    { .name = "granite",
      .begins = { "<think>", "Here is my thought process:", "Here's my thought process:", NULL },
      .ends = { "</think>", "Here is my response:", "Here's my response:", NULL },
      .others = { "<response>", "</response>", NULL },
      .signs = { "Here is my thought process", "<response>", NULL } },
    /* DeepSeek R1 and V3.1, Qwen 3, SmolLM3, and most others. */
    { .name = "think",
      .begins = { "<think>", NULL },
      .ends = { "</think>", NULL },
      .others = { NULL },
      .signs = { "<think>", "</think>", NULL } },
};
#define N_FAMILIES (sizeof(families) / sizeof(*families))

const ReasoningFamily *reasoning_family_at(size_t i) {
    return i < N_FAMILIES ? &families[i] : NULL;
}

const ReasoningFamily *reasoning_family_find(const char *name) {
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (!strcmp(families[i].name, name))
            return &families[i];
    return NULL;
}

const ReasoningFamily *reasoning_family_detect(const char *template_text) {
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (const char *const *sign = families[i].signs; *sign; sign++)
            if (strstr(template_text, *sign))
                return &families[i];
    return NULL;
}

bool reasoning_is_begun(const ReasoningFamily *family, const char *prompt, size_t size) {
    while (size && json_is_space(prompt[size - 1]))
        size--;
    for (const char *const *begin = family->begins; *begin; begin++) {
        size_t n = strlen(*begin);

        if (size >= n && !memcmp(prompt + size - n, *begin, n))
            return true;
    }
    return false;
}

/* Where behind `at` the last of the marks ends; `at` if none stands there. */
static size_t last_mark(const char *const *marks, const char *text, size_t size, size_t at) {
    for (; *marks; marks++) {
        size_t n = strlen(*marks);
        const char *found;

        while ((found = memmem(text + at, size - at, *marks, n)))
            at = (size_t)(found - text) + n;
    }
    return at;
}

bool reasoning_is_open(const ReasoningFamily *family, const char *prompt, size_t size) {
    size_t begin = last_mark(family->begins, prompt, size, 0);

    return begin && last_mark(family->ends, prompt, size, begin) == begin;
}
