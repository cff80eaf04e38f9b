/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls as the tokens of real vocabularies: what a model of a family writes, cut into tokens as its
 * tokenizer does, is what the grammar of its tools lets it write, with marks that are special
 * tokens, added tokens or text.
 */
#include "grammar/grammar.h"
#include "tests/unit/tokenizer_files.h"
#include "text/tool_tags.h"

static const char tools_text[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"look_up\", \"parameters\": {\"type\": "
    "\"object\", \"properties\": {\"city\": {\"type\": \"string\"}, \"n\": {\"type\": "
    "\"integer\"}}, \"required\": [\"city\", \"n\"]}}}]";

#define D(_words) "<\xef\xbd\x9c" _words "\xef\xbd\x9c>"
#define L "\xe2\x96\x81"
#define CALLS_BEGIN D("tool" L "calls" L "begin")
#define CALL_BEGIN D("tool" L "call" L "begin")
#define SEPARATOR D("tool" L "sep")
#define CALL_END D("tool" L "call" L "end")
#define CALLS_END D("tool" L "calls" L "end")
#define ARGUMENTS "{\"city\": \"M\xC3\xBCnchen\", \"n\": 12}"

static const struct {
    const char *packed, *family, *eos;
    const char *call;  /* as a model writes it */
    const char *wrong; /* a beginning that no schema allows */
} cases[] = {
    { "qwen3/tokenizer.json.xz", "hermes", "<|im_end|>",
      "<tool_call>\n{\"name\": \"look_up\", \"arguments\": " ARGUMENTS "}\n</tool_call>",
      "<tool_call>\n{\"name\": \"look_up\", \"arguments\": {\"town\"" },
    { "mistral_nemo/tokenizer.json.xz", "mistral", "</s>",
      "[TOOL_CALLS][{\"name\": \"look_up\", \"arguments\": " ARGUMENTS "}]",
      "[TOOL_CALLS][{\"name\": \"look_down\"" },
    { "deepseek_v3/tokenizer.json.xz", "deepseek", D("end" L "of" L "sentence"),
      CALLS_BEGIN CALL_BEGIN "function" SEPARATOR "look_up\n```json\n" ARGUMENTS
                             "\n```" CALL_END CALLS_END,
      CALLS_BEGIN "function" },
};

static int token_bytes(const void *userdata, uint32_t id, Buffer *out) {
    if (id >= tokenizer_size(userdata))
        return 0;
    if (!tokenizer_is_special(userdata, id))
        return tokenizer_token_bytes(userdata, id, out);
    buffer_append_text(out, GRAMMAR_TOKEN_NO_TEXT);
    return 0;
}

static GrammarEngine *engine_of(const Tokenizer *tokenizer, const uint32_t *eos) {
    GrammarLimits limits = { .text_bytes = 1 << 20,
                             .compile_ms = 120000,
                             .compile_bytes = UINT64_C(2) << 30,
                             .compiled_bytes = 1 << 26,
                             .cache_bytes = 1 << 24 };
    GrammarVocab vocab = { .n_vocab = tokenizer_size(tokenizer),
                           .token_bytes = token_bytes,
                           .userdata = tokenizer,
                           .stop_ids = eos,
                           .n_stop_ids = 1 };
    GrammarEngine *engine = NULL;
    Reason why = REASON_NULL;

    if (grammar_engine_new(&engine, &vocab, &limits, NULL, &why))
        fail_msg("%s", why.text);
    return engine;
}

/* How many of the text's tokens may come, one after another, and how many there are. */
static size_t follow(const Tokenizer *tokenizer, Grammar *grammar, const char *text, uint32_t eos,
                     size_t *np) {
    CLEANUP(grammar_matcher_free) GrammarMatcher *matcher = NULL;
    CLEANUP(token_ids_deinit) TokenIds ids = { .n = 0 };
    const EncodeOptions options = { .parse_special = true };
    uint32_t mask[(200000 + 31) / 32];

    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), &options, &ids), 0);
    assert_int_equal(token_ids_append(&ids, &eos, 1), 0);
    assert_int_equal(grammar_matcher_new(&matcher, grammar, NULL), 0);
    assert_true(tokenizer_size(tokenizer) <= 32 * sizeof(mask) / sizeof(*mask));
    *np = ids.n;
    for (size_t i = 0; i < ids.n; i++) {
        bool may;

        assert_int_equal(grammar_matcher_fill(matcher, mask), 0);
        may = mask[ids.ids[i] / 32] >> ids.ids[i] % 32 & 1;
        assert_int_equal(grammar_matcher_accept(matcher, ids.ids[i]), may ? 0 : GRAMMAR_E_REJECTED);
        if (!may)
            return i;
    }
    return ids.n;
}

static void check_case(size_t i, const json_t *tools) {
    CLEANUP(tokenizer_free)
    Tokenizer *tokenizer = tokenizer_must_open(tokenizer_unpack(cases[i].packed, "tokenizer.json"));
    uint32_t eos = tokenizer_find_special(tokenizer, cases[i].eos, strlen(cases[i].eos));
    GrammarEngine *engine = engine_of(tokenizer, &eos);

    for (int forced = 0; forced < 2; forced++) {
        ToolDemand demand = { .family = tool_family_find(cases[i].family),
                              .tools = tools,
                              .forced = forced,
                              .parallel = true,
                              .tokenizer = tokenizer };
        CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
        char with_text[1024];
        Grammar *grammar = NULL;
        Reason why = REASON_NULL;
        size_t n, n_taken;

        assert_int_equal(tool_tags_write(&demand, &text), 0);
        if (grammar_compile(engine, GRAMMAR_TAGS, text.data, text.size, NULL, &grammar, &why))
            fail_msg("%s: %s", cases[i].family, why.text);
        n_taken = follow(tokenizer, grammar, cases[i].call, eos, &n);
        if (n_taken != n)
            fail_msg("%s, forced %d: %zu of %zu", cases[i].family, forced, n_taken, n);
        n_taken = follow(tokenizer, grammar, cases[i].wrong, eos, &n);
        assert_true(n_taken && n_taken < n - 1);
        snprintf(with_text, sizeof(with_text), "I look:\n\t%s", cases[i].call);
        n_taken = follow(tokenizer, grammar, with_text, eos, &n);
        assert_int_equal(n_taken, forced ? 0 : n);
        grammar_unref(grammar);
    }
    grammar_engine_free(engine);
}

static void test_calls_of_real_vocabularies(void **state) {
    CLEANUP(json_unref) json_t *tools = NULL;

    (void)state;
    assert_int_equal(json_parse(&tools, tools_text, strlen(tools_text), 0, NULL), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        check_case(i, tools);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_calls_of_real_vocabularies) };

    if (grammar_start(NULL)) /* a build without */
        return 77;
    return cmocka_run_group_tests(tests, model_files_setup, model_files_teardown);
}
