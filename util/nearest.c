/* SPDX-License-Identifier: Apache-2.0 */
#include "util/nearest.h"

#include <ctype.h>

Nearest nearest_begin(const char *typed, size_t n) {
    /* A third of its letters wrong is no typing error any more; neither is the only one. */
    Nearest nearest = { .n = n, .distance = n / 3 + (n > 1) };

    for (size_t i = 0; i < n && n < NEAREST_BYTES_MAX; i++)
        nearest.typed[i] = typed[i] == '-' ? '_' : (char)tolower((unsigned char)typed[i]);
    return nearest;
}

/* Levenshtein distance, two rows of the matrix at a time. */
size_t nearest_distance(const char *a, const char *b, size_t n) {
    size_t row[NEAREST_BYTES_MAX];

    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];

        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t changed = diagonal + (a[i] != b[j]);
            size_t shifted = 1 + (row[j] < row[j + 1] ? row[j] : row[j + 1]);

            diagonal = row[j + 1];
            row[j + 1] = changed < shifted ? changed : shifted;
        }
    }
    return row[n];
}

void nearest_offer(Nearest *nearest, const char *name) {
    size_t distance;

    if (nearest->n >= NEAREST_BYTES_MAX)
        return;
    distance = nearest_distance(name, nearest->typed, nearest->n);
    if (distance < nearest->distance || (distance == nearest->distance && !nearest->name)) {
        nearest->distance = distance;
        nearest->name = name;
    }
}
