/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine with sequences within grammars among others that are free: what each says does not
 * depend on company, chunks or preemption, and everything comes back.
 */
#include "grammar/grammar.h"
#include "server/engine/engine.h"
#include "tests/unit/random.h"
#include "tests/unit/tiny_model.h"

#include <regex.h>

#define PATTERN "(ab|cd|ef){2}-the forced middle-[0-9]{30}x"

enum { PROMPT_TOKENS = 40, MAX_TOKENS = 120, OUTPUT_MAX = 256 };

static struct {
    GrammarEngine *engine;
    Grammar *grammar;
    regex_t regex;
} grammars;

typedef struct Answer {
    uint32_t prompt[PROMPT_TOKENS], n_ids;
    Buffer text;
    FinishReason finish;
    const char *error;
} Answer;

typedef struct Bench {
    Mailbox events;
    Engine *engine;
} Bench;

static int token_bytes(const void *userdata, uint32_t id, Buffer *out) {
    if (id >= tokenizer_size(userdata) || tokenizer_is_special(userdata, id))
        return 0;
    return tokenizer_token_bytes(userdata, id, out);
}

static void bench_open(Bench *bench, uint32_t n_pages, uint32_t max_batched_tokens) {
    EngineOptions options = { .ops = &model.ops,
                              .backend = model.backend,
                              .steps_in_flight = model.steps_in_flight,
                              .checkpoint = model.checkpoint,
                              .tokenizer = model.tokenizer,
                              .kv_tokens = UINT64_C(64) * n_pages,
                              .max_num_seqs = 16,
                              .max_batched_tokens = max_batched_tokens,
                              .prefix_caching = true,
                              .events = &bench->events };
    Reason why = REASON_NULL;

    assert_int_equal(mailbox_init(&bench->events, NULL, NULL), 0);
    if (engine_new(&bench->engine, &options, &why))
        fail_msg("%s", why.text);
    assert_int_equal(engine_start(bench->engine), 0);
}

static void bench_close(Bench *bench) {
    engine_stop(bench->engine, true);
    assert_int_equal(engine_stats(bench->engine)->n_running, 0);
    assert_int_equal(engine_stats(bench->engine)->pages_used, 0);
    engine_free(bench->engine);
    mailbox_deinit(&bench->events);
}

/* An answer's variety is its prompt and its seed. */
static EngineRequest *request_new(Answer *answer, uint32_t variety, bool is_free,
                                  Account *account) {
    EngineRequest *request = engine_request_new();

    assert_non_null(request);
    *answer = (Answer){ .n_ids = 0 };
    for (uint32_t i = 0; i < PROMPT_TOKENS; i++)
        answer->prompt[i] = 2 + (i * 31 + variety * 977) % 500;
    request->owner = answer;
    request->account = account;
    request->prompt = answer->prompt;
    request->n_prompt = PROMPT_TOKENS;
    request->max_tokens = MAX_TOKENS;
    request->params.temperature = 1;
    request->params.frequency_penalty = variety % 3 ? 0 : 1;
    request->params.seed = variety;
    request->ignore_eos = is_free;
    request->n_top_logprobs = variety % 4 ? -1 : 0; /* where they are wanted nothing is forced */
    if (!is_free)
        assert_int_equal(mask_work_new(&request->mask, grammars.engine, grammars.grammar, account,
                                       NULL, NULL, 0),
                         0);
    return request;
}

static void take_event(EngineEvent *event) {
    Answer *answer = event->request->owner;

    answer->n_ids += event->n_tokens;
    assert_int_equal(event->n_output, answer->n_ids);
    buffer_append(&answer->text, buffer_text(&event->text), event->text.size);
    answer->finish = event->finish;
    answer->error = event->error;
    if (event->finish != FINISH_NONE)
        engine_request_free(event->request);
    engine_event_free(event);
}

static void bench_wait(Bench *bench, const Answer *answer) {
    while (answer->finish == FINISH_NONE) {
        List mail = LIST_INIT(mail), *link;

        mailbox_wait(&bench->events, &mail);
        while ((link = list_pop_front(&mail)))
            take_event(container_of(link, EngineEvent, link));
    }
}

static void expect_form(const Answer *answer) {
    if (answer->finish != FINISH_STOP ||
        regexec(&grammars.regex, buffer_text(&answer->text), 0, NULL, 0))
        fail_msg("%d, %s: %s", answer->finish, answer->error ? answer->error : "",
                 buffer_text(&answer->text));
}

/* alone, then 12 at once, of which a third is free, with room for all and with room for few */
static void test_answers_keep_to_their_form_in_every_company(void **state) {
    enum { N = 12 };
    static const struct {
        uint32_t n_pages, max_batched_tokens;
    } settings[] = { { 100, 512 }, { 6, 24 }, { 9, 100 } };
    static Answer alone[N], together[N];
    Bench bench;

    (void)state;
    bench_open(&bench, 100, 512);
    for (uint32_t i = 0; i < N; i++) {
        engine_submit(bench.engine, request_new(&alone[i], i, i % 3 == 2, NULL));
        bench_wait(&bench, &alone[i]);
        if (i % 3 != 2)
            expect_form(&alone[i]);
    }
    bench_close(&bench);
    for (size_t s = 0; s < sizeof(settings) / sizeof(*settings); s++) {
        bench_open(&bench, settings[s].n_pages, settings[s].max_batched_tokens);
        for (uint32_t i = 0; i < N; i++)
            engine_submit(bench.engine, request_new(&together[i], i, i % 3 == 2, NULL));
        for (uint32_t i = 0; i < N; i++) {
            bench_wait(&bench, &together[i]);
            if (i % 3 != 2)
                expect_form(&together[i]);
            if (model.ops.row_exact)
                assert_string_equal(buffer_text(&together[i].text), buffer_text(&alone[i].text));
            buffer_deinit(&together[i].text);
        }
        bench_close(&bench);
    }
    for (uint32_t i = 0; i < N; i++)
        buffer_deinit(&alone[i].text);
}

static void test_cancellations_leave_nothing_behind(void **state) {
    enum { N = 16, ROUNDS = 6 };
    static Answer answers[N];
    Random random = random_start("cancellations");
    Account *account = account_new(NULL, UINT64_MAX, "test");
    Bench bench;

    (void)state;
    bench_open(&bench, 20, 64);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        EngineRequest *requests[N];

        for (uint32_t i = 0; i < N; i++) {
            requests[i] = request_new(&answers[i], i, i % 4 == 3, account);
            engine_submit(bench.engine, requests[i]);
        }
        for (uint32_t i = 0; i < N; i++) {
            nanosleep(&(struct timespec){ .tv_nsec = random_below(&random, 3000000) }, NULL);
            engine_cancel(bench.engine, requests[i]);
        }
        for (uint32_t i = 0; i < N; i++) {
            bench_wait(&bench, &answers[i]);
            buffer_deinit(&answers[i].text);
        }
    }
    bench_close(&bench);
    assert_int_equal(atomic_load(&account->used), 0);
    account_unref(account);
}

static void test_forced_tokens_take_few_steps(void **state) {
    Answer answer;
    Bench bench;

    (void)state;
    bench_open(&bench, 20, 512);
    engine_submit(bench.engine, request_new(&answer, 1, false, NULL));
    bench_wait(&bench, &answer);
    expect_form(&answer);
    assert_true(engine_stats(bench.engine)->steps + 3 < answer.n_ids);
    bench_close(&bench);
    buffer_deinit(&answer.text);
}

/* Characters that no longer token has are forced as they would be drawn: so what is drawn after
 * them must not depend on how they came. */
static void test_what_follows_does_not_depend_on_forcing(void **state) {
    static const char pattern[] = "[ab]qzqzqjxq[0-9]{20}";
    Grammar *grammar = NULL, *before = grammars.grammar;
    Bench bench;

    (void)state;
    assert_int_equal(grammar_compile(grammars.engine, GRAMMAR_REGEX, pattern, strlen(pattern), NULL,
                                     &grammar, NULL),
                     0);
    grammars.grammar = grammar;
    bench_open(&bench, 20, 512);
    for (uint32_t i = 0; i < 9; i++) {
        Answer answers[2];
        uint64_t steps[2];

        for (int forced = 0; forced < 2; forced++) {
            EngineRequest *request = request_new(&answers[forced], i, false, NULL);
            uint64_t steps_before = engine_stats(bench.engine)->steps;

            request->params.temperature = i % 2;
            request->n_top_logprobs = forced - 1;
            engine_submit(bench.engine, request);
            bench_wait(&bench, &answers[forced]);
            steps[forced] = engine_stats(bench.engine)->steps - steps_before;
        }
        assert_true(steps[0] + 5 < steps[1]);
        assert_int_equal(answers[0].n_ids, answers[1].n_ids);
        assert_string_equal(buffer_text(&answers[0].text), buffer_text(&answers[1].text));
        buffer_deinit(&answers[0].text);
        buffer_deinit(&answers[1].text);
    }
    bench_close(&bench);
    grammars.grammar = before;
    grammar_unref(grammar);
}

static int set_up(void **state) {
    static const uint32_t stops[] = { 1 };
    GrammarLimits limits = { 1 << 16, 60000, 1 << 30, 1 << 26, 1 << 20 };
    GrammarVocab vocab = { .token_bytes = token_bytes, .stop_ids = stops, .n_stop_ids = 1 };
    Reason why = REASON_NULL;

    if (setup_model(state))
        return -1;
    vocab.n_vocab = checkpoint_config(model.checkpoint)->n_vocab;
    vocab.userdata = model.tokenizer;
    if (grammar_engine_new(&grammars.engine, &vocab, &limits, NULL, &why) ||
        grammar_compile(grammars.engine, GRAMMAR_REGEX, PATTERN, strlen(PATTERN), NULL,
                        &grammars.grammar, &why) ||
        regcomp(&grammars.regex, "^" PATTERN "$", REG_EXTENDED | REG_NOSUB)) {
        print_error("%s\n", why.text);
        return -1;
    }
    return 0;
}

static int tear_down(void **state) {
    regfree(&grammars.regex);
    grammar_unref(grammars.grammar);
    grammar_engine_free(grammars.engine);
    return teardown_model(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_keep_to_their_form_in_every_company),
        cmocka_unit_test(test_cancellations_leave_nothing_behind),
        cmocka_unit_test(test_forced_tokens_take_few_steps),
        cmocka_unit_test(test_what_follows_does_not_depend_on_forcing),
    };

    if (grammar_start(NULL))
        return 77; /* a build without grammars */
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
