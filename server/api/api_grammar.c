/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_grammar.h"

#include "util/json.h"
#include "util/json_writer.h"

#include <errno.h>
#include <string.h>

#define DESCRIPTION_BYTES_MAX 64
#define PATH_BYTES_MAX 96

static int wrong(ApiError *error, const char *name, const json_t *value, const char *expected) {
    char found[DESCRIPTION_BYTES_MAX];

    return api_refuse(error, name, "`%s` must be %s; it is %s.", name, expected,
                      json_describe(value, found, sizeof(found)));
}

static int take(ApiGrammar *g, const char *param, GrammarKind kind, const json_t *value,
                ApiError *error) {
    if (g->param)
        return api_refuse(error, param, "`%s` and `%s` both say what the answer must be; one can.",
                          g->param, param);
    *g = (ApiGrammar){ .param = param, .kind = kind, .value = value };
    return 0;
}

/* what each kind is given as */

static int take_schema(ApiGrammar *g, const char *param, const char *name, const json_t *value,
                       ApiError *error) {
    if (!json_is_object(value) && !json_is_string(value))
        return wrong(error, name, value, "a JSON schema: an object, or its text");
    return take(g, param, GRAMMAR_JSON_SCHEMA, value, error);
}

static int take_text(ApiGrammar *g, const char *param, const char *name, GrammarKind kind,
                     const json_t *value, ApiError *error) {
    if (!json_string_length(value))
        return wrong(error, name, value, "a string, not empty");
    return take(g, param, kind, value, error);
}

static int take_choice(ApiGrammar *g, const char *param, const char *name, const json_t *value,
                       ApiError *error) {
    const json_t *item;
    size_t i;

    if (!json_array_size(value))
        return wrong(error, name, value, "an array of strings, not empty");
    json_array_foreach(value, i, item)
        if (!json_string_length(item) || json_string_has_nul(item))
            return wrong(error, name, item, "an array of strings, none empty or with NUL in it");
    return take(g, param, GRAMMAR_CHOICE, value, error);
}

/* the parameters */

/* One member of {"name", "description", "schema", "strict"}, which is not null. */
static int check_json_schema_member(const json_t *key, const json_t *value, ApiError *error) {
    char name[2 * PATH_BYTES_MAX];

    snprintf(name, sizeof(name), "response_format.json_schema.%.*s", PATH_BYTES_MAX,
             json_string_value(key));
    if (json_string_is(key, "name") || json_string_is(key, "description"))
        return json_is_string(value) ? 0 : wrong(error, name, value, "a string");
    if (json_string_is(key, "strict"))
        return json_is_boolean(value) ? 0 : wrong(error, name, value, "true or false");
    if (json_string_is(key, "schema"))
        return json_is_object(value) ? 0 : wrong(error, name, value, "a JSON schema, an object");
    return api_refuse(error, "response_format.json_schema",
                      "`response_format.json_schema` has `name`, `description`, `schema` and "
                      "`strict`, and no other members.");
}

/* A schema is always enforced, strict or not. */
static int read_json_schema(ApiGrammar *g, const json_t *value, ApiError *error) {
    const json_t *key, *member, *schema = json_object_get(value, "schema");

    if (!schema || json_is_null(schema))
        return wrong(error, "response_format.json_schema", value, "an object with a `schema`");
    json_object_foreach(value, key, member)
        if (!json_is_null(member) && check_json_schema_member(key, member, error))
            return -EINVAL;
    return take(g, "response_format", GRAMMAR_JSON_SCHEMA, schema, error);
}

/* Members beside `type`, and `also` where it is not NULL, must be null. */
static int check_members(const json_t *value, const char *type, const char *also, ApiError *error) {
    const json_t *key, *member;

    json_object_foreach(value, key, member)
        if (!json_string_is(key, "type") && !(also && json_string_is(key, also)) &&
            !json_is_null(member))
            return api_refuse(error, "response_format",
                              "`response_format` of type \"%s\" has no other members%s%s%s.", type,
                              also ? " but `" : "", also ? also : "", also ? "`" : "");
    return 0;
}

static int read_response_format(ApiGrammar *g, const json_t *value, ApiError *error) {
    const json_t *type = json_object_get(value, "type");

    if (!json_is_string(type))
        return wrong(error, "response_format", value, "an object with a `type`");
    if (json_string_is(type, "text"))
        return check_members(value, "text", NULL, error);
    if (json_string_is(type, "json_object")) {
        int r = check_members(value, "json_object", NULL, error);

        return r ? r : take(g, "response_format", GRAMMAR_JSON, NULL, error);
    }
    if (json_string_is(type, "json_schema")) {
        int r = check_members(value, "json_schema", "json_schema", error);

        return r ? r : read_json_schema(g, json_object_get(value, "json_schema"), error);
    }
    return wrong(error, "response_format.type", type,
                 "\"text\", \"json_object\" or \"json_schema\"");
}

static int read_member(ApiGrammar *g, const json_t *key, const json_t *value, ApiError *error) {
    static const char param[] = "structured_outputs";
    char name[2 * PATH_BYTES_MAX];

    snprintf(name, sizeof(name), "%s.%.*s", param, PATH_BYTES_MAX, json_string_value(key));
    if (json_string_is(key, "json"))
        return take_schema(g, param, name, value, error);
    if (json_string_is(key, "regex"))
        return take_text(g, param, name, GRAMMAR_REGEX, value, error);
    if (json_string_is(key, "grammar"))
        return take_text(g, param, name, GRAMMAR_EBNF, value, error);
    if (json_string_is(key, "choice"))
        return take_choice(g, param, name, value, error);
    if (json_string_is(key, "json_object"))
        return json_is_true(value) ? take(g, param, GRAMMAR_JSON, NULL, error)
                                   : wrong(error, name, value, "true");
    return api_refuse(error, name,
                      "There is no `%s` here; `structured_outputs` has one of `json`, `regex`, "
                      "`choice`, `grammar` and `json_object`.",
                      name);
}

static int read_structured_outputs(ApiGrammar *g, const json_t *value, ApiError *error) {
    const char *before = g->param;
    const json_t *key, *member;

    if (!json_is_object(value))
        return wrong(error, "structured_outputs", value, "an object");
    json_object_foreach(value, key, member) {
        int r = json_is_null(member) ? 0 : read_member(g, key, member, error);

        if (r)
            return r;
    }
    if (g->param == before)
        return wrong(error, "structured_outputs", value,
                     "an object with one of `json`, `regex`, `choice`, `grammar` and "
                     "`json_object`");
    return 0;
}

int api_grammar_read(ApiGrammar *g, const char *name, const json_t *value, ApiError *error) {
    if (!strcmp(name, "response_format"))
        return read_response_format(g, value, error);
    if (!strcmp(name, "structured_outputs"))
        return read_structured_outputs(g, value, error);
    if (!strcmp(name, "guided_json"))
        return take_schema(g, "guided_json", name, value, error);
    if (!strcmp(name, "guided_choice"))
        return take_choice(g, "guided_choice", name, value, error);
    if (!strcmp(name, "guided_regex"))
        return take_text(g, "guided_regex", name, GRAMMAR_REGEX, value, error);
    return take_text(g, "guided_grammar", name, GRAMMAR_EBNF, value, error);
}

/* compiling */

static const char *kind_name(GrammarKind kind) {
    static const char *const names[N_GRAMMAR_KINDS] = {
        [GRAMMAR_JSON] = "JSON object",
        [GRAMMAR_JSON_SCHEMA] = "JSON schema",
        [GRAMMAR_REGEX] = "regular expression",
        [GRAMMAR_CHOICE] = "choice",
        [GRAMMAR_EBNF] = "grammar",
        [GRAMMAR_TAGS] = "form of calls",
    };

    return names[kind];
}

int api_grammar_refuse(const ApiGrammar *g, int r, const Reason *why, ApiError *error) {
    switch (r) {
    case -ENOMEM:
    case -ECANCELED:
        api_fail_memory(error);
        return r;
    case GRAMMAR_E_INVALID:
    case GRAMMAR_E_LIMIT:
        return api_refuse(error, g->param, "The %s of `%s` cannot be used: %s.", kind_name(g->kind),
                          g->param, why->text);
    default:
        return api_fail(error, 500, g->param, NULL, "The %s of `%s` could not be compiled: %s.",
                        kind_name(g->kind), g->param, why->text);
    }
}

int api_grammar_compile(const ApiGrammar *g, GrammarEngine *engine, Account *account,
                        Grammar **outp, ApiError *error) {
    CLEANUP(buffer_deinit) Buffer text = { .account = account };

    *outp = NULL;
    if (!g->param)
        return 0;
    if (!engine)
        return api_refuse(error, g->param,
                          "`%s` asks for a form of the answer, but this server was built without "
                          "grammars (meson option grammar): leave it out.",
                          g->param);
    if (json_is_string(g->value))
        buffer_append(&text, json_string_value(g->value), json_string_length(g->value));
    else if (g->value)
        json_write(g->value, &text);
    return api_grammar_compile_text(g, &text, engine, account, outp, error);
}

int api_grammar_compile_text(const ApiGrammar *g, const Buffer *text, GrammarEngine *engine,
                             Account *account, Grammar **outp, ApiError *error) {
    Reason why = REASON_NULL;
    int r = -ENOMEM;

    if (!buffer_failed(text))
        r = grammar_compile(engine, g->kind, buffer_text(text), text->size, account, outp, &why);
    return r ? api_grammar_refuse(g, r, &why, error) : 0;
}
