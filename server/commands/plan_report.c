/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/plan_report.h"

#include "kvcache/kv_format.h"

#include <inttypes.h>

static const char *const method_names[] = { "auto", "paper", "ratequant", "uniform" };
static const char *const side_names[KV_SIDES] = { "k", "v" };
static const char *const source_keys[DAMAGE_SOURCES] = { "measured", "distortions",
                                                         "spectral norms", "frobenius norms",
                                                         "typical" };

static uint32_t n_layers_of(const PlanReport *r) {
    return r->plan->demand.geometry.n_layers;
}

static uint32_t bits_at(const PlanReport *r, uint32_t layer, KvSide side) {
    return kv_formats[r->plan->plan.formats[layer][side]].bits;
}

static bool is_wider(const PlanReport *r, uint32_t layer) {
    return bits_at(r, layer, KV_SIDE_V) > bits_at(r, layer, KV_SIDE_K);
}

static bool is_exact(const PlanReport *r) {
    return r->plan->damage == 0 && !kv_plan_quantizes(&r->plan->plan, n_layers_of(r));
}

/* Rather than given, or f16 because all fits. */
static bool was_chosen(const CachePlan *p) {
    return p->is_auto && p->wants_profile;
}

/* words */

static void print_side(const PlanReport *r, KvSide side, Buffer *out) {
    buffer_printf(out, "%c bits      ", side == KV_SIDE_K ? 'K' : 'V');
    for (uint32_t layer = 0; layer < n_layers_of(r); layer++)
        buffer_printf(out, " %" PRIu32, bits_at(r, layer, side));
    buffer_append_char(out, '\n');
}

static void print_wider(const PlanReport *r, Buffer *out) {
    buffer_append_text(out, "V wider      in layers");
    for (uint32_t layer = 0; layer < n_layers_of(r); layer++)
        if (is_wider(r, layer))
            buffer_printf(out, " %" PRIu32, layer);
    buffer_append_text(out, r->plan->is_auto && r->plan->options.method != PLAN_METHOD_PAPER &&
                                    r->plan->options.values == PLANNER_VALUES_PROVEN
                                ? ": swapping K and V there does more damage, as measured\n"
                                : ": as was asked for\n");
}

/* Whether the figures of 5 bits are none of that width. */
static bool lacks_5_bits(const PlanReport *r) {
    return r->profile && r->profile->lacks_5_bits && r->plan->table.source <= DAMAGE_DISTORTIONS;
}

static void print_damage(const PlanReport *r, Buffer *out) {
    const CachePlan *p = r->plan;

    if (is_exact(r)) {
        buffer_append_text(out, "expected KLD 0: nothing is quantized\n");
        return;
    }
    buffer_printf(out, "expected KLD %s%.3g nats a token; with K and V swapped %.3g%s\n",
                  p->table.source == DAMAGE_MEASURED ? "" : "about ", p->damage, p->swapped_damage,
                  p->swapped_damage < p->damage ? ", which is less" : "");
    if (!was_chosen(p) || p->chosen_by != p->table.source)
        buffer_printf(out, "expected by  %s\n", damage_source_name(p->table.source));
    if (lacks_5_bits(r))
        buffer_append_text(out,
                           "at 5 bits    as if between 4 and 6: the profile is older than that "
                           "format, which kvasird profile --full measures\n");
}

void plan_report_print(const PlanReport *r, Buffer *out) {
    const CachePlan *p = r->plan;

    ledger_print(r->ledger, out);
    print_side(r, KV_SIDE_K, out);
    print_side(r, KV_SIDE_V, out);
    if (was_chosen(p))
        buffer_printf(out, "chosen by    %s, method %s, in %.1f ms\n",
                      damage_source_name(p->chosen_by), method_names[p->options.method],
                      p->milliseconds);
    if (p->n_wider_values)
        print_wider(r, out);
    print_damage(r, out);
}

/* JSON */

static void put_bits(const PlanReport *r, KvSide side, JsonWriter *w) {
    json_begin_array(w, side_names[side]);
    for (uint32_t layer = 0; layer < n_layers_of(r); layer++)
        json_put_u64(w, NULL, bits_at(r, layer, side));
    json_end_array(w);
}

static void put_layers(const PlanReport *r, JsonWriter *w) {
    json_begin_array(w, "layers");
    for (uint32_t layer = 0; layer < n_layers_of(r); layer++) {
        json_begin_object(w, NULL);
        for (KvSide side = 0; side < KV_SIDES; side++)
            json_put_u64(w, side_names[side], bits_at(r, layer, side));
        json_end_object(w);
    }
    json_end_array(w);
}

static void put_wider(const PlanReport *r, JsonWriter *w) {
    json_begin_array(w, "wider_values");
    for (uint32_t layer = 0; layer < n_layers_of(r); layer++)
        if (is_wider(r, layer))
            json_put_u64(w, NULL, layer);
    json_end_array(w);
}

static void put_ledger(const Ledger *l, JsonWriter *w) {
    const struct {
        const char *purpose;
        uint64_t bytes;
    } rows[] = { { "weights", l->weights_bytes },          { "workspace", l->workspace_bytes },
                 { "kv_pages", l->pages_bytes },           { "kv_tails", l->tails_bytes },
                 { "kv_sinks", l->sinks_bytes },           { "kv_roundings", l->roundings_bytes },
                 { "kv_transforms", l->transforms_bytes }, { "kv_padding", l->padding_bytes },
                 { "prefix_index", l->index_bytes } };

    json_begin_object(w, "memory_bytes");
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
        json_put_u64(w, rows[i].purpose, rows[i].bytes);
    json_end_object(w);
    json_put_u64(w, "kv_bytes", l->kv_bytes);
    json_put_u64(w, "kv_tokens", l->kv_tokens);
    json_put_u64(w, "page_bytes", l->page_bytes);
    json_put_u64(w, "pages", l->n_pages);
    json_put_u64(w, "max_num_seqs", l->n_tails);
}

static void put_choice(const PlanReport *r, JsonWriter *w) {
    const CachePlan *p = r->plan;

    json_put_text(w, "kv", p->options.spec);
    json_put_text(w, "method", p->is_auto ? method_names[p->options.method] : "given");
    if (was_chosen(p))
        json_put_text(w, "chosen_by", source_keys[p->chosen_by]);
    json_put_double(w, "expected_kld", p->damage);
    json_put_double(w, "swapped_kld", p->swapped_damage);
    json_put_text(w, "expected_by", is_exact(r) ? "exact" : source_keys[p->table.source]);
    json_put_double(w, "planned_ms", p->milliseconds);
    put_wider(r, w);
}

void plan_report_json(const PlanReport *r, JsonWriter *w) {
    json_begin_object(w, NULL);
    json_put_text(w, "model", r->identity);
    put_choice(r, w);
    json_put_double(w, "bits", r->ledger->bits);
    put_bits(r, KV_SIDE_K, w);
    put_bits(r, KV_SIDE_V, w);
    put_layers(r, w);
    put_ledger(r->ledger, w);
    json_end_object(w);
}

void plan_report_file(const PlanReport *r, Buffer *out) {
    JsonWriter w = JSON_WRITER(out);

    json_begin_object(&w, NULL);
    json_put_text(&w, "model", r->identity);
    json_put_double(&w, "bits", r->ledger->bits);
    json_put_double(&w, "expected_kld", r->plan->damage);
    put_layers(r, &w);
    json_end_object(&w);
    buffer_append_char(out, '\n');
}
