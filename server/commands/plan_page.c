/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pictures are inline SVG in the page's own colors, which follow the reader's choice of light or
 * dark. Damage has a logarithmic scale: it spans four orders of magnitude.
 */
#include "server/commands/plan_page.h"

#include "kvcache/kv_format.h"
#include "kvcache/store_planner.h"
#include "util/html.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#define WIDTH 860
#define LEFT 70 /* of a picture's axes */
#define RIGHT 20
#define TOP 16
#define CURVE_POINTS 48
#define CURVE_HEIGHT 360
#define BARS_HEIGHT 150
#define CELL_HEIGHT 30
#define MARGIN 30 /* of points, for their names */
#define X_TICKS 7

static const char page_head[] =
    "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n"
    "<style>\n"
    ":root{color-scheme:light dark;--k:#2563eb;--v:#d97706;--grid:#8884;--mark:#dc2626}\n"
    "@media(prefers-color-scheme:dark){:root{--k:#60a5fa;--v:#fbbf24;--mark:#f87171}}\n"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:54em;margin:2em auto;padding:0 1em}\n"
    "svg{width:100%;height:auto;font:12px system-ui,sans-serif}\n"
    "svg text{fill:currentColor}td,th{padding:.1em .8em .1em 0;text-align:left}\n"
    ".b text{fill:#fff}.b2 rect{fill:#7f1d1d}.b3 rect{fill:#b45309}.b4 rect{fill:#4d7c0f}\n"
    ".b5 rect{fill:#15803d}.b6 rect{fill:#0f766e}.b8 rect{fill:#1d4ed8}.b16 rect{fill:#4338ca}\n"
    ".grid{stroke:var(--grid)}.k{fill:var(--k)}.v{fill:var(--v)}\n"
    ".curve{fill:none;stroke:var(--k);stroke-width:2}\n"
    ".pair{fill:var(--v)}.mark{fill:var(--mark)}\n"
    "</style>\n";

static uint32_t n_layers_of(const PlanReport *r) {
    return r->plan->demand.geometry.n_layers;
}

static void begin_svg(Buffer *out, double height, const char *title) {
    buffer_printf(
        out, "<svg viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=\"%s\">\n<title>%s</title>\n",
        WIDTH, height, title, title);
}

static void end_svg(Buffer *out) {
    buffer_append_text(out, "</svg>\n");
}

static void put_text(Buffer *out, double x, double y, const char *anchor, const char *text) {
    buffer_printf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor,
                  text);
}

/* the table */

static void put_row(Buffer *out, const char *name, const char *value) {
    buffer_printf(out, "<tr><th>%s</th><td>", name);
    html_escape(out, value);
    buffer_append_text(out, "</td></tr>\n");
}

static void put_summary(const PlanReport *r, const char *model, Buffer *out) {
    static const char *const methods[] = { "auto", "paper", "ratequant", "uniform" };
    const CachePlan *p = r->plan;
    char text[160];

    buffer_append_text(out, "<table>\n");
    put_row(out, "model", model);
    put_row(out, "kv", p->options.spec);
    if (p->is_auto)
        put_row(out, "method", methods[p->options.method]);
    snprintf(text, sizeof(text), "%.4f an element, metadata included", r->ledger->bits);
    put_row(out, "bits", text);
    snprintf(text, sizeof(text), "%.4g nats a token; with K and V swapped %.4g", p->damage,
             p->swapped_damage);
    put_row(out, "expected KLD", text);
    put_row(out, "expected by", damage_source_name(p->table.source));
    snprintf(text, sizeof(text), "%" PRIu64 " in %.1f MiB", r->ledger->kv_tokens,
             (double)r->ledger->kv_bytes / (1 << 20));
    put_row(out, "tokens", text);
    buffer_append_text(out, "</table>\n");
}

/* bits by layer and side */

static void put_cell(Buffer *out, double x, double y, double width, uint32_t bits) {
    buffer_printf(out,
                  "<g class=\"b b%" PRIu32 "\"><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
                  "height=\"%d\"/><text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%" PRIu32
                  "</text></g>\n",
                  bits, x, y, width - 1, CELL_HEIGHT - 1, x + width / 2, y + CELL_HEIGHT / 1.6,
                  bits);
}

/* Layers stand in rows of so many, so that their numbers can be read. */
static void put_heat_map(const PlanReport *r, Buffer *out) {
    uint32_t n = n_layers_of(r), n_columns = n < 32 ? n : 32,
             n_rows = (n + n_columns - 1) / n_columns;
    double cell = (double)(WIDTH - LEFT - RIGHT) / n_columns, row_height = 2.8 * CELL_HEIGHT;
    char label[32];

    buffer_append_text(out, "<h2>Bits by layer and side</h2>\n");
    begin_svg(out, n_rows * row_height, "bits of keys and values in each layer");
    for (uint32_t layer = 0; layer < n; layer++) {
        double x = LEFT + layer % n_columns * cell, y = layer / n_columns * row_height;
        const KvFormat *pair = r->plan->plan.formats[layer];

        if (layer % n_columns == 0) {
            put_text(out, LEFT - 8, y + CELL_HEIGHT / 1.6, "end", "K");
            put_text(out, LEFT - 8, y + CELL_HEIGHT * 1.625, "end", "V");
        }
        put_cell(out, x, y, cell, kv_formats[pair[KV_SIDE_K]].bits);
        put_cell(out, x, y + CELL_HEIGHT, cell, kv_formats[pair[KV_SIDE_V]].bits);
        snprintf(label, sizeof(label), "%" PRIu32, layer);
        put_text(out, x + cell / 2, y + CELL_HEIGHT * 2.45, "middle", label);
    }
    end_svg(out);
}

/* norms and damage, layer by layer */

/* Two bars a layer, as parts of the largest value. */
static void put_bars(Buffer *out, const char *title, const double *k, const double *v, uint32_t n) {
    double largest = 0, slot = (double)(WIDTH - LEFT - RIGHT) / n;
    char label[64];

    for (uint32_t layer = 0; layer < n; layer++)
        largest = fmax(largest, fmax(k[layer], v[layer]));
    begin_svg(out, BARS_HEIGHT + TOP + 20, title);
    for (uint32_t layer = 0; layer < n; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++) {
            double value = (side == KV_SIDE_K ? k : v)[layer];
            double height = largest > 0 ? BARS_HEIGHT * value / largest : 0;

            buffer_printf(out,
                          "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
                          "height=\"%.1f\"><title>%s of layer %" PRIu32 ": %.4g</title></rect>\n",
                          side == KV_SIDE_K ? "k" : "v", LEFT + slot * (layer + .45 * side),
                          TOP + BARS_HEIGHT - height, .42 * slot, height,
                          side == KV_SIDE_K ? "K" : "V", layer, value);
        }
    snprintf(label, sizeof(label), "%.3g", largest);
    put_text(out, LEFT - 8, TOP + 8, "end", label);
    put_text(out, LEFT - 8, TOP + BARS_HEIGHT, "end", "0");
    put_text(out, LEFT, TOP + BARS_HEIGHT + 16, "start", "layer 0");
    snprintf(label, sizeof(label), "layer %" PRIu32, n - 1);
    put_text(out, WIDTH - RIGHT, TOP + BARS_HEIGHT + 16, "end", label);
    end_svg(out);
}

static void put_damage_bars(const PlanReport *r, KvFormat format, Buffer *out) {
    const DamageTable *t = &r->plan->table;
    double sides[KV_SIDES][KV_LAYERS_MAX];
    char title[160];

    for (uint32_t layer = 0; layer < t->n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            sides[side][layer] = t->damages[layer][side][format];
    snprintf(title, sizeof(title), "KLD of each side alone at %s bits (%s)",
             kv_formats[format].name, t->source == DAMAGE_MEASURED ? "measured" : "estimated");
    buffer_printf(out, "<h3>%s</h3>\n", title);
    put_bars(out, title, sides[KV_SIDE_K], sides[KV_SIDE_V], t->n_layers);
}

static void put_norms(const PlanReport *r, Buffer *out) {
    uint32_t n = n_layers_of(r);

    buffer_append_text(out, "<h2>What the weights say, and what was measured</h2>\n"
                            "<p><b style=\"color:var(--k)\">K</b> beside "
                            "<b style=\"color:var(--v)\">V</b>, layer by layer. Norms and damage "
                            "need not agree; where damage was measured, it decides.</p>\n");
    if (r->profile) {
        buffer_append_text(out, "<h3>Frobenius norms of the weights</h3>\n");
        put_bars(out, "Frobenius norms", r->profile->k_norms, r->profile->v_norms, n);
    }
    if (r->profile && r->profile->has_spectral_norms) {
        buffer_append_text(out, "<h3>Spectral norms of the weights</h3>\n");
        put_bars(out, "spectral norms", r->profile->k_spectral_norms, r->profile->v_spectral_norms,
                 n);
    }
    put_damage_bars(r, KV_FORMAT_2, out);
    put_damage_bars(r, KV_FORMAT_4, out);
}

/* bytes against damage */

typedef struct Point {
    double bytes; /* a token */
    double damage;
    bool has_wide_keys; /* wider than values */
    char name[16];
} Point;

typedef struct Curve {
    Point best[CURVE_POINTS];
    Point pairs[KV_FORMATS * KV_FORMATS];
    Point chosen;
    uint32_t n_best, n_pairs;
    double bytes_min, bytes_max, log_low, log_high;
} Curve;

static Point point_of(const PlannerAnswer *answer) {
    return (Point){ .bytes = (double)answer->bytes / KV_PAGE_TOKENS, .damage = answer->damage };
}

static void find_pairs(Curve *c, PlannerProblem *p) {
    for (KvFormat k = KV_FORMAT_F16; k < KV_FORMATS; k++)
        for (KvFormat v = KV_FORMAT_F16; v < KV_FORMATS; v++) {
            Point *point = &c->pairs[c->n_pairs];
            PlannerAnswer answer;
            KvPlan plan = { 0 };

            for (uint32_t layer = 0; layer < p->n_layers; layer++) {
                plan.formats[layer][KV_SIDE_K] = k;
                plan.formats[layer][KV_SIDE_V] = v;
            }
            answer = planner_judge(&plan, p);
            if (!(answer.damage > 0))
                continue;
            *point = point_of(&answer);
            point->has_wide_keys = kv_formats[k].bits > kv_formats[v].bits;
            snprintf(point->name, sizeof(point->name), "k%" PRIu32 "v%" PRIu32, kv_formats[k].bits,
                     kv_formats[v].bits);
            c->n_pairs++;
        }
}

/* The best there is for numbers of bytes from the least to those of f16, in even steps. */
static int find_best(Curve *c, PlannerProblem *p) {
    uint64_t least =
        p->n_layers * (p->bytes[KV_SIDE_K][KV_FORMAT_2] + p->bytes[KV_SIDE_V][KV_FORMAT_2]);
    uint64_t most =
        p->n_layers * (p->bytes[KV_SIDE_K][KV_FORMAT_F16] + p->bytes[KV_SIDE_V][KV_FORMAT_F16]);

    for (uint32_t i = 0; i < CURVE_POINTS; i++) {
        PlannerAnswer answer;
        KvPlan plan;
        int r;

        p->bytes_max = least + (most - least) * i / CURVE_POINTS;
        r = planner_solve(&plan, &answer, p);
        if (r < 0)
            return r;
        if (!r && answer.damage > 0)
            c->best[c->n_best++] = point_of(&answer);
    }
    return 0;
}

static void include(Curve *c, const Point *point) {
    c->bytes_min = fmin(c->bytes_min, point->bytes);
    c->bytes_max = fmax(c->bytes_max, point->bytes);
    if (!(point->damage > 0))
        return;
    c->log_low = fmin(c->log_low, log10(point->damage));
    c->log_high = fmax(c->log_high, log10(point->damage));
}

static int curve_fill(Curve *c, const PlanReport *r) {
    PlannerProblem p = cache_plan_problem(r->plan);
    PlannerAnswer chosen = planner_judge(&r->plan->plan, &p);
    int result;

    memset(c, 0, sizeof(*c));
    c->bytes_min = c->log_low = INFINITY;
    c->log_high = -INFINITY;
    for (KvFormat f = KV_FORMAT_F16; f < KV_FORMATS; f++)
        p.menu[f] = true;
    find_pairs(c, &p);
    result = find_best(c, &p);
    c->chosen = point_of(&chosen);
    include(c, &c->chosen);
    for (uint32_t i = 0; i < c->n_best; i++)
        include(c, &c->best[i]);
    for (uint32_t i = 0; i < c->n_pairs; i++)
        include(c, &c->pairs[i]);
    c->log_low = floor(c->log_low);
    c->log_high = ceil(c->log_high);
    return result;
}

static double x_of(const Curve *c, double bytes) {
    double part = log(bytes / c->bytes_min) / log(c->bytes_max / c->bytes_min);

    return LEFT + MARGIN + (WIDTH - LEFT - RIGHT - 2 * MARGIN) * part;
}

/* No damage lies on the axis. */
static double y_of(const Curve *c, double damage) {
    double part = damage > 0 ? (log10(damage) - c->log_low) / (c->log_high - c->log_low) : 0;

    return TOP + CURVE_HEIGHT * (1 - part);
}

static void put_axes(const Curve *c, Buffer *out) {
    char label[32];

    for (double e = c->log_low; e <= c->log_high; e++) {
        double y = y_of(c, pow(10, e));

        buffer_printf(out, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>\n", LEFT, y, WIDTH - RIGHT);
        snprintf(label, sizeof(label), "%g", pow(10, e));
        put_text(out, LEFT - 8, y + 4, "end", label);
    }
    for (int i = 0; i <= X_TICKS; i++) {
        double bytes = c->bytes_min * pow(c->bytes_max / c->bytes_min, (double)i / X_TICKS);

        snprintf(label, sizeof(label), "%.0f", bytes);
        put_text(out, x_of(c, bytes), TOP + CURVE_HEIGHT + 18, "middle", label);
    }
    put_text(out, LEFT + (WIDTH - LEFT - RIGHT) / 2.0, TOP + CURVE_HEIGHT + 36, "middle",
             "bytes a token of sealed pages");
    put_text(out, LEFT + 6, TOP + 4, "start", "expected KLD, nats a token");
}

static void put_point(const Curve *c, const Point *p, const char *class, double radius,
                      Buffer *out) {
    buffer_printf(out,
                  "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"><title>%s: %.0f bytes a "
                  "token, KLD %.4g</title></circle>\n",
                  class, x_of(c, p->bytes), y_of(c, p->damage), radius, p->name, p->bytes,
                  p->damage);
}

/* Names of pairs with wide keys stand to the left, others to the right, as pairs of equal bytes lie
 * close together. */
static void put_pair(const Curve *c, const Point *p, Buffer *out) {
    int side = p->has_wide_keys ? -5 : 5;

    put_point(c, p, "pair", 3, out);
    put_text(out, x_of(c, p->bytes) + side, y_of(c, p->damage) + 4, side < 0 ? "end" : "start",
             p->name);
}

static void draw_curve(const Curve *c, Buffer *out) {
    begin_svg(out, CURVE_HEIGHT + TOP + 44, "expected damage against bytes");
    put_axes(c, out);
    buffer_append_text(out, "<path class=\"curve\" d=\"");
    for (uint32_t i = 0; i < c->n_best; i++)
        buffer_printf(out, "%c%.1f %.1f", i ? 'L' : 'M', x_of(c, c->best[i].bytes),
                      y_of(c, c->best[i].damage));
    buffer_append_text(out, "\"/>\n");
    for (uint32_t i = 0; i < c->n_pairs; i++)
        put_pair(c, &c->pairs[i], out);
    put_point(c, &c->chosen, "mark", 6, out);
    end_svg(out);
}

static int put_curve(const PlanReport *r, Buffer *out) {
    Curve c;
    int result = curve_fill(&c, r);

    if (result)
        return result;
    snprintf(c.chosen.name, sizeof(c.chosen.name), "this plan");
    buffer_append_text(out, "<h2>Bytes against damage</h2>\n<p>The line is the least damage that "
                            "any plan does with so many bytes, dots are one pair for all layers, "
                            "and the large dot is this plan.</p>\n");
    draw_curve(&c, out);
    return 0;
}

int plan_page_write(const PlanReport *r, const char *model, Buffer *out, Reason *why) {
    int result = 0;

    buffer_append_text(out, page_head);
    buffer_append_text(out, "<title>KV plan of ");
    html_escape(out, model);
    buffer_append_text(out, "</title>\n<h1>KV plan</h1>\n");
    put_summary(r, model, out);
    put_heat_map(r, out);
    if (store_planner_quantizes(&r->plan->demand.geometry)) {
        result = put_curve(r, out);
        put_norms(r, out);
    }
    buffer_append_text(out, "</html>\n");
    return result || buffer_failed(out) ? reason_set(why, -ENOMEM, "out of memory") : 0;
}
