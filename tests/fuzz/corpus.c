/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a harness without a fuzzer: every file of a folder as it is, cut at every length if it is
 * short, and then in damaged copies. What the damage is follows from the printed seed.
 *     fuzz_gguf_corpus FOLDER COPIES
 */
#include "tests/fuzz/fuzz.h"

#include "tests/unit/random.h"
#include "util/cleanup.h"

#include <dirent.h>
#include <string.h>

#define INPUT_BYTES_MAX (1u << 20)
#define CUT_BYTES_MAX 2048 /* longer inputs are cut at places drawn by lot */
#define DAMAGES_MAX 6

/* Exactly as large as the input, so that the address sanitizer sees a read past its end. */
static void run(const uint8_t *data, size_t size) {
    CLEANUP(free) uint8_t *copy = malloc(size ? size : 1);

    assert(copy);
    if (size)
        memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
}

/* One change at one place; `data` has room for one byte more. */
static size_t damage(Random *random, uint8_t *data, size_t size) {
    static const uint64_t edges[] = { 0,      1,         0x7f,       0x80,      0xff,      0x7fff,
                                      0xffff, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX };
    size_t at = size ? random_below(random, (uint32_t)size) : 0, n;
    uint64_t edge;

    if (!size)
        return 0;
    switch (random_below(random, 6)) {
    case 0:
        data[at] ^= (uint8_t)(1u << random_below(random, 8));
        return size;
    case 1:
        data[at] = (uint8_t)random_below(random, 256);
        return size;
    case 2: /* a number of the file becomes an unlikely one */
        edge = edges[random_below(random, sizeof(edges) / sizeof(edges[0]))];
        n = size - at < 8 ? size - at : 8;
        memcpy(data + at, &edge, n);
        return size;
    case 3:
        memmove(data + at, data + at + 1, size - at - 1);
        return size - 1;
    case 4:
        memmove(data + at + 1, data + at, size - at);
        return size + 1;
    default: /* a piece of the file in another place */
        n = random_below(random, (uint32_t)(size - at)) % 64;
        memmove(data + at, data + random_below(random, (uint32_t)(size - n)), n);
        return size;
    }
}

static void run_cut(Random *random, const uint8_t *data, size_t size, uint32_t n_copies) {
    if (size <= CUT_BYTES_MAX)
        for (size_t n = 0; n <= size; n++)
            run(data, n);
    else
        for (uint32_t i = 0; i < n_copies; i++)
            run(data, random_below(random, (uint32_t)size));
}

static void run_damaged(Random *random, const uint8_t *data, size_t size, uint32_t n_copies) {
    CLEANUP(free) uint8_t *copy = malloc(size + DAMAGES_MAX);

    assert(copy);
    for (uint32_t i = 0; i < n_copies; i++) {
        size_t n = size;

        memcpy(copy, data, size);
        for (uint32_t k = random_below(random, DAMAGES_MAX); k < DAMAGES_MAX; k++)
            n = damage(random, copy, n);
        run(copy, n);
    }
}

static size_t read_file(const char *path, uint8_t *data) {
    CLEANUP(fclose) FILE *file = fopen(path, "rb");
    size_t size;

    assert(file);
    size = fread(data, 1, INPUT_BYTES_MAX, file);
    assert(size < INPUT_BYTES_MAX);
    return size;
}

static int is_input(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

int main(int argc, char **argv) {
    CLEANUP(free) uint8_t *data = malloc(INPUT_BYTES_MAX);
    struct dirent **inputs;
    Random random;
    char path[4096];
    int n_inputs;

    if (argc != 3 || !data)
        return 2;
    random = random_start(argv[0]);
    n_inputs = scandir(argv[1], &inputs, is_input, alphasort);
    if (n_inputs <= 0) {
        fprintf(stderr, "%s: no inputs\n", argv[1]);
        return 1;
    }
    for (int i = 0; i < n_inputs; i++) {
        size_t size;

        snprintf(path, sizeof(path), "%s/%s", argv[1], inputs[i]->d_name);
        printf("%s\n", path);
        fflush(stdout);
        size = read_file(path, data);
        run(data, size);
        run_cut(&random, data, size, (uint32_t)strtoul(argv[2], NULL, 10));
        run_damaged(&random, data, size, (uint32_t)strtoul(argv[2], NULL, 10));
        free(inputs[i]);
    }
    free(inputs);
    return 0;
}
