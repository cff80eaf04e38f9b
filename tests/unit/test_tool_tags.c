/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Grammars of calls, as texts: what each lets a model write is what the same family's parser reads.
 * The shortest texts of a grammar are written down here by a walk over it, all of its constants and
 * an object for each schema, and given to the parser.
 */
#include "tests/unit/tokenizer_files.h"
#include "tests/unit/tool_texts.h"
#include "text/tool_tags.h"

static const char tools_text[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"look_up\", \"parameters\": "
    "{\"type\": \"object\", \"properties\": {\"n\": {\"maximum\": 12345678901234567890123}}}}}, "
    "{\"type\": \"function\", \"function\": {\"name\": \"end\"}}]";

/* A tokenizer in which these are special tokens 1, 2, ... */
static const char *const special[] = { "[TOOL_CALLS]", "[ARGS]", "<tool_call>", "</tool_call>" };
#define N_SPECIAL (sizeof(special) / sizeof(*special))

static Tokenizer *open_tokenizer(void) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    Tokenizer *tokenizer = NULL;

    buffer_append_text(&text, "{\"added_tokens\": [");
    for (size_t i = 0; i < N_SPECIAL; i++)
        buffer_printf(&text,
                      "%s{\"id\": %zu, \"content\": \"%s\", \"single_word\": false, \"lstrip\": "
                      "false, \"rstrip\": false, \"normalized\": false, \"special\": true}",
                      i ? ", " : "", i + 1, special[i]);
    buffer_append_text(&text, "], \"normalizer\": null, \"pre_tokenizer\": null, "
                              "\"post_processor\": null, \"decoder\": null, \"model\": {\"type\": "
                              "\"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}");
    assert_int_equal(tokenizer_open_text(&tokenizer, text.data, text.size, NULL), 0);
    return tokenizer;
}

/* a text of a format */

typedef struct Walk {
    size_t choice; /* which of several alternatives */
    int repeats;
    int n_tokens;  /* token formats met */
    int n_schemas; /* schemas met */
    Buffer text;
} Walk;

static bool is_type(const json_t *format, const char *type) {
    return json_string_is(json_object_get(format, "type"), type);
}

static void walk(Walk *w, const json_t *format);

static void walk_each(Walk *w, const json_t *elements) {
    size_t i;
    const json_t *element;

    json_array_foreach(elements, i, element)
        walk(w, element);
}

static void walk_token(Walk *w, const json_t *id) {
    int64_t token = json_integer_value(id);

    assert_in_range(token, 1, N_SPECIAL);
    buffer_append_text(&w->text, special[token - 1]);
    w->n_tokens++;
}

static void walk_schema(Walk *w, const json_t *schema) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;

    w->n_schemas++;
    assert_true(json_string_is(json_object_get(schema, "type"), "object"));
    json_write(schema, &text);
    if (json_object_get(schema, "properties"))
        assert_non_null(strstr(text.data, "12345678901234567890123"));
    buffer_append_text(&w->text, "{\"n\": 1}");
}

static void walk_rule(Walk *w, const json_t *rule) {
    const json_t *mark = json_array_get(rule, 0);

    buffer_append_text(&w->text, "Free text.");
    if (json_is_string(mark))
        buffer_append(&w->text, json_string_value(mark), json_string_length(mark));
    else
        walk_token(w, mark);
    walk(w, json_array_get(rule, 1));
}

static void walk(Walk *w, const json_t *format) {
    const json_t *elements = json_object_get(format, "elements");
    const json_t *rules = json_object_get(format, "rules");
    const json_t *value = json_object_get(format, "value");

    if (is_type(format, "sequence")) {
        assert_true(json_array_size(elements) > 0);
        walk_each(w, elements);
    } else if (is_type(format, "or")) {
        walk(w, json_array_get(elements, w->choice % json_array_size(elements)));
    } else if (is_type(format, "star")) {
        for (int i = 0; i < w->repeats; i++)
            walk(w, json_object_get(format, "content"));
    } else if (is_type(format, "const_string")) {
        assert_true(json_string_length(value) > 0);
        buffer_append(&w->text, json_string_value(value), json_string_length(value));
    } else if (is_type(format, "token")) {
        walk_token(w, json_object_get(format, "token"));
    } else if (is_type(format, "json_schema")) {
        walk_schema(w, json_object_get(format, "json_schema"));
    } else {
        assert_true(is_type(format, "dispatch") || is_type(format, "token_dispatch"));
        assert_int_equal(json_array_size(rules), 1);
        walk_rule(w, json_array_get(rules, 0));
        for (int i = 0; i < w->repeats && json_is_true(json_object_get(format, "loop")); i++)
            walk_rule(w, json_array_get(rules, 0));
    }
}

static void walk_demand(Walk *w, const ToolDemand *demand) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    CLEANUP(json_unref) json_t *root = NULL;

    assert_int_equal(tool_tags_write(demand, &text), 0);
    assert_int_equal(json_parse(&root, text.data, text.size, JSON_REJECT_DUPLICATES, NULL), 0);
    assert_true(is_type(root, "structural_tag"));
    walk(w, json_object_get(root, "format"));
}

/* Counts calls; `names` they must have. */
static void check_text(const ToolDemand *demand, const Walk *w, const char *name, uint32_t n) {
    OutputForms forms = { .tools = demand->family,
                          .trust = demand->forced ? OUTPUT_TRUST_ALL : OUTPUT_TRUST_MARKED };
    CLEANUP(output_parser_deinit) OutputParser parser = OUTPUT_PARSER_NULL;
    CLEANUP(collected_deinit) Collected c = { .kind = NULL };
    char expected[64];
    const char *at;

    output_parser_init(&parser, &forms, NULL);
    assert_int_equal(output_parser_push(&parser, w->text.data, w->text.size, collect, &c), 0);
    assert_int_equal(output_parser_finish(&parser, collect, &c), 0);
    collected_close(&c);
    if (c.n_calls != n)
        fail_msg("%s: %u calls in %s: %s", demand->family->name, c.n_calls, w->text.data,
                 c.json.data);
    snprintf(expected, sizeof(expected), "[\"call\", \"%s\"], [\"arguments\"", name);
    at = c.json.data;
    for (uint32_t i = 0; i < n; i++) {
        at = strstr(at, expected);
        assert_non_null(at);
        at++;
    }
    if (demand->forced)
        assert_null(strstr(c.json.data, "content"));
    else
        assert_non_null(strstr(c.json.data, "Free text."));
}

static void check_demand(ToolDemand demand) {
    static const char *const names[] = { "look_up", "end" };

    for (size_t choice = 0; choice < 2; choice++)
        for (int repeats = 0; repeats < 3; repeats++) {
            Walk w = { .choice = choice, .repeats = repeats };
            uint32_t n = demand.parallel ? (uint32_t)repeats + 1 : 1;

            walk_demand(&w, &demand);
            check_text(&demand, &w, demand.name ? demand.name : names[choice],
                       demand.forced || demand.family->writing.marks_each ? n
                                                                          : (uint32_t)w.n_schemas);
            buffer_deinit(&w.text);
        }
}

static void test_what_grammars_allow_parsers_read(void **state) {
    CLEANUP(json_unref) json_t *tools = NULL;
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_tokenizer();

    (void)state;
    assert_int_equal(json_parse(&tools, tools_text, strlen(tools_text), 0, NULL), 0);
    for (size_t i = 0; tool_family_at(i); i++)
        for (unsigned bits = 0; bits < 16; bits++)
            check_demand((ToolDemand){ .family = tool_family_at(i),
                                       .tools = tools,
                                       .name = bits & 1 ? "end" : NULL,
                                       .forced = bits & 2,
                                       .parallel = bits & 4,
                                       .tokenizer = bits & 8 ? tokenizer : NULL });
}

/* Marks that are tokens are written as such, within constants, too. */
static void test_marks_are_tokens_where_the_vocabulary_has_them(void **state) {
    CLEANUP(json_unref) json_t *tools = NULL;
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_tokenizer();
    const struct {
        const char *family;
        int n_tokens;
    } cases[] = { { "hermes", 2 }, { "mistral", 1 },     { "mistral_args", 2 },
                  { "smollm", 2 }, { "llama3_json", 0 }, { "deepseek", 0 } };

    (void)state;
    assert_int_equal(json_parse(&tools, tools_text, strlen(tools_text), 0, NULL), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        for (int forced = 0; forced < 2; forced++) {
            ToolDemand demand = { .family = tool_family_find(cases[i].family),
                                  .tools = tools,
                                  .forced = forced,
                                  .tokenizer = tokenizer };
            Walk w = { .repeats = 0 };

            walk_demand(&w, &demand);
            assert_int_equal(w.n_tokens, cases[i].n_tokens);
            assert_int_equal(w.n_schemas, 1);
            buffer_deinit(&w.text);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_grammars_allow_parsers_read),
        cmocka_unit_test(test_marks_are_tokens_where_the_vocabulary_has_them),
    };

    return cmocka_run_group_tests(tests, model_files_setup, model_files_teardown);
}
