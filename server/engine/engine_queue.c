/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who waits in the engine, and whose turn it is. A client exists here while it has sequences, and
 * for as long keeps its place in the order of turns. With nothing running it also stands among the
 * newcomers (server/engine/scheduler.h). Its own waiting sequences are in its line.
 *
 * A step costs time for each client, and for the sequences in the scheduler's view, which are at
 * most twice max_num_seqs, however many wait.
 */
#include "server/engine/engine_state.h"

#include <errno.h>
#include <stdlib.h>

struct EngineClient {
    List link;     /* in the turns */
    List newcomer; /* among the newcomers while nothing of it runs */
    List bucket;   /* in the table by id */
    List line;     /* Sequence.link of those that wait; first come first, preempted ones before */
    uint64_t id;
    uint32_t n_running;
    int64_t deficit; /* the scheduler's */
    uint32_t i_view; /* in the view of the step at hand */
    bool in_view;
};

/* clients */

static List *bucket_of(Engine *e, uint64_t id) {
    /* Ids may be addresses, whose low bits are much alike: the high bits of a product are not. */
    return &e->client_buckets[id * UINT64_C(0x9E3779B97F4A7C15) >> (64 - ENGINE_CLIENT_BITS)];
}

static EngineClient *find_client(Engine *e, uint64_t id) {
    list_for_each(link, bucket_of(e, id)) {
        EngineClient *c = container_of(link, EngineClient, bucket);

        if (c->id == id)
            return c;
    }
    return NULL;
}

static EngineClient *new_client(Engine *e, uint64_t id) {
    EngineClient *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->id = id;
    list_init(&c->line);
    list_push_back(bucket_of(e, id), &c->bucket);
    list_push_back(&e->turns, &c->link);
    list_push_back(&e->newcomers, &c->newcomer);
    return c;
}

/* Of one with neither running nor waiting sequences. */
static void forget_if_empty(EngineClient *c) {
    if (c->n_running || !list_is_empty(&c->line))
        return;
    list_remove(&c->link);
    list_remove(&c->newcomer);
    list_remove(&c->bucket);
    free(c);
}

/* sequences */

void engine_queue_init(Engine *e) {
    list_init(&e->turns);
    list_init(&e->newcomers);
    for (size_t i = 0; i < sizeof(e->client_buckets) / sizeof(*e->client_buckets); i++)
        list_init(&e->client_buckets[i]);
}

int engine_queue_add(Engine *e, Sequence *s) {
    EngineClient *c = find_client(e, s->request->client);

    if (!c)
        c = new_client(e, s->request->client);
    if (!c)
        return -ENOMEM;
    s->client = c;
    list_push_back(&c->line, &s->link);
    e->n_waiting++;
    return 0;
}

void engine_queue_admit(Engine *e, Sequence *s) {
    list_remove(&s->link);
    e->n_waiting--;
    if (!s->client->n_running++)
        list_remove(&s->client->newcomer);
}

void engine_queue_put_back(Engine *e, Sequence *s) {
    list_push_front(&s->client->line, &s->link);
    e->n_waiting++;
    if (!--s->client->n_running)
        list_push_front(&e->newcomers, &s->client->newcomer);
}

void engine_queue_end_running(Engine *e, Sequence *s) {
    EngineClient *c = TAKE(s->client);

    if (!--c->n_running)
        list_push_back(&e->newcomers, &c->newcomer);
    forget_if_empty(c);
}

static void sweep_client(Engine *e, EngineClient *c, bool all, FinishReason reason,
                         const char *error, List *ended) {
    list_for_each_safe(link, &c->line) {
        Sequence *s = container_of(link, Sequence, link);

        if (!all && !atomic_load_explicit(&s->request->cancelled, memory_order_relaxed))
            continue;
        sequence_finish(s, reason, error);
        s->client = NULL;
        list_remove(link);
        list_push_back(ended, link);
        e->n_waiting--;
    }
    forget_if_empty(c);
}

void engine_queue_cancel_waiting(Engine *e, bool all, List *ended) {
    list_for_each_safe(link, &e->turns)
        sweep_client(e, container_of(link, EngineClient, link), all, FINISH_CANCELLED, NULL, ended);
}

void engine_queue_fail_waiting(Engine *e, const char *error, List *ended) {
    list_for_each_safe(link, &e->turns)
        sweep_client(e, container_of(link, EngineClient, link), true, FINISH_ERROR, error, ended);
}

/* the view */

/* No step admits more than max_num_seqs: as many newcomers suffice. Returns how many clients the
 * view will have. */
static uint32_t choose_clients(Engine *e) {
    uint32_t n_newcomers = 0, n_clients = 0;

    list_for_each(link, &e->newcomers)
        container_of(link, EngineClient, newcomer)->in_view =
            n_newcomers++ < e->options.max_num_seqs;
    list_for_each(link, &e->turns) {
        EngineClient *c = container_of(link, EngineClient, link);

        c->in_view = c->in_view || c->n_running;
        n_clients += c->in_view;
    }
    return n_clients;
}

/* With the first `share` of its line. */
static void view_client(Engine *e, EngineClient *c, uint32_t share, SchedulerView *view) {
    SchedulerClient *out = &view->clients[view->n_clients];

    c->i_view = view->n_clients++;
    e->clients_in_view[c->i_view] = c;
    *out = (SchedulerClient){ .deficit = c->deficit, .i_waiting = view->n_waiting };
    list_for_each(link, &c->line) {
        Sequence *s = container_of(link, Sequence, link);

        if (out->n_waiting == share)
            break;
        e->waiting_in_view[view->n_waiting] = s;
        e->view_waiting[view->n_waiting++] = sequence_view(s);
        out->n_waiting++;
    }
}

/* Twice max_num_seqs waiting sequences in all leave out nobody for whom a step has room, but where
 * a client could use more than its share and others less; then it does so in the next steps. */
void engine_queue_view(Engine *e, SchedulerView *view) {
    uint32_t n_clients = choose_clients(e);

    *view = (SchedulerView){ .running = e->view_running,
                             .waiting = e->view_waiting,
                             .clients = e->view_clients,
                             .newcomers = e->view_newcomers,
                             .n_running = e->n_running,
                             .n_pages_free = e->pool.n_free };
    list_for_each(link, &e->turns) {
        EngineClient *c = container_of(link, EngineClient, link);

        if (c->in_view)
            view_client(e, c, 2 * e->options.max_num_seqs / n_clients, view);
    }
    list_for_each(link, &e->newcomers) {
        EngineClient *c = container_of(link, EngineClient, newcomer);

        if (c->in_view)
            e->view_newcomers[view->n_newcomers++] = c->i_view;
    }
    for (uint32_t i = 0; i < e->n_running; i++) {
        e->view_running[i] = sequence_view(e->running[i]);
        e->view_running[i].client = e->running[i]->client->i_view;
    }
    engine_prefix_count_shared(e, view->n_newcomers != 0);
}

void engine_queue_pass_turns(Engine *e, const SchedulerView *view, const StepPlan *plan) {
    for (uint32_t i = 0; i < view->n_clients; i++)
        e->clients_in_view[i]->deficit = view->clients[i].deficit;
    if (!view->n_clients)
        return;
    /* The list's head moves before whoever is next: that is then the first. */
    list_remove(&e->turns);
    list_push_back(&e->clients_in_view[plan->i_turn]->link, &e->turns);
}
