/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A multiple-choice knapsack: each layer takes one item, a pair of formats with its bytes and its
 * damage. Layers are added one by one to a frontier of states, none of which has both fewer bytes
 * and less damage than another. That alone is exact, and small as long as few sums of bytes are
 * distinct. A bound makes it small always: the problem's linear relaxation gives a price of bytes,
 * and a first plan; a state goes whose damage, with the rest of the layers at that price, exceeds
 * that of the first plan (Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, chapter 11).
 *
 * 80 layers with 21 pairs each take some milliseconds.
 */
#include "kvcache/planner.h"

#include "kvcache/kv_format.h"
#include "util/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PAIRS (KV_FORMATS * KV_FORMATS)
#define ROUNDING 1e-12 /* of sums of damages; what is that close to a bound is not cut off */

typedef struct Item {
    double damage;
    uint64_t bytes;
    KvFormat formats[KV_SIDES];
} Item;

typedef struct Layer {
    Item items[PAIRS]; /* [n_items], bytes rising, damage falling */
    uint32_t n_items;
    uint32_t hull[PAIRS]; /* [n_hull], those of them on the lower convex hull */
    uint32_t n_hull;
} Layer;

/* From one item of a layer's hull to the next. */
typedef struct Upgrade {
    double gain; /* damage saved a byte */
    uint32_t layer, to;
} Upgrade;

typedef struct State {
    double damage;
    uint64_t bytes;
    uint32_t from; /* of the frontier before this layer */
    uint32_t item; /* of this layer */
} State;

typedef struct Frontier {
    State *states; /* [n], bytes rising, damage falling; owned */
    size_t n, capacity;
} Frontier;

typedef struct Solver {
    const PlannerProblem *problem;
    Layer *layers;        /* [n_layers]; owned */
    Frontier *frontiers;  /* [n_layers]; owned */
    uint64_t *rest_bytes; /* [n_layers + 1]: of the layers from here on, at the least; owned */
    double *rest_price;   /* [n_layers + 1]: damage and price of bytes of those layers; owned */
    double price;         /* of a byte, in damage */
    double damage_max;    /* of the first plan, and a little more */
} Solver;

static uint32_t bits_of(KvFormat format) {
    return kv_formats[format].bits;
}

/* pairs */

/* Two damages, or two sums of them over layers, with the squares of their errors. */
typedef struct Swap {
    double wide_values, wide_keys;
    double error_squared; /* of the difference, all damages as independent */
} Swap;

static double square_of_error(const PlannerProblem *p, uint32_t layer, KvSide side, KvFormat f) {
    double error = p->errors ? p->errors[layer][side][f] : 0;

    return error * error;
}

/* Adds what layer has to say of K at `narrow` and V at `wide`, and of the reverse. */
static void add_swap(Swap *swap, const PlannerProblem *p, uint32_t layer, KvFormat narrow,
                     KvFormat wide) {
    const double(*d)[KV_FORMATS] = p->damages[layer];

    swap->wide_values += d[KV_SIDE_K][narrow] + d[KV_SIDE_V][wide];
    swap->wide_keys += d[KV_SIDE_K][wide] + d[KV_SIDE_V][narrow];
    for (KvSide side = 0; side < KV_SIDES; side++)
        swap->error_squared +=
            square_of_error(p, layer, side, narrow) + square_of_error(p, layer, side, wide);
}

static bool proves_wide_values(const Swap *swap) {
    double difference = swap->wide_keys - swap->wide_values;

    return difference > 0 && difference * difference > 4 * swap->error_squared;
}

bool planner_admits(const PlannerProblem *p, uint32_t layer, KvFormat k, KvFormat v) {
    Swap swap = { .error_squared = 0 };

    if (!p->menu[k] || !p->menu[v])
        return false;
    if (bits_of(v) <= bits_of(k) || p->values == PLANNER_VALUES_ANY)
        return true;
    if (p->values == PLANNER_VALUES_NARROWER)
        return false;
    add_swap(&swap, p, layer, k, v);
    return proves_wide_values(&swap);
}

static Item item_of(const PlannerProblem *p, uint32_t layer, KvFormat k, KvFormat v) {
    const double *k_damages = p->damages[layer][KV_SIDE_K];
    const double *v_damages = p->damages[layer][KV_SIDE_V];

    return (Item){ .formats = { k, v },
                   .bytes = p->bytes[KV_SIDE_K][k] + p->bytes[KV_SIDE_V][v],
                   .damage = k_damages[k] + v_damages[v] };
}

PlannerAnswer planner_judge(const KvPlan *plan, const PlannerProblem *p) {
    PlannerAnswer sum = { .bytes = 0 };

    for (uint32_t layer = 0; layer < p->n_layers; layer++) {
        const KvFormat *pair = plan->formats[layer];
        Item item = item_of(p, layer, pair[KV_SIDE_K], pair[KV_SIDE_V]);

        sum.damage += item.damage;
        sum.bytes += item.bytes;
    }
    return sum;
}

uint32_t planner_count_wider_values(const KvPlan *plan, uint32_t n_layers) {
    uint32_t n = 0;

    for (uint32_t layer = 0; layer < n_layers; layer++)
        n += bits_of(plan->formats[layer][KV_SIDE_V]) > bits_of(plan->formats[layer][KV_SIDE_K]);
    return n;
}

/* uniform plans */

static PlannerAnswer judge_pair(const PlannerProblem *p, KvFormat k, KvFormat v, KvPlan *plan) {
    memset(plan, 0, sizeof(*plan));
    for (uint32_t layer = 0; layer < p->n_layers; layer++) {
        plan->formats[layer][KV_SIDE_K] = k;
        plan->formats[layer][KV_SIDE_V] = v;
    }
    return planner_judge(plan, p);
}

/* As planner_admits of one layer, but that all layers together must prove it. */
static bool admits_uniform(const PlannerProblem *p, KvFormat k, KvFormat v) {
    Swap swap = { .error_squared = 0 };

    if (!p->menu[k] || !p->menu[v])
        return false;
    if (bits_of(v) <= bits_of(k) || p->values == PLANNER_VALUES_ANY)
        return true;
    for (uint32_t layer = 0; layer < p->n_layers; layer++)
        add_swap(&swap, p, layer, k, v);
    return p->values == PLANNER_VALUES_PROVEN && proves_wide_values(&swap);
}

int planner_solve_uniform(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *p) {
    PlannerAnswer least = { .bytes = UINT64_MAX };
    bool found = false;

    for (uint32_t i = 0; i < PAIRS; i++) {
        KvFormat k = i / KV_FORMATS, v = i % KV_FORMATS;
        PlannerAnswer of_pair;
        KvPlan pair;

        if (!admits_uniform(p, k, v))
            continue;
        of_pair = judge_pair(p, k, v, &pair);
        if (of_pair.bytes < least.bytes)
            least = of_pair;
        if (of_pair.bytes > p->bytes_max || (found && of_pair.damage >= answer->damage))
            continue;
        *answer = of_pair;
        *plan = pair;
        found = true;
    }
    if (!found)
        *answer = least;
    return found ? 0 : PLANNER_E_FULL;
}

/* items */

/* By bytes, then by damage, then wide keys first. */
static int compare_items(const void *left, const void *right) {
    const Item *a = left, *b = right;

    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1;
    if (a->damage != b->damage)
        return a->damage < b->damage ? -1 : 1;
    return (int)a->formats[KV_SIDE_K] - (int)b->formats[KV_SIDE_K];
}

/* Whether b lies on or above the line from a to c. */
static bool is_above(const Item *a, const Item *b, const Item *c) {
    return (b->damage - a->damage) * (double)(c->bytes - a->bytes) >=
           (c->damage - a->damage) * (double)(b->bytes - a->bytes);
}

static void find_hull(Layer *l) {
    for (uint32_t i = 0; i < l->n_items; i++) {
        while (l->n_hull > 1 && is_above(&l->items[l->hull[l->n_hull - 2]],
                                         &l->items[l->hull[l->n_hull - 1]], &l->items[i]))
            l->n_hull--;
        l->hull[l->n_hull++] = i;
    }
}

/* Its pairs but for those that another one beats in both. */
static void fill_layer(Layer *l, const PlannerProblem *p, uint32_t layer) {
    Item all[PAIRS];
    uint32_t n = 0;

    for (KvFormat k = 0; k < KV_FORMATS; k++)
        for (KvFormat v = 0; v < KV_FORMATS; v++)
            if (planner_admits(p, layer, k, v))
                all[n++] = item_of(p, layer, k, v);
    qsort(all, n, sizeof(*all), compare_items);
    for (uint32_t i = 0; i < n; i++)
        if (!l->n_items || all[i].damage < l->items[l->n_items - 1].damage)
            l->items[l->n_items++] = all[i];
    find_hull(l);
}

/* the price of bytes */

static int compare_upgrades(const void *left, const void *right) {
    const Upgrade *a = left, *b = right;

    if (a->gain != b->gain)
        return a->gain > b->gain ? -1 : 1;
    if (a->layer != b->layer)
        return a->layer < b->layer ? -1 : 1;
    return a->to < b->to ? -1 : a->to > b->to;
}

static uint32_t list_upgrades(const Solver *s, Upgrade *out) {
    uint32_t n = 0;

    for (uint32_t layer = 0; layer < s->problem->n_layers; layer++) {
        const Layer *l = &s->layers[layer];

        for (uint32_t i = 1; i < l->n_hull; i++) {
            const Item *from = &l->items[l->hull[i - 1]], *to = &l->items[l->hull[i]];

            out[n++] =
                (Upgrade){ .gain = (from->damage - to->damage) / (double)(to->bytes - from->bytes),
                           .layer = layer,
                           .to = i };
        }
    }
    return n;
}

/* The relaxation: all layers begin with their narrowest item, and upgrades are bought from the
 * best on. The first that is too dear sets the price; those after it that fit are bought as well,
 * which gives the first plan. */
static int find_price(Solver *s) {
    uint32_t n_layers = s->problem->n_layers, n;
    CLEANUP(free) Upgrade *upgrades = calloc((size_t)n_layers * PAIRS, sizeof(*upgrades));
    CLEANUP(free) uint32_t *at = calloc(n_layers, sizeof(*at)); /* of each layer's hull */
    uint64_t left = s->problem->bytes_max - s->rest_bytes[0];

    if (!upgrades || !at)
        return -ENOMEM;
    n = list_upgrades(s, upgrades);
    qsort(upgrades, n, sizeof(*upgrades), compare_upgrades);
    for (uint32_t i = 0; i < n; i++) {
        const Layer *l = &s->layers[upgrades[i].layer];
        uint32_t *from = &at[upgrades[i].layer];
        uint64_t bytes = l->items[l->hull[upgrades[i].to]].bytes - l->items[l->hull[*from]].bytes;

        if (bytes > left) {
            if (s->price == 0)
                s->price = upgrades[i].gain;
            continue;
        }
        left -= bytes;
        *from = upgrades[i].to;
    }
    for (uint32_t i = 0; i < n_layers; i++)
        s->damage_max += s->layers[i].items[s->layers[i].hull[at[i]]].damage;
    return 0;
}

/* What the layers from each one on cost at that price, and the room that rounding needs. */
static void find_bounds(Solver *s) {
    double size = fabs(s->damage_max) + s->price * (double)s->problem->bytes_max;

    for (uint32_t layer = s->problem->n_layers; layer-- > 0;) {
        const Layer *l = &s->layers[layer];
        double least = INFINITY, largest = 0;

        for (uint32_t i = 0; i < l->n_items; i++) {
            least = fmin(least, l->items[i].damage + s->price * (double)l->items[i].bytes);
            largest = fmax(largest, fabs(l->items[i].damage));
        }
        s->rest_price[layer] = s->rest_price[layer + 1] + least;
        size += largest;
    }
    s->damage_max += ROUNDING * size;
}

/* frontiers */

static int frontier_add(Frontier *f, const State *state) {
    if (f->n && state->damage >= f->states[f->n - 1].damage)
        return 0;
    if (f->n == f->capacity) {
        size_t capacity = f->capacity ? 2 * f->capacity : 256;
        State *states = reallocarray(f->states, capacity, sizeof(*states));

        if (!states)
            return -ENOMEM;
        f->states = states;
        f->capacity = capacity;
    }
    f->states[f->n++] = *state;
    return 0;
}

/* The next state that comes of `from` by this item of the layer and may lead to an answer; *ip is
 * where to look on. */
static bool next_state(const Solver *s, uint32_t layer, const Frontier *from, uint32_t i_item,
                       size_t *ip, State *out) {
    const Item *item = &s->layers[layer].items[i_item];

    while (*ip < from->n) {
        const State *before = &from->states[*ip];
        uint64_t bytes = before->bytes + item->bytes;
        double damage = before->damage + item->damage;
        double bound = damage + s->rest_price[layer + 1] +
                       s->price * ((double)bytes - (double)s->problem->bytes_max);

        *out =
            (State){ .damage = damage, .bytes = bytes, .from = (uint32_t)(*ip)++, .item = i_item };
        if (bytes + s->rest_bytes[layer + 1] > s->problem->bytes_max)
            break; /* those that follow have more bytes */
        if (bound <= s->damage_max)
            return true;
    }
    *ip = from->n;
    return false;
}

static bool comes_first(const State *a, const State *b) {
    return a->bytes < b->bytes || (a->bytes == b->bytes && a->damage <= b->damage);
}

/* out = the frontier of `so_far` and of what comes of `from` by one item. */
static int merge(const Solver *s, uint32_t layer, const Frontier *from, uint32_t i_item,
                 const Frontier *so_far, Frontier *out) {
    State state;
    size_t i = 0, i_from = 0;
    bool more = next_state(s, layer, from, i_item, &i_from, &state);
    int r = 0;

    out->n = 0;
    while (!r && (more || i < so_far->n)) {
        if (!more || (i < so_far->n && comes_first(&so_far->states[i], &state))) {
            r = frontier_add(out, &so_far->states[i++]);
            continue;
        }
        r = frontier_add(out, &state);
        more = next_state(s, layer, from, i_item, &i_from, &state);
    }
    return r;
}

static int add_layer(Solver *s, uint32_t layer, const Frontier *from) {
    Frontier *out = &s->frontiers[layer];
    Frontier other = { .n = 0 };
    int r = 0;

    for (uint32_t i = 0; !r && i < s->layers[layer].n_items; i++) {
        Frontier so_far = *out;

        r = merge(s, layer, from, i, &so_far, &other);
        *out = other;
        other = so_far;
    }
    free(other.states);
    return r;
}

static int add_layers(Solver *s) {
    State nothing = { .bytes = 0 };
    Frontier start = { .states = &nothing, .n = 1 };
    int r = 0;

    for (uint32_t layer = 0; !r && layer < s->problem->n_layers; layer++)
        r = add_layer(s, layer, layer ? &s->frontiers[layer - 1] : &start);
    return r;
}

/* The last state has the least damage; it says which items led to it. */
static void read_answer(const Solver *s, KvPlan *plan, PlannerAnswer *answer) {
    uint32_t layer = s->problem->n_layers;
    const Frontier *f = &s->frontiers[layer - 1];
    size_t i = f->n - 1;

    assert(f->n); /* the first plan is in it, or a better one */
    while (layer-- > 0) {
        const State *state = &s->frontiers[layer].states[i];

        memcpy(plan->formats[layer], s->layers[layer].items[state->item].formats,
               sizeof(plan->formats[layer]));
        i = state->from;
    }
    *answer = planner_judge(plan, s->problem);
}

/* solving */

static int solver_init(Solver *s, const PlannerProblem *problem) {
    uint32_t n = problem->n_layers;

    *s = (Solver){ .problem = problem };
    s->layers = calloc(n, sizeof(*s->layers));
    s->frontiers = calloc(n, sizeof(*s->frontiers));
    s->rest_bytes = calloc((size_t)n + 1, sizeof(*s->rest_bytes));
    s->rest_price = calloc((size_t)n + 1, sizeof(*s->rest_price));
    if (!s->layers || !s->frontiers || !s->rest_bytes || !s->rest_price)
        return -ENOMEM;
    for (uint32_t layer = n; layer-- > 0;) {
        fill_layer(&s->layers[layer], problem, layer);
        s->rest_bytes[layer] = s->rest_bytes[layer + 1] + s->layers[layer].items[0].bytes;
    }
    return 0;
}

static void solver_deinit(Solver *s) {
    for (uint32_t layer = 0; s->frontiers && layer < s->problem->n_layers; layer++)
        free(s->frontiers[layer].states);
    free(s->layers);
    free(s->frontiers);
    free(s->rest_bytes);
    free(s->rest_price);
}
CLEANUP_DEINIT_DEFINE(Solver, solver_deinit);

int planner_solve(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *problem) {
    CLEANUP(solver_deinit) Solver s = { .problem = problem };
    int r;

    memset(plan, 0, sizeof(*plan));
    r = solver_init(&s, problem);
    if (r)
        return r;
    if (s.rest_bytes[0] > problem->bytes_max) {
        *answer = (PlannerAnswer){ .bytes = s.rest_bytes[0] };
        return PLANNER_E_FULL;
    }
    r = find_price(&s);
    if (r)
        return r;
    find_bounds(&s);
    r = add_layers(&s);
    if (!r)
        read_answer(&s, plan, answer);
    return r;
}
