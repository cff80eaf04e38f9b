/* SPDX-License-Identifier: Apache-2.0 */
/* Crowds of random clients, whose every step is checked against the scheduler's promises. */

#include "tests/unit/plan_step.h"

#include <stdlib.h>

enum { N_CLIENTS_MAX = 8, N_GUESTS = 150 };

typedef struct Guest {
    SchedulerSequence s;
    uint32_t n_prompt, client, number; /* of its client */
    int64_t work_at_arrival;           /* of the prompts of all so far */
    uint32_t step;                     /* of its arrival */
    bool watched;                      /* it came to a client that had nothing */
} Guest;

typedef struct Order {
    uint32_t items[N_CLIENTS_MAX], n;
} Order;

typedef struct Crowd {
    SchedulerLimits limits;
    Guest guests[N_GUESTS];
    Guest *running[MANY];
    Guest *line[N_CLIENTS_MAX][N_GUESTS];
    uint32_t n_line[N_CLIENTS_MAX], n_running_of[N_CLIENTS_MAX];
    int64_t deficit[N_CLIENTS_MAX];
    Order turns, newcomers;
    uint32_t n_running, n_arrived, n_finished, n_pages, n_pages_free, n_steps;
    uint32_t n_clients;                                    /* that there may be */
    int64_t work, work_of[N_CLIENTS_MAX], work_at_advance; /* of prompts */
    int64_t costliest;                                     /* a row's work */
    const Guest *oldest;                                   /* that ran in the last step */
    uint32_t n_taken;                                      /* preempted for newcomers */
    uint32_t n_watched;
    bool shares; /* the view says that some pages do not come free, though they do */
} Crowd;

static void insert(Order *order, uint32_t client, uint32_t at) {
    memmove(order->items + at + 1, order->items + at, (order->n - at) * sizeof(*order->items));
    order->items[at] = client;
    order->n++;
}

static void take_out(Order *order, uint32_t client) {
    uint32_t i = 0;

    while (order->items[i] != client)
        i++;
    order->n--;
    memmove(order->items + i, order->items + i + 1, (order->n - i) * sizeof(*order->items));
}

static void line_up(Crowd *w, Guest *g, uint32_t at) {
    Guest **line = w->line[g->client];

    memmove(line + at + 1, line + at, (w->n_line[g->client] - at) * sizeof(Guest *));
    line[at] = g;
    w->n_line[g->client]++;
}

static void arrive(Crowd *w, uint32_t client, uint32_t n_prompt, uint32_t n_output) {
    Guest *g = &w->guests[w->n_arrived++];

    *g = (Guest){ .s = arriving(n_prompt, n_prompt + n_output),
                  .n_prompt = n_prompt,
                  .client = client,
                  .number = w->n_arrived,
                  .work_at_arrival = w->work,
                  .step = w->n_steps,
                  .watched = !w->n_line[client] && !w->n_running_of[client] };
    if (g->watched) {
        insert(&w->turns, client, w->turns.n);
        insert(&w->newcomers, client, w->newcomers.n);
        w->deficit[client] = 0;
    }
    w->costliest =
        max_i64(w->costliest, row_cost_work(&w->limits.cost, n_prompt + n_output - 1, 1));
    line_up(w, g, w->n_line[client]);
}

static void leave_running(Crowd *w, Guest *g, bool preempted) {
    w->n_pages_free += g->s.n_pages;
    if (--w->n_running_of[g->client])
        return;
    if (w->n_line[g->client])
        insert(&w->newcomers, g->client, preempted ? 0 : w->newcomers.n);
    else
        take_out(&w->turns, g->client);
}

static void admit_guest(Crowd *w, Guest *g) {
    assert_ptr_equal(w->line[g->client][0], g); /* in the order of its line */
    memmove(w->line[g->client], w->line[g->client] + 1, --w->n_line[g->client] * sizeof(Guest *));
    if (w->n_running_of[g->client]++) {
        assert_int_equal(w->newcomers.n, 0); /* they went before */
        return;
    }
    assert_int_equal(w->newcomers.items[0], g->client); /* nor is one overtaken by another */
    take_out(&w->newcomers, g->client);
}

static StepPlan plan_crowd(Crowd *w, Guest **in_view) {
    SchedulerSequence running[MANY], waiting[2 * MANY];
    SchedulerView view = { .running = running,
                           .waiting = waiting,
                           .n_running = w->n_running,
                           .n_clients = w->turns.n,
                           .n_newcomers = w->newcomers.n,
                           .n_pages_free = w->n_pages_free };
    uint32_t share = 2 * w->limits.max_num_seqs / w->turns.n, index_of[N_CLIENTS_MAX];
    StepPlan plan;

    for (uint32_t i = 0; i < w->turns.n; i++) {
        uint32_t client = w->turns.items[i];

        index_of[client] = i;
        clients[i].deficit = w->deficit[client];
        for (uint32_t j = 0; j < min_u32(w->n_line[client], share); j++) {
            in_view[view.n_waiting] = w->line[client][j];
            waiting[view.n_waiting++] = of(i, w->line[client][j]->s);
        }
    }
    for (uint32_t i = 0; i < w->newcomers.n; i++)
        newcomers[i] = index_of[w->newcomers.items[i]];
    for (uint32_t i = 0; i < w->n_running; i++) {
        running[i] = of(index_of[w->running[i]->client], w->running[i]->s);
        if (w->shares)
            running[i].n_shared_pages = random_below(running[i].n_pages + 1);
    }
    plan = plan_view(view, &w->limits);
    for (uint32_t i = 0; i < w->turns.n; i++)
        w->deficit[w->turns.items[i]] = clients[i].deficit;
    for (uint32_t i = 0; i < plan.i_turn; i++) {
        uint32_t client = w->turns.items[0];

        take_out(&w->turns, client);
        insert(&w->turns, client, w->turns.n);
    }
    return plan;
}

static void move_guests(Crowd *w, const StepPlan *plan, Guest **in_view) {
    uint32_t n_left = 0, n_before = w->n_running;

    for (uint32_t i = 0; i < plan->n_admitted; i++)
        admit_guest(w, in_view[admitted[i]]);
    for (uint32_t i = n_before; i--;)
        if (items[i].preempted) {
            Guest *g = w->running[i];

            line_up(w, g, 0);
            leave_running(w, g, true);
            g->s.n_pages = g->s.n_computed = 0;
            g->watched = false;
            if (plan->n_admitted)
                assert_true(w->n_running_of[g->client] > 0); /* never the last one */
            w->n_taken += plan->n_admitted != 0;
        }
    for (uint32_t i = 0; i < n_before; i++)
        if (!items[i].preempted) {
            w->running[n_left] = w->running[i];
            items[n_left++] = items[i];
        }
    for (uint32_t i = 0; i < plan->n_admitted; i++) {
        items[n_left] = items[n_before + i];
        w->running[n_left++] = in_view[admitted[i]];
    }
    w->n_running = n_left;
}

/* What is given to others in the step that ends a wait comes on top. */
static int64_t step_work(const Crowd *w) {
    return scheduler_work(&w->limits) + w->costliest;
}

/* A newcomer's first token: header, "How long a newcomer waits". */
static void check_wait(Crowd *w, Guest *g) {
    int64_t own = row_cost_work(&w->limits.cost, 0, g->n_prompt);

    if (!g->watched)
        return;
    g->watched = false;
    w->n_watched++;
    assert_true(w->work - g->work_at_arrival <=
                w->n_clients * (own + scheduler_quantum(&w->limits) + w->costliest) + step_work(w));
}

/* The oldest has a row before everybody has been given as much as the debt of its client, and a
 * turn. */
static void check_oldest(Crowd *w) {
    if (items[0].n_tokens || w->running[0] != w->oldest)
        w->work_at_advance = w->work;
    w->oldest = w->running[0];
    assert_true(w->work - w->work_at_advance <=
                w->n_clients * (scheduler_quantum(&w->limits) + 2 * w->costliest) + step_work(w));
}

static void advance_crowd(Crowd *w, const StepPlan *plan) {
    uint32_t n_tokens = 0, n_left = 0;

    for (uint32_t i = 0; i < w->n_running; i++) {
        Guest *g = w->running[i];
        bool decodes = g->s.n_known - g->s.n_computed == 1 && g->s.n_computed;
        int64_t work;

        assert_true(items[i].n_new_pages <= w->n_pages_free);
        w->n_pages_free -= items[i].n_new_pages;
        g->s.n_pages += items[i].n_new_pages;
        work = row_cost_work(&w->limits.cost, g->s.n_computed, items[i].n_tokens);
        g->s.n_computed += items[i].n_tokens;
        assert_true(g->s.n_computed <= g->s.n_known && g->s.n_pages * 64 >= g->s.n_computed);
        n_tokens += items[i].n_tokens;
        if (decodes)
            assert_int_equal(items[i].n_tokens, 1);
        else
            w->work += work, w->work_of[g->client] += work;
    }
    assert_int_equal(n_tokens, plan->n_tokens);
    assert_true(n_tokens > 0 && n_tokens <= w->limits.max_batched_tokens);
    check_oldest(w);
    for (uint32_t i = 0; i < w->n_running; i++) {
        Guest *g = w->running[i];

        if (g->s.n_computed == g->s.n_known)
            check_wait(w, g);
        if (g->s.n_computed == g->s.n_known && g->s.n_known == g->s.n_max) {
            leave_running(w, g, false);
            w->n_finished++;
            continue;
        }
        g->s.n_known += g->s.n_computed == g->s.n_known;
        w->running[n_left++] = g;
    }
    w->n_running = n_left;
}

static void check_lines(const Crowd *w) {
    assert_true(w->n_running <= min_u32(w->limits.max_num_seqs, w->limits.max_batched_tokens));
    for (uint32_t i = 0; i < w->n_running; i++) {
        const Guest *g = w->running[i];

        if (w->n_line[g->client]) /* of one client, the first to come are those that run */
            assert_true(g->number < w->line[g->client][0]->number);
    }
}

static void crowd_step(Crowd *w) {
    Guest *in_view[2 * MANY];
    StepPlan plan = plan_crowd(w, in_view);

    move_guests(w, &plan, in_view);
    check_lines(w);
    advance_crowd(w, &plan);
    w->n_steps++;
}

/* Short of everything, in all proportions: budgets hold and all finish. */
static void test_random_crowds_keep_budgets_and_all_finish(void **state) {
    static Crowd w;
    uint32_t n_taken = 0;

    (void)state;
    for (unsigned seed = 0; seed < 400; seed++) {
        srand(seed);
        w = (Crowd){ .n_pages = 1 + random_below(seed % 5 ? 12 : 60),
                     .n_clients = 1 + random_below(N_CLIENTS_MAX),
                     .shares = seed % 3 == 0,
                     .limits = { .max_num_seqs = 4 + random_below(20),
                                 .max_batched_tokens = 1 + random_below(seed % 2 ? 300 : 12),
                                 .cost = random_cost(),
                                 .page_exact = random_below(2) } };
        w.n_pages_free = w.n_pages;
        while (w.n_finished < N_GUESTS) {
            while (w.n_arrived < N_GUESTS && random_below(3) == 0) {
                uint32_t n_most = w.n_pages * 64;
                uint32_t n_prompt =
                    1 + random_below(random_below(2) ? n_most : min_u32(70, n_most));

                arrive(&w, random_below(1 + random_below(w.n_clients)), n_prompt,
                       random_below(min_u32(n_most - n_prompt, 300) + 1));
                w.guests[w.n_arrived - 1].watched = false; /* pages may be short */
            }
            if (w.turns.n)
                crowd_step(&w);
            assert_true(w.n_steps < 1000000);
        }
        assert_int_equal(w.n_pages_free, w.n_pages);
        n_taken += w.n_taken;
    }
    assert_true(n_taken > 100);
}

/* With pages for all, whoever comes to a client that has nothing begins at once, as long as there
 * are fewer clients than slots. */
static void test_newcomers_do_not_wait_for_hogs(void **state) {
    static Crowd w;
    uint32_t n_watched = 0, n_taken = 0;

    (void)state;
    for (unsigned seed = 0; seed < 300; seed++) {
        srand(seed);
        w = (Crowd){ .n_pages = 100000,
                     .n_pages_free = 100000,
                     .n_clients = 2 + random_below(N_CLIENTS_MAX - 1),
                     .limits = { .max_num_seqs = N_CLIENTS_MAX + random_below(24),
                                 .max_batched_tokens = 64 + random_below(500),
                                 .cost = random_cost() } };
        for (uint32_t i = 0; i < 80; i++)
            arrive(&w, 0, 1 + random_below(300), random_below(200));
        while (w.n_finished < N_GUESTS) {
            if (w.n_arrived < N_GUESTS && random_below(10) == 0)
                arrive(&w, 1 + random_below(w.n_clients - 1), 1 + random_below(300),
                       random_below(100));
            if (w.turns.n)
                crowd_step(&w);
        }
        n_watched += w.n_watched;
        n_taken += w.n_taken;
    }
    assert_true(n_watched > 3000 && n_taken > 1000);
}

/* 256 prompts with 16 choices each, as far as they are in the view, and somebody else. */
static void test_a_newcomer_has_its_first_token_within_four_steps(void **state) {
    static Crowd w;

    (void)state;
    for (uint32_t n_before = 0; n_before < 40; n_before++) {
        w = (Crowd){ .n_pages = 2000,
                     .n_pages_free = 2000,
                     .n_clients = 2,
                     .limits = {
                         .max_num_seqs = 60, .max_batched_tokens = 512, .cost = ROW_COST_EQUAL } };
        for (uint32_t i = 0; i < N_GUESTS - 1; i++)
            arrive(&w, 0, 1 + i * 37 % (n_before % 2 ? 5 : 400), 500);
        while (w.n_steps < n_before)
            crowd_step(&w);
        arrive(&w, 1, 512, 10);
        while (w.guests[N_GUESTS - 1].s.n_known == 512)
            crowd_step(&w);
        assert_true(w.n_steps - n_before <= 4);
    }
}

/* Somebody who reads 16 books, and somebody else with a page: each step is as long as one of the
 * first rows of a prompt, and the newcomer's share of it does not depend on how far the others are.
 */
static void test_a_newcomer_has_its_first_token_within_four_steps_of_books(void **state) {
    static Crowd w;

    (void)state;
    for (uint32_t n_before = 0; n_before < 400; n_before += 7) {
        w = (Crowd){ .n_pages = 20000,
                     .n_pages_free = 20000,
                     .n_clients = 2,
                     .limits = { .max_num_seqs = 60,
                                 .max_batched_tokens = 512,
                                 .cost = { .products = 3072, .n_full_layers = 1 } } };
        for (uint32_t i = 0; i < 16; i++)
            arrive(&w, 0, 20000, 500);
        while (w.n_steps < n_before)
            crowd_step(&w);
        arrive(&w, 1, 512, 10);
        while (w.guests[16].s.n_known == 512)
            crowd_step(&w);
        assert_true(w.n_steps - n_before <= 4);
    }
}

/* For as long as each has prompts enough for its turns. */
static void test_greedy_clients_get_the_same_work(void **state) {
    static Crowd w;

    (void)state;
    for (unsigned seed = 0; seed < 100; seed++) {
        int64_t most, least;

        srand(seed);
        w = (Crowd){ .n_pages = 100000, .n_pages_free = 100000 };
        w.n_clients = 2 + random_below(3);
        w.limits.max_num_seqs = 60;
        w.limits.max_batched_tokens = 32 + random_below(500);
        w.limits.cost = random_cost();
        for (uint32_t i = 0; i < N_GUESTS; i++)
            arrive(&w, i % w.n_clients, 200 + random_below(i % w.n_clients ? 2000 : 200),
                   random_below(3));
        for (;;) {
            crowd_step(&w);
            if (!w.n_line[0]) /* it has the shortest prompts */
                break;
            most = 0;
            least = INT64_MAX;
            for (uint32_t i = 0; i < w.n_clients; i++) {
                most = max_i64(most, w.work_of[i]);
                least = min_i64(least, w.work_of[i]);
            }
            assert_true(most - least <= scheduler_quantum(&w.limits) + w.costliest);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_crowds_keep_budgets_and_all_finish),
        cmocka_unit_test(test_newcomers_do_not_wait_for_hogs),
        cmocka_unit_test(test_a_newcomer_has_its_first_token_within_four_steps),
        cmocka_unit_test(test_a_newcomer_has_its_first_token_within_four_steps_of_books),
        cmocka_unit_test(test_greedy_clients_get_the_same_work),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
