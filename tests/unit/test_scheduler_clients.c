/* SPDX-License-Identifier: Apache-2.0 */
/* What clients do to each other: turns, newcomers and preemption by name, and that a single client
 * notices none of it. */

#include "tests/unit/plan_step.h"

#include <stdlib.h>

static StepPlan plan_fresh(const SchedulerSequence *running, uint32_t n_running,
                           const SchedulerSequence *waiting, uint32_t n_waiting, uint32_t n_clients,
                           uint32_t n_pages_free, uint32_t max_num_seqs,
                           uint32_t max_batched_tokens) {
    SchedulerLimits limits = { .max_num_seqs = max_num_seqs,
                               .max_batched_tokens = max_batched_tokens,
                               .cost = ROW_COST_EQUAL };

    memset(clients, 0, sizeof(clients));
    return plan_of_clients(running, n_running, waiting, n_waiting, n_clients, n_pages_free,
                           &limits);
}

/* turns */

static void test_clients_share_prompt_rows(void **state) {
    SchedulerSequence running[] = { of(0, prefilling(900, 0)), of(0, prefilling(900, 0)),
                                    of(0, prefilling(900, 0)), of(1, prefilling(900, 0)) };
    SchedulerSequence waiting[] = { of(2, arriving(900, 900)) };

    (void)state;
    plan_fresh(running, 4, waiting, 1, 3, 50, 8, 192 * 3);
    assert_int_equal(items[0].n_tokens, 192);
    assert_int_equal(items[3].n_tokens, 192);
    assert_int_equal(items[4].n_tokens, 192);
    /* What one cannot use goes to the others. */
    running[3] = of(1, prefilling(900, 890));
    plan_fresh(running, 4, waiting, 1, 3, 50, 8, 192 * 3);
    assert_int_equal(items[3].n_tokens, 10);
    assert_int_equal(items[0].n_tokens + items[4].n_tokens, 192 * 3 - 10);
    assert_true(items[0].n_tokens <= items[4].n_tokens + 64);
    assert_true(items[4].n_tokens <= items[0].n_tokens + 64);
}

static void test_a_turn_cut_short_goes_on_in_the_next_step(void **state) {
    SchedulerSequence running[] = { of(0, prefilling(900, 0)), of(1, prefilling(900, 0)) };
    SchedulerLimits limits = { .max_num_seqs = 4,
                               .max_batched_tokens = 70,
                               .cost = ROW_COST_EQUAL };
    StepPlan plan;

    (void)state;
    assert_int_equal(scheduler_quantum(&limits), 17);
    memset(clients, 0, sizeof(clients));
    plan = plan_of_clients(running, 2, NULL, 0, 2, 9, &limits);
    assert_int_equal(items[0].n_tokens, 17 + 17 + 2);
    assert_int_equal(items[1].n_tokens, 17 + 17);
    assert_int_equal(plan.i_turn, 0);
    assert_int_equal(clients[0].deficit, 15);
    plan = plan_of_clients(running, 2, NULL, 0, 2, 9, &limits);
    assert_int_equal(items[0].n_tokens, 15 + 17 + 4);
    assert_int_equal(items[1].n_tokens, 17 + 17);
    assert_int_equal(plan.i_turn, 0);
    assert_int_equal(clients[0].deficit, 13);
    assert_int_equal(clients[1].deficit, 0);
}

static void test_a_client_without_work_keeps_no_deficit(void **state) {
    SchedulerSequence running[] = { of(0, decoding(10, 90)), of(1, prefilling(900, 0)) };
    SchedulerLimits limits = { .max_num_seqs = 4,
                               .max_batched_tokens = 65,
                               .cost = ROW_COST_EQUAL };

    (void)state;
    memset(clients, 0, sizeof(clients));
    clients[0].deficit = 9;
    plan_of_clients(running, 2, NULL, 0, 2, 9, &limits);
    assert_int_equal(clients[0].deficit, 0);
    assert_int_equal(items[1].n_tokens, 64);
}

static void test_slots_that_come_free_one_by_one_go_round(void **state) {
    SchedulerSequence running[] = { of(0, decoding(10, 90)), of(0, decoding(10, 90)),
                                    of(1, decoding(10, 90)) };
    SchedulerSequence waiting[] = { of(0, arriving(5, 9)), of(1, arriving(5, 9)) };
    StepPlan plan = plan_fresh(running, 3, waiting, 2, 2, 50, 4, 100);

    (void)state;
    assert_int_equal(plan.n_admitted, 1);
    assert_int_equal(admitted[0], 0);
    assert_int_equal(plan.i_turn, 1);
}

/* A row at position 1,000 costs two. */
static void test_turns_are_work(void **state) {
    SchedulerSequence running[] = { of(0, prefilling(1900, 1000)), of(1, prefilling(900, 0)) };
    SchedulerLimits limits = { .max_num_seqs = 4,
                               .max_batched_tokens = 192,
                               .cost = { .products = 1000, .n_full_layers = 1 } };

    (void)state;
    memset(clients, 0, sizeof(clients));
    plan_of_clients(running, 2, NULL, 0, 2, 0, &limits);
    /* A turn is 48 rows at the start of a prompt; the third one of the first client ends the step.
     */
    assert_int_equal(items[0].n_tokens, 25 + 24 + 7);
    assert_int_equal(items[1].n_tokens, 48 + 46);
}

static void test_a_row_on_credit_is_paid_by_turns(void **state) {
    SchedulerSequence running[] = { of(0, prefilling(900, 6)), of(1, prefilling(900, 6)) };
    SchedulerLimits limits = { .max_num_seqs = 4,
                               .max_batched_tokens = 7,
                               .cost = { .products = 2, .n_sliding_layers = 1, .window = 6 } };

    (void)state;
    /* A turn is 2, a step 2 + 3 + 4 + 5 + 6 + 7 + 8; its rows cost 8 each: one in four turns. */
    assert_int_equal(scheduler_quantum(&limits), 2);
    assert_int_equal(scheduler_work(&limits), 35);
    memset(clients, 0, sizeof(clients));
    plan_of_clients(running, 2, NULL, 0, 2, 0, &limits);
    assert_int_equal(items[0].n_tokens, 3); /* the fifth row of the step ends it */
    assert_int_equal(items[1].n_tokens, 2);
    assert_int_equal(clients[0].deficit, 9 * 2 - 3 * 8);
    assert_int_equal(clients[1].deficit, 8 * 2 - 2 * 8);
}

/* newcomers */

static void test_a_newcomer_has_the_free_slot_before_others(void **state) {
    SchedulerSequence running[] = { of(0, decoding(10, 90)) };
    SchedulerSequence waiting[] = { of(0, arriving(5, 9)), of(0, arriving(5, 9)),
                                    of(1, arriving(7, 9)) };
    StepPlan plan = plan_fresh(running, 1, waiting, 3, 2, 50, 2, 100);

    (void)state;
    assert_int_equal(plan.n_admitted, 1);
    assert_int_equal(admitted[0], 2);
    assert_int_equal(items[1].n_tokens, 7);
    assert_int_equal(plan.n_preempted, 0);
}

static void test_a_newcomer_takes_a_slot_from_who_runs_most(void **state) {
    SchedulerSequence running[] = { of(0, decoding(10, 90)), of(1, decoding(10, 90)),
                                    of(0, decoding(10, 90)), of(0, prefilling(90, 0)),
                                    of(1, decoding(10, 90)) };
    SchedulerSequence waiting[] = { of(0, arriving(5, 9)), of(2, arriving(7, 9)) };
    StepPlan plan = plan_fresh(running, 5, waiting, 2, 3, 50, 5, 100);

    (void)state;
    assert_int_equal(plan.n_preempted, 1);
    assert_true(items[3].preempted);
    assert_int_equal(items[3].n_tokens, 0);
    assert_int_equal(plan.n_admitted, 1);
    assert_int_equal(admitted[0], 1);
    assert_int_equal(items[5].n_tokens, 7);
    assert_int_equal(plan.n_tokens, 4 + 7);
    assert_int_equal(plan.i_turn, 0); /* after the third comes the first */
}

static void test_of_equals_the_one_admitted_last_goes(void **state) {
    SchedulerSequence running[] = { of(0, decoding(10, 90)), of(1, decoding(10, 90)),
                                    of(1, decoding(10, 90)), of(0, decoding(10, 90)) };
    SchedulerSequence waiting[] = { of(2, arriving(7, 9)), of(3, arriving(7, 9)) };
    StepPlan plan = plan_fresh(running, 4, waiting, 1, 3, 50, 4, 100);

    (void)state;
    assert_int_equal(plan.n_preempted, 1);
    assert_true(items[3].preempted);
    /* Two newcomers: one of each. */
    plan = plan_fresh(running, 4, waiting, 2, 4, 50, 4, 100);
    assert_int_equal(plan.n_preempted, 2);
    assert_true(items[3].preempted && items[2].preempted);
    assert_int_equal(plan.n_admitted, 2);
    assert_int_equal(plan.n_tokens, 2 + 14);
}

static void test_nobody_gives_its_last_one(void **state) {
    SchedulerSequence running[] = { of(0, decoding(10, 90)), of(1, decoding(10, 90)) };
    SchedulerSequence waiting[] = { of(2, arriving(7, 9)) };
    StepPlan plan = plan_fresh(running, 2, waiting, 1, 3, 50, 2, 100);

    (void)state;
    assert_int_equal(plan.n_preempted + plan.n_admitted, 0);
    assert_int_equal(plan.n_tokens, 2);
}

static void test_a_newcomer_takes_as_many_pages_as_it_needs(void **state) {
    SchedulerSequence running[] = { of(0, decoding(640, 650)), of(0, decoding(640, 650)),
                                    of(0, decoding(640, 650)), of(0, decoding(640, 650)) };
    SchedulerSequence waiting[] = { of(1, arriving(22 * 64, 22 * 64)) };
    StepPlan plan;

    (void)state;
    /* The four take a page each in this step; two come back with eleven each. */
    plan = plan_fresh(running, 4, waiting, 1, 2, 4, 8, 100);
    assert_int_equal(plan.n_preempted, 2);
    assert_true(items[3].preempted && items[2].preempted);
    assert_int_equal(plan.n_admitted, 1);
    assert_int_equal(items[4].n_new_pages, 22);
    assert_int_equal(items[4].n_tokens, 98);
    /* What others hold too does not come free. */
    running[3].n_shared_pages = running[2].n_shared_pages = 5;
    plan = plan_fresh(running, 4, waiting, 1, 2, 4, 8, 100);
    assert_int_equal(plan.n_preempted, 3);
    /* In vain: nobody. */
    waiting[0] = of(1, arriving(34 * 64, 34 * 64));
    plan = plan_fresh(running, 4, waiting, 1, 2, 4, 8, 100);
    assert_int_equal(plan.n_preempted + plan.n_admitted, 0);
    assert_int_equal(plan.n_tokens, 4);
}

static void test_who_goes_needs_no_headroom(void **state) {
    SchedulerSequence running[] = { of(0, decoding(10, 500)), of(0, decoding(10, 500)),
                                    of(0, decoding(10, 500)) };
    SchedulerSequence waiting[] = { of(1, arriving(64, 64)) };
    StepPlan plan = plan_fresh(running, 3, waiting, 1, 2, 2, 8, 100);

    (void)state;
    /* One page for it and one for each of the two that stay. */
    assert_int_equal(plan.n_preempted, 1);
    assert_int_equal(plan.n_admitted, 1);
}

static void test_a_newcomer_that_does_not_fit_stops_admissions(void **state) {
    SchedulerSequence running[] = { of(0, decoding(10, 20)) };
    SchedulerSequence waiting[] = { of(0, arriving(1, 1)), of(1, arriving(640, 640)),
                                    of(2, arriving(1, 1)) };

    (void)state;
    assert_int_equal(plan_fresh(running, 1, waiting, 3, 3, 9, 8, 1000).n_admitted, 0);
    assert_int_equal(plan_fresh(running, 1, waiting, 3, 3, 12, 8, 1000).n_admitted, 3);
}

static void test_who_runs_something_waits_by_itself(void **state) {
    SchedulerSequence running[] = { of(0, decoding(10, 20)), of(1, decoding(10, 20)) };
    SchedulerSequence waiting[] = { of(0, arriving(640, 640)), of(0, arriving(1, 1)),
                                    of(1, arriving(2, 2)), of(1, arriving(3, 3)) };
    StepPlan plan = plan_fresh(running, 2, waiting, 4, 2, 9, 8, 1000);

    (void)state;
    assert_int_equal(plan.n_admitted, 2);
    assert_int_equal(admitted[0], 2);
    assert_int_equal(admitted[1], 3);
}

static void test_who_lost_a_sequence_admits_none_before_it(void **state) {
    SchedulerSequence running[] = { of(0, decoding(10, 90)), of(0, decoding(640, 650)) };
    SchedulerSequence waiting[] = { of(0, arriving(5, 5)), of(1, arriving(3 * 64, 3 * 64)) };
    StepPlan plan = plan_fresh(running, 2, waiting, 2, 2, 2, 8, 1000);

    (void)state;
    assert_true(items[1].preempted);
    assert_int_equal(plan.n_admitted, 1);
    assert_int_equal(admitted[0], 1);
}

/* Everybody has a turn of 64 rows, and the newcomer what it asks for. */
static void test_a_newcomer_s_step_is_short(void **state) {
    SchedulerSequence running[] = { of(0, prefilling(900, 0)), of(1, decoding(10, 90)) };
    SchedulerSequence waiting[] = { of(2, arriving(7, 9)) };
    StepPlan plan = plan_fresh(running, 2, waiting, 1, 3, 50, 8, 600);

    (void)state;
    assert_int_equal(plan.n_tokens, 64 + 1 + 7);
    assert_int_equal(items[2].n_tokens, 7);
    assert_int_equal(plan.i_turn, 0);
    /* As many rounds as it takes until it has all. */
    waiting[0] = of(2, arriving(150, 200));
    plan = plan_fresh(running, 2, waiting, 1, 3, 50, 8, 600);
    assert_int_equal(items[2].n_tokens, 150);
    assert_int_equal(plan.n_tokens, 3 * 64 + 1 + 150);
    /* It cannot have all in this step: nothing would be won. */
    waiting[0] = of(2, arriving(700, 800));
    plan = plan_fresh(running, 2, waiting, 1, 3, 50, 8, 600);
    assert_int_equal(plan.n_tokens, 600);
}

static void test_a_newcomer_s_step_has_a_turn_for_those_after_it(void **state) {
    SchedulerSequence running[] = { of(1, prefilling(900, 0)) };
    SchedulerSequence waiting[] = { of(0, arriving(7, 9)) };
    StepPlan plan = plan_fresh(running, 1, waiting, 1, 2, 50, 8, 600);

    (void)state;
    assert_int_equal(items[0].n_tokens, 64);
    assert_int_equal(items[1].n_tokens, 7);
    assert_int_equal(plan.i_turn, 0);
}

static void test_newcomers_alone_have_a_whole_step(void **state) {
    SchedulerSequence waiting[] = { of(0, arriving(7, 9)), of(0, arriving(900, 900)),
                                    of(1, arriving(7, 9)), of(1, arriving(900, 900)) };

    (void)state;
    assert_int_equal(plan_fresh(NULL, 0, waiting, 4, 2, 50, 8, 600).n_tokens, 600);
}

/* pages for decodes */

static void test_pages_for_decodes_come_from_who_runs_most(void **state) {
    SchedulerSequence running[] = { of(0, decoding(10, 90)), of(0, decoding(640, 650)),
                                    of(1, decoding(64, 90)) };
    StepPlan plan = plan_fresh(running, 3, NULL, 0, 2, 1, 8, 100);

    (void)state;
    /* It had its row and its page already; both go to others. */
    assert_int_equal(plan.n_preempted, 1);
    assert_true(items[1].preempted);
    assert_int_equal(items[1].n_tokens + items[1].n_new_pages, 0);
    assert_int_equal(items[2].n_tokens, 1);
    assert_int_equal(items[2].n_new_pages, 1);
    assert_int_equal(plan.n_tokens, 2);
}

/* Pages that are shared across clients are counted as nobody's to give. */
static void test_the_last_one_left_has_all_pages(void **state) {
    SchedulerSequence running[] = { of(0, decoding(64, 90)), of(1, decoding(128, 190)),
                                    of(2, decoding(128, 190)) };
    StepPlan plan;

    (void)state;
    running[1].n_shared_pages = running[2].n_shared_pages = 2;
    plan = plan_fresh(running, 3, NULL, 0, 3, 0, 8, 100);
    assert_int_equal(plan.n_preempted, 2);
    assert_int_equal(items[0].n_tokens, 1);
    assert_int_equal(items[0].n_new_pages, 1);
}

/* one client */

static uint32_t pages_of(uint32_t n_tokens) {
    return (n_tokens + 63) / 64;
}

/* First come, first served, written down once more: rows of each running sequence or UINT32_MAX for
 * a preempted one, then of each admitted one. Returns how many are admitted. */
static uint32_t serve_in_order(const SchedulerSequence *running, uint32_t n_running,
                               const SchedulerSequence *waiting, uint32_t n_waiting,
                               uint32_t n_pages, const SchedulerLimits *limits, uint32_t *rows) {
    uint32_t n_kept = n_running, n_rows = limits->max_batched_tokens, n_growing = 0, n_admitted = 0;
    uint32_t max_seqs = min_u32(limits->max_num_seqs, n_rows);

    memset(rows, 0, n_running * sizeof(*rows));
    for (uint32_t i = 0; i < n_kept; i++) {
        bool grows = running[i].n_computed == 64 * running[i].n_pages;

        if (running[i].n_known - running[i].n_computed != 1)
            continue;
        while (grows && !n_pages && n_kept > i) {
            n_pages += running[--n_kept].n_pages;
            rows[n_kept] = UINT32_MAX;
        }
        if (i >= n_kept)
            break;
        rows[i] = 1;
        n_rows--;
        n_pages -= grows;
    }
    for (uint32_t i = 0; i < n_kept; i++) {
        uint32_t n_rest = running[i].n_known - running[i].n_computed;
        bool grew = n_rest == 1 && running[i].n_computed == 64 * running[i].n_pages;

        if (limits->page_exact)
            n_rest = min_u32(n_rest, 64 - running[i].n_computed % 64);
        if (!rows[i])
            rows[i] = min_u32(n_rest, n_rows), n_rows -= rows[i];
        n_growing += pages_of(running[i].n_max) > running[i].n_pages + grew;
    }
    while (n_kept == n_running && n_admitted < n_waiting && n_kept + n_admitted < max_seqs &&
           n_rows) {
        const SchedulerSequence *s = &waiting[n_admitted];
        uint32_t n_chunk = limits->page_exact ? min_u32(s->n_known, 64) : s->n_known;
        uint32_t n_need = pages_of(s->n_known);

        n_growing += pages_of(s->n_max) > n_need;
        if (n_need + (n_kept + n_admitted ? n_growing : 0) > n_pages)
            break;
        n_pages -= n_need;
        rows[n_running + n_admitted] = min_u32(n_chunk, n_rows);
        n_rows -= rows[n_running + n_admitted++];
    }
    return n_admitted;
}

static void test_one_client_is_served_in_order(void **state) {
    SchedulerSequence running[16], waiting[16];
    uint32_t rows[32], n_preempting = 0, n_admitting = 0;

    (void)state;
    srand(5);
    for (int round = 0; round < 20000; round++) {
        SchedulerLimits limits = { .max_num_seqs = 1 + random_below(16),
                                   .max_batched_tokens = 1 + random_below(300),
                                   .cost = ROW_COST_EQUAL,
                                   .page_exact = random_below(2) };
        uint32_t max_seqs = min_u32(limits.max_num_seqs, limits.max_batched_tokens);
        uint32_t n_running = random_below(max_seqs + 1), n_waiting = random_below(16);
        uint32_t n_pages = random_below(round % 2 ? 4 : 30), n_admitted;
        StepPlan plan;

        if (!n_running && !n_waiting)
            continue;
        for (uint32_t i = 0; i < n_running; i++) {
            uint32_t n = 1 + random_below(200);

            running[i] = random_below(2) ? decoding(random_below(2) ? n : (n + 63) / 64 * 64, 300)
                                         : prefilling(n + 1, random_below(n));
            if (random_below(8) == 0) /* its end is on its way */
                running[i].n_known = running[i].n_max = running[i].n_computed;
        }
        for (uint32_t i = 0; i < n_waiting; i++)
            waiting[i] = arriving(1 + random_below(200), 200 + random_below(200));
        if (!n_running)
            n_pages = 30; /* then all of them are free */
        if (n_running == 1 && !n_pages)
            n_pages = 1; /* alone it fits */
        memset(clients, 0, sizeof(clients));
        clients[0].deficit = random_below((uint32_t)scheduler_quantum(&limits) + 1);
        plan = plan_of_clients(running, n_running, waiting, n_waiting, 1, n_pages, &limits);
        n_admitted = serve_in_order(running, n_running, waiting, n_waiting, n_pages, &limits, rows);
        assert_int_equal(plan.n_admitted, n_admitted);
        for (uint32_t i = 0; i < n_running; i++) {
            assert_int_equal(items[i].preempted, rows[i] == UINT32_MAX);
            assert_int_equal(items[i].n_tokens, items[i].preempted ? 0 : rows[i]);
            n_preempting += items[i].preempted;
        }
        for (uint32_t i = 0; i < n_admitted; i++) {
            assert_int_equal(admitted[i], i);
            assert_int_equal(items[n_running + i].n_tokens, rows[n_running + i]);
        }
        n_admitting += n_admitted;
    }
    assert_true(n_preempting > 1000 && n_admitting > 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clients_share_prompt_rows),
        cmocka_unit_test(test_a_turn_cut_short_goes_on_in_the_next_step),
        cmocka_unit_test(test_a_client_without_work_keeps_no_deficit),
        cmocka_unit_test(test_turns_are_work),
        cmocka_unit_test(test_a_row_on_credit_is_paid_by_turns),
        cmocka_unit_test(test_slots_that_come_free_one_by_one_go_round),
        cmocka_unit_test(test_a_newcomer_has_the_free_slot_before_others),
        cmocka_unit_test(test_a_newcomer_takes_a_slot_from_who_runs_most),
        cmocka_unit_test(test_of_equals_the_one_admitted_last_goes),
        cmocka_unit_test(test_nobody_gives_its_last_one),
        cmocka_unit_test(test_a_newcomer_takes_as_many_pages_as_it_needs),
        cmocka_unit_test(test_who_goes_needs_no_headroom),
        cmocka_unit_test(test_a_newcomer_that_does_not_fit_stops_admissions),
        cmocka_unit_test(test_who_runs_something_waits_by_itself),
        cmocka_unit_test(test_who_lost_a_sequence_admits_none_before_it),
        cmocka_unit_test(test_a_newcomer_s_step_is_short),
        cmocka_unit_test(test_a_newcomer_s_step_has_a_turn_for_those_after_it),
        cmocka_unit_test(test_newcomers_alone_have_a_whole_step),
        cmocka_unit_test(test_pages_for_decodes_come_from_who_runs_most),
        cmocka_unit_test(test_the_last_one_left_has_all_pages),
        cmocka_unit_test(test_one_client_is_served_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
