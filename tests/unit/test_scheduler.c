/* SPDX-License-Identifier: Apache-2.0 */
/* Policies by name on injected queues of one client, then a random life of the whole queue. What
 * clients do to each other: test_scheduler_clients.c. */

#include "tests/unit/plan_step.h"

#include <stdlib.h>

/* One client. */
static StepPlan plan_of(const SchedulerSequence *running, uint32_t n_running,
                        const SchedulerSequence *waiting, uint32_t n_waiting, uint32_t n_pages_free,
                        uint32_t max_num_seqs, uint32_t max_batched_tokens) {
    SchedulerLimits limits = { .max_num_seqs = max_num_seqs,
                               .max_batched_tokens = max_batched_tokens,
                               .cost = ROW_COST_EQUAL };

    memset(clients, 0, sizeof(clients));
    return plan_of_clients(running, n_running, waiting, n_waiting, n_running + n_waiting ? 1 : 0,
                           n_pages_free, &limits);
}

static void test_nothing_to_do_is_an_empty_plan(void **state) {
    StepPlan plan = plan_of(NULL, 0, NULL, 0, 10, 4, 100);

    (void)state;
    assert_int_equal(plan.n_tokens + plan.n_admitted + plan.n_preempted, 0);
}

static void test_decodes_come_before_prompts(void **state) {
    SchedulerSequence running[] = { prefilling(500, 100), decoding(10, 20), decoding(70, 80) };
    StepPlan plan = plan_of(running, 3, NULL, 0, 10, 4, 8);

    (void)state;
    assert_int_equal(items[1].n_tokens, 1);
    assert_int_equal(items[2].n_tokens, 1);
    assert_int_equal(items[0].n_tokens, 6);
    assert_int_equal(plan.n_tokens, 8);
}

static void test_prompts_are_chunked_oldest_first(void **state) {
    SchedulerSequence running[] = { prefilling(70, 20), prefilling(100, 0), prefilling(90, 0) };
    StepPlan plan = plan_of(running, 3, NULL, 0, 0, 4, 110);

    (void)state;
    assert_int_equal(items[0].n_tokens, 50);
    assert_int_equal(items[1].n_tokens, 60);
    assert_int_equal(items[2].n_tokens, 0);
    assert_int_equal(plan.n_tokens, 110);
    assert_int_equal(items[0].n_new_pages + items[1].n_new_pages + items[2].n_new_pages, 0);
}

static void test_a_page_is_taken_when_the_last_is_full(void **state) {
    SchedulerSequence running[] = { decoding(63, 200), decoding(64, 200), decoding(65, 200) };

    (void)state;
    plan_of(running, 3, NULL, 0, 10, 4, 100);
    assert_int_equal(items[0].n_new_pages, 0);
    assert_int_equal(items[1].n_new_pages, 1);
    assert_int_equal(items[2].n_new_pages, 0);
}

static void test_admission_takes_pages_for_the_whole_prompt(void **state) {
    SchedulerSequence waiting[] = { arriving(65, 65), arriving(64, 64), arriving(1, 1) };
    StepPlan plan = plan_of(NULL, 0, waiting, 3, 10, 4, 100);

    (void)state;
    assert_int_equal(plan.n_admitted, 2);
    assert_int_equal(items[0].n_tokens, 65);
    assert_int_equal(items[0].n_new_pages, 2);
    assert_int_equal(items[1].n_tokens, 35); /* the rest of the step */
    assert_int_equal(items[1].n_new_pages, 1);
}

static void test_admission_stops_at_max_num_seqs(void **state) {
    SchedulerSequence running[] = { decoding(5, 9), decoding(5, 9) };
    SchedulerSequence waiting[] = { arriving(5, 9), arriving(5, 9) };

    (void)state;
    assert_int_equal(plan_of(running, 2, waiting, 2, 50, 3, 100).n_admitted, 1);
    assert_int_equal(plan_of(running, 2, waiting, 2, 50, 2, 100).n_admitted, 0);
    /* Never more sequences than a step has rows: each decode has its row. */
    assert_int_equal(
        plan_of(NULL, 0, (SchedulerSequence[]){ arriving(1, 9), arriving(1, 9) }, 2, 50, 8, 1)
            .n_admitted,
        1);
}

static void test_a_head_that_does_not_fit_blocks_those_behind_it(void **state) {
    SchedulerSequence running[] = { decoding(10, 20) };
    SchedulerSequence waiting[] = { arriving(640, 640), arriving(1, 1) };

    (void)state;
    assert_int_equal(plan_of(running, 1, waiting, 2, 9, 4, 100).n_admitted, 0);
    assert_int_equal(plan_of(running, 1, waiting, 2, 10, 4, 1000).n_admitted, 1);
    assert_int_equal(plan_of(running, 1, waiting, 2, 11, 4, 1000).n_admitted, 2);
}

static void test_headroom_is_a_page_for_each_that_may_grow(void **state) {
    SchedulerSequence running[] = { decoding(10, 64), decoding(10, 65), decoding(10, 500) };
    SchedulerSequence done_growing[] = { arriving(64, 64) }, growing[] = { arriving(64, 65) };

    (void)state;
    assert_int_equal(plan_of(running, 3, done_growing, 1, 2, 4, 100).n_admitted, 0);
    assert_int_equal(plan_of(running, 3, done_growing, 1, 3, 4, 100).n_admitted, 1);
    assert_int_equal(plan_of(running, 3, growing, 1, 3, 4, 100).n_admitted, 0);
    assert_int_equal(plan_of(running, 3, growing, 1, 4, 4, 100).n_admitted, 1);
    /* Alone it needs none. */
    assert_int_equal(plan_of(NULL, 0, growing, 1, 1, 4, 100).n_admitted, 1);
}

static void test_the_youngest_is_preempted_for_the_oldest(void **state) {
    SchedulerSequence running[] = { decoding(64, 200), decoding(10, 200), decoding(130, 200) };
    SchedulerSequence waiting[] = { arriving(1, 1) };
    StepPlan plan = plan_of(running, 3, waiting, 1, 0, 4, 100);

    (void)state;
    assert_int_equal(plan.n_preempted, 1);
    assert_int_equal(plan.n_admitted, 0);
    assert_int_equal(items[0].n_tokens, 1);
    assert_int_equal(items[0].n_new_pages, 1);
    assert_int_equal(items[1].n_tokens, 1);
    assert_int_equal(plan.n_tokens, 2);
}

static void test_the_youngest_preempts_itself(void **state) {
    SchedulerSequence running[] = { decoding(10, 200), decoding(10, 200), decoding(128, 200) };
    StepPlan plan = plan_of(running, 3, NULL, 0, 0, 4, 100);

    (void)state;
    assert_int_equal(plan.n_preempted, 1);
    assert_int_equal(plan.n_tokens, 2);
}

static void test_only_as_many_are_preempted_as_needed(void **state) {
    SchedulerSequence running[] = { decoding(64, 200), decoding(64, 200), decoding(64, 200),
                                    decoding(10, 200) };
    StepPlan plan = plan_of(running, 4, NULL, 0, 1, 4, 100);

    (void)state;
    /* One page free and one from the youngest: two of three that need one. */
    assert_int_equal(plan.n_preempted, 2);
    assert_int_equal(items[0].n_new_pages + items[1].n_new_pages, 2);
}

static void test_a_preempted_prompt_gives_its_pages_to_a_decode(void **state) {
    SchedulerSequence running[] = { decoding(64, 200), prefilling(200, 30) };
    StepPlan plan = plan_of(running, 2, NULL, 0, 0, 4, 100);

    (void)state;
    assert_int_equal(plan.n_preempted, 1);
    assert_int_equal(plan.n_tokens, 1);
}

/* The work of a step */

static const SchedulerLimits deep_limits = { .max_num_seqs = 100,
                                             .max_batched_tokens = 100,
                                             .cost = { .products = 1000, .n_full_layers = 1 } };

static StepPlan plan_deep(const SchedulerSequence *running, uint32_t n_running) {
    memset(clients, 0, sizeof(clients));
    return plan_of_clients(running, n_running, NULL, 0, 1, 100, &deep_limits);
}

static void test_a_prompt_begins_with_all_rows(void **state) {
    SchedulerSequence running[] = { prefilling(5000, 0) };

    (void)state;
    assert_int_equal(plan_deep(running, 1).n_tokens, 100);
}

/* A row at position 1,000 n costs n + 1 of the first; the step 100 of the first and 4,950. */
static void test_deep_in_a_prompt_a_step_has_fewer_rows(void **state) {
    SchedulerSequence running[] = { prefilling(9000, 1000) };

    (void)state;
    assert_int_equal(plan_deep(running, 1).n_tokens, 52);
    running[0] = prefilling(9000, 4000);
    assert_int_equal(plan_deep(running, 1).n_tokens, 21);
    running[0] = prefilling(300000, 200000); /* more than a step: one all the same */
    assert_int_equal(plan_deep(running, 1).n_tokens, 1);
}

static void test_decodes_take_work_from_prompts(void **state) {
    SchedulerSequence running[] = { decoding(4000, 4100), decoding(4000, 4100), prefilling(500, 0),
                                    decoding(4000, 4100) };

    (void)state;
    /* Three that cost 5,000 each leave 89,950. */
    assert_int_equal(plan_deep(running, 4).n_tokens, 3 + 87);
}

static void test_decodes_are_not_refused_and_leave_prompts_a_turn(void **state) {
    SchedulerSequence running[60];

    (void)state;
    for (uint32_t i = 0; i < 60; i++)
        running[i] = i ? decoding(9000, 9500) : prefilling(500, 0);
    assert_int_equal(plan_deep(running, 60).n_tokens, 59 + 25);
    assert_int_equal(items[0].n_tokens, 25);
    assert_int_equal(items[59].n_tokens, 1);
}

static void test_a_window_bounds_what_a_row_costs(void **state) {
    SchedulerSequence running[] = { prefilling(9000, 8000) };
    SchedulerLimits limits = deep_limits;

    (void)state;
    limits.cost = (RowCost){ .products = 1000, .n_sliding_layers = 1, .window = 1000 };
    memset(clients, 0, sizeof(clients));
    assert_int_equal(plan_of_clients(running, 1, NULL, 0, 1, 0, &limits).n_tokens, 53);
}

static void test_a_chunk_of_a_page_has_no_more_rows_than_work(void **state) {
    SchedulerSequence running[] = { prefilling(9000, 640), prefilling(9000, 6400) };
    SchedulerLimits limits = deep_limits;

    (void)state;
    limits.page_exact = true;
    memset(clients, 0, sizeof(clients));
    /* 64 rows cost 106,976 of 104,950: the 63rd ends the step. */
    plan_of_clients(running, 2, NULL, 0, 1, 0, &limits);
    assert_int_equal(items[0].n_tokens, 63);
    assert_int_equal(items[1].n_tokens, 0);
    running[0] = prefilling(9000, 660); /* to the border, and the rest to the next one */
    plan_of_clients(running, 2, NULL, 0, 1, 0, &limits);
    assert_int_equal(items[0].n_tokens, 44);
    assert_int_equal(items[1].n_tokens, 5);
}

/* A random life */

typedef struct Life {
    SchedulerSequence s;
    uint32_t n_prompt, arrival;
    bool is_seen; /* to have ended */
} Life;

typedef struct World {
    Life running[MANY], waiting[MANY];
    uint32_t n_running, n_waiting, n_arrived, n_finished, n_pages, n_pages_free;
    uint32_t last_admitted; /* arrival + 1 of the youngest ever admitted */
    bool is_late;           /* ends are seen a step late, as where two steps are in flight */
    SchedulerLimits limits;
} World;

static void arrive(World *w) {
    uint32_t n_most = w->n_pages * 64, n_prompt, n_output;

    n_prompt = 1 + random_below(random_below(2) ? n_most : 70 < n_most ? 70 : n_most);
    n_output = random_below(n_most - n_prompt + 1);
    w->waiting[w->n_waiting++] = (Life){ .s = { .n_known = n_prompt, .n_max = n_prompt + n_output },
                                         .n_prompt = n_prompt,
                                         .arrival = w->n_arrived++ };
}

static void put_back(World *w) {
    Life *l = &w->running[--w->n_running];

    w->n_pages_free += l->s.n_pages;
    l->s.n_pages = l->s.n_computed = 0;
    memmove(w->waiting + 1, w->waiting, w->n_waiting * sizeof(Life));
    w->waiting[0] = *l;
    w->n_waiting++;
}

static void admit(World *w, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        assert_true(!w->n_running || w->running[w->n_running - 1].arrival < w->waiting[i].arrival);
        if (w->waiting[i].arrival >= w->last_admitted) {
            assert_int_equal(w->waiting[i].arrival, w->last_admitted); /* FIFO, nobody skipped */
            w->last_admitted++;
        }
        w->running[w->n_running++] = w->waiting[i];
    }
    w->n_waiting -= n;
    memmove(w->waiting, w->waiting + n, w->n_waiting * sizeof(Life));
}

/* It has no more rows. */
static bool has_ended(const Life *l) {
    return l->s.n_computed == l->s.n_known && l->s.n_known == l->s.n_max;
}

static bool is_over(World *w, Life *l) {
    bool is_seen = l->is_seen || !w->is_late;

    if (!has_ended(l))
        return false;
    l->is_seen = true;
    return is_seen;
}

/* Whether anybody did. */
static bool collect_ended(World *w) {
    uint32_t n_left = 0, n_before = w->n_running;

    for (uint32_t i = 0; i < w->n_running; i++) {
        if (has_ended(&w->running[i])) {
            w->n_pages_free += w->running[i].s.n_pages;
            w->n_finished++;
        } else {
            w->running[n_left++] = w->running[i];
        }
    }
    w->n_running = n_left;
    return n_left < n_before;
}

static void advance(World *w, const StepPlan *plan) {
    uint32_t n_tokens = 0, n_left = 0;
    bool advances = true; /* the oldest that has not ended, always */

    for (uint32_t i = w->n_running; i--;)
        advances = has_ended(&w->running[i]) ? advances : items[i].n_tokens > 0;
    assert_true(advances);
    for (uint32_t i = 0; i < w->n_running; i++) {
        Life *l = &w->running[i];
        bool decodes = l->s.n_known - l->s.n_computed == 1 && l->s.n_computed;

        assert_true(items[i].n_new_pages <= w->n_pages_free);
        w->n_pages_free -= items[i].n_new_pages;
        l->s.n_pages += items[i].n_new_pages;
        l->s.n_computed += items[i].n_tokens;
        n_tokens += items[i].n_tokens;
        if (decodes)
            assert_int_equal(items[i].n_tokens, 1);
        assert_true(l->s.n_computed <= l->s.n_known);
        assert_true(l->s.n_pages * 64 >= l->s.n_computed);
        if (is_over(w, l)) {
            w->n_pages_free += l->s.n_pages;
            w->n_finished++;
            continue;
        }
        l->s.n_known += l->s.n_computed == l->s.n_known && !has_ended(l);
        w->running[n_left++] = *l;
    }
    w->n_running = n_left;
    assert_int_equal(n_tokens, plan->n_tokens);
    assert_true(n_tokens <= w->limits.max_batched_tokens);
}

static void world_step(World *w) {
    SchedulerSequence running[MANY], waiting[MANY];
    StepPlan plan;

    for (uint32_t i = 0; i < w->n_running; i++)
        running[i] = w->running[i].s;
    for (uint32_t i = 0; i < w->n_waiting; i++)
        waiting[i] = w->waiting[i].s;
    memset(clients, 0, sizeof(clients));
    plan = plan_of_clients(running, w->n_running, waiting, w->n_waiting, 1, w->n_pages_free,
                           &w->limits);
    assert_true(!plan.n_preempted || !plan.n_admitted);
    if (plan.n_preempted && collect_ended(w)) /* nobody is put back with steps in flight */
        return;
    for (uint32_t i = 0; i < plan.n_preempted; i++)
        put_back(w);
    admit(w, plan.n_admitted);
    assert_true(w->n_running <= w->limits.max_num_seqs);
    advance(w, &plan);
}

static void test_random_lives_keep_budgets_and_all_finish(void **state) {
    (void)state;
    for (unsigned seed = 0; seed < 300; seed++) {
        World w = { 0 };
        uint32_t n_steps = 0;

        srand(seed);
        w.n_pages = w.n_pages_free = 1 + random_below(12);
        w.limits.max_num_seqs = 1 + random_below(10);
        w.limits.max_batched_tokens = 1 + random_below(seed % 2 ? 300 : 12);
        w.limits.cost = random_cost();
        w.is_late = random_below(2);
        while (w.n_finished < 40) {
            while (w.n_arrived < 40 && w.n_waiting < MANY / 2 && random_below(3) == 0)
                arrive(&w);
            if (w.n_running + w.n_waiting)
                world_step(&w);
            assert_true(++n_steps < 2000000);
        }
        assert_int_equal(w.n_pages_free, w.n_pages);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_to_do_is_an_empty_plan),
        cmocka_unit_test(test_decodes_come_before_prompts),
        cmocka_unit_test(test_prompts_are_chunked_oldest_first),
        cmocka_unit_test(test_a_page_is_taken_when_the_last_is_full),
        cmocka_unit_test(test_admission_takes_pages_for_the_whole_prompt),
        cmocka_unit_test(test_admission_stops_at_max_num_seqs),
        cmocka_unit_test(test_a_head_that_does_not_fit_blocks_those_behind_it),
        cmocka_unit_test(test_headroom_is_a_page_for_each_that_may_grow),
        cmocka_unit_test(test_the_youngest_is_preempted_for_the_oldest),
        cmocka_unit_test(test_the_youngest_preempts_itself),
        cmocka_unit_test(test_only_as_many_are_preempted_as_needed),
        cmocka_unit_test(test_a_preempted_prompt_gives_its_pages_to_a_decode),
        cmocka_unit_test(test_a_prompt_begins_with_all_rows),
        cmocka_unit_test(test_deep_in_a_prompt_a_step_has_fewer_rows),
        cmocka_unit_test(test_decodes_take_work_from_prompts),
        cmocka_unit_test(test_decodes_are_not_refused_and_leave_prompts_a_turn),
        cmocka_unit_test(test_a_window_bounds_what_a_row_costs),
        cmocka_unit_test(test_a_chunk_of_a_page_has_no_more_rows_than_work),
        cmocka_unit_test(test_random_lives_keep_budgets_and_all_finish),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
