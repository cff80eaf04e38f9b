/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_tools.h"

#include "util/json.h"

#include <errno.h>
#include <string.h>

#define NAME_BYTES_MAX 128
#define PATH_BYTES_MAX 96

/* tools */

/* Names stand in what the model writes, unquoted in some forms. */
static bool is_tool_name(const json_t *name) {
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/";
    size_t n = json_string_length(name);

    return n && n <= NAME_BYTES_MAX && strspn(json_string_value(name), allowed) == n;
}

static const json_t *function_of(const json_t *tool) {
    return json_object_get(tool, "function");
}

static const json_t *name_of(const json_t *tool) {
    return json_object_get(function_of(tool), "name");
}

static const json_t *find_tool(const json_t *tools, const char *name, const json_t *before) {
    size_t i;
    const json_t *tool;

    json_array_foreach(tools, i, tool) {
        if (tool == before)
            break;
        if (json_string_is(name_of(tool), name))
            return tool;
    }
    return NULL;
}

static bool is_given(const json_t *value) {
    return value && !json_is_null(value);
}

static int check_tool(const json_t *tools, const json_t *tool, const char *path, bool has_grammar,
                      ApiError *error) {
    const json_t *function = function_of(tool), *name = name_of(tool);
    const json_t *parameters = json_object_get(function, "parameters");
    const json_t *description = json_object_get(function, "description");
    const json_t *strict = json_object_get(function, "strict");

    if (!json_string_is(json_object_get(tool, "type"), "function") || !json_is_object(function))
        return api_refuse(
            error, path, "`%s` must be an object with `type` \"function\" and a `function`.", path);
    if (!is_tool_name(name))
        return api_refuse(error, path,
                          "`%s.function.name` must have 1 to %d letters, digits, and characters "
                          "of _-.:/.",
                          path, NAME_BYTES_MAX);
    if (is_given(parameters) && !json_is_object(parameters))
        return api_refuse(error, path, "`%s.function.parameters` must be a JSON schema, an object.",
                          path);
    if (is_given(description) && !json_is_string(description))
        return api_refuse(error, path, "`%s.function.description` must be a string.", path);
    if (is_given(strict) && !json_is_boolean(strict))
        return api_refuse(error, path, "`%s.function.strict` must be true or false.", path);
    if (find_tool(tools, json_string_value(name), tool))
        return api_refuse(error, path, "`%s.function.name` is \"%s\", as that of another tool.",
                          path, json_string_value(name));
    if (json_is_true(strict) && !has_grammar)
        return api_refuse(error, path,
                          "`%s.function.strict` needs a build with grammars, which hold the model "
                          "to a schema; this one has none.",
                          path);
    return 0;
}

static int check_each(const json_t *tools, bool has_grammar, ApiError *error) {
    size_t i;
    const json_t *tool;

    if (json_array_size(tools) > API_TOOLS_MAX)
        return api_refuse(error, "tools", "`tools` holds %zu tools; at most %d are allowed.",
                          json_array_size(tools), API_TOOLS_MAX);
    json_array_foreach(tools, i, tool) {
        char path[PATH_BYTES_MAX];

        snprintf(path, sizeof(path), "tools[%zu]", i);
        if (check_tool(tools, tool, path, has_grammar, error))
            return -EINVAL;
    }
    return 0;
}

/* tool_choice */

static const json_t *chosen_name(const json_t *choice) {
    return json_string_is(json_object_get(choice, "type"), "function") ? name_of(choice) : NULL;
}

ApiToolChoice api_tools_choice(const ApiParams *p, const char **name) {
    const json_t *choice = p->tool_choice;

    if (!json_array_size(p->tools) || json_string_is(choice, "none"))
        return API_TOOLS_NONE;
    if (json_string_is(choice, "required"))
        return API_TOOLS_REQUIRED;
    if (!json_is_object(choice))
        return API_TOOLS_AUTO;
    *name = json_string_value(chosen_name(choice));
    return API_TOOLS_NAMED;
}

static int check_choice(const ApiParams *p, ApiError *error) {
    const json_t *choice = p->tool_choice, *name = chosen_name(choice);
    bool is_word = json_string_is(choice, "none") || json_string_is(choice, "auto");
    bool forces = json_string_is(choice, "required") || json_is_string(name);

    if (choice && !is_word && !forces)
        return api_refuse(error, "tool_choice",
                          "`tool_choice` must be \"none\", \"auto\", \"required\" or {\"type\": "
                          "\"function\", \"function\": {\"name\": ...}}.");
    if (forces && !json_array_size(p->tools))
        return api_refuse(error, "tool_choice",
                          "`tool_choice` asks for a call, but there are no `tools`.");
    if (json_is_string(name) &&
        (json_string_has_nul(name) || !find_tool(p->tools, json_string_value(name), NULL)))
        return api_refuse(error, "tool_choice",
                          "`tool_choice` names a tool that is not in `tools`.");
    return 0;
}

/* Calls, and a form of the answer that is no call. */
static int check_form(const ApiParams *p, bool forced, ApiError *error) {
    const ApiGrammar *g = &p->grammar;

    if (!g->param)
        return 0;
    if (forced)
        return api_refuse(error, g->param,
                          "`tool_choice` asks for a call, and `%s` for another form of the answer; "
                          "it can have one.",
                          g->param);
    if (g->kind != GRAMMAR_JSON && !(g->kind == GRAMMAR_JSON_SCHEMA && json_is_object(g->value)))
        return api_refuse(error, g->param,
                          "Beside `tools` an answer can be JSON, of a schema that is an object; "
                          "with what `%s` asks for, `tool_choice` must be \"none\".",
                          g->param);
    return 0;
}

int api_tools_check(const ApiParams *p, bool has_grammar, ApiError *error) {
    const char *name = NULL;
    ApiToolChoice choice;

    if (check_choice(p, error))
        return -EINVAL;
    choice = api_tools_choice(p, &name);
    if (choice > API_TOOLS_AUTO && !has_grammar)
        return api_refuse(error, "tool_choice",
                          "`tool_choice` asks for a call, which needs a build with grammars, which "
                          "hold the model to it; this one has \"auto\" and \"none\".");
    if (choice != API_TOOLS_NONE && check_form(p, choice != API_TOOLS_AUTO, error))
        return -EINVAL;
    /* Nothing is held to the schemas of tools that are not called. */
    return check_each(p->tools, has_grammar || choice == API_TOOLS_NONE, error);
}

/* forms */

const char *api_tools_parser_at(size_t i) {
    return tool_family_at(i) ? tool_family_at(i)->name : NULL;
}

const char *api_reasoning_parser_at(size_t i) {
    return reasoning_family_at(i) ? reasoning_family_at(i)->name : NULL;
}

void api_tools_list_parsers(char *text, size_t size, const char *(*name_at)(size_t i)) {
    int n = snprintf(text, size, "auto, none");

    for (size_t i = 0; name_at(i) && n >= 0 && (size_t)n < size; i++)
        n += snprintf(text + n, size - (size_t)n, ", %s", name_at(i));
}

/* The family that a parameter names, in `*familyp`; what the server has where it names none. */
static void choose_tools(const ToolFamily **familyp, const char *name) {
    if (name && strcmp(name, "auto") != 0)
        *familyp = tool_family_find(name);
}

static void choose_reasoning(const ReasoningFamily **familyp, const ApiParams *p) {
    if (p->reasoning_parser && strcmp(p->reasoning_parser, "auto") != 0)
        *familyp = reasoning_family_find(p->reasoning_parser);
    if (!p->separate_reasoning)
        *familyp = NULL;
}

bool api_tools_are_told(const OutputForms *served, const ApiParams *p) {
    const ToolFamily *tools = served->tools;

    choose_tools(&tools, p->tool_call_parser);
    return tools && tools->reads_told;
}

int api_tools_choose_forms(OutputForms *forms, const OutputForms *served, bool has_grammar,
                           const ApiParams *p, ApiError *error) {
    const char *name = NULL;
    ApiToolChoice choice = api_tools_choice(p, &name);

    *forms = *served;
    choose_tools(&forms->tools, p->tool_call_parser);
    choose_reasoning(&forms->reasoning, p);
    if (choice == API_TOOLS_NONE)
        forms->tools = NULL;
    else if (has_grammar)
        forms->trust = choice == API_TOOLS_AUTO ? OUTPUT_TRUST_MARKED : OUTPUT_TRUST_ALL;
    if (choice == API_TOOLS_NONE || forms->tools)
        return 0;
    return api_refuse(error, "tools",
                      "`tools` are given, but how this model writes calls is not known, or not to "
                      "be looked for (option and parameter tool_call_parser). With `tool_choice` "
                      "\"none\" the model sees the tools and its calls stay in the content.");
}
