/* SPDX-License-Identifier: Apache-2.0 */

/*
 * utf8proc_map is not used: it sorts combining marks by exchanging neighbours, which takes hours on
 * a megabyte of marks in the wrong order. Decomposition and composition of single characters are
 * utf8proc's; the sort between them is ours, by counting.
 *
 * Text is normalized in stretches: a stretch ends before a character that nothing before it can
 * change or join with (everything below U+0300, what the reference does not know, and large
 * scripts in NFC).
 */

#include "text/unicode_normalize.h"

#include "text/unicode_drift.h"
#include "util/utf8.h"

#include <errno.h>
#include <utf8proc.h>

/* No decomposition is longer (U+FDFA has 18). */
#define DECOMPOSITION_MAX 32
#define CLASSES 256

/* Of one stretch: few milliseconds of work. */
#define CODE_POINTS_MAX ((size_t)1 << 19)
#define STRETCHES_PER_POLL 4096

typedef struct CodePoints {
    Account *account; /* borrowed; charged with the capacity */
    int32_t *cps;     /* owned */
    size_t n, capacity;
} CodePoints;

static void code_points_deinit(CodePoints *points) {
    free(points->cps);
    account_release(points->account, points->capacity * sizeof(*points->cps));
}
CLEANUP_DEINIT_DEFINE(CodePoints, code_points_deinit);

static int code_points_reserve(CodePoints *points, size_t n) {
    size_t capacity = points->capacity * 2;
    int32_t *grown;
    int r;

    if (points->n > CODE_POINTS_MAX)
        return -EOVERFLOW;
    if (n <= points->capacity - points->n)
        return 0;
    if (capacity < points->n + n)
        capacity = points->n + n;
    r = account_charge(points->account, (capacity - points->capacity) * sizeof(*grown));
    if (r)
        return r;
    grown = reallocarray(points->cps, capacity, sizeof(*grown));
    if (!grown) {
        account_release(points->account, (capacity - points->capacity) * sizeof(*grown));
        return -ENOMEM;
    }
    points->cps = grown;
    points->capacity = capacity;
    return 0;
}

static unsigned combining_class(int32_t cp) {
    return (unsigned)utf8proc_get_property(cp)->combining_class & (CLASSES - 1);
}

/* Sorts `n` marks by class, keeping the order of equals. `sorted` has room for them. */
static void marks_sort(int32_t *marks, size_t n, int32_t *sorted) {
    size_t starts[CLASSES] = { 0 }, at = 0;

    for (size_t i = 0; i < n; i++)
        starts[combining_class(marks[i])]++;
    for (size_t i = 0; i < CLASSES; i++) {
        size_t count = starts[i];

        starts[i] = at;
        at += count;
    }
    for (size_t i = 0; i < n; i++)
        sorted[starts[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, sorted, n * sizeof(*marks));
}

/* Short runs are the rule: sorted in place. */
static void marks_sort_few(int32_t *marks, size_t n) {
    for (size_t i = 1; i < n; i++) {
        int32_t mark = marks[i];
        size_t at = i;

        while (at > 0 && combining_class(marks[at - 1]) > combining_class(mark)) {
            marks[at] = marks[at - 1];
            at--;
        }
        marks[at] = mark;
    }
}

static int marks_sort_many(Account *account, int32_t *marks, size_t n) {
    CLEANUP(free) int32_t *sorted = NULL;
    int r = account_charge(account, n * sizeof(*sorted));

    if (r)
        return r;
    sorted = reallocarray(NULL, n, sizeof(*sorted));
    if (sorted)
        marks_sort(marks, n, sorted);
    account_release(account, n * sizeof(*sorted));
    return sorted ? 0 : -ENOMEM;
}

/* Canonical ordering (UAX #15, D109): each run of marks between starters. */
static int code_points_order(CodePoints *points) {
    size_t start = 0;

    while (start < points->n) {
        size_t end = start;

        while (end < points->n && combining_class(points->cps[end]))
            end++;
        if (end - start > 32) {
            int r = marks_sort_many(points->account, points->cps + start, end - start);

            if (r)
                return r;
        } else if (end - start > 1) {
            marks_sort_few(points->cps + start, end - start);
        }
        start = end + 1;
    }
    return 0;
}

static int stretch_decompose(UnicodeForm form, const char *text, size_t size, CodePoints *points) {
    bool compatible = form == UNICODE_NFKC || form == UNICODE_NFKD;
    utf8proc_option_t options = UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
    int boundary = 0;

    for (size_t at = 0; at < size; at += utf8_size(text[at])) {
        utf8proc_ssize_t n;
        int r = code_points_reserve(points, DECOMPOSITION_MAX);

        if (r)
            return r;
        n = utf8proc_decompose_char((int32_t)utf8_decode(text + at), points->cps + points->n,
                                    DECOMPOSITION_MAX, options, &boundary);
        if (n < 0 || n > DECOMPOSITION_MAX)
            return -ENOMEM;
        points->n += (size_t)n;
    }
    return 0;
}

static int stretch_normalize(UnicodeForm form, const char *text, size_t size, CodePoints *points,
                             Buffer *out) {
    utf8proc_ssize_t n;
    int r;

    points->n = 0;
    r = stretch_decompose(form, text, size, points);
    if (r)
        return r;
    if (account_is_closed(points->account))
        return -ECANCELED;
    r = code_points_order(points);
    if (r)
        return r;
    n = (utf8proc_ssize_t)points->n;
    if (form == UNICODE_NFC || form == UNICODE_NFKC)
        n = utf8proc_normalize_utf32(points->cps, n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (n < 0)
        return -ENOMEM;
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        char *to = buffer_reserve(out, 4);

        if (!to)
            return -ENOMEM;
        out->size += utf8_encode((uint32_t)points->cps[i], to);
    }
    return 0;
}

/* The scripts of texts without anything below U+0300 for pages: NFC leaves each of these as it is,
 * and none joins with what is before it. */
static bool is_whole_in_nfc(uint32_t cp) {
    static const struct {
        uint32_t first, last;
    } ranges[] = {
        { 0x400, 0x482 },   { 0x531, 0x556 },     { 0x561, 0x586 },   { 0x5d0, 0x5ea },
        { 0x621, 0x64a },   { 0x671, 0x6d3 },     { 0xe01, 0xe30 },   { 0x3001, 0x3029 },
        { 0x3041, 0x3096 }, { 0x30a1, 0x30fa },   { 0x3400, 0x4dbf }, { 0x4e00, 0x9fff },
        { 0xac00, 0xd7a3 }, { 0x1f300, 0x1f64f },
    };
    size_t i = 0;

    while (i < sizeof(ranges) / sizeof(ranges[0]) && cp > ranges[i].last)
        i++;
    return i < sizeof(ranges) / sizeof(ranges[0]) && cp >= ranges[i].first;
}

/* Whether nothing before this character can change it or join with it. ASCII never changes, the
 * other characters below U+0300 do in all forms but NFC. */
static bool starts_stretch(UnicodeForm form, uint32_t cp) {
    return cp < (form == UNICODE_NFC ? 0x300 : 0x80) || unicode_is_inert(cp) ||
           (form == UNICODE_NFC && is_whole_in_nfc(cp));
}

/* Where the stretch that begins at `start` ends, and whether it is one character that stays. */
static size_t stretch_end(UnicodeForm form, const char *text, size_t size, size_t start,
                          bool *stays) {
    uint32_t first = utf8_decode(text + start);
    size_t second = start + utf8_size(text[start]), at = second;

    *stays = true;
    if (unicode_is_inert(first))
        return at;
    while (at < size && !starts_stretch(form, utf8_decode(text + at)))
        at += utf8_size(text[at]);
    *stays = at == second && starts_stretch(form, first);
    return at;
}

int unicode_normalize(UnicodeForm form, const char *text, size_t size, Buffer *out) {
    CLEANUP(code_points_deinit) CodePoints points = { .account = out->account };
    size_t done = 0, end, n = 0;

    for (size_t start = 0; start < size; start = end) {
        bool stays;
        int r;

        if (!(++n % STRETCHES_PER_POLL) && account_is_closed(out->account))
            return -ECANCELED;
        end = stretch_end(form, text, size, start, &stays);
        if (stays)
            continue;
        buffer_append(out, text + done, start - done);
        r = stretch_normalize(form, text + start, end - start, &points, out);
        if (r)
            return r;
        done = end;
    }
    buffer_append(out, text + done, size - done);
    return buffer_failed(out) ? -ENOMEM : 0;
}
