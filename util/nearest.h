/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The known name that is most like a mistyped one, for "did you mean". Names are lower case with
 * '_' between words; in the mistyped one upper case counts as lower and '-' as '_'.
 */

#include <stddef.h>

#define NEAREST_BYTES_MAX 64

typedef struct Nearest {
    char typed[NEAREST_BYTES_MAX]; /* [n] */
    size_t n;
    size_t distance;  /* of `name`; before there is one, the most that is still a typing error */
    const char *name; /* the nearest so far; borrowed; NULL: none is close */
} Nearest;

/* Begins with the mistyped name. Nothing is close to one of NEAREST_BYTES_MAX bytes or more. */
Nearest nearest_begin(const char *typed, size_t n);
/* Offers a known name; of equally near ones the first stays. */
void nearest_offer(Nearest *nearest, const char *name);

/* How many letters of `a` must be changed, added or left out to make `b` of it. `b` has `n` bytes,
 * fewer than NEAREST_BYTES_MAX. */
size_t nearest_distance(const char *a, const char *b, size_t n);
