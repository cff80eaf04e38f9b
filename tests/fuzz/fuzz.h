/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A harness is one file, fuzz_<what>.c: it gives bytes to one parser and checks what must hold
 * whatever they are. It is built twice: with corpus.c it runs the inputs kept in corpus/<what>, and
 * damaged copies of them, as an ordinary test; with clang and -Dfuzz=true it becomes a fuzzer,
 *     build/tests/fuzz/fuzz_gguf tests/fuzz/corpus/gguf
 * An input that once broke something is added to the corpus under a name that says what it did.
 */

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* The entry point that libFuzzer calls; always returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Parsers of files: a directory of this process's own, and the input in it under this name. Both
 * valid until the process ends. */
const char *fuzz_directory(void);
const char *fuzz_file(const char *name, const uint8_t *data, size_t size);

/* Reads the first and the last byte, which must be there. */
void fuzz_touch(const void *data, size_t size);
