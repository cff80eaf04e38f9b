/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From text to tree. yajl knows the grammar; here are what it calls, what it does not check, and
 * where its memory and ours comes from.
 *
 * The text goes to yajl in pieces, and between them somebody is asked whether the tree is still
 * wanted. A piece never ends inside of a string: yajl would have to keep copies of its halves. The
 * look at a piece that this takes also checks what yajl lets pass: overlong UTF-8, surrogates
 * written as UTF-8, half a pair of surrogates as escapes, half a string behind the value.
 *
 * yajl expects its allocations to succeed. So whatever ends the reading early leaves by longjmp,
 * from within yajl, too; what yajl holds is on a list of ours and is freed from there.
 */
#include "util/hash.h"
#include "util/json_node.h"
#include "util/list.h"
#include "util/utf8.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

#define PIECE_BYTES ((size_t)128 << 10)
#define BLOCK_BYTES_MIN ((size_t)1 << 10)
#define BLOCK_BYTES_MAX ((size_t)64 << 10)
#define PAIRWISE_KEYS_MAX 8  /* fewer keys are compared each with each */
#define SORT_POLL_STEPS 4096 /* between two looks at the account */
/* Numbers of fewer digits, without exponent, are within the range of double. */
#define FINITE_DIGITS 300
#define INTEGER_BYTES_MAX 20

/* Memory needed only while the text is read. */
typedef struct Scratch {
    List link;
    size_t bytes; /* with this header, as charged */
    alignas(max_align_t) char data[];
} Scratch;

typedef struct Parse {
    const char *text;
    size_t size;
    size_t flags;
    Account *account;
    JsonDocument *document;
    json_t *next, *last; /* the next free place of the block of values; its last, for the link */
    size_t nodes_bytes;  /* of the next such block */
    char *texts;         /* free bytes of the block of texts */
    size_t texts_left;   /* how many */
    size_t texts_bytes;  /* of the next such block */
    json_t *open[JSON_DEPTH_MAX]; /* the arrays and objects around what comes next */
    uint32_t depth;
    yajl_handle yajl;
    size_t piece;   /* where the text that yajl has now begins */
    bool in_string; /* whether the text so far ends within a string */
    List scratch;
    int error;
    size_t error_at;
    char problem[128];
    jmp_buf out;
} Parse;

/* leaving */

static void stop(Parse *p, int error) __attribute__((__noreturn__));
static void stop_at(Parse *p, size_t at, const char *format, ...)
    __attribute__((__noreturn__, __format__(__printf__, 3, 4)));

static void stop(Parse *p, int error) {
    p->error = error;
    longjmp(p->out, 1);
}

static void stop_at(Parse *p, size_t at, const char *format, ...) {
    va_list args;

    va_start(args, format);
    vsnprintf(p->problem, sizeof(p->problem), format, args);
    va_end(args);
    p->error_at = at < p->size ? at : p->size;
    stop(p, -EINVAL);
}

/* The last byte that yajl has read. */
static size_t here(const Parse *p) {
    size_t end = p->piece + yajl_get_bytes_consumed(p->yajl);

    return end ? end - 1 : 0;
}

static void stay_if_wanted(Parse *p) {
    if (account_is_closed(p->account))
        stop(p, -ECANCELED);
}

/* memory */

static void charge(Parse *p, size_t bytes) {
    int r = account_charge(p->account, bytes);

    if (r)
        stop(p, r);
}

static void *take(Parse *p, size_t bytes) {
    void *taken;

    charge(p, bytes);
    taken = malloc(bytes);
    if (!taken) {
        account_release(p->account, bytes);
        stop(p, -ENOMEM);
    }
    return taken;
}

static void *chunk_take(Parse *p, size_t bytes) {
    JsonChunk *chunk = take(p, sizeof(*chunk) + bytes);

    *chunk = (JsonChunk){ .next = p->document->chunks, .bytes = sizeof(*chunk) + bytes };
    p->document->chunks = chunk;
    return chunk + 1;
}

static Scratch *scratch_of(void *data) {
    return container_of((char(*)[])data, Scratch, data);
}

static void *scratch_take(void *ctx, size_t size) {
    Parse *p = ctx;
    Scratch *scratch = take(p, sizeof(*scratch) + size);

    scratch->bytes = sizeof(*scratch) + size;
    list_push_back(&p->scratch, &scratch->link);
    return scratch->data;
}

static void scratch_give(void *ctx, void *data) {
    Parse *p = ctx;
    Scratch *scratch = data ? scratch_of(data) : NULL;

    if (!scratch)
        return;
    list_remove(&scratch->link);
    account_release(p->account, scratch->bytes);
    free(scratch);
}

/* Old and new may both be there for a moment, and are charged so. */
static void *scratch_resize(void *ctx, void *data, size_t size) {
    void *grown = scratch_take(ctx, size);
    size_t old = data ? scratch_of(data)->bytes - sizeof(Scratch) : 0;

    if (data)
        memcpy(grown, data, old < size ? old : size);
    scratch_give(ctx, data);
    return grown;
}

static void scratch_clear(Parse *p) {
    while (!list_is_empty(&p->scratch))
        scratch_give(p, container_of(p->scratch.next, Scratch, link)->data);
}

/* building */

static void document_open(Parse *p) {
    JsonDocument *document = take(p, JSON_DOCUMENT_BYTES);
    size_t n = (JSON_DOCUMENT_BYTES - sizeof(*document)) / sizeof(json_t);

    *document = (JsonDocument){ .account = p->account };
    p->document = document;
    p->next = document->root;
    p->last = document->root + n - 1;
    p->nodes_bytes = p->texts_bytes = BLOCK_BYTES_MIN;
}

static size_t next_block_bytes(size_t *bytes) {
    size_t now = *bytes;

    *bytes = now < BLOCK_BYTES_MAX ? 2 * now : now;
    return now;
}

static json_t *node_take(Parse *p) {
    if (p->next == p->last) {
        size_t n = next_block_bytes(&p->nodes_bytes) / sizeof(json_t);
        json_t *block = chunk_take(p, n * sizeof(*block));

        *p->last = (json_t){ .type = NODE_LINK, .end = block };
        p->next = block;
        p->last = block + n - 1;
    }
    return p->next++;
}

static char *text_take(Parse *p, size_t size) {
    char *text;

    if (size > BLOCK_BYTES_MAX / 4)
        return chunk_take(p, size);
    if (size > p->texts_left) {
        size_t bytes = next_block_bytes(&p->texts_bytes);

        bytes = bytes < size ? size : bytes;
        p->texts = chunk_take(p, bytes);
        p->texts_left = bytes;
    }
    text = p->texts;
    p->texts += size;
    p->texts_left -= size;
    return text;
}

static json_t *add(Parse *p, json_type type) {
    json_t *around = p->depth ? p->open[p->depth - 1] : NULL;
    json_t *node;

    if (!around && !(p->flags & JSON_DECODE_ANY) && type != JSON_OBJECT && type != JSON_ARRAY)
        stop_at(p, here(p), "an object or an array was expected");
    node = node_take(p);
    *node = (json_t){ .type = (uint8_t)type };
    if (around && around->type == JSON_ARRAY)
        around->size++;
    return node;
}

static json_t *add_text(Parse *p, json_type type, const char *text, size_t size) {
    json_t *node = add(p, type);
    char *copy = node->inlined;

    if (size >= NODE_INLINE_BYTES)
        node->text = copy = text_take(p, size + 1);
    node->size = (uint32_t)size;
    memcpy(copy, text, size);
    copy[size] = 0;
    return node;
}

static void open_container(Parse *p, json_type type) {
    json_t *node = add(p, type);

    if (p->depth == JSON_DEPTH_MAX)
        stop_at(p, here(p), "nested deeper than %d levels", JSON_DEPTH_MAX);
    p->open[p->depth++] = node;
}

static json_t *close_container(Parse *p) {
    json_t *node = p->open[--p->depth];

    node->end = p->next;
    return node;
}

/* duplicate keys */

typedef struct Key {
    uint64_t hash;
    const json_t *node;
} Key;

static int compare_texts(const json_t *a, const json_t *b) {
    if (a->size != b->size)
        return a->size < b->size ? -1 : 1;
    return memcmp(node_text(a), node_text(b), a->size);
}

/* The hash only makes it fast: texts made to have the same one cost no more than comparing them. */
static int compare_keys(const Key *a, const Key *b) {
    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    return compare_texts(a->node, b->node);
}

static void sift_down(Key *keys, size_t at, size_t n) {
    Key key = keys[at];

    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && compare_keys(&keys[child], &keys[child + 1]) < 0)
            child++;
        if (compare_keys(&key, &keys[child]) >= 0)
            break;
        keys[at] = keys[child];
    }
    keys[at] = key;
}

/* A heap sort: it needs no memory, has no bad case and can be left at any time. */
static void sort_keys(Parse *p, Key *keys, size_t n) {
    for (size_t i = n / 2; i-- > 0;)
        sift_down(keys, i, n);
    for (size_t end = n - 1; end > 0; end--) {
        Key largest = keys[0];

        keys[0] = keys[end];
        sift_down(keys, 0, end);
        keys[end] = largest;
        if (end % SORT_POLL_STEPS == 0)
            stay_if_wanted(p);
    }
}

static void stop_at_duplicate(Parse *p, const json_t *key) __attribute__((__noreturn__));

static void stop_at_duplicate(Parse *p, const json_t *key) {
    size_t size = key->size < 64 ? key->size : utf8_last(node_text(key), 64);

    stop_at(p, here(p), "duplicate object key \"%.*s\" in the object that ends here", (int)size,
            node_text(key));
}

static void check_few_keys(Parse *p, const json_t *object) {
    const json_t *keys[PAIRWISE_KEYS_MAX], *key, *value;
    size_t n = 0;

    json_object_foreach(object, key, value) {
        for (size_t i = 0; i < n; i++)
            if (!compare_texts(keys[i], key))
                stop_at_duplicate(p, key);
        keys[n++] = key;
    }
}

static void check_many_keys(Parse *p, const json_t *object) {
    size_t n = 0;
    Key *keys = scratch_take(p, object->size * sizeof(*keys));
    const json_t *key, *value;

    json_object_foreach(object, key, value) {
        keys[n++] = (Key){ .hash = hash128(node_text(key), key->size, 0).low, .node = key };
    }
    sort_keys(p, keys, n);
    for (size_t i = 1; i < n; i++)
        if (!compare_keys(&keys[i - 1], &keys[i]))
            stop_at_duplicate(p, keys[i].node);
    scratch_give(p, keys);
}

/* what yajl calls */

static int on_null(void *ctx) {
    add(ctx, JSON_NULL);
    return 1;
}

static int on_boolean(void *ctx, int value) {
    add(ctx, value ? JSON_TRUE : JSON_FALSE);
    return 1;
}

static bool fits_integer(const char *text, size_t size) {
    if (size > INTEGER_BYTES_MAX)
        return false;
    errno = 0;
    strtoll(text, NULL, 10);
    return !errno;
}

static int on_number(void *ctx, const char *text, size_t size) {
    Parse *p = ctx;
    json_t *node = add_text(p, JSON_REAL, text, size);
    const char *copy = node_text(node);
    bool has_exponent = copy[strcspn(copy, "eE")];

    if (!has_exponent && !memchr(copy, '.', size) && fits_integer(copy, size))
        node->type = JSON_INTEGER;
    else if ((has_exponent || size > FINITE_DIGITS) && !isfinite(strtod(copy, NULL)))
        stop_at(p, here(p), "a number beyond the range of double");
    return 1;
}

static int on_string(void *ctx, const unsigned char *text, size_t size) {
    add_text(ctx, JSON_STRING, (const char *)text, size);
    return 1;
}

static int on_key(void *ctx, const unsigned char *text, size_t size) {
    Parse *p = ctx;

    p->open[p->depth - 1]->size++;
    return on_string(ctx, text, size);
}

static int on_object(void *ctx) {
    open_container(ctx, JSON_OBJECT);
    return 1;
}

static int on_object_end(void *ctx) {
    Parse *p = ctx;
    const json_t *object = close_container(p);

    if (!(p->flags & JSON_REJECT_DUPLICATES))
        return 1;
    p->next->type = NODE_END;
    if (object->size <= PAIRWISE_KEYS_MAX)
        check_few_keys(p, object);
    else
        check_many_keys(p, object);
    return 1;
}

static int on_array(void *ctx) {
    open_container(ctx, JSON_ARRAY);
    return 1;
}

static int on_array_end(void *ctx) {
    close_container(ctx);
    return 1;
}

static const yajl_callbacks callbacks = {
    .yajl_null = on_null,
    .yajl_boolean = on_boolean,
    .yajl_number = on_number,
    .yajl_string = on_string,
    .yajl_map_key = on_key,
    .yajl_start_map = on_object,
    .yajl_end_map = on_object_end,
    .yajl_start_array = on_array,
    .yajl_end_array = on_array_end,
};

/* the text */

/* The code unit of an escape \uXXXX that may stand here; -1: none does. */
static int32_t escaped_unit(const Parse *p, size_t at) {
    int32_t unit = 0;

    if (p->size - at < 6 || p->text[at] != '\\' || p->text[at + 1] != 'u')
        return -1;
    for (size_t i = 2; i < 6; i++) {
        static const char digits[] = "0123456789abcdef";
        const char *digit = memchr(digits, p->text[at + i] | 0x20, 16);

        if (!digit)
            return -1;
        unit = unit * 16 + (int32_t)(digit - digits);
    }
    return unit;
}

/* Returns where the escape ends, or the pair of them. What else may be wrong yajl finds. */
static size_t pass_escape(Parse *p, size_t at) {
    int32_t unit = escaped_unit(p, at);

    if (unit < 0)
        return at + 2 < p->size ? at + 2 : p->size;
    if (unit < 0xd800 || unit > 0xdfff)
        return at + 6;
    if (unit < 0xdc00) {
        int32_t low = escaped_unit(p, at + 6);

        if (low >= 0xdc00 && low <= 0xdfff)
            return at + 12;
    }
    stop_at(p, at, "%.6s is half a character", p->text + at);
}

static size_t pass_character(Parse *p, size_t at) {
    Utf8Unit unit = utf8_unit(p->text + at, p->size - at);

    if (!unit.valid)
        stop_at(p, at, "byte 0x%02x is not UTF-8", (unsigned char)p->text[at]);
    return at + unit.size;
}

/* Whether none of the next eight bytes is a quote, a backslash or beyond ASCII. */
static bool is_plain(const char *text) {
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    uint64_t eight, quotes, slashes;

    memcpy(&eight, text, sizeof(eight));
    quotes = eight ^ ones * '"';
    slashes = eight ^ ones * '\\';
    return !((eight | ((quotes - ones) & ~quotes) | ((slashes - ones) & ~slashes)) & tops);
}

/* Returns where a piece that begins at `from`, outside of strings, may end: outside of strings,
 * too, unless the text ends within one. */
static size_t pass_piece(Parse *p, size_t from) {
    size_t at = from, poll_at = from + PIECE_BYTES;

    while (at < p->size) {
        if (at >= poll_at) {
            if (!p->in_string)
                break;
            stay_if_wanted(p);
            poll_at += PIECE_BYTES;
        }
        if (p->size - at >= 8 && is_plain(p->text + at)) {
            at += 8;
        } else if (p->text[at] == '\\' && p->in_string) {
            at = pass_escape(p, at);
        } else if ((unsigned char)p->text[at] >= 0x80) {
            at = pass_character(p, at);
        } else {
            p->in_string ^= p->text[at] == '"';
            at++;
        }
    }
    return at;
}

static void stop_at_yajl_error(Parse *p, size_t at) __attribute__((__noreturn__));

static void stop_at_yajl_error(Parse *p, size_t at) {
    const char *words = (const char *)yajl_get_error(p->yajl, 0, NULL, 0);
    const char *colon = strstr(words, ": ");

    words = colon ? colon + 2 : words;
    stop_at(p, at, "%.*s", (int)strcspn(words, ".\n"), words);
}

static void parse_text(Parse *p) {
    yajl_alloc_funcs memory = {
        .malloc = scratch_take, .realloc = scratch_resize, .free = scratch_give, .ctx = p
    };

    if (p->size > UINT32_MAX)
        stop_at(p, 0, "larger than 4 GiB");
    stay_if_wanted(p);
    document_open(p);
    p->yajl = yajl_alloc(&callbacks, &memory, p);
    /* The look at each piece checks more. */
    yajl_config(p->yajl, yajl_dont_validate_strings, 1);
    while (p->piece < p->size) {
        size_t end = pass_piece(p, p->piece);

        stay_if_wanted(p);
        if (yajl_parse(p->yajl, (const unsigned char *)p->text + p->piece, end - p->piece))
            stop_at_yajl_error(p, here(p));
        p->piece = end;
    }
    if (yajl_complete_parse(p->yajl))
        stop_at_yajl_error(p, p->size);
    if (p->in_string) /* behind the value, yajl would not mind */
        stop_at(p, p->size, "trailing garbage");
    p->next->type = NODE_END;
}

static void parse_or_leave(Parse *p) {
    if (!setjmp(p->out))
        parse_text(p);
}

static void locate(const Parse *p, JsonError *error) {
    *error = (JsonError){ .line = 1, .column = 1 };
    memcpy(error->problem, p->problem, sizeof(error->problem));
    for (size_t i = 0; i < p->error_at; i++) {
        if (p->text[i] == '\n') {
            error->line++;
            error->column = 1;
        } else if (((unsigned char)p->text[i] & 0xc0) != 0x80) {
            error->column++;
        }
    }
}

int json_parse_located(json_t **outp, const char *text, size_t size, size_t flags, Account *account,
                       JsonError *error) {
    Parse p = { .text = text, .size = size, .flags = flags, .account = account };

    list_init(&p.scratch);
    parse_or_leave(&p);
    scratch_clear(&p);
    if (!p.error) {
        *outp = p.document->root;
        return 0;
    }
    if (p.document)
        json_unref(p.document->root);
    if (p.error == -EINVAL)
        locate(&p, error);
    return p.error;
}

int json_parse_charged(json_t **outp, const char *text, size_t size, size_t flags, Account *account,
                       Reason *why) {
    JsonError error;
    int r = json_parse_located(outp, text, size, flags, account, &error);

    if (r == -EINVAL)
        return reason_set(why, r, "not valid JSON: line %zu, column %zu: %s", error.line,
                          error.column, error.problem);
    if (r == -ENOMEM)
        return reason_set(why, r, "out of memory");
    return r ? reason_set(why, r, "nobody waits for it any more") : 0;
}

int json_parse(json_t **outp, const char *text, size_t size, size_t flags, Reason *why) {
    return json_parse_charged(outp, text, size, flags, NULL, why);
}
