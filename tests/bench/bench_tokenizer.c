/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tokenizer speed on one core: load time, megabytes a second over a text, and the time that a
 * megabyte of one letter, of spaces and of digits takes.
 *
 *     bench_tokenizer [TEXT MODEL...]
 *
 * Without arguments: over all tokenizers of the optional shared directory, and KVASIR_MODEL.
 * TEXT: a file to encode whole and in lines; MODEL: what kvasird --model takes. Times are this
 * thread's processor time, which other programs' load lengthens little; each is the median of
 * several runs.
 */
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RUNS 5
#define LONG_BYTES 1000000

static double now_s(void) {
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void encode(const Tokenizer *tokenizer, const char *text, size_t size, TokenIds *ids) {
    int r = tokenizer_encode(tokenizer, text, size,
                             &(EncodeOptions){ .add_special = false, .parse_special = true }, ids);

    if (r) {
        fprintf(stderr, "encoding failed: %s\n", strerror(-r));
        exit(1);
    }
}

static void encode_whole(const Tokenizer *tokenizer, const Buffer *text, TokenIds *ids) {
    encode(tokenizer, text->data, text->size, ids);
}

static void encode_lines(const Tokenizer *tokenizer, const Buffer *text, TokenIds *ids) {
    const char *at = text->data, *end = text->data + text->size;

    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *next = newline ? newline + 1 : end;

        encode(tokenizer, at, (size_t)(next - at), ids);
        at = next;
    }
}

/* Seconds of one encoding. */
static double measure(void (*run)(const Tokenizer *, const Buffer *, TokenIds *),
                      const Tokenizer *tokenizer, const Buffer *text, size_t *n_ids) {
    double times[RUNS];

    for (size_t i = 0; i < RUNS; i++) {
        CLEANUP(token_ids_deinit) TokenIds ids = TOKEN_IDS_NULL;
        double start = now_s();

        run(tokenizer, text, &ids);
        times[i] = now_s() - start;
        *n_ids = ids.n;
    }
    qsort(times, RUNS, sizeof(times[0]), compare);
    return times[RUNS / 2];
}

static double measure_long(const Tokenizer *tokenizer, const char *unit) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    size_t n_ids;

    while (text.size < LONG_BYTES)
        buffer_append_text(&text, unit);
    return measure(encode_whole, tokenizer, &text, &n_ids);
}

static int bench(const char *path, const Buffer *text) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    static const char *const units[] = { "a", "A", " ", "7", "\n", "\xe4\xb8\xad", "e\xcc\x81" };
    static const char *const names[] = { "a", "A", "space", "7", "newline", "han", "marks" };
    Reason why = REASON_NULL;
    double start = now_s(), seconds;
    size_t n_ids;

    if (tokenizer_open(&tokenizer, path, &why)) {
        fprintf(stderr, "%s\n", why.text);
        return 1;
    }
    printf("%s\n  load %.3f s\n", path, now_s() - start);
    seconds = measure(encode_whole, tokenizer, text, &n_ids);
    printf("  whole text %.1f MB/s, %zu tokens\n", (double)text->size / seconds / 1e6, n_ids);
    seconds = measure(encode_lines, tokenizer, text, &n_ids);
    printf("  line by line %.1f MB/s, %zu tokens\n", (double)text->size / seconds / 1e6, n_ids);
    printf("  1 MB of one thing:");
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        printf(" %s %.3f s", names[i], measure_long(tokenizer, units[i]));
    printf("\n");
    return 0;
}

static int read_text(const char *path, Buffer *text) {
    CLEANUP(fclose) FILE *file = fopen(path, "rb");
    size_t n;

    if (!file) {
        perror(path);
        return 1;
    }
    while (buffer_reserve(text, 1 << 20) &&
           (n = fread(text->data + text->size, 1, 1 << 20, file)) > 0)
        text->size += n;
    return ferror(file) || buffer_failed(text);
}

#define EXIT_SKIPPED 77

/* What there is to measure where nothing is named. */
static int bench_shared(Buffer *text) {
    static const char *const names[] = { "llama3_2",    "llama2",  "mistral_nemo",
                                         "deepseek_v3", "qwen2_5", "qwen3" };
    const char *given = getenv("KVASIR_SHARED"), *root = getenv("KVASIR_SOURCE_ROOT");
    const char *model = getenv("KVASIR_MODEL");
    char shared[512], path[1024];
    int failed = 0;

    snprintf(shared, sizeof(shared), "%s%s",
             given  ? given
             : root ? root
                    : ".",
             given ? "" : "/../shared");
    snprintf(path, sizeof(path), "%s/text/wiki.test.raw", shared);
    if (read_text(path, text)) {
        fprintf(stderr, "usage: bench_tokenizer TEXT MODEL...\n");
        return EXIT_SKIPPED;
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/tokenizers/%s", shared, names[i]);
        failed |= bench(path, text);
    }
    return model ? failed | bench(model, text) : failed;
}

int main(int argc, char **argv) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    int failed = 0;

    if (argc == 1)
        return bench_shared(&text);
    if (read_text(argv[1], &text))
        return 1;
    for (int i = 2; i < argc; i++)
        failed |= bench(argv[i], &text);
    return failed;
}
