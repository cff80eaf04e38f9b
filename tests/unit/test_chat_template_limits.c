/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a template can do to the process that it runs in: take its time or its memory. What becomes
 * of the processes is in test_chat_template_processes.c.
 */
#include "tests/unit/chat_model.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#define NESTED_LOOPS \
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
/* Sixty lists, each twice in the next: small, and 2^60 long to walk. */
#define TWO_ENDLESS_LISTS                                            \
    "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}" \
    "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}"

static double now_s(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Hits a limit, twice, within a second, and leaves everything in order. */
static void check_limited_in(uint32_t time_ms_max, const char *source, const char *words) {
    const ChatTemplateOptions options = { .time_ms_max = time_ms_max,
                                          .output_bytes_max = 1 << 20,
                                          .n_workers = 1 };
    CLEANUP(chat_template_free) ChatTemplate *chat_template = chat_template_make(source, &options);
    CLEANUP(chat_template_free) ChatTemplate *other = chat_template_make("fine", NULL);

    for (int i = 0; i < 2; i++) {
        double start_s = now_s();

        assert_refused(chat_template, HELLO, CHAT_TEMPLATE_E_LIMIT, words);
        assert_true(now_s() - start_s < time_ms_max * 1e-3 + 1);
        assert_prompt(other, HELLO, "fine");
    }
}

static void check_time_limited(const char *source) {
    check_limited_in(300, source, "took longer than 300 ms");
}

static void check_memory_limited(const char *source) {
    check_limited_in(60000, source, "bytes of memory");
}

static void test_time(void **state) {
    (void)state;
    check_time_limited(NESTED_LOOPS);
    check_time_limited("{% set x %}" NESTED_LOOPS "{% endset %}");
    check_time_limited("{% macro m() %}" NESTED_LOOPS "{% endmacro %}{{ m() }}");
    check_time_limited("{{ lipsum(n=9999999) | length }}");
}

/* These spend their time in C functions of Python's. */
static void test_time_within_one_function(void **state) {
    (void)state;
    check_time_limited(TWO_ENDLESS_LISTS "{{ ns.a | tojson }}");
    check_time_limited(TWO_ENDLESS_LISTS "{{ ns.a }}");
}

static void test_memory(void **state) {
    (void)state;
    check_memory_limited("{{ ('a' * 10**10) | length }}");
    check_memory_limited("{{ '%1000000000d' % 1 }}");
    check_memory_limited("{{ '{:1000000000}'.format(messages | length) }}");
    check_memory_limited("{{ 'a' | center(messages | length * 10**10) }}");
    check_memory_limited("{{ 'a\nb' | indent(messages | length * 10**10) }}");
    check_memory_limited("{{ ('<' * 10**7) | e | length }}");
    check_memory_limited("{{ {'a': 1} | tojson(indent=messages | length * 10**10) }}");
    check_memory_limited("{{ (['a' * 1000] * 9999999) | join('b' * 1000) }}");
    check_memory_limited("{% set ns = namespace(a='abc') %}{% for i in range(99) %}"
                         "{% set ns.a = ns.a ~ ns.a %}{% endfor %}");
    check_memory_limited("{% set ns = namespace(a=[]) %}{% for i in range(99999) %}"
                         "{% set ns.a = [ns.a, range(99999) | list] %}{% endfor %}");
}

/* Compiling computes constants. */
static void test_memory_at_open(void **state) {
    CLEANUP(chat_template_free)
    ChatTemplate *chat_template = chat_template_make("{{ 'a' | center(10000000000) }}", NULL);

    (void)state;
    assert_refused(chat_template, HELLO, CHAT_TEMPLATE_E_LIMIT, "bytes of memory");
}

static void test_output(void **state) {
    const ChatTemplateOptions options = { .time_ms_max = 5000,
                                          .output_bytes_max = 1000,
                                          .n_workers = 1 };
    CLEANUP(chat_template_free)
    ChatTemplate *chat_template = chat_template_make("{{ text * messages | length }}", &options);
    static const char exact[] = "{\"messages\": [{}], \"kwargs\": {\"text\": \"%s\"}}";
    char request[2048], text[1001];

    (void)state;
    check_limited_in(60000, "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
                     "longer than 1048576 bytes");
    memset(text, 'a', 1000);
    text[1000] = 0;
    snprintf(request, sizeof(request), exact, text);
    assert_prompt(chat_template, request, text);
    memcpy(text, "\xc3\xa9", 2); /* now 999 characters */
    snprintf(request, sizeof(request), exact, text);
    assert_prompt(chat_template, request, text);
    text[999] = 0; /* twice over, 1,996 characters */
    snprintf(request, sizeof(request), "{\"messages\": [{}, {}], \"kwargs\": {\"text\": \"%s\"}}",
             text);
    assert_refused(chat_template, request, CHAT_TEMPLATE_E_LIMIT, "longer than 1000 bytes");
    memset(text, 0, sizeof(text));
    for (int i = 0; i < 250; i++) /* twice over, 500 characters and 1,000 bytes */
        memcpy(text + 2 * i, "\xc3\xa9", 2);
    text[500] = 'a';
    snprintf(request, sizeof(request), "{\"messages\": [{}, {}], \"kwargs\": {\"text\": \"%s\"}}",
             text);
    assert_refused(chat_template, request, CHAT_TEMPLATE_E_LIMIT, "longer than 1000 bytes");
}

static void test_numbers(void **state) {
    CLEANUP(chat_template_free)
    ChatTemplate *chat_template = chat_template_make("{{ 10 ** 100000 }}", NULL);

    (void)state;
    assert_refused(chat_template, HELLO, CHAT_TEMPLATE_E_RAISED, "more than 65536 bits");
}

static void test_time_format(void **state) {
    CLEANUP(chat_template_free)
    ChatTemplate *chat_template =
        chat_template_make("{{ strftime_now('%%' * (499 + messages | length)) | length }}", NULL);

    (void)state;
    assert_prompt(chat_template, HELLO, "500");
    assert_refused(chat_template, "{\"messages\": [{}, {}]}", CHAT_TEMPLATE_E_RAISED,
                   "more than 1000 characters");
}

static size_t resident_bytes(void) {
    CLEANUP(fclose) FILE *file = fopen("/proc/self/statm", "r");
    long total, resident;

    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &total, &resident), 2);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

static void render_many(int n) {
    CLEANUP(chat_template_free)
    ChatTemplate *good = chat_template_make(
        "{% for m in messages %}{{ m | tojson }}{{ m.content * 1000 }}{% endfor %}", NULL);
    CLEANUP(chat_template_free)
    ChatTemplate *bad = chat_template_make("{{ 'a' * 100000 + messages[0].none }}", NULL);

    for (int i = 0; i < n; i++) {
        CLEANUP(buffer_deinit) Buffer prompt = BUFFER_NULL;
        Reason why = REASON_NULL;

        assert_int_equal(chat_template_render(good, HELLO, strlen(HELLO), NULL, &prompt, &why), 0);
        assert_refused(bad, HELLO, CHAT_TEMPLATE_E_RAISED, "UndefinedError");
        if (i % 100 == 0)
            chat_template_free(chat_template_make("{{ messages }}", NULL));
    }
}

static void test_nothing_is_left_behind(void **state) {
    size_t before_bytes, after_bytes;

    (void)state;
    render_many(1000);
    before_bytes = resident_bytes();
    render_many(10000);
    after_bytes = resident_bytes();
    /* 600 bytes a rendering would show, as long as no test has left free memory behind. The address
     * sanitizer keeps freed memory, and finds leaks in its own way. */
#ifndef __SANITIZE_ADDRESS__
    assert_true(after_bytes < before_bytes + (6 << 20));
#else
    assert_true(after_bytes > 0 && before_bytes > 0);
#endif
}

static void *render_from_thread(void *arg) {
    ChatTemplate *chat_template = arg;

    for (int i = 0; i < 200; i++)
        assert_prompt(chat_template, HELLO, "Hello");
    return NULL;
}

static void test_any_thread(void **state) {
    CLEANUP(chat_template_free)
    ChatTemplate *chat_template = chat_template_make("{{ messages[0].content }}", NULL);
    pthread_t threads[8];

    (void)state;
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, render_from_thread, chat_template), 0);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
}

/* Comparing two lists looks up neither for an exception nor for memory. */
static void test_one_call_that_never_ends(void **state) {
    (void)state;
    check_time_limited(TWO_ENDLESS_LISTS "{{ ns.a == ns.b }}");
    check_time_limited("{{ ('<' * 2000000) | striptags | length }}");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_left_behind),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_time_within_one_function),
        cmocka_unit_test(test_one_call_that_never_ends),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_memory_at_open),
        cmocka_unit_test(test_output),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_time_format),
        cmocka_unit_test(test_any_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
