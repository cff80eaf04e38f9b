/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Scope-bound release of locals, by the compiler's cleanup attribute.
 *
 * A type T whose `T *t_free(T *)` takes NULL and returns NULL declares
 *     CLEANUP_DEFINE(T, t_free)
 * beside its prototype; a local then reads `CLEANUP(t_free) T *t = NULL;`.
 * Ownership leaves the scope by `*outp = TAKE(t);`.
 */

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(_free) __attribute__((__cleanup__(_free##_cleanup)))

#define CLEANUP_DEFINE(_type, _free)                \
    static inline void _free##_cleanup(_type **p) { \
        if (*p)                                     \
            _free(*p);                              \
    }                                               \
    struct cleanup_needs_semicolon

/* For embedded objects: `CLEANUP_DEINIT_DEFINE(Buffer, buffer_deinit)`, then
 * `CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;`. */
#define CLEANUP_DEINIT_DEFINE(_type, _deinit)        \
    static inline void _deinit##_cleanup(_type *p) { \
        _deinit(p);                                  \
    }                                                \
    struct cleanup_needs_semicolon

#define TAKE(_p)                           \
    __extension__({                        \
        __typeof__(_p) *take_p_ = &(_p);   \
        __typeof__(_p) take_v_ = *take_p_; \
        *take_p_ = NULL;                   \
        take_v_;                           \
    })

static inline void free_cleanup(void *p) {
    free(*(void **)p);
}

static inline void fclose_cleanup(FILE **p) {
    if (*p)
        fclose(*p);
}

static inline void fd_close_cleanup(int *p) {
    if (*p >= 0)
        close(*p);
}
