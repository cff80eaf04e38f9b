/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The engine: one thread that owns scheduler state, cache and backend, and runs steps for as long
 * as there is work. It never touches a socket. Requests go in and events come out through one
 * mailbox each way; ownership passes with the message.
 *
 * One EngineRequest is one sequence; an HTTP request with n choices or several prompts makes
 * several.
 */

#include "backend/ops.h"
#include "kvcache/ledger.h"
#include "kvcache/profile.h"
#include "model/checkpoint.h"
#include "server/engine/mask_work.h"
#include "server/engine/stop_matcher.h"
#include "text/end_of_turn.h"
#include "text/tokenizer.h"
#include "util/account.h"
#include "util/buffer.h"
#include "util/list.h"
#include "util/mailbox.h"
#include "util/reason.h"

#include <stdatomic.h>

typedef struct Engine Engine;
typedef struct EngineRequest EngineRequest;
typedef struct EngineEvent EngineEvent;

typedef enum FinishReason {
    FINISH_NONE,      /* still running */
    FINISH_STOP,      /* EOS, stop token or stop string, or the end of its grammar */
    FINISH_LENGTH,    /* max_tokens, or the model's length */
    FINISH_CANCELLED, /* by engine_cancel, or the engine shut down */
    FINISH_NO_MEMORY, /* there was none for its answer, or its account refused */
    FINISH_ERROR,     /* a step failed; `error` in the event says how */
} FinishReason;

/* Made and filled by the server; owned by the engine from engine_submit until its last event
 * (finish != FINISH_NONE) has been taken. What it borrows must stay until then: the requests of one
 * call share it. */
struct EngineRequest {
    List link;        /* in a mailbox, then in a scheduler queue */
    void *owner;      /* the server's; the engine never reads it */
    uint64_t client;  /* whose request it is: clients take turns (server/engine/scheduler.h) */
    bool reserved;    /* engine_reserve counted it; the engine gives that back */
    Account *account; /* of the call, for what the answer takes; borrowed; may be NULL */
    uint64_t charged_bytes; /* by engine_request_charge */
    const uint32_t *prompt; /* [n_prompt >= 1], borrowed; ids checked against the vocabulary */
    uint32_t n_prompt;
    SampleParams params; /* its logit_bias is borrowed; seed always set */
    uint32_t max_tokens; /* 0 with prompt logprobs only; n_prompt + max_tokens <= max_model_len */
    uint32_t min_tokens; /* EOS and stop strings do not count before */
    bool ignore_eos;
    bool skip_special_tokens;
    const uint32_t *kept_tokens; /* [n_kept_tokens], borrowed: special, and not skipped */
    uint32_t n_kept_tokens;
    bool include_stop_text;      /* leave the matched stop string in the text */
    const StopSet *stops;        /* borrowed; NULL: none */
    MaskWork *mask;              /* the grammar that its answer follows; owned; NULL: any text */
    const uint32_t *stop_tokens; /* [n_stop_tokens], borrowed */
    uint32_t n_stop_tokens;
    int n_top_logprobs;      /* -1: none; 0 .. SAMPLE_TOP_LOGPROBS_MAX */
    int n_prompt_logprobs;   /* the same, of the prompt's own tokens (echo) */
    Hash128 cache_salt;      /* by engine_salt: prefixes are shared only between equal ones */
    uint64_t arrival_ns;     /* CLOCK_MONOTONIC */
    atomic_bool cancelled;   /* set by engine_cancel */
    EngineEvent *last_event; /* made with the request, so that its end can always be told */
};

/* About what a request takes until its last event, besides what it borrows and what its account is
 * charged with later. */
#define ENGINE_REQUEST_BYTES 768

EngineRequest *engine_request_new(void); /* zeroed, neutral parameters; NULL without memory */
EngineRequest *engine_request_free(EngineRequest *request);
/* Charges the request's account with what its sequence is about to take, until the request is
 * freed. 0, or account_charge's error. */
int engine_request_charge(EngineRequest *request, uint64_t n_bytes);
CLEANUP_DEFINE(EngineRequest, engine_request_free);

typedef struct TokenLogprob {
    uint32_t token;
    float logprob;
    uint32_t n_top;
    uint32_t top_tokens[SAMPLE_TOP_LOGPROBS_MAX];
    float top_logprobs[SAMPLE_TOP_LOGPROBS_MAX];
} TokenLogprob;

/* What happened to one sequence in one step. Owned by the receiver. */
struct EngineEvent {
    List link;
    EngineRequest *request; /* given back to the receiver when finish != FINISH_NONE */
    uint32_t *tokens;       /* [n_tokens] new ids, owned */
    uint32_t n_tokens;
    Buffer text;            /* what became certain: no half characters, nothing that may still
                               turn out to belong to a stop string */
    TokenLogprob *logprobs; /* [n_tokens] if asked for, owned */
    TokenLogprob *prompt_logprobs; /* [n_prompt] once, before the first token, if asked for, owned;
                                      entry 0 has no logprob (n_top 0, NaN) */
    uint32_t n_prompt_logprobs;
    FinishReason finish;
    const char *stop_text;   /* the stop string that matched, borrowed from the set */
    uint32_t stop_token;     /* the stop token that matched, or TOKEN_NONE */
    const char *error;       /* static text, with FINISH_ERROR */
    uint32_t n_output;       /* tokens generated so far */
    uint32_t n_cached;       /* prompt tokens that came from the prefix cache */
    uint64_t admitted_ns;    /* when it first ran; 0: not yet (CLOCK_MONOTONIC, as those below) */
    uint64_t first_token_ns; /* when its first token came, its prompt computed; 0: none yet */
    uint64_t event_ns;
};

EngineEvent *engine_event_free(EngineEvent *event); /* not its request */
CLEANUP_DEFINE(EngineEvent, engine_event_free);

typedef struct EngineOptions {
    const BackendOps *ops;
    Backend *backend;             /* borrowed */
    const Checkpoint *checkpoint; /* borrowed */
    const Tokenizer *tokenizer;   /* borrowed */
    uint64_t kv_memory_bytes;     /* 0: from kv_tokens */
    uint64_t kv_tokens;           /* that must fit, in kv_memory_bytes where those are given; 0:
                                     max_model_len * max_num_seqs, as far as they fit */
    uint64_t kv_default_bytes; /* the most that a cache of no given size takes; 0: what the backend
                                  tells, or any where there is none */
    bool weights_are_made;     /* the backend's memory has them already, as it tells it */
    uint32_t max_model_len;    /* 0: the model's */
    const KvPlan *plan;        /* borrowed; NULL: f16 */
    const Profile *profile;    /* borrowed for engine_new; keys are rounded by it; NULL: plainly */
    bool prefix_caching;       /* share full pages between requests */
    bool page_exact; /* prompts are cut at page borders: no answer depends on chunking or caching */
    uint32_t max_num_seqs; /* lowered to max_batched_tokens: each may have a row in a step; 0: 64,
                              or as many as have their tails in a quarter of the cache's memory */
    uint32_t max_batched_tokens;
    uint32_t steps_in_flight; /* 1: a step is collected before the next is launched; 2: after; 0: 2
                                 where the backend is asynchronous, else 1 */
    uint32_t max_waiting_requests; /* sequences that wait; 0: any number */
    uint64_t max_waiting_tokens;   /* tokens of their prompts; 0: 16 times what the cache holds */
    Mailbox *events;               /* where events go; borrowed */
} EngineOptions;

/* Steps are counted by the tokens they compute: up to engine_step_bounds[i], and above all. */
#define ENGINE_STEP_BOUNDS 13
extern const uint32_t engine_step_bounds[ENGINE_STEP_BOUNDS];

/* Counters and gauges for /metrics; read from any thread. */
typedef struct EngineStats {
    atomic_uint n_running, n_waiting;
    atomic_uint pages_used;
    atomic_ullong prompt_tokens, generation_tokens; /* totals */
    atomic_ullong steps, preemptions;
    atomic_ullong steps_by_tokens[ENGINE_STEP_BOUNDS + 1]; /* each bucket alone */
    atomic_ullong step_tokens;
    atomic_ullong prefix_query_tokens, prefix_hit_tokens;
} EngineStats;

/* What a cache of these options has to hold and may take, for whoever chooses its formats. */
typedef struct EngineCacheDemand {
    KvGeometry geometry;
    uint64_t bytes_max;       /* UINT64_MAX: any number */
    bool bytes_are_default;   /* nobody gave them */
    uint64_t n_tokens;        /* that should fit */
    bool tokens_are_given;    /* by kv_tokens, and not as max_model_len times max_num_seqs */
    bool tokens_are_demanded; /* they must: kv_tokens is given, or all of kv_memory_bytes,
                                 max_model_len and max_num_seqs */
    uint32_t n_tails, n_sinks;
    bool seqs_are_default; /* nobody gave max_num_seqs: n_tails may be less */
} EngineCacheDemand;

/* Fills in the options that have defaults; asks the backend, if there is one, for its memory.
 * `plan` is not read. -EINVAL, -ENOSPC with the words in `why`. */
int engine_cache_demand(EngineOptions *options, EngineCacheDemand *demand, Reason *why);
/* Sink slots of so many sequences. */
uint32_t engine_sinks(uint32_t max_num_seqs, bool prefix_caching);

/* What engine_new would make of these options, were the backend's memory then as it is now: fills
 * in those that have defaults, and plans the cache. Needs the checkpoint's configuration and no
 * weights; asks the backend, if there is one, for a cache of no given size. -EINVAL, -ENOSPC with
 * the words in `why`. */
int engine_plan(EngineOptions *options, Ledger *ledger, Reason *why);
/* Allocates everything (weights, workspace, cache). -ENOSPC etc. with the words in `why`. */
int engine_new(Engine **outp, const EngineOptions *options, Reason *why);
/* Starts the thread. */
int engine_start(Engine *engine);
/* Finishes what is running and waiting if `drain`, else cancels it; then joins. Every request has
 * had its last event when it returns. */
void engine_stop(Engine *engine, bool drain);
/* Whether the backend is gone for good. Every request then ends with an error, those to come as
 * well; who sees the first of these errors sees true here. Any thread. */
bool engine_is_lost(const Engine *engine);
Engine *engine_free(Engine *engine); /* stopped, or never started */
CLEANUP_DEFINE(Engine, engine_free);

/* What refused a call, for the words and the Retry-After of its answer. */
typedef struct EngineWait {
    const char *limit_name;      /* the option; static */
    uint64_t limit, used, asked; /* sequences or tokens, as the option counts */
    double wait_s;               /* engine_wait_estimate_s */
} EngineWait;

enum {
    _ENGINE_E_SUCCESS,
    ENGINE_E_REQUESTS, /* max_waiting_requests is reached for now */
    ENGINE_E_TOKENS,   /* max_waiting_tokens is reached for now */
    ENGINE_E_NEVER,    /* the call by itself is more than one of them allows */
};

/* Room in the queue for all sequences of a call, before they are made; n_tokens is the sum of their
 * n_prompt, so a prompt with n choices counts n times. Any thread. 0: each of its requests is to be
 * submitted with `reserved` set, and gives its part back when it first runs or ends, or all of it
 * is given back with engine_unreserve. Else one of the outcomes above, told in `wait`, and nothing
 * is reserved. */
int engine_reserve(Engine *engine, uint32_t n_sequences, uint64_t n_tokens, EngineWait *wait);
/* For sequences that were reserved and will not be submitted. */
void engine_unreserve(Engine *engine, uint32_t n_sequences, uint64_t n_tokens);
/* Seconds until all that waits now has probably begun to run, at the rate of the last seconds; 0
 * where nothing waits. Any thread. */
double engine_wait_estimate_s(const Engine *engine);

/* What stands for a tenant's salt in EngineRequest; takes time in proportion to its size. Any
 * thread. */
Hash128 engine_salt(const Engine *engine, const char *salt, size_t size);

/* Any thread. Ownership of the request passes. */
void engine_submit(Engine *engine, EngineRequest *request);
/* Any thread; the request must not have had its last event taken yet. It ends within one step, or
 * two where two are in flight, with FINISH_CANCELLED, or with what it had already come to. */
void engine_cancel(Engine *engine, EngineRequest *request);

const Ledger *engine_ledger(const Engine *engine);
EngineStats *engine_stats(Engine *engine);
const EndOfTurn *engine_ends(const Engine *engine); /* the tokens that end an answer */
uint32_t engine_max_model_len(const Engine *engine);
uint32_t engine_n_layers(const Engine *engine);
/* Tokens one sequence could ever hold in this cache: the most n_prompt + max_tokens may be. */
uint32_t engine_max_sequence_tokens(const Engine *engine);
/* How many of a prompt's first tokens the prefix cache takes: those of whole pages; 0 where
 * prefix_caching is off. */
uint64_t engine_prefix_tokens(const Engine *engine, uint64_t n_prompt);
