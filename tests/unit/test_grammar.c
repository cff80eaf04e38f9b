/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Grammars over a small vocabulary: the printable ASCII characters one by one, a few longer
 * tokens, two bytes of an é, a special token and a stop token.
 */
#include "grammar/grammar.h"
#include "tests/unit/random.h"
#include "util/clock.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { N_ASCII = 95, STOP = 117, SPECIAL = 118, N_VOCAB = 131 };

static const char *const longer[] = { "true", "false", "null", "{\"", "\": ", "\", \"",
                                      "aa",   "aaa",   "ab",   "12",  "\"}",  "\xC3",
                                      "\xA9", "na",    "name", "}}",  ", ",   "\x1F" };

static int token_bytes(const void *userdata, uint32_t id, Buffer *out) {
    (void)userdata;
    if (id < N_ASCII)
        buffer_append_char(out, (char)(' ' + id));
    else if (id - N_ASCII < sizeof(longer) / sizeof(*longer))
        buffer_append_text(out, longer[id - N_ASCII]);
    else if (id == SPECIAL)
        buffer_append_text(out, GRAMMAR_TOKEN_NO_TEXT);
    return 0;
}

static const GrammarLimits wide = { .text_bytes = 1 << 20,
                                    .compile_ms = 120000,
                                    .compile_bytes = 1 << 30,
                                    .compiled_bytes = 1 << 26,
                                    .cache_bytes = 1 << 24 };

static GrammarEngine *engine_new(const GrammarLimits *limits, Account *account) {
    static const uint32_t stops[] = { STOP };
    GrammarVocab vocab = {
        .n_vocab = N_VOCAB, .token_bytes = token_bytes, .stop_ids = stops, .n_stop_ids = 1
    };
    GrammarEngine *engine = NULL;
    Reason why = REASON_NULL;

    if (grammar_engine_new(&engine, &vocab, limits, account, &why))
        fail_msg("%s", why.text);
    return engine;
}

static Grammar *must_compile(GrammarEngine *engine, GrammarKind kind, const char *text) {
    Grammar *grammar = NULL;
    Reason why = REASON_NULL;
    int r = grammar_compile(engine, kind, text, strlen(text), NULL, &grammar, &why);

    if (r)
        fail_msg("%s: %d: %s", text, r, why.text);
    return grammar;
}

static bool is_in(const uint32_t *mask, uint32_t token) {
    return mask[token / 32] >> token % 32 & 1;
}

static uint32_t token_of_byte(char byte) {
    if (byte == '\x1F')
        return N_ASCII + 17;
    return byte == '\xC3' ? N_ASCII + 11 : byte == '\xA9' ? N_ASCII + 12 : (uint32_t)(byte - ' ');
}

/* Whether the text, byte by byte and then ended, is within the grammar; each step's mask must say
 * so as well. */
static bool accepts(Grammar *grammar, const char *text) {
    CLEANUP(grammar_matcher_free) GrammarMatcher *matcher = NULL;
    uint32_t mask[(N_VOCAB + 31) / 32];
    size_t n = strlen(text);

    assert_int_equal(grammar_matcher_new(&matcher, grammar, NULL), 0);
    for (size_t i = 0; i <= n; i++) {
        uint32_t token = i < n ? token_of_byte(text[i]) : STOP;
        int r;

        assert_int_equal(grammar_matcher_fill(matcher, mask), 0);
        if (i == n)
            assert_int_equal(grammar_matcher_is_complete(matcher), is_in(mask, STOP));
        r = grammar_matcher_accept(matcher, token);
        assert_int_equal(r == 0, is_in(mask, token));
        if (r) {
            assert_int_equal(r, GRAMMAR_E_REJECTED);
            return false;
        }
    }
    return grammar_matcher_is_terminated(matcher);
}

typedef struct Case {
    GrammarKind kind;
    const char *text;
    const char *good[5], *bad[6];
} Case;

static const Case cases[] = {
    { GRAMMAR_JSON,
      "",
      { "{}", "{\"a\": [1, true, null]}" },
      { "[]", "1", "{", "{}}", "{'a': 1}" } },
    { GRAMMAR_JSON_SCHEMA,
      "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\", \"minimum\": 1, "
      "\"maximum\": 20}, \"b\": {\"enum\": [\"x\", null]}}, \"required\": [\"a\"]}",
      { "{\"a\": 1}", "{\"a\": 20, \"b\": \"x\"}", "{\"a\": 7, \"b\": null}" },
      { "{}", "{\"a\": 0}", "{\"a\": 21}", "{\"a\": 1, \"c\": 1}", "{\"a\": 1, \"b\": \"y\"}" } },
    { GRAMMAR_JSON_SCHEMA,
      "{\"$defs\": {\"t\": {\"type\": \"object\", \"properties\": {\"k\": {\"type\": \"array\", "
      "\"items\": {\"$ref\": \"#/$defs/t\"}}}, \"required\": [\"k\"]}}, \"$ref\": \"#/$defs/t\"}",
      { "{\"k\": []}", "{\"k\": [{\"k\": []}, {\"k\": [{\"k\": []}]}]}" },
      { "{\"k\": [1]}", "{\"k\": [{}]}", "{\"k\": [{\"k\": []}" } },
    { GRAMMAR_JSON_SCHEMA,
      "{\"type\": \"string\", \"pattern\": \"^[a-c]{2,3}$\"}",
      { "\"ab\"", "\"abc\"" },
      { "\"a\"", "\"abcd\"", "\"ad\"", "ab" } },
    { GRAMMAR_JSON_SCHEMA,
      "{\"type\": \"string\", \"maxLength\": 3, \"nullable\": true}",
      { "\"\"", "\"\xC3\xA9\"" },
      { "\"abcd\"", "\"\x1F\"", "\"\\x\"", "null" } },
    { GRAMMAR_JSON_SCHEMA,
      "{\"type\": \"string\", \"format\": \"date\"}",
      { "\"2024-02-29\"" },
      { "\"\"", "\"2024-13-01\"", "\"2024-02-29 \"" } },
    { GRAMMAR_REGEX,
      "[0-9]{3}-(aa|b)*",
      { "123-", "123-aab", "000-baaaa" },
      { "12-", "123-a", "1234-", "123-c" } },
    { GRAMMAR_CHOICE,
      "[\"yes\", \"no \\\"no\\\"\", \"\xC3\xA9\\\\\", \"[a]\"]",
      { "yes", "no \"no\"", "\xC3\xA9\\", "[a]" },
      { "", "ye", "yess", "no", "a" } },
    { GRAMMAR_EBNF,
      "root ::= item (\",\" item)*\nitem ::= \"a\" | \"(\" root \")\"",
      { "a", "a,a", "(a,(a)),a" },
      { "", ",", "(a", "a,", "b" } },
};
enum { N_CASES = sizeof(cases) / sizeof(*cases) };

static void test_texts_are_told_apart(void **state) {
    GrammarEngine *engine = engine_new(&wide, NULL);

    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        Grammar *grammar = must_compile(engine, cases[i].kind, cases[i].text);

        for (size_t j = 0; j < 5 && cases[i].good[j]; j++)
            if (!accepts(grammar, cases[i].good[j]))
                fail_msg("%s must be within %s", cases[i].good[j], cases[i].text);
        for (size_t j = 0; j < 6 && cases[i].bad[j]; j++)
            if (accepts(grammar, cases[i].bad[j]))
                fail_msg("%s must not be within %s", cases[i].bad[j], cases[i].text);
        grammar_unref(grammar);
    }
    grammar_engine_free(engine);
}

static GrammarMatcher *replayed(Grammar *grammar, const uint32_t *tokens, uint32_t n) {
    GrammarMatcher *matcher = NULL;

    assert_int_equal(grammar_matcher_new(&matcher, grammar, NULL), 0);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(grammar_matcher_accept(matcher, tokens[i]), 0);
    return matcher;
}

/* Tokens [n] that can only come next were said to. */
static void expect_forced(GrammarMatcher *matcher) {
    uint32_t forced[8], n_forced, mask[(N_VOCAB + 31) / 32];

    assert_int_equal(grammar_matcher_forced(matcher, forced, 8, &n_forced), 0);
    for (uint32_t i = 0; i < n_forced; i++) {
        assert_int_equal(grammar_matcher_fill(matcher, mask), 0);
        assert_true(is_in(mask, forced[i]) && forced[i] != STOP);
        assert_int_equal(grammar_matcher_accept(matcher, forced[i]), 0);
    }
}

/* Along random walks: a token is in the mask if, and only if, it is accepted. */
static void test_masks_are_what_is_accepted(void **state) {
    enum { STEPS = 25 };
    GrammarEngine *engine = engine_new(&wide, NULL);
    Random random = random_start("masks");

    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        Grammar *grammar = must_compile(engine, cases[i].kind, cases[i].text);
        uint32_t tokens[STEPS], n = 0;

        for (; n < STEPS; n++) {
            GrammarMatcher *matcher = replayed(grammar, tokens, n);
            uint32_t mask[(N_VOCAB + 31) / 32], ids[N_VOCAB], n_ids = 0;

            assert_int_equal(grammar_matcher_fill(matcher, mask), 0);
            for (uint32_t id = 0; id < N_VOCAB; id++) {
                GrammarMatcher *other = replayed(grammar, tokens, n);

                assert_int_equal(grammar_matcher_accept(other, id) == 0, is_in(mask, id));
                if (is_in(mask, id) && id != STOP)
                    ids[n_ids++] = id;
                grammar_matcher_free(other);
            }
            assert_false(is_in(mask, SPECIAL) || is_in(mask, N_VOCAB - 1));
            expect_forced(matcher);
            grammar_matcher_free(matcher);
            if (!n_ids)
                break;
            tokens[n] = ids[random_below(&random, n_ids)];
        }
        assert_true(n);
        grammar_unref(grammar);
    }
    grammar_engine_free(engine);
}

static void test_what_can_only_come_is_forced(void **state) {
    GrammarEngine *engine = engine_new(&wide, NULL);
    Grammar *grammar = must_compile(engine, GRAMMAR_REGEX, "xname[0-9]");
    GrammarMatcher *matcher = NULL;
    uint32_t forced[8], n = 0;

    (void)state;
    assert_int_equal(grammar_matcher_new(&matcher, grammar, NULL), 0);
    assert_int_equal(grammar_matcher_forced(matcher, forced, 8, &n), 0);
    assert_int_equal(n, 2);
    assert_int_equal(forced[0], 'x' - ' ');
    assert_string_equal(longer[forced[1] - N_ASCII], "name");
    assert_int_equal(grammar_matcher_forced(matcher, forced, 1, &n), 0);
    assert_int_equal(n, 1);
    grammar_matcher_free(matcher);
    grammar_unref(grammar);
    grammar_engine_free(engine);
}

/* refusals */

static void refuse(GrammarEngine *engine, GrammarKind kind, const char *text, int expected,
                   const char *word) {
    Grammar *grammar = NULL;
    Reason why = REASON_NULL;
    int r = grammar_compile(engine, kind, text, strlen(text), NULL, &grammar, &why);

    if (r != expected || !strstr(why.text, word))
        fail_msg("%.60s: %d, %s", text, r, why.text);
    assert_null(grammar);
}

static void test_what_is_wrong_is_said(void **state) {
    GrammarEngine *engine = engine_new(&wide, NULL);

    (void)state;
    refuse(engine, GRAMMAR_JSON_SCHEMA, "{\"type\": \"strin\"}", GRAMMAR_E_INVALID, "strin");
    refuse(engine, GRAMMAR_JSON_SCHEMA, "{\"type\"", GRAMMAR_E_INVALID, "");
    refuse(engine, GRAMMAR_JSON_SCHEMA, "{\"$ref\": \"#/nowhere\"}", GRAMMAR_E_INVALID, "nowhere");
    refuse(engine, GRAMMAR_JSON_SCHEMA, "{\"not\": {}}", GRAMMAR_E_INVALID, "`not`");
    refuse(engine, GRAMMAR_JSON_SCHEMA, "{\"minimum\": 5}", GRAMMAR_E_INVALID, "without a `type`");
    refuse(engine, GRAMMAR_JSON_SCHEMA,
           "{\"type\": \"object\", \"properties\": {\"a\": {\"anyOf\": [{}], \"minLength\": 1}}}",
           GRAMMAR_E_INVALID, "a: `minLength` cannot be enforced beside `anyOf`");
    refuse(engine, GRAMMAR_JSON_SCHEMA, "{\"type\": \"string\", \"enum\": [\"a\", 1]}",
           GRAMMAR_E_INVALID, "beside `enum`");
    refuse(engine, GRAMMAR_JSON_SCHEMA,
           "{\"items\": [], \"type\": \"array\", \"uniqueItems\": true}", GRAMMAR_E_INVALID,
           "uniqueItems");
    refuse(engine, GRAMMAR_JSON_SCHEMA, "{\"oneOf\": [{\"type\": \"integer\"}, {\"enum\": [1]}]}",
           GRAMMAR_E_INVALID, "`oneOf`");
    refuse(engine, GRAMMAR_JSON_SCHEMA,
           "{\"oneOf\": [{\"type\": \"object\", \"properties\": {\"k\": {\"const\": 1}}}, "
           "{\"type\": \"object\", \"properties\": {\"k\": {\"const\": 2}}}]}",
           GRAMMAR_E_INVALID, "`oneOf`");
    grammar_unref(
        must_compile(engine, GRAMMAR_JSON_SCHEMA,
                     "{\"$defs\": {\"a/b\": {\"type\": \"object\", \"properties\": {\"k\": "
                     "{\"const\": 1}}, \"required\": [\"k\"]}}, \"oneOf\": [{\"$ref\": "
                     "\"#/$defs/a~1b\"}, {\"type\": \"object\", \"properties\": {\"k\": "
                     "{\"enum\": [2, 3]}}, \"required\": [\"k\"]}, {\"type\": [\"null\", "
                     "\"string\"]}, {\"type\": \"number\", \"minimum\": 1}]}"));
    grammar_unref(must_compile(engine, GRAMMAR_JSON_SCHEMA,
                               "{\"enum\": [1, null], \"type\": [\"number\", \"null\"], \"title\": "
                               "\"t\"}"));
    refuse(engine, GRAMMAR_JSON_SCHEMA,
           "{\"type\": \"object\", \"properties\": {\"u\": {\"type\": \"string\", \"format\": "
           "\"uri\", \"minLength\": 1}}}",
           GRAMMAR_E_INVALID, "u: `minLength` cannot be enforced beside `format`");
    refuse(engine, GRAMMAR_JSON_SCHEMA,
           "{\"type\": \"string\", \"pattern\": \"a*\", \"maxLength\": 2}", GRAMMAR_E_INVALID,
           "`maxLength` cannot be enforced beside `pattern`");
    grammar_unref(must_compile(engine, GRAMMAR_JSON_SCHEMA,
                               "{\"type\": \"string\", \"pattern\": \"a*\", \"minLength\": 0}"));
    grammar_unref(must_compile(engine, GRAMMAR_JSON_SCHEMA,
                               "{\"type\": \"string\", \"format\": \"binary\", \"maxLength\": 2}"));
    refuse(engine, GRAMMAR_JSON_SCHEMA, "{\"type\": \"number\", \"multipleOf\": 0.1}",
           GRAMMAR_E_INVALID, "multipleOf");
    refuse(engine, GRAMMAR_REGEX, "(a", GRAMMAR_E_INVALID, "");
    refuse(engine, GRAMMAR_REGEX, "(?=a)b", GRAMMAR_E_INVALID, "");
    refuse(engine, GRAMMAR_CHOICE, "[]", GRAMMAR_E_INVALID, "one string");
    refuse(engine, GRAMMAR_CHOICE, "[\"a\", 1]", GRAMMAR_E_INVALID, "item 1");
    refuse(engine, GRAMMAR_EBNF, "root ::= nothing", GRAMMAR_E_INVALID, "nothing");
    refuse(engine, GRAMMAR_TAGS, "{}", GRAMMAR_E_INVALID, "");
    grammar_engine_free(engine);
}

/* A special token comes where a tag names it, and in free text; in no text of another kind. */
static void test_special_tokens_come_where_they_are_named(void **state) {
    static const char tags[] =
        "{\"type\": \"structural_tag\", \"format\": {\"type\": \"sequence\", \"elements\": ["
        "{\"type\": \"const_string\", \"value\": \"a\"}, {\"type\": \"token\", \"token\": 118}, "
        "{\"type\": \"json_schema\", \"json_schema\": {\"type\": \"string\", \"maxLength\": 2}}]}}";
    static const struct {
        GrammarKind kind;
        const char *text;
    } others[] = { { GRAMMAR_REGEX, "a[^b]*" },
                   { GRAMMAR_EBNF, "root ::= \"a\" [^b]*" },
                   { GRAMMAR_JSON_SCHEMA, "{\"type\": \"string\", \"maxLength\": 4}" } };
    GrammarEngine *engine = engine_new(&wide, NULL);
    Grammar *grammar = must_compile(engine, GRAMMAR_TAGS, tags);
    GrammarMatcher *matcher = NULL;
    uint32_t mask[(N_VOCAB + 31) / 32];

    (void)state;
    assert_int_equal(grammar_matcher_new(&matcher, grammar, NULL), 0);
    assert_int_equal(grammar_matcher_accept(matcher, SPECIAL), GRAMMAR_E_REJECTED);
    assert_int_equal(grammar_matcher_accept(matcher, token_of_byte('a')), 0);
    assert_int_equal(grammar_matcher_fill(matcher, mask), 0);
    for (uint32_t i = 0; i < N_VOCAB; i++)
        assert_int_equal(is_in(mask, i), i == SPECIAL);
    assert_int_equal(grammar_matcher_accept(matcher, SPECIAL), 0);
    assert_int_equal(grammar_matcher_accept(matcher, token_of_byte('"')), 0);
    assert_int_equal(grammar_matcher_fill(matcher, mask), 0);
    assert_true(is_in(mask, token_of_byte('x')));
    assert_false(is_in(mask, SPECIAL) || is_in(mask, token_of_byte('\x1F')));
    grammar_matcher_free(matcher);
    grammar_unref(grammar);
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
        matcher = NULL;
        grammar = must_compile(engine, others[i].kind, others[i].text);
        assert_int_equal(grammar_matcher_new(&matcher, grammar, NULL), 0);
        assert_int_equal(grammar_matcher_accept(matcher, token_of_byte(i == 2 ? '"' : 'a')), 0);
        assert_int_equal(grammar_matcher_fill(matcher, mask), 0);
        assert_true(is_in(mask, token_of_byte('x')));
        assert_false(is_in(mask, SPECIAL));
        assert_int_equal(grammar_matcher_accept(matcher, SPECIAL), GRAMMAR_E_REJECTED);
        grammar_matcher_free(matcher);
        grammar_unref(grammar);
    }
    grammar_engine_free(engine);
}

static char *repeated(const char *piece, size_t n) {
    size_t size = strlen(piece);
    char *text = malloc(n * size + 1);

    for (size_t i = 0; i < n; i++)
        memcpy(text + i * size, piece, size + 1);
    return text;
}

/* By whatever it meets first: its depth, or where it breaks off. */
static bool refused(GrammarEngine *engine, const char *regex) {
    Grammar *grammar = NULL;
    int r = grammar_compile(engine, GRAMMAR_REGEX, regex, strlen(regex), NULL, &grammar, NULL);

    return r == GRAMMAR_E_INVALID || r == GRAMMAR_E_LIMIT;
}

/* Each in a time that is near the limits, whatever it would take. */
static void test_limits_hold(void **state) {
    GrammarLimits limits = wide;
    char *deep = repeated("(a|", 100000), *many = repeated("([a-z]{1,50}x){1,50}", 40);
    uint64_t begin_ms = clock_ms();
    GrammarEngine *engine;

    (void)state;
    limits.compile_ms = 300;
    limits.compile_bytes = 256 << 20;
    engine = engine_new(&limits, NULL);
    assert_true(refused(engine, deep));
    refuse(engine, GRAMMAR_REGEX, many, GRAMMAR_E_LIMIT, "make it simpler");
    grammar_engine_free(engine);
    limits.text_bytes = 100;
    engine = engine_new(&limits, NULL);
    refuse(engine, GRAMMAR_REGEX, deep, GRAMMAR_E_LIMIT, "max_grammar");
    grammar_engine_free(engine);
    limits = wide;
    limits.compiled_bytes = 100;
    engine = engine_new(&limits, NULL);
    refuse(engine, GRAMMAR_REGEX, "abc", GRAMMAR_E_LIMIT, "100 bytes");
    grammar_engine_free(engine);
    assert_true(clock_ms() - begin_ms < 60000);
    free(deep);
    free(many);
}

static void *close_soon(void *account) {
    nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
    account_close(account);
    return NULL;
}

static void test_nobody_waits(void **state) {
    GrammarEngine *engine = engine_new(&wide, NULL);
    char *text = repeated("([a-z]{1,90}x){1,90}", 100);
    Account *account = account_new(NULL, UINT64_MAX, "test");
    Grammar *grammar = NULL;
    Reason why = REASON_NULL;
    pthread_t thread;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, close_soon, account), 0);
    assert_int_equal(
        grammar_compile(engine, GRAMMAR_REGEX, text, strlen(text), account, &grammar, &why),
        -ECANCELED);
    pthread_join(thread, NULL);
    account_unref(account);
    grammar_engine_free(engine);
    free(text);
}

/* keeping */

static void test_grammars_are_kept_by_content(void **state) {
    GrammarLimits limits = wide;
    Account *account = account_new(NULL, 1 << 20, "test");
    GrammarEngine *engine;
    GrammarStats stats;
    Grammar *a, *b, *c;

    (void)state;
    engine = engine_new(&limits, account);
    a = must_compile(engine, GRAMMAR_REGEX, "abc");
    b = must_compile(engine, GRAMMAR_REGEX, "abc");
    c = must_compile(engine, GRAMMAR_EBNF, "root ::= \"abc\"");
    assert_ptr_equal(a, b);
    assert_ptr_not_equal(a, c);
    grammar_engine_stats(engine, &stats);
    assert_int_equal(stats.n_compiled, 2);
    assert_int_equal(stats.n_cache_hits, 1);
    assert_int_equal(stats.cache_bytes, atomic_load(&account->used));
    assert_true(stats.cache_bytes > 0 && stats.vocab_bytes > N_VOCAB && stats.compile_s > 0);
    grammar_unref(a);
    grammar_unref(b);
    grammar_unref(c);
    grammar_unref(must_compile(engine, GRAMMAR_REGEX, "abc"));
    grammar_engine_stats(engine, &stats);
    assert_int_equal(stats.n_cache_hits, 2);
    grammar_engine_free(engine);
    assert_int_equal(atomic_load(&account->used), 0);

    limits.cache_bytes = 1; /* nothing is kept that nobody holds */
    engine = engine_new(&limits, account);
    a = must_compile(engine, GRAMMAR_REGEX, "abc");
    grammar_unref(must_compile(engine, GRAMMAR_REGEX, "def"));
    grammar_engine_stats(engine, &stats);
    assert_true(stats.cache_bytes > 0);
    grammar_unref(a);
    grammar_engine_stats(engine, &stats);
    assert_int_equal(stats.cache_bytes, 0);
    grammar_engine_free(engine);
    assert_int_equal(atomic_load(&account->used), 0);
    account_unref(account);
}

static void test_an_account_may_refuse(void **state) {
    Account *account = account_new(NULL, 100, "test");
    GrammarEngine *engine = engine_new(&wide, account);
    Grammar *grammar = NULL;
    GrammarMatcher *matcher = NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(grammar_compile(engine, GRAMMAR_REGEX, "abc", 3, NULL, &grammar, &why),
                     -ENOMEM);
    account_set_limit(account, 1 << 20);
    assert_int_equal(grammar_compile(engine, GRAMMAR_REGEX, "abc", 3, NULL, &grammar, &why), 0);
    account_set_limit(account, 100);
    assert_int_equal(grammar_matcher_new(&matcher, grammar, account), -ENOMEM);
    grammar_unref(grammar);
    grammar_engine_free(engine);
    assert_int_equal(atomic_load(&account->used), 0);
    account_unref(account);
}

static void *compile_same(void *engine) {
    return must_compile(engine, GRAMMAR_REGEX, "([a-z]{1,9}x){1,9}");
}

static void test_the_same_is_compiled_once(void **state) {
    enum { N = 6 };
    GrammarEngine *engine = engine_new(&wide, NULL);
    pthread_t threads[N];
    void *grammars[N];
    GrammarStats stats;

    (void)state;
    for (int i = 0; i < N; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, compile_same, engine), 0);
    for (int i = 0; i < N; i++)
        pthread_join(threads[i], &grammars[i]);
    for (int i = 0; i < N; i++) {
        assert_ptr_equal(grammars[i], grammars[0]);
        grammar_unref(grammars[i]);
    }
    grammar_engine_stats(engine, &stats);
    assert_int_equal(stats.n_compiled, 1);
    grammar_engine_free(engine);
}

/* The children of a process, as far as two of them. */
static int children_of(pid_t pid, pid_t children[2]) {
    char path[64];
    FILE *file;
    int n = 0;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
    file = fopen(path, "r");
    while (file && n < 2 && fscanf(file, "%d", &children[n]) == 1)
        n++;
    if (file)
        fclose(file);
    return n;
}

/* The one child of a process, once those that others left behind have ended; 0: none. */
static pid_t only_child_of(pid_t pid) {
    pid_t children[2] = { 0, 0 };

    while (children_of(pid, children) > 1)
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    return children[0];
}

static void test_a_process_that_is_gone_is_started_again(void **state) {
    GrammarEngine *engine = engine_new(&wide, NULL);
    pid_t nursery = only_child_of(getpid()), vocab = nursery ? only_child_of(nursery) : 0;

    (void)state;
    if (!vocab)
        skip(); /* the kernel does not tell */
    grammar_unref(must_compile(engine, GRAMMAR_REGEX, "abc"));
    assert_int_equal(kill(vocab, SIGKILL), 0);
    while (!kill(vocab, 0))
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    grammar_unref(must_compile(engine, GRAMMAR_REGEX, "def"));
    grammar_engine_free(engine);
}

static void test_a_build_without_says_so(void **state) {
    GrammarVocab vocab = { .n_vocab = N_VOCAB, .token_bytes = token_bytes };
    GrammarEngine *engine = NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(grammar_engine_new(&engine, &vocab, &wide, NULL, &why), -ENOTSUP);
    assert_non_null(strstr(why.text, "without grammars"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_are_told_apart),
        cmocka_unit_test(test_masks_are_what_is_accepted),
        cmocka_unit_test(test_what_can_only_come_is_forced),
        cmocka_unit_test(test_what_is_wrong_is_said),
        cmocka_unit_test(test_special_tokens_come_where_they_are_named),
        cmocka_unit_test(test_limits_hold),
        cmocka_unit_test(test_nobody_waits),
        cmocka_unit_test(test_grammars_are_kept_by_content),
        cmocka_unit_test(test_an_account_may_refuse),
        cmocka_unit_test(test_the_same_is_compiled_once),
        cmocka_unit_test(test_a_process_that_is_gone_is_started_again),
    };
    const struct CMUnitTest without[] = {
        cmocka_unit_test(test_a_build_without_says_so),
    };

    if (grammar_start(NULL))
        return cmocka_run_group_tests(without, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
