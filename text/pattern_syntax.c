/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One pass, no tree: escapes and brackets are rewritten, everything else is copied. Inside a
 * bracket a class becomes the members to add; outside, a bracket of its own.
 *
 * Left out: characters younger than PCRE2's Unicode in negated classes within brackets ([\P{L}]),
 * where a union cannot express them.
 */

#include "text/pattern_syntax.h"

#include "text/unicode_drift.h"
#include "util/utf8.h"

#include <ctype.h>
#include <errno.h>

/* White_Space. PCRE2's \s has U+180E on top, which left that class in Unicode 6.3. */
#define SPACE_MEMBERS                                                                            \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}" \
    "\\x{3000}"

typedef struct Rewriter {
    const char *regex;
    size_t size, at;
    bool in_bracket;
    size_t bracket_start; /* where members begin: a "]" there is a literal */
    Buffer *out;
    Reason *why;
} Rewriter;

static const struct {
    const char *name, *category;
} category_names[] = {
    { "letter", "L" },
    { "uppercaseletter", "Lu" },
    { "lowercaseletter", "Ll" },
    { "titlecaseletter", "Lt" },
    { "modifierletter", "Lm" },
    { "otherletter", "Lo" },
    { "mark", "M" },
    { "nonspacingmark", "Mn" },
    { "spacingmark", "Mc" },
    { "enclosingmark", "Me" },
    { "number", "N" },
    { "decimalnumber", "Nd" },
    { "letternumber", "Nl" },
    { "othernumber", "No" },
    { "punctuation", "P" },
    { "symbol", "S" },
    { "mathsymbol", "Sm" },
    { "currencysymbol", "Sc" },
    { "modifiersymbol", "Sk" },
    { "othersymbol", "So" },
    { "separator", "Z" },
    { "spaceseparator", "Zs" },
    { "other", "C" },
    { "control", "Cc" },
};

static int refuse(const Rewriter *rewriter, const char *what) {
    return reason_set(rewriter->why, -EINVAL, "pattern \"%.*s\": %s at byte %zu is not supported",
                      (int)(rewriter->size < 200 ? rewriter->size : 200), rewriter->regex, what,
                      rewriter->at);
}

static char peek(const Rewriter *rewriter, size_t ahead) {
    return ahead < rewriter->size - rewriter->at ? rewriter->regex[rewriter->at + ahead] : 0;
}

static void copy(Rewriter *rewriter, size_t n) {
    buffer_append(rewriter->out, rewriter->regex + rewriter->at, n);
    rewriter->at += n;
}

static void range_append(void *ctx, UnicodeRange range) {
    buffer_printf(ctx, "\\x{%x}-\\x{%x}", range.first, range.last);
}

/* Members of a general category or script, for use inside a bracket. */
static void members_append(Rewriter *rewriter, const char *name) {
    bool script = strlen(name) > 2;

    buffer_printf(rewriter->out, script ? "\\p{sc:%s}" : "\\p{%s}", name);
    unicode_class_additions(name, range_append, rewriter->out);
}

static void word_members_append(Rewriter *rewriter) {
    members_append(rewriter, "L");
    members_append(rewriter, "M");
    members_append(rewriter, "Nd");
    members_append(rewriter, "Pc");
}

/* \b: between a word character and something else. */
static void boundary_append(Rewriter *rewriter, bool negated) {
    static const char *const at_boundary[] = { "(?:(?<=[", "])(?![", "])|(?<![", "])(?=[", "]))" };
    static const char *const elsewhere[] = { "(?:(?<=[", "])(?=[", "])|(?<![", "])(?![", "]))" };
    const char *const *parts = negated ? elsewhere : at_boundary;

    for (size_t i = 0; i < 4; i++) {
        buffer_append_text(rewriter->out, parts[i]);
        word_members_append(rewriter);
    }
    buffer_append_text(rewriter->out, parts[4]);
}

static void bracket_open(Rewriter *rewriter, bool negated) {
    if (!rewriter->in_bracket)
        buffer_append_text(rewriter->out, negated ? "[^" : "[");
}

static void bracket_close(Rewriter *rewriter) {
    if (!rewriter->in_bracket)
        buffer_append_char(rewriter->out, ']');
}

/* The name of \p{NAME} as PCRE2 wants it; `name` has room for 64 bytes. */
static int property_name(Rewriter *rewriter, const char *text, size_t size, char *name) {
    size_t n = 0;

    if (size >= 64)
        return refuse(rewriter, "a property with so long a name");
    for (size_t i = 0; i < size; i++) {
        if (!isalpha((unsigned char)text[i]) && text[i] != '_' && text[i] != ' ' && text[i] != '-')
            return refuse(rewriter, "this property name");
        if (isalpha((unsigned char)text[i]))
            name[n++] = (char)tolower((unsigned char)text[i]);
    }
    if (!n)
        return refuse(rewriter, "a property without a name");
    name[n] = 0;
    for (size_t i = 0; i < sizeof(category_names) / sizeof(category_names[0]); i++) {
        const char *category = category_names[i].category;

        if (!strcmp(name, category_names[i].name)) {
            memcpy(name, category, strlen(category) + 1);
            break;
        }
    }
    name[0] = (char)toupper((unsigned char)name[0]);
    return 0;
}

/* \p{...} or \P{...}, with `at` on the backslash. */
static int property_rewrite(Rewriter *rewriter) {
    bool negated = peek(rewriter, 1) == 'P';
    const char *text = rewriter->regex + rewriter->at + 3, *end;
    char name[64];
    int r;

    if (peek(rewriter, 2) != '{')
        return refuse(rewriter, "a property without braces");
    end = memchr(text, '}', rewriter->size - rewriter->at - 3);
    if (!end)
        return refuse(rewriter, "a property without end");
    if (*text == '^') {
        negated = !negated;
        text++;
    }
    r = property_name(rewriter, text, (size_t)(end - text), name);
    if (r)
        return r;
    if (negated && rewriter->in_bracket) {
        buffer_printf(rewriter->out, strlen(name) > 2 ? "\\P{sc:%s}" : "\\P{%s}", name);
    } else {
        bracket_open(rewriter, negated);
        members_append(rewriter, name);
        bracket_close(rewriter);
    }
    rewriter->at = (size_t)(end + 1 - rewriter->regex);
    return 0;
}

/* \s, \d, \w, \h and their negations. */
static int shorthand_rewrite(Rewriter *rewriter, char c) {
    bool negated = isupper((unsigned char)c);

    if (negated && rewriter->in_bracket) {
        if (c == 'S')
            buffer_append_text(rewriter->out, "\\S\\x{180e}");
        else if (c == 'D')
            buffer_append_text(rewriter->out, "\\D");
        else
            return refuse(rewriter, "a negated class within brackets");
        rewriter->at += 2;
        return 0;
    }
    bracket_open(rewriter, negated);
    switch (c) {
    case 's':
    case 'S':
        buffer_append_text(rewriter->out, SPACE_MEMBERS);
        break;
    case 'd':
    case 'D':
        members_append(rewriter, "Nd");
        break;
    case 'w':
    case 'W':
        word_members_append(rewriter);
        break;
    default:
        buffer_append_text(rewriter->out, "0-9A-Fa-f");
    }
    bracket_close(rewriter);
    rewriter->at += 2;
    return 0;
}

/* \xHH or \x{H...}: copied, braces and all, lest they be taken for an interval. */
static int byte_escape_copy(Rewriter *rewriter) {
    const char *text = rewriter->regex + rewriter->at;
    const char *end = memchr(text, '}', rewriter->size - rewriter->at);

    if (peek(rewriter, 2) != '{')
        copy(rewriter, 2);
    else if (end)
        copy(rewriter, (size_t)(end + 1 - text));
    else
        return refuse(rewriter, "a code point without end");
    return 0;
}

static int hex_escape_rewrite(Rewriter *rewriter) {
    for (size_t i = 2; i < 6; i++)
        if (!isxdigit((unsigned char)peek(rewriter, i)))
            return refuse(rewriter, "\\u without four digits");
    buffer_printf(rewriter->out, "\\x{%.4s}", rewriter->regex + rewriter->at + 2);
    rewriter->at += 6;
    return 0;
}

static int escape_rewrite(Rewriter *rewriter) {
    char c = peek(rewriter, 1);

    switch (c) {
    case 'p':
    case 'P':
        return property_rewrite(rewriter);
    case 's':
    case 'S':
    case 'd':
    case 'D':
    case 'w':
    case 'W':
    case 'h':
    case 'H':
        return shorthand_rewrite(rewriter, c);
    case 'b':
    case 'B':
        if (rewriter->in_bracket)
            return refuse(rewriter, "\\b within brackets");
        boundary_append(rewriter, c == 'B');
        rewriter->at += 2;
        return 0;
    case 'v':
        buffer_append_text(rewriter->out, "\\x0b");
        rewriter->at += 2;
        return 0;
    case 'x':
        return byte_escape_copy(rewriter);
    case 'u':
        return hex_escape_rewrite(rewriter);
    case 'A':
    case 'Z':
    case 'z':
        if (rewriter->in_bracket)
            return refuse(rewriter, "an anchor within brackets");
        break;
    case 'n':
    case 'r':
    case 't':
    case 'f':
    case 'a':
    case 'e':
        break;
    default:
        if (isalnum((unsigned char)c) || !c)
            return refuse(rewriter, "this escape");
        if ((unsigned char)c >= 0x80) {
            rewriter->at++;
            copy(rewriter, utf8_size(c));
            return 0;
        }
    }
    copy(rewriter, 2);
    return 0;
}

/* "(?..." up to where the group's content begins. */
static int group_rewrite(Rewriter *rewriter) {
    copy(rewriter, 2);
    if (strchr("=!:>", peek(rewriter, 0)) && peek(rewriter, 0)) {
        copy(rewriter, 1);
        return 0;
    }
    if (peek(rewriter, 0) == '<' && (peek(rewriter, 1) == '=' || peek(rewriter, 1) == '!')) {
        copy(rewriter, 2);
        return 0;
    }
    for (;;) {
        char c = peek(rewriter, 0);

        if (c == 'm') {
            buffer_append_char(rewriter->out, 's'); /* Ruby's m: a dot matches newlines too */
            rewriter->at++;
            continue;
        }
        if (c != 'i' && c != '-' && c != ':' && c != ')')
            return refuse(rewriter, "this kind of group");
        copy(rewriter, 1);
        if (c == ':' || c == ')')
            return 0;
    }
}

/* {n}, {n,}, {,m}, {n,m}; anything else in braces is literal in both dialects. */
static int interval_rewrite(Rewriter *rewriter) {
    const char *text = rewriter->regex + rewriter->at + 1;
    const char *end = memchr(text, '}', rewriter->size - rewriter->at - 1);
    size_t n = end ? (size_t)(end - text) : 0;

    if (!n || strspn(text, "0123456789,") < n || !strcspn(text, ",}")) {
        if (n > 1 && text[0] == ',' && strspn(text + 1, "0123456789") == n - 1) {
            buffer_printf(rewriter->out, "{0%.*s}", (int)n, text);
            rewriter->at += n + 2;
        } else {
            copy(rewriter, 1);
        }
        return 0;
    }
    copy(rewriter, n + 2);
    if (peek(rewriter, 0) == '+')
        return refuse(rewriter, "a repeated interval");
    return 0;
}

static int bracket_rewrite(Rewriter *rewriter) {
    char c = peek(rewriter, 0);
    const char *end;

    if (c == '[' && peek(rewriter, 1) == ':') {
        end = memmem(rewriter->regex + rewriter->at, rewriter->size - rewriter->at, ":]", 2);
        if (!end)
            return refuse(rewriter, "a POSIX class without end");
        copy(rewriter, (size_t)(end + 2 - rewriter->regex) - rewriter->at);
        return 0;
    }
    if (c == '[')
        return refuse(rewriter, "a bracket within brackets");
    if (c == '&' && peek(rewriter, 1) == '&')
        return refuse(rewriter, "an intersection of classes");
    if (c == ']' && rewriter->at > rewriter->bracket_start)
        rewriter->in_bracket = false;
    copy(rewriter, 1);
    return 0;
}

static int bracket_begin(Rewriter *rewriter) {
    copy(rewriter, peek(rewriter, 1) == '^' ? 2 : 1);
    rewriter->in_bracket = true;
    rewriter->bracket_start = rewriter->at;
    return 0;
}

static int item_rewrite(Rewriter *rewriter) {
    switch (peek(rewriter, 0)) {
    case '[':
        return bracket_begin(rewriter);
    case '(':
        if (peek(rewriter, 1) == '?')
            return group_rewrite(rewriter);
        break;
    case '{':
        return interval_rewrite(rewriter);
    }
    copy(rewriter, 1);
    return 0;
}

int pattern_syntax_rewrite(const char *regex, size_t size, Buffer *out, Reason *why) {
    Rewriter rewriter = { .regex = regex, .size = size, .out = out, .why = why };
    int r;

    if (!utf8_is_valid(regex, size) || memchr(regex, 0, size))
        return reason_set(why, -EINVAL, "a pattern is not text");
    while (rewriter.at < size) {
        if (peek(&rewriter, 0) == '\\')
            r = escape_rewrite(&rewriter);
        else
            r = rewriter.in_bracket ? bracket_rewrite(&rewriter) : item_rewrite(&rewriter);
        if (r)
            return r;
    }
    return buffer_failed(out) ? -ENOMEM : 0;
}
