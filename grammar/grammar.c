/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Grammars are found by a keyed hash of their kind and text, in one list by last use. One that is
 * held by nobody stays while all that are kept take no more than cache_bytes; the least recently
 * used goes first. Somebody who asks for one that is being compiled waits for it. The lock is held
 * for looking, never for compiling.
 */
#include "grammar/grammar.h"

#include "grammar/choice.h"
#include "grammar/process.h"
#include "grammar/schema_check.h"
#include "util/clock.h"
#include "util/keyed_hash.h"
#include "util/list.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#define LOOK_UP_AFTER_NS 20000000 /* whether anybody still waits */
/* About what a matcher takes at its beginning, and for each token that it has taken. */
#define MATCHER_BYTES 16384
#define MATCHER_TOKEN_BYTES 512

typedef enum GrammarState {
    GRAMMAR_COMPILING,
    GRAMMAR_READY,
    GRAMMAR_FAILED, /* in no list any more; each that waited tries by itself */
} GrammarState;

struct Grammar {
    List link; /* in engine->grammars */
    GrammarEngine *engine;
    Hash128 key;
    GrammarState state;
    GrammarKind kind;
    uint32_t n_refs;
    uint64_t n_bytes; /* charged to the engine's account */
    CoreGrammar *core;
};

struct GrammarEngine {
    GrammarLimits limits;
    Account *account;
    uint32_t n_vocab;
    HashKey hash_key;
    CoreVocab *core;
    Buffer vocab_bytes; /* what `text` points at, to start a process again; and the next two */
    uint32_t *ends, *stop_ids;
    CoreVocabText text;
    uint32_t *plain; /* [grammar_mask_words(n_vocab)] ids without control characters; owned */
    uint32_t *lines; /* likewise, but line breaks may be among them */

    pthread_mutex_t process_lock; /* of `process`; held while one is started */
    VocabProcess process;

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t settled;
    List grammars; /* Grammar.link, least recently used first */
    GrammarStats stats;
};

struct GrammarMatcher {
    Grammar *grammar;
    CoreMatcher *core;
    Account *account;
    uint64_t n_bytes;
};

int grammar_start(Reason *why) {
    if (!core_is_built())
        return reason_set(why, -ENOTSUP, "this program was built without grammars");
    return grammar_nursery_start(why);
}

/* engines */

static int read_vocab(GrammarEngine *e, const GrammarVocab *vocab) {
    e->ends = calloc(vocab->n_vocab, sizeof(*e->ends));
    e->stop_ids = calloc((size_t)vocab->n_stop_ids + 1, sizeof(*e->stop_ids));
    if (!e->ends || !e->stop_ids)
        return -ENOMEM;
    for (uint32_t i = 0; i < vocab->n_vocab; i++) {
        int r = vocab->token_bytes(vocab->userdata, i, &e->vocab_bytes);

        if (r)
            return r;
        if (buffer_failed(&e->vocab_bytes) || e->vocab_bytes.size > UINT32_MAX)
            return -ENOMEM;
        e->ends[i] = (uint32_t)e->vocab_bytes.size;
    }
    if (vocab->n_stop_ids)
        memcpy(e->stop_ids, vocab->stop_ids, vocab->n_stop_ids * sizeof(*e->stop_ids));
    e->text = (CoreVocabText){ .n_vocab = vocab->n_vocab,
                               .n_stop_ids = vocab->n_stop_ids,
                               .ends = e->ends,
                               .stop_ids = e->stop_ids,
                               .bytes = buffer_text(&e->vocab_bytes) };
    return 0;
}

/* XGrammar lets strings of JSON have control characters but line breaks, which JSON does not.
 * Around strings none is ever needed, and between tags only line breaks are. */
static int find_plain(GrammarEngine *e) {
    uint32_t begin = 0;

    e->plain = calloc(grammar_mask_words(e->n_vocab), sizeof(*e->plain));
    e->lines = calloc(grammar_mask_words(e->n_vocab), sizeof(*e->lines));
    if (!e->plain || !e->lines)
        return -ENOMEM;
    for (uint32_t i = 0; i < e->n_vocab; i++) {
        bool has_break = false, has_other = false;

        for (; begin < e->ends[i]; begin++) {
            unsigned char c = (unsigned char)e->text.bytes[begin];

            has_break = has_break || c == '\n';
            has_other = has_other || (c < 0x20 && c != '\n');
        }
        e->plain[i / 32] |= (uint32_t)(!has_break && !has_other) << i % 32;
        e->lines[i / 32] |= (uint32_t)!has_other << i % 32;
    }
    for (uint32_t i = 0; i < e->text.n_stop_ids; i++) {
        e->plain[e->stop_ids[i] / 32] |= UINT32_C(1) << e->stop_ids[i] % 32;
        e->lines[e->stop_ids[i] / 32] |= UINT32_C(1) << e->stop_ids[i] % 32;
    }
    return 0;
}

static int make_vocab(GrammarEngine *e, const GrammarVocab *vocab, Reason *why) {
    char words[CORE_WHY_BYTES] = "";
    int r;

    r = read_vocab(e, vocab);
    if (!r)
        r = find_plain(e);
    if (r)
        return reason_set(why, r, "the vocabulary cannot be read: %s", strerror(-r));
    r = core_vocab_new(&e->core, &e->text, words);
    if (r)
        return reason_set(why, r, "the vocabulary cannot be prepared for grammars: %s",
                          r == -ENOMEM ? "no memory" : words);
    e->stats.vocab_bytes = core_vocab_bytes(e->core) + e->vocab_bytes.capacity +
                           (vocab->n_vocab + vocab->n_stop_ids) * sizeof(*e->ends);
    return 0;
}

int grammar_engine_new(GrammarEngine **outp, const GrammarVocab *vocab, const GrammarLimits *limits,
                       Account *account, Reason *why) {
    CLEANUP(grammar_engine_free) GrammarEngine *e = NULL;
    int r;

    if (!grammar_nursery_is_started())
        return reason_set(why, -ENOTSUP, "this program was built without grammars");
    e = calloc(1, sizeof(*e));
    if (!e)
        return reason_set(why, -ENOMEM, "no memory for grammars");
    e->limits = *limits;
    e->account = account;
    e->n_vocab = vocab->n_vocab;
    e->process = (VocabProcess)VOCAB_PROCESS_NULL;
    list_init(&e->grammars);
    pthread_mutex_init(&e->process_lock, NULL);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->settled, NULL);
    r = hash_key_init(&e->hash_key);
    if (r)
        return reason_set(why, r, "no random bytes: %s", strerror(-r));
    r = make_vocab(e, vocab, why);
    if (!r)
        r = vocab_process_start(&e->process, &e->text, why);
    if (!r)
        *outp = TAKE(e);
    return r;
}

static void forget(Grammar *g) {
    list_remove(&g->link);
    g->engine->stats.cache_bytes -= g->n_bytes;
    account_release(g->engine->account, g->n_bytes);
    core_grammar_free(g->core);
    free(g);
}

GrammarEngine *grammar_engine_free(GrammarEngine *e) {
    if (!e)
        return NULL;
    while (!list_is_empty(&e->grammars)) {
        Grammar *g = container_of(e->grammars.next, Grammar, link);

        assert(!g->n_refs);
        forget(g);
    }
    vocab_process_close(&e->process);
    core_vocab_free(e->core);
    buffer_deinit(&e->vocab_bytes);
    free(e->ends);
    free(e->stop_ids);
    free(e->plain);
    free(e->lines);
    pthread_cond_destroy(&e->settled);
    pthread_mutex_destroy(&e->lock);
    pthread_mutex_destroy(&e->process_lock);
    free(e);
    return NULL;
}

void grammar_engine_stats(GrammarEngine *e, GrammarStats *stats) {
    pthread_mutex_lock(&e->lock);
    *stats = e->stats;
    pthread_mutex_unlock(&e->lock);
}

uint32_t grammar_engine_n_vocab(const GrammarEngine *e) {
    return e->n_vocab;
}

/* compiling */

/* A process that is gone (the system may have ended it) is started again, once. */
static int fork_compiler(GrammarEngine *e, int *fdp, Reason *why) {
    int r;

    pthread_mutex_lock(&e->process_lock);
    r = vocab_process_fork(&e->process, fdp);
    if (r == -EPIPE) {
        vocab_process_close(&e->process);
        r = vocab_process_start(&e->process, &e->text, why);
        if (!r)
            r = vocab_process_fork(&e->process, fdp);
    }
    pthread_mutex_unlock(&e->process_lock);
    return r ? reason_set(why, r, "there is no process to compile it: %s", strerror(-r)) : 0;
}

static int compile_text(GrammarEngine *e, GrammarKind kind, const char *text, size_t size,
                        Account *account, Buffer *out, Reason *why) {
    CLEANUP(fd_close) int fd = -1;
    int r = fork_compiler(e, &fd, why);

    return r ? r : compiler_ask(fd, kind, text, size, &e->limits, account, out, why);
}

static int compile(GrammarEngine *e, GrammarKind kind, const char *text, size_t size,
                   Account *account, CoreGrammar **corep, Reason *why) {
    CLEANUP(buffer_deinit) Buffer out = { .account = account };
    CLEANUP(buffer_deinit) Buffer rules = { .account = account };
    char words[CORE_WHY_BYTES] = "";
    int r = kind == GRAMMAR_JSON_SCHEMA ? schema_check(text, size, account, why) : 0;

    if (r)
        return r;
    if (kind == GRAMMAR_CHOICE) {
        r = choice_write_rules(text, size, &rules, why);
        if (r)
            return r;
        r = compile_text(e, GRAMMAR_EBNF, buffer_text(&rules), rules.size, account, &out, why);
    } else {
        r = compile_text(e, kind, text, size, account, &out, why);
    }
    if (r)
        return r;
    r = core_grammar_new(corep, e->core, buffer_text(&out), out.size, words);
    return r == -EINVAL ? reason_set(why, r, "what was compiled cannot be read: %s", words) : r;
}

/* the cache; its functions are called with the lock held */

static Hash128 key_of(const GrammarEngine *e, GrammarKind kind, const char *text, size_t size) {
    Hash128 key = keyed_hash128(&e->hash_key, text, kind == GRAMMAR_JSON ? 0 : size);

    key.low += kind;
    return key;
}

static Grammar *find(GrammarEngine *e, Hash128 key) {
    for (List *link = e->grammars.prev; link != &e->grammars; link = link->prev) {
        Grammar *g = container_of(link, Grammar, link);

        if (hash128_equal(g->key, key))
            return g;
    }
    return NULL;
}

/* Lets go of the least recently used until no more than so many bytes are kept. */
static void shrink_to(GrammarEngine *e, uint64_t n_bytes) {
    for (List *link = e->grammars.next, *next; link != &e->grammars; link = next) {
        Grammar *g = container_of(link, Grammar, link);

        next = link->next;
        if (e->stats.cache_bytes <= n_bytes)
            return;
        if (!g->n_refs)
            forget(g);
    }
}

static int charge(GrammarEngine *e, Grammar *g, uint64_t n_bytes) {
    int r = account_charge(e->account, n_bytes);

    if (r == -ENOMEM) {
        shrink_to(e, 0);
        r = account_charge(e->account, n_bytes);
    }
    if (r)
        return r;
    g->n_bytes = n_bytes;
    e->stats.cache_bytes += n_bytes;
    return 0;
}

static Grammar *grammar_new(GrammarEngine *e, Hash128 key) {
    Grammar *g = calloc(1, sizeof(*g));

    if (!g)
        return NULL;
    *g = (Grammar){ .engine = e, .key = key, .n_refs = 1 };
    list_push_back(&e->grammars, &g->link);
    return g;
}

static void unref(Grammar *g) {
    GrammarEngine *e = g->engine;

    if (--g->n_refs)
        return;
    if (g->state == GRAMMAR_FAILED)
        free(g);
    else
        shrink_to(e, e->limits.cache_bytes);
}

/* Waits until the one that is being compiled by somebody else is, or is not to be. */
static int wait_for(GrammarEngine *e, Grammar *g, Account *account) {
    while (g->state == GRAMMAR_COMPILING && !account_is_closed(account)) {
        struct timespec until;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += LOOK_UP_AFTER_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&e->settled, &e->lock, &until);
    }
    return g->state == GRAMMAR_COMPILING ? -ECANCELED : 0;
}

/* What came of compiling. */
static int settle(GrammarEngine *e, Grammar *g, CoreGrammar *core, int r, double seconds) {
    if (!r)
        r = charge(e, g, sizeof(*g) + core_grammar_bytes(core));
    e->stats.compile_s += seconds;
    if (r) {
        e->stats.n_failed++;
        core_grammar_free(core);
        list_remove(&g->link);
        g->state = GRAMMAR_FAILED;
    } else {
        e->stats.n_compiled++;
        g->core = core;
        g->state = GRAMMAR_READY;
    }
    pthread_cond_broadcast(&e->settled);
    return r;
}

static int compile_new(GrammarEngine *e, GrammarKind kind, const char *text, size_t size,
                       Hash128 key, Account *account, Grammar **outp, Reason *why) {
    CoreGrammar *core = NULL;
    Grammar *g = grammar_new(e, key);
    double begin_s = clock_s();
    int r;

    if (!g)
        return -ENOMEM;
    g->kind = kind;
    pthread_mutex_unlock(&e->lock);
    r = compile(e, kind, text, size, account, &core, why);
    pthread_mutex_lock(&e->lock);
    r = settle(e, g, core, r, clock_s() - begin_s);
    if (r)
        unref(g);
    else
        *outp = g;
    return r;
}

static int find_or_compile(GrammarEngine *e, GrammarKind kind, const char *text, size_t size,
                           Account *account, Grammar **outp, Reason *why) {
    Hash128 key = key_of(e, kind, text, size);
    Grammar *g;

    while ((g = find(e, key))) {
        bool was_ready = g->state == GRAMMAR_READY;
        int r;

        g->n_refs++;
        r = wait_for(e, g, account);
        if (!r && g->state == GRAMMAR_READY) {
            e->stats.n_cache_hits += was_ready;
            list_remove(&g->link);
            list_push_back(&e->grammars, &g->link);
            *outp = g;
            return 0;
        }
        unref(g);
        if (r)
            return r;
    }
    return compile_new(e, kind, text, size, key, account, outp, why);
}

int grammar_compile(GrammarEngine *e, GrammarKind kind, const char *text, size_t size,
                    Account *account, Grammar **outp, Reason *why) {
    int r;

    if (size > e->limits.text_bytes)
        return reason_set(why, GRAMMAR_E_LIMIT,
                          "it has %zu bytes; at most %" PRIu64 " are allowed (option max_grammar)",
                          size, e->limits.text_bytes);
    if (memchr(text, 0, size))
        return reason_set(why, GRAMMAR_E_INVALID, "it has a NUL in it");
    pthread_mutex_lock(&e->lock);
    r = find_or_compile(e, kind, text, size, account, outp, why);
    pthread_mutex_unlock(&e->lock);
    return r;
}

Grammar *grammar_ref(Grammar *g) {
    pthread_mutex_lock(&g->engine->lock);
    g->n_refs++;
    pthread_mutex_unlock(&g->engine->lock);
    return g;
}

Grammar *grammar_unref(Grammar *g) {
    GrammarEngine *e;

    if (!g)
        return NULL;
    e = g->engine;
    pthread_mutex_lock(&e->lock);
    unref(g);
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* matchers */

static int charge_matcher(GrammarMatcher *m, uint64_t n_bytes) {
    int r = account_charge(m->account, n_bytes);

    if (!r)
        m->n_bytes += n_bytes;
    return r;
}

int grammar_matcher_new(GrammarMatcher **outp, Grammar *grammar, Account *account) {
    CLEANUP(grammar_matcher_free) GrammarMatcher *m = calloc(1, sizeof(*m));
    int r;

    if (!m)
        return -ENOMEM;
    m->grammar = grammar_ref(grammar);
    m->account = account;
    r = charge_matcher(m, MATCHER_BYTES);
    if (!r)
        r = core_matcher_new(&m->core, grammar->core);
    if (!r)
        *outp = TAKE(m);
    return r;
}

GrammarMatcher *grammar_matcher_free(GrammarMatcher *m) {
    if (!m)
        return NULL;
    core_matcher_free(m->core);
    account_release(m->account, m->n_bytes);
    grammar_unref(m->grammar);
    free(m);
    return NULL;
}

/* Which ids XGrammar's word is good for here; NULL: all. Where a text with tags may end it is free,
 * and inside of them it may not. */
static const uint32_t *trusted_ids(const GrammarMatcher *m) {
    const GrammarEngine *e = m->grammar->engine;

    switch (m->grammar->kind) {
    case GRAMMAR_JSON:
    case GRAMMAR_JSON_SCHEMA:
        return e->plain;
    case GRAMMAR_TAGS:
        return core_matcher_is_complete(m->core) ? NULL : e->lines;
    default:
        return NULL;
    }
}

int grammar_matcher_accept(GrammarMatcher *m, uint32_t token) {
    const uint32_t *ids = trusted_ids(m);
    int r;

    if (ids && token < m->grammar->engine->n_vocab && !(ids[token / 32] >> token % 32 & 1))
        return GRAMMAR_E_REJECTED;
    r = charge_matcher(m, MATCHER_TOKEN_BYTES);
    return r ? r : core_matcher_accept(m->core, token);
}

int grammar_matcher_fill(GrammarMatcher *m, uint32_t *mask) {
    const GrammarEngine *e = m->grammar->engine;
    const uint32_t *ids = trusted_ids(m);
    int r = core_matcher_fill(m->core, mask, e->n_vocab);

    for (uint32_t i = 0; !r && ids && i < grammar_mask_words(e->n_vocab); i++)
        mask[i] &= ids[i];
    return r;
}

bool grammar_matcher_is_terminated(const GrammarMatcher *m) {
    return core_matcher_is_terminated(m->core);
}

bool grammar_matcher_is_complete(const GrammarMatcher *m) {
    return core_matcher_is_complete(m->core);
}

int grammar_matcher_forced(const GrammarMatcher *m, uint32_t *tokens, uint32_t n_max,
                           uint32_t *np) {
    return core_matcher_forced(m->core, tokens, n_max, np);
}
