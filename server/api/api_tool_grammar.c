/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_tool_grammar.h"

#include "grammar/schema_check.h"
#include "text/tool_tags.h"
#include "util/json.h"
#include "util/json_writer.h"

#include <errno.h>

#define PATH_BYTES_MAX 96

bool api_tool_grammar_is_wanted(const OutputForms *forms) {
    return forms->tools && forms->trust != OUTPUT_TRUST_NONE;
}

/* As api_grammar_compile has them, of a part of the grammar that is called `path`. */
static int check_schema(const json_t *schema, const char *path, Account *account, ApiError *error) {
    CLEANUP(buffer_deinit) Buffer text = { .account = account };
    ApiGrammar part = { .param = path, .kind = GRAMMAR_JSON_SCHEMA };
    Reason why = REASON_NULL;
    int r;

    if (!json_is_object(schema))
        return 0;
    json_write(schema, &text);
    r = buffer_failed(&text) ? -ENOMEM : schema_check(buffer_text(&text), text.size, account, &why);
    return r ? api_grammar_refuse(&part, r, &why, error) : 0;
}

static int check_tools(const ApiParams *p, const char *name, bool forced, bool *is_loose,
                       Account *account, ApiError *error) {
    size_t i;
    const json_t *tool;

    json_array_foreach(p->tools, i, tool) {
        const json_t *function = json_object_get(tool, "function");
        bool must = forced || json_is_true(json_object_get(function, "strict"));
        ApiError found = API_ERROR_NULL;
        char path[PATH_BYTES_MAX];
        int r;

        if (name && !json_string_is(json_object_get(function, "name"), name))
            continue;
        snprintf(path, sizeof(path), "tools[%zu].function.parameters", i);
        r = check_schema(json_object_get(function, "parameters"), path, account, &found);
        is_loose[i] = r == -EINVAL;
        if (!r || (is_loose[i] && !must))
            continue;
        *error = found;
        return r;
    }
    return 0;
}

int api_tool_grammar_compile(const ApiParams *p, const OutputForms *forms,
                             const Tokenizer *tokenizer, GrammarEngine *engine, Account *account,
                             Grammar **outp, ApiError *error) {
    const ApiGrammar grammar = { .param = "tools", .kind = GRAMMAR_TAGS }, *answer = &p->grammar;
    CLEANUP(buffer_deinit) Buffer text = { .account = account };
    bool is_loose[API_TOOLS_MAX] = { false };
    const char *name = NULL;
    bool forced = api_tools_choice(p, &name) != API_TOOLS_AUTO;
    ToolDemand demand = { .family = forms->tools,
                          .tools = p->tools,
                          .name = name,
                          .is_loose = is_loose,
                          .forced = forced || answer->param,
                          .parallel = p->parallel_tool_calls,
                          .has_answer = answer->param,
                          .answer = answer->value,
                          .tokenizer = tokenizer };
    int r = check_tools(p, name, forced, is_loose, account, error);

    if (!r && answer->param)
        r = check_schema(answer->value, answer->param, account, error);
    if (r)
        return r;
    (void)tool_tags_write(&demand, &text); /* `text` has failed then */
    return api_grammar_compile_text(&grammar, &text, engine, account, outp, error);
}
