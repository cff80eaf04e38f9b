/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The finder is a trie of bytes whose children are sibling lists. Text is scanned for bytes that
 * begin a token and the trie is walked from each; tokens share few first bytes ("<" mostly), so
 * this is a scan for one byte and rarely more.
 */

#include "text/added_tokens.h"

#include "text/unicode_drift.h"
#include "util/utf8.h"

#include <errno.h>
#include <string.h>
#include <utf8proc.h>

#define NO_INDEX UINT32_MAX
/* Bytes looked at between two looks at the account. */
#define STEPS_PER_POLL 4096

typedef struct TrieNode {
    uint32_t child, sibling; /* 0: none; the root is nobody's child */
    uint32_t index;          /* of the token that ends here, or NO_INDEX */
    char byte;
} TrieNode;

void added_tokens_deinit(AddedTokens *added) {
    for (size_t i = 0; i < added->n_tokens; i++)
        free(added->tokens[i].text);
    free(added->tokens);
    *added = (AddedTokens){ .tokens = NULL };
}

int added_tokens_add(AddedTokens *added, const AddedToken *token) {
    CLEANUP(free) char *text = malloc(token->size);
    AddedToken *tokens;

    if (!text)
        return -ENOMEM;
    tokens = reallocarray(added->tokens, added->n_tokens + 1, sizeof(*tokens));
    if (!tokens)
        return -ENOMEM;
    added->tokens = tokens;
    memcpy(text, token->text, token->size);
    tokens[added->n_tokens] = *token;
    tokens[added->n_tokens++].text = TAKE(text);
    return 0;
}

void token_finder_init(TokenFinder *finder, const AddedTokens *added) {
    *finder = (TokenFinder){ .added = added };
}

void token_finder_deinit(TokenFinder *finder) {
    free(finder->nodes);
    token_finder_init(finder, NULL);
}

/* A new node; its number, or 0 without memory (the root has been made before). */
static uint32_t node_new(TokenFinder *finder, char byte) {
    TrieNode *nodes = finder->nodes;

    if (finder->n_nodes == finder->capacity) {
        size_t capacity = finder->capacity ? finder->capacity * 2 : 64;

        nodes = reallocarray(finder->nodes, capacity, sizeof(*nodes));
        if (!nodes)
            return 0;
        finder->nodes = nodes;
        finder->capacity = capacity;
    }
    nodes[finder->n_nodes] = (TrieNode){ .byte = byte, .index = NO_INDEX };
    return (uint32_t)finder->n_nodes++;
}

static uint32_t node_child(const TokenFinder *finder, uint32_t at, char byte) {
    uint32_t child = finder->nodes[at].child;

    while (child && finder->nodes[child].byte != byte)
        child = finder->nodes[child].sibling;
    return child;
}

int token_finder_add(TokenFinder *finder, const char *text, size_t size, uint32_t index) {
    uint32_t at = 0;

    if (!size)
        return 0;
    if (!finder->n_nodes) {
        node_new(finder, 0);
        if (!finder->n_nodes)
            return -ENOMEM;
    }
    for (size_t i = 0; i < size; i++) {
        uint32_t child = node_child(finder, at, text[i]);

        if (!child) {
            child = node_new(finder, text[i]);
            if (!child)
                return -ENOMEM;
            finder->nodes[child].sibling = finder->nodes[at].child;
            finder->nodes[at].child = child;
        }
        at = child;
    }
    if (finder->nodes[at].index == NO_INDEX)
        finder->nodes[at].index = index;
    finder->begins[(uint8_t)text[0]] = true;
    return 0;
}

/* The longest token at the beginning of `text`: its index, and its size; or NO_INDEX. */
static uint32_t longest_at(const TokenFinder *finder, const char *text, size_t size,
                           size_t *token_size) {
    uint32_t at = 0, best = NO_INDEX;

    for (size_t i = 0; i < size; i++) {
        at = node_child(finder, at, text[i]);
        if (!at)
            break;
        if (finder->nodes[at].index != NO_INDEX) {
            best = finder->nodes[at].index;
            *token_size = i + 1;
        }
    }
    return best;
}

/* \w of the reference's other regular expressions: letters, marks, digits, connectors, joiners. */
static bool is_word(uint32_t cp) {
    switch (utf8proc_category((int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return cp == 0x200c || cp == 0x200d || (cp >= 0x24b6 && cp <= 0x24e9) ||
               (cp >= 0x1f130 && cp <= 0x1f149) || (cp >= 0x1f150 && cp <= 0x1f169) ||
               (cp >= 0x1f170 && cp <= 0x1f189) || unicode_is_addition(cp, "LMN");
    }
}

/* White_Space. */
static bool is_space(uint32_t cp) {
    return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f ||
           cp == 0x205f || cp == 0x3000;
}

static bool inside_word(const char *text, size_t size, size_t start, size_t end) {
    return (start > 0 && is_word(utf8_decode(text + utf8_last(text, start)))) ||
           (end < size && is_word(utf8_decode(text + end)));
}

/* A search through a text. */
typedef struct FinderRun {
    const TokenFinder *finder;
    const TokenFinderSink *sink;
    const char *text;
    size_t size;
    bool skip_special, at_start;
    size_t done; /* what lies before has been handed on */
    size_t n_steps;
} FinderRun;

/* To be asked at each step. */
static bool is_canceled(FinderRun *run) {
    return !(++run->n_steps % STEPS_PER_POLL) && account_is_closed(run->sink->account);
}

/* Moves `*start` back over white space, not further than what is done. */
static int strip_left(FinderRun *run, size_t *start) {
    while (*start > run->done) {
        size_t before = utf8_last(run->text, *start);

        if (is_canceled(run))
            return -ECANCELED;
        if (!is_space(utf8_decode(run->text + before)))
            break;
        *start = before;
    }
    return 0;
}

static int strip_right(FinderRun *run, size_t *end) {
    while (*end < run->size && is_space(utf8_decode(run->text + *end))) {
        if (is_canceled(run))
            return -ECANCELED;
        *end += utf8_size(run->text[*end]);
    }
    return 0;
}

static int text_take(FinderRun *run, size_t end) {
    if (end <= run->done)
        return 0;
    return run->sink->text(run->sink->ctx, run->text + run->done, end - run->done,
                           run->at_start && !run->done);
}

/* Hands on what lies before the match at [start, end) and the match. */
static int match_take(FinderRun *run, size_t start, size_t end, const AddedToken *token) {
    int r = token->lstrip ? strip_left(run, &start) : 0;

    if (!r && token->rstrip)
        r = strip_right(run, &end);
    if (!r)
        r = text_take(run, start);
    if (r)
        return r;
    run->done = end;
    return run->sink->token(run->sink->ctx, token->id);
}

/* The token at `*at`, if one is taken there; moves `*at` on. */
static int place_take(FinderRun *run, size_t *at) {
    const AddedToken *token;
    size_t start = *at, token_size = 0;
    uint32_t index = NO_INDEX;

    if (run->finder->begins[(uint8_t)run->text[start]])
        index = longest_at(run->finder, run->text + start, run->size - start, &token_size);
    if (index == NO_INDEX) {
        *at = start + 1;
        return 0;
    }
    token = &run->finder->added->tokens[index];
    *at = start + token_size;
    if ((run->skip_special && token->special) ||
        (token->single_word && inside_word(run->text, run->size, start, *at)))
        return 0;
    return match_take(run, start, *at, token);
}

int token_finder_run(const TokenFinder *finder, const char *text, size_t size, bool skip_special,
                     bool at_start, const TokenFinderSink *sink) {
    FinderRun run = {
        .finder = finder,
        .sink = sink,
        .text = text,
        .size = size,
        .skip_special = skip_special,
        .at_start = at_start,
    };
    size_t at = 0;

    while (finder->n_nodes && at < size) {
        int r = is_canceled(&run) ? -ECANCELED : place_take(&run, &at);

        if (r)
            return r;
    }
    return text_take(&run, size);
}
