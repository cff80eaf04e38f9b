/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table, and what steps share. Rows stand in the order in which templates are looked at: a
 * template that shows one form often names the marks of an older one, too.
 *
 * Sources are the templates themselves: Hermes 2 Pro, Qwen 2.5 and 3, SmolLM3, Granite 4 (hermes);
 * SmolLM2's instructions for function calling (smollm); Llama 3.1 to 3.3; Mistral 7B v0.3 to Small
 * 3.2 and Magistral; DeepSeek V3, R1 and V3.1; Granite 3.
 */
#include "text/tool_family.h"

#include <string.h>

/* DeepSeek's marks are written with a full-width bar and a low block. */
#define DEEPSEEK(_words) "<\xef\xbd\x9c" _words "\xef\xbd\x9c>"
#define LOW "\xe2\x96\x81"

#define CALLS_BEGIN DEEPSEEK("tool" LOW "calls" LOW "begin")
#define CALL_BEGIN DEEPSEEK("tool" LOW "call" LOW "begin")
#define CALLS_END DEEPSEEK("tool" LOW "calls" LOW "end")
#define CALL_END DEEPSEEK("tool" LOW "call" LOW "end")
#define SEPARATOR DEEPSEEK("tool" LOW "sep")

/* {"name": "f", "arguments": {...}} */
#define JSON_CALL .call = "{\"name\": \"", .arguments = "\", \"arguments\": ", .end = "}"

static const ToolFamily families[] = {
    { .name = "deepseek_v31",
      .begins = { CALLS_BEGIN, CALL_BEGIN, NULL },
      .other_marks = { CALLS_END, CALL_END, SEPARATOR, NULL },
      .signs = { CALLS_BEGIN, NULL },
      .without = "```json",
      .step = tool_deepseek_step,
      .writing = { .call = CALL_BEGIN,
                   .arguments = SEPARATOR,
                   .end = CALL_END,
                   .separator = "",
                   .before = "",
                   .after = CALLS_END } },
    { .name = "deepseek",
      .begins = { CALLS_BEGIN, CALL_BEGIN, NULL },
      .other_marks = { CALLS_END, CALL_END, SEPARATOR, NULL },
      .signs = { CALLS_BEGIN, NULL },
      .step = tool_deepseek_step,
      .writing = { .call = CALL_BEGIN "function" SEPARATOR,
                   .arguments = "\n```json\n",
                   .end = "\n```" CALL_END,
                   .separator = "\n",
                   .before = "",
                   .after = CALLS_END } },
    { .name = "mistral_args",
      .begins = { "[TOOL_CALLS]", NULL },
      .other_marks = { "[ARGS]", "[CALL_ID]", NULL },
      .signs = { "[ARGS]", NULL },
      .has_short_ids = true,
      .step = tool_mistral_step,
      .writing = { .call = "",
                   .arguments = "[ARGS]",
                   .end = "",
                   .separator = "",
                   .before = "",
                   .after = "",
                   .marks_each = true } },
    { .name = "mistral",
      .begins = { "[TOOL_CALLS]", NULL },
      .other_marks = { "[ARGS]", "[CALL_ID]", NULL },
      .signs = { "[TOOL_CALLS]", NULL },
      .has_short_ids = true,
      .step = tool_mistral_step,
      .writing = { JSON_CALL, .separator = ", ", .before = "[", .after = "]" } },
    { .name = "granite",
      .begins = { "<|tool_call|>", "<tool_call>", "<function_call>", NULL },
      .end = "</tool_call>",
      .signs = { "<|tool_call|>", "<function_call>", NULL },
      .reads_told = true,
      .step = tool_json_step,
      .writing = { JSON_CALL, .separator = ", ", .before = "[", .after = "]" } },
    { .name = "hermes",
      .begins = { "<tool_call>", NULL },
      .end = "</tool_call>",
      .signs = { "<tool_call>", NULL },
      .reads_told = true,
      .step = tool_json_step,
      .writing = { "\n{\"name\": \"", "\", \"arguments\": ", "}\n</tool_call>", "\n", "", "",
                   .marks_each = true } },
    { .name = "llama3_json",
      .begins = { "<|python_tag|>", NULL },
      .end = ";",
      .signs = { "<|python_tag|>", "Environment: ipython", NULL },
      .takes_bare = true,
      .step = tool_json_step,
      .writing = { "{\"name\": \"", "\", \"parameters\": ", "}", "; ", "", "",
                   .has_no_mark = true } },
    { .name = "smollm",
      .begins = { "<tool_call>", NULL },
      .end = "</tool_call>",
      .signs = { NULL }, /* see tool_family_detect */
      .reads_told = true,
      .step = tool_json_step,
      .writing = { JSON_CALL, .separator = ", ", .before = "[", .after = "]</tool_call>" } },
};
#define N_FAMILIES (sizeof(families) / sizeof(*families))

const ToolFamily *tool_family_at(size_t i) {
    return i < N_FAMILIES ? &families[i] : NULL;
}

const ToolFamily *tool_family_find(const char *name) {
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (!strcmp(families[i].name, name))
            return &families[i];
    return NULL;
}

const ToolFamily *tool_family_detect(const char *template_text) {
    if (!strstr(template_text, "tools"))
        return tool_family_find("smollm");
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (const char *const *sign = families[i].signs; *sign; sign++)
            if (strstr(template_text, *sign) &&
                !(families[i].without && strstr(template_text, families[i].without)))
                return &families[i];
    return NULL;
}

MarkMatch mark_match(const char *text, size_t size, const char *mark) {
    size_t n = strlen(mark);

    if (memcmp(text, mark, size < n ? size : n) != 0)
        return MARK_NONE;
    return size < n ? MARK_PART : MARK_WHOLE;
}

bool tool_skip_space(ToolSection *s) {
    while (s->at < s->size && json_is_space(s->text[s->at]))
        s->at++;
    return s->at < s->size;
}

MarkMatch tool_take_mark(ToolSection *s, const char *mark) {
    MarkMatch match = mark_match(s->text + s->at, s->size - s->at, mark);

    if (match == MARK_PART && s->last) { /* there is nothing, or it was cut off */
        match = s->at == s->size ? MARK_NONE : MARK_WHOLE;
        s->at = s->size;
    } else if (match == MARK_WHOLE) {
        s->at += strlen(mark);
    }
    return match;
}

ToolStep tool_take_end(ToolSection *s) {
    size_t begin = s->at;
    MarkMatch match = MARK_PART;

    if (!s->family->end)
        return TOOL_END;
    if (tool_skip_space(s))
        match = mark_match(s->text + s->at, s->size - s->at, s->family->end);
    if (match == MARK_PART && !s->last) {
        s->at = begin;
        return TOOL_MORE;
    }
    if (match == MARK_NONE)
        s->at = begin;
    else /* whole, or cut off */
        s->at = match == MARK_WHOLE ? s->at + strlen(s->family->end) : s->size;
    return TOOL_END;
}

ToolStep tool_take_arguments(ToolSection *s) {
    if (!s->arguments_started) {
        if (!tool_skip_space(s))
            return s->last ? TOOL_WRONG : TOOL_MORE;
        if (s->text[s->at] != '{')
            return TOOL_WRONG;
        s->arguments.start = s->at;
        s->arguments_started = true;
        s->scan = (JsonScan)JSON_SCAN_NULL;
    }
    while (s->at < s->size) {
        int r = json_scan_byte(&s->scan, s->text[s->at]);

        if (r < 0)
            return TOOL_WRONG;
        s->at++;
        if (r != JSON_SCAN_E_END)
            continue;
        s->arguments.end = s->at;
        return TOOL_CALL;
    }
    return s->last ? TOOL_WRONG : TOOL_MORE;
}
