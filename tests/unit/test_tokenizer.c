/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the tokenizer promises beyond the vectors: lookups, errors, special tokens as text, streams,
 * linear time, use by several threads, and the refusal of what it does not know.
 */
#include "tests/unit/tokenizer_files.h"

#include "util/utf8.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

/* Bytes as characters: a, b, c, space, the two bytes of U+00E9 and the first of a four-byte one. */
#define BYTE_VOCAB                                                                            \
    "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"\u0120\":3,\"\u00c3\":4,\"\u00a9\":5,\"\u00f0\":6," \
    "\"ab\":7,\"abc\":8,\"\u0120ab\":9,\"\u0100\":10},"                                       \
    "\"merges\":[\"a b\",\"ab c\",[\"\u0120\",\"ab\"]]"
#define BYTE_LEVEL                                                           \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}," \
    "\"decoder\":{\"type\":\"ByteLevel\"}"
#define ADDED                                                                                  \
    "\"added_tokens\":[{\"id\":11,\"content\":\"<s>\",\"special\":true,\"normalized\":false}," \
    "{\"id\":12,\"content\":\"<call>\",\"special\":false,\"normalized\":false}]"
#define SMALL                                                                   \
    "{\"model\":{\"type\":\"BPE\"," BYTE_VOCAB "}," BYTE_LEVEL "," ADDED        \
    ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["         \
    "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"                        \
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":" \
    "{\"id\":\"<s>\",\"ids\":[11],\"tokens\":[\"<s>\"]}}}}"

/* SentencePiece-style, with the bytes of U+20AC. */
#define FALLBACK                                                                                  \
    "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<0xE2>\":1,"    \
    "\"<0x82>\":2,\"<0xAC>\":3,\"\u2581\":4,\"a\":5,\"\u2581a\":6},\"merges\":[\"\u2581 a\"]},"   \
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"   \
    "\"\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}]}," \
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"         \
    "{\"String\":\"\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"                     \
    "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}}"

static Tokenizer *open_text(const char *text) {
    Tokenizer *tokenizer = NULL;
    Reason why = REASON_NULL;

    if (tokenizer_open_text(&tokenizer, text, strlen(text), &why))
        fail_msg("%s", why.text);
    return tokenizer;
}

static void assert_encodes(const Tokenizer *tokenizer, const char *text, size_t size,
                           bool add_special, bool parse_special, const uint32_t *expected,
                           size_t n) {
    CLEANUP(token_ids_deinit) TokenIds ids = TOKEN_IDS_NULL;

    assert_int_equal(tokenizer_encode(tokenizer, text, size,
                                      &(EncodeOptions){ .add_special = add_special,
                                                        .parse_special = parse_special },
                                      &ids),
                     0);
    assert_int_equal(ids.n, n);
    if (n)
        assert_memory_equal(ids.ids, expected, n * sizeof(*expected));
}

#define ASSERT_ENCODES(_tokenizer, _text, _add, _parse, ...)                          \
    do {                                                                              \
        const uint32_t expected_[] = { __VA_ARGS__ };                                 \
        assert_encodes(_tokenizer, _text, sizeof(_text) - 1, _add, _parse, expected_, \
                       sizeof(expected_) / sizeof(expected_[0]));                     \
    } while (0)

static void test_text_to_ids(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_text(SMALL);

    (void)state;
    ASSERT_ENCODES(tokenizer, "abc ab", false, true, 8, 9);
    ASSERT_ENCODES(tokenizer, "abc ab", true, true, 11, 8, 9);
    ASSERT_ENCODES(tokenizer, "", true, true, 11);
    ASSERT_ENCODES(tokenizer, "a\0b", false, true, 0, 10, 1);
    /* No token and no unknown token: x vanishes, as in the reference, and a meets b. */
    ASSERT_ENCODES(tokenizer, "axb", false, true, 7);
    ASSERT_ENCODES(tokenizer, "\u00e9", false, true, 4, 5);
}

static void test_special_tokens_in_text(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_text(SMALL);

    (void)state;
    ASSERT_ENCODES(tokenizer, "a<s>b<call>c", false, true, 0, 11, 1, 12, 2);
    ASSERT_ENCODES(tokenizer, "a<s>b<call>c", false, false, 0, 1, 12, 2);
}

static void test_text_that_is_none(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_text(SMALL);
    CLEANUP(token_ids_deinit) TokenIds ids = TOKEN_IDS_NULL;
    static const char *const broken[] = {
        "a\xff", "\xc3", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"
    };

    (void)state;
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++)
        assert_int_equal(
            tokenizer_encode(tokenizer, broken[i], strlen(broken[i]),
                             &(EncodeOptions){ .add_special = true, .parse_special = true }, &ids),
            -EILSEQ);
    assert_int_equal(ids.n, 0);
}

static void test_lookups(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    CLEANUP(buffer_deinit) Buffer bytes = BUFFER_NULL;

    (void)state;
    model_file_write_text("tokenizer_config.json",
                          "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"<call>\"}");
    tokenizer = open_text(SMALL);
    assert_int_equal(unlink(model_path("tokenizer_config.json")), 0);
    assert_int_equal(tokenizer_bos(tokenizer), 11);
    assert_int_equal(tokenizer_eos(tokenizer), 12);
    assert_int_equal(tokenizer_size(tokenizer), 13);
    assert_int_equal(tokenizer_find(tokenizer, "<call>", 6), 12);
    assert_int_equal(tokenizer_find(tokenizer, "<cal", 4), TOKEN_NONE);
    assert_true(tokenizer_is_special(tokenizer, 11));
    assert_false(tokenizer_is_special(tokenizer, 12));
    assert_false(tokenizer_is_special(tokenizer, UINT32_MAX));
    assert_int_equal(tokenizer_token_bytes(tokenizer, 4, &bytes), 0);
    assert_int_equal(tokenizer_token_bytes(tokenizer, 9, &bytes), 0);
    assert_int_equal(tokenizer_token_bytes(tokenizer, 10, &bytes), 0);
    assert_int_equal(tokenizer_token_bytes(tokenizer, 11, &bytes), 0);
    assert_int_equal(bytes.size, 8);
    assert_memory_equal(bytes.data, "\xc3 ab\0<s>", 8);
    assert_int_equal(tokenizer_token_bytes(tokenizer, 13, &bytes), -ERANGE);
}

static void test_no_roles_without_a_config(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_text(SMALL);

    (void)state;
    assert_int_equal(tokenizer_bos(tokenizer), TOKEN_NONE);
    assert_int_equal(tokenizer_eos(tokenizer), TOKEN_NONE);
}

static void assert_decodes(const Tokenizer *tokenizer, const uint32_t *ids, size_t n,
                           bool skip_special, const char *expected) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;

    assert_int_equal(tokenizer_decode(tokenizer, ids, n, skip_special, &text), 0);
    assert_string_equal(buffer_text(&text), expected);
}

static void test_ids_to_text(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_text(SMALL);
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    const uint32_t plain[] = { 11, 8, 9, 12 }, halves[] = { 4, 5, 4, 0, 6 }, beyond[] = { 0, 13 };

    (void)state;
    assert_decodes(tokenizer, plain, 4, false, "<s>abc ab<call>");
    assert_decodes(tokenizer, plain, 4, true, "abc ab<call>");
    assert_decodes(tokenizer, halves, 5, true, "\u00e9\ufffda\ufffd");
    assert_int_equal(tokenizer_decode(tokenizer, beyond, 2, false, &text), -ERANGE);
    assert_int_equal(text.size, 0);
}

static void push(TextStream *stream, uint32_t id, const char *expected) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;

    assert_int_equal(text_stream_push(stream, id, &text), 0);
    assert_string_equal(buffer_text(&text), expected);
}

static void finish(TextStream *stream, const char *expected) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;

    assert_int_equal(text_stream_finish(stream, &text), 0);
    assert_string_equal(buffer_text(&text), expected);
}

static void test_streams_hold_half_characters(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_text(SMALL);
    CLEANUP(text_stream_free) TextStream *stream = NULL;

    (void)state;
    assert_int_equal(text_stream_new(&stream, tokenizer, true), 0);
    push(stream, 11, "");
    push(stream, 9, " ab");
    push(stream, 4, "");
    push(stream, 5, "\u00e9");
    push(stream, 4, "");
    push(stream, 0, "\ufffda");
    push(stream, 999999, "");
    push(stream, 6, "");
    finish(stream, "\ufffd");
}

/* The reference turns a run of bytes into text or, if it is none, every byte of it into U+FFFD. */
static void test_streams_hold_runs_of_bytes(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_text(FALLBACK);
    CLEANUP(text_stream_free) TextStream *stream = NULL;

    (void)state;
    ASSERT_ENCODES(tokenizer, "a\u20ac a", false, true, 6, 1, 2, 3, 6);
    assert_int_equal(text_stream_new(&stream, tokenizer, true), 0);
    push(stream, 6, "a");
    push(stream, 1, "");
    push(stream, 2, "");
    push(stream, 3, "");
    push(stream, 6, "\u20ac a");
    push(stream, 1, "");
    push(stream, 2, "");
    finish(stream, "\ufffd\ufffd");
    push(stream, 6, "a"); /* as new */
}

static double cpu_now_s(void) {
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Bounds, accounts. */

/* Bars on time are this much higher with a sanitizer's checks. */
#if defined(__SANITIZE_ADDRESS__)
#define SLOWER 6
#else
#define SLOWER 1
#endif

static int encode_at_most(const Tokenizer *tokenizer, const char *text, size_t ids_max,
                          Account *account) {
    CLEANUP(token_ids_deinit) TokenIds ids = { .account = account };
    EncodeOptions options = {
        .add_special = true, .parse_special = true, .ids_max = ids_max, .account = account
    };

    return tokenizer_encode(tokenizer, text, strlen(text), &options, &ids);
}

static void test_more_ids_than_wanted_are_refused(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_text(SMALL);

    (void)state;
    /* <s> abc ab <call> */
    assert_int_equal(encode_at_most(tokenizer, "abc ab<call>", 4, NULL), 0);
    assert_int_equal(encode_at_most(tokenizer, "abc ab<call>", 3, NULL), -E2BIG);
    assert_int_equal(encode_at_most(tokenizer, "abc ab", 2, NULL), -E2BIG);
    assert_int_equal(encode_at_most(tokenizer, "", 1, NULL), 0);
    /* Dropped characters give no ids, however many they are. */
    assert_int_equal(
        encode_at_most(tokenizer, "axxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxb", 2, NULL), 0);
}

static void text_of(Buffer *text, const char *unit, size_t size) {
    while (text->size + strlen(unit) <= size)
        buffer_append_text(text, unit);
    assert_false(buffer_failed(text));
}

typedef struct Closer {
    Account *account;
    clockid_t encoder_clock; /* processor time of the thread that encodes */
    double encoder_s;        /* its time once the account was closed */
} Closer;

static void *close_soon(void *ctx) {
    const struct timespec pause = { .tv_nsec = 10000000 };
    Closer *closer = ctx;
    struct timespec now;

    nanosleep(&pause, NULL);
    account_close(closer->account);
    clock_gettime(closer->encoder_clock, &now);
    closer->encoder_s = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    return NULL;
}

/* What the encoder computes after the closing counts. How long either thread waits for a processor
 * is other programs' doing. */
static void check_closing(const Tokenizer *tokenizer, const char *unit, const char *end) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    Account account;
    Closer closer = { .account = &account };
    pthread_t thread;
    double end_s;
    int r;

    text_of(&text, unit, 12u << 20);
    buffer_append_text(&text, end);
    account_init(&account, NULL, UINT64_MAX, "none");
    assert_int_equal(pthread_getcpuclockid(pthread_self(), &closer.encoder_clock), 0);
    assert_int_equal(pthread_create(&thread, NULL, close_soon, &closer), 0);
    r = encode_at_most(tokenizer, text.data, 0, &account);
    end_s = cpu_now_s();
    assert_int_equal(pthread_join(thread, NULL), 0);
    if (end_s - closer.encoder_s > 0.05 * SLOWER || r != -ECANCELED)
        fail_msg("12 MiB of \"%s\": %d, %.3f s after the closing", unit, r,
                 end_s - closer.encoder_s);
    account_deinit(&account);
}

static void check_bounds(const char *packed) {
    static const char *const units[] = { "a",     " ",      "Ab ",          "\n ",
                                         "<|im_", "\u4e2d", "\u0301\u0316", "\U0001f600\u00e9",
                                         "!" };
    CLEANUP(tokenizer_free)
    Tokenizer *tokenizer = tokenizer_must_open(tokenizer_unpack(packed, "tokenizer.json"));
    CLEANUP(buffer_deinit) Buffer spaces = BUFFER_NULL;
    double start = cpu_now_s();

    text_of(&spaces, " ", 4000000);
    assert_int_equal(encode_at_most(tokenizer, spaces.data, 8192, NULL), -E2BIG);
    if (cpu_now_s() - start > 0.2 * SLOWER)
        fail_msg("refusing 4 MB of spaces took %.3f s", cpu_now_s() - start);
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        check_closing(tokenizer, units[i], "");
}

/* Here PCRE2 runs from each space to the last. */
#define SPACES_AT_LINE_ENDS                                                               \
    "{\"model\":{\"type\":\"BPE\"," BYTE_VOCAB "},\"pre_tokenizer\":{\"type\":\"Split\"," \
    "\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"\\\\s+$\"}}}"

static void test_closing_an_account_stops_the_work(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *spaces = open_text(SPACES_AT_LINE_ENDS);

    (void)state;
    check_closing(spaces, " ", "a");
    check_bounds("qwen3/tokenizer.json.xz");
    check_bounds("mistral_nemo/tokenizer.json.xz");
    check_bounds("deepseek_v3/tokenizer.json.xz");
}

/* A long word costs its ids and a scratch that does not grow with it. */
static void test_scratch_is_charged(void **state) {
    CLEANUP(tokenizer_free)
    Tokenizer *tokenizer =
        tokenizer_must_open(tokenizer_unpack("mistral_nemo/tokenizer.json.xz", "tokenizer.json"));
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    Account account;

    (void)state;
    text_of(&text, "ab", 4u << 20);
    account_init(&account, NULL, 1 << 20, "small");
    assert_int_equal(encode_at_most(tokenizer, text.data, 0, &account), -ENOMEM);
    assert_ptr_equal(account.refused_by, &account);
    assert_int_equal(account.used, 0);
    account_set_limit(&account, (8u << 20) + 5 * text.size);
    assert_int_equal(encode_at_most(tokenizer, text.data, 0, &account), 0);
    assert_int_equal(account.used, 0);
    account_close(&account);
    assert_int_equal(encode_at_most(tokenizer, "a", 0, &account), -ECANCELED);
    account_deinit(&account);
}

static void test_decoding_is_charged_and_stops(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_text(SMALL);
    CLEANUP(token_ids_deinit) TokenIds ids = TOKEN_IDS_NULL;
    Account account;
    Buffer text = { .account = &account };

    (void)state;
    for (size_t i = 0; i < 100000; i++)
        assert_int_equal(token_ids_append(&ids, &(uint32_t){ 8 }, 1), 0);
    account_init(&account, NULL, 100000, "small");
    assert_int_equal(tokenizer_decode(tokenizer, ids.ids, ids.n, false, &text), -ENOMEM);
    account_set_limit(&account, 1 << 20);
    buffer_clear(&text);
    assert_int_equal(tokenizer_decode(tokenizer, ids.ids, ids.n, false, &text), 0);
    assert_int_equal(text.size, 300000);
    account_close(&account);
    buffer_clear(&text);
    assert_int_equal(tokenizer_decode(tokenizer, ids.ids, ids.n, false, &text), -ECANCELED);
    assert_true(text.size < 300000);
    buffer_deinit(&text);
    account_deinit(&account);
}

/* A quadratic step anywhere would take minutes. */
static void check_linear(const Tokenizer *tokenizer, const char *unit) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL, back = BUFFER_NULL;
    CLEANUP(token_ids_deinit) TokenIds ids = TOKEN_IDS_NULL;
    double start = cpu_now_s();

    while (text.size < 1000000)
        buffer_append_text(&text, unit);
    assert_int_equal(
        tokenizer_encode(tokenizer, text.data, text.size,
                         &(EncodeOptions){ .add_special = true, .parse_special = true }, &ids),
        0);
    assert_int_equal(tokenizer_decode(tokenizer, ids.ids, ids.n, true, &back), 0);
    if (cpu_now_s() - start > 10)
        fail_msg("a megabyte of \"%s\" took %.1f s", unit, cpu_now_s() - start);
}

static void check_linear_family(const char *packed) {
    static const char *const units[] = {
        "a",      "Ab",         " ",      "\n",     " \n",     "7",
        "!",      "<|",         "'",      "\u4e2d", "\u0301",  "\u0301\u0316",
        "\u3000", "\U0001f600", "\uac00", "\u1100", "\u00e9A",
    };
    CLEANUP(tokenizer_free)
    Tokenizer *tokenizer = tokenizer_must_open(tokenizer_unpack(packed, "tokenizer.json"));
    CLEANUP(buffer_deinit) Buffer marks = BUFFER_NULL;

    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        check_linear(tokenizer, units[i]);
    /* Marks in exactly the wrong order: what sorting by neighbours takes hours for. */
    while (marks.size < 500000)
        buffer_append_text(&marks, "\u0301");
    while (marks.size < 1000000)
        buffer_append_text(&marks, "\u0316");
    check_linear(tokenizer, buffer_text(&marks));
}

static void test_long_text_takes_linear_time(void **state) {
    (void)state;
    check_linear_family("qwen3/tokenizer.json.xz");
    check_linear_family("mistral_nemo/tokenizer.json.xz");
    check_linear_family("deepseek_v3/tokenizer.json.xz");
}

static void *encode_often(void *ctx) {
    const Tokenizer *tokenizer = ctx;

    for (int i = 0; i < 2000; i++) {
        ASSERT_ENCODES(tokenizer, "abc ab<s>\u00e9", true, true, 11, 8, 9, 11, 4, 5);
    }
    return NULL;
}

static void test_threads_share_a_tokenizer(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_text(SMALL);
    pthread_t threads[4];

    (void)state;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, tokenizer), 0);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

/* Refusals. */

static void refuses(const char *text, const char *part) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    Reason why = REASON_NULL;

    assert_int_equal(tokenizer_open_text(&tokenizer, text, strlen(text), &why), -EINVAL);
    assert_mentions(why.text, "tokenizer.json: ");
    assert_mentions(why.text, part);
}

#define WITH(_parts) "{\"model\":{\"type\":\"BPE\"," BYTE_VOCAB "}," _parts "}"
#define WITH_MODEL(_parts) "{\"model\":{" _parts "}}"

static void test_unknown_components_are_named(void **state) {
    (void)state;
    refuses(WITH("\"normalizer\":{\"type\":\"Precompiled\"}"), "normalizer: type \"Precompiled\"");
    refuses(WITH("\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}"),
            "pre_tokenizer: type \"UnicodeScripts\"");
    refuses(WITH("\"decoder\":{\"type\":\"CTC\"}"), "decoder: type \"CTC\"");
    refuses(WITH("\"post_processor\":{\"type\":\"BertProcessing\"}"),
            "post_processor: type \"BertProcessing\"");
    refuses(WITH_MODEL("\"type\":\"WordPiece\"," BYTE_VOCAB), "model: type \"WordPiece\"");
    refuses(WITH_MODEL("\"type\":\"BPE\",\"dropout\":0.5," BYTE_VOCAB), "dropout");
    refuses(WITH_MODEL("\"end_of_word_suffix\":\"</w>\"," BYTE_VOCAB), "end_of_word_suffix");
    refuses(WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Sideways\",\"pattern\":"
                 "{\"String\":\" \"}}"),
            "behavior \"Sideways\"");
    refuses(WITH("\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
                 "\"ByteLevel\"},{\"type\":\"Digits\"}]}"),
            "Digits: is not supported after ByteLevel");
    refuses(WITH("\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},"
                 "{\"type\":\"ByteFallback\"}]}"),
            "ByteFallback: is not supported after");
}

#define SPLIT_BY(_regex)                                                                           \
    WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":" \
         "\"" _regex "\"}}")

static void test_patterns_without_equal_are_refused(void **state) {
    (void)state;
    refuses(SPLIT_BY("[a-z&&[^aeiou]]"), "intersection");
    refuses(SPLIT_BY("[a[bc]]"), "bracket within brackets");
    refuses(SPLIT_BY("[\\\\W]"), "negated class within brackets");
    refuses(SPLIT_BY("\\\\p{Klingon}"), "\\p{Klingon}");
    refuses(SPLIT_BY("(?<name>a)"), "this kind of group");
    refuses(SPLIT_BY("a{2}+"), "repeated interval");
    refuses(SPLIT_BY("\\\\K"), "this escape");
    refuses(SPLIT_BY("(a"), "pattern \"(a\"");
    refuses(SPLIT_BY("a\\\\"), "this escape");
}

/* Texts that open, so that the refusals above mean something. */
static void test_patterns_with_equal_are_taken(void **state) {
    static const char *const texts[] = {
        SPLIT_BY("[\\\\p{L}\\\\p{^Lu}\\\\p{Letter}\\\\P{Nd}\\\\S\\\\D]+"),
        SPLIT_BY("(?i:a)|(?m:.)|(?=a)b|(?<!a)b|(?>a)|a++|a?+|a*?|\\\\x{1F600}+|\\\\u00e9"),
        SPLIT_BY("a{,3}|a{2}|a{2,}|a{2,3}?|a{x}|[[:alpha:]]|[]a]|[^]a]|\\\\h\\\\v"),
        SPLIT_BY("^\\\\b\\\\p{Han}\\\\B$|\\\\A\\\\z"),
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_text(texts[i]);
        (void)tokenizer;
    }
}

/* InternLM2's vocabulary has the character NUL. */
#define WITH_NUL                                                                                 \
    "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"\\u0000?\",\"vocab\":{\"\\u0000?\":0,\"a\":1," \
    "\"\\u0000\":2,\"a\\u0000\":3,\"\\u0000\\u0000\":4},"                                        \
    "\"merges\":[\"a \\u0000\",[\"\\u0000\",\"\\u0000\"]]},"                                     \
    "\"added_tokens\":[{\"id\":5,\"content\":\"<\\u0000>\"},{\"id\":6,\"content\":\"<\"}]}"

static void test_tokens_may_hold_nul(void **state) {
    static const char text[] = "a\0\0\0a<\0>x<\0";
    const uint32_t expected[] = { 3, 4, 1, 5, 0, 6, 2 };
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_text(WITH_NUL);
    CLEANUP(buffer_deinit) Buffer back = BUFFER_NULL;

    (void)state;
    assert_encodes(tokenizer, text, sizeof(text) - 1, false, true, expected, 7);
    assert_int_equal(tokenizer_token_bytes(tokenizer, 3, &back), 0);
    assert_int_equal(back.size, 2);
    assert_memory_equal(back.data, "a\0", 2);
    buffer_clear(&back);
    assert_int_equal(tokenizer_decode(tokenizer, (uint32_t[]){ 4, 5 }, 2, false, &back), 0);
    assert_memory_equal(back.data, "\0\0 <\0>", 6);
}

/* A name and a NUL is another name. */
static void test_names_with_nul_are_others(void **state) {
    (void)state;
    refuses(WITH("\"decoder\":{\"type\":\"Fuse\\u0000\"}"), "found \"Fuse\\u0000\"");
    refuses(WITH_MODEL("\"type\":\"BPE\\u0000x\"," BYTE_VOCAB), "found \"BPE\\u0000x\"");
    refuses("{\"model\\u0000\":{\"type\":\"BPE\"," BYTE_VOCAB "}}", "key \"model\" is missing");
}

static void test_paths(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    Reason why = REASON_NULL;

    (void)state;
    unlink(model_path("tokenizer.json"));
    assert_int_equal(tokenizer_open(&tokenizer, "/nowhere/at/all", &why), -ENOENT);
    assert_mentions(why.text, "/nowhere/at/all: ");
    assert_int_equal(tokenizer_open(&tokenizer, model_directory, &why), -ENOENT);
    assert_mentions(why.text, "tokenizer.json");
    model_file_write_text("tokenizer.json", SMALL);
    assert_int_equal(tokenizer_open(&tokenizer, model_directory, &why), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_to_ids),
        cmocka_unit_test(test_special_tokens_in_text),
        cmocka_unit_test(test_text_that_is_none),
        cmocka_unit_test(test_lookups),
        cmocka_unit_test(test_no_roles_without_a_config),
        cmocka_unit_test(test_ids_to_text),
        cmocka_unit_test(test_streams_hold_half_characters),
        cmocka_unit_test(test_streams_hold_runs_of_bytes),
        cmocka_unit_test(test_more_ids_than_wanted_are_refused),
        cmocka_unit_test(test_closing_an_account_stops_the_work),
        cmocka_unit_test(test_scratch_is_charged),
        cmocka_unit_test(test_decoding_is_charged_and_stops),
        cmocka_unit_test(test_long_text_takes_linear_time),
        cmocka_unit_test(test_threads_share_a_tokenizer),
        cmocka_unit_test(test_unknown_components_are_named),
        cmocka_unit_test(test_patterns_without_equal_are_refused),
        cmocka_unit_test(test_patterns_with_equal_are_taken),
        cmocka_unit_test(test_tokens_may_hold_nul),
        cmocka_unit_test(test_names_with_nul_are_others),
        cmocka_unit_test(test_paths),
    };

    return cmocka_run_group_tests(tests, model_files_setup, model_files_teardown);
}
