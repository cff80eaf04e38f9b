/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/profile_report.h"

#include "kvcache/damage_estimate.h"
#include "kvcache/distortion_law.h"
#include "kvcache/kv_format.h"
#include "kvcache/swap_test.h"
#include "model/matrix_norms.h"
#include "util/json_writer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

static const char *const side_names[KV_SIDES] = { "k", "v" };

static const struct {
    TensorRole role;
    const char *name;
} matrices[] = {
    { TENSOR_Q, "q" },       { TENSOR_K, "k" },   { TENSOR_V, "v" },       { TENSOR_O, "o" },
    { TENSOR_GATE, "gate" }, { TENSOR_UP, "up" }, { TENSOR_DOWN, "down" },
};
#define N_MATRICES (sizeof(matrices) / sizeof(*matrices))

static bool is_measured(const Profile *profile) {
    return profile->has_damages && profile->has_distortions;
}

/* for people */

static void print_norms(const Profile *p) {
    printf("\nnorms of W_K and W_V: Frobenius%s\n%5s %9s %9s",
           p->has_spectral_norms ? ", spectral" : "", "layer", "K", "V");
    printf(p->has_spectral_norms ? " %9s %9s\n" : "\n", "K", "V");
    for (uint32_t l = 0; l < p->geometry.n_layers; l++) {
        printf("%5" PRIu32 " %9.4f %9.4f", l, p->k_norms[l], p->v_norms[l]);
        if (p->has_spectral_norms)
            printf(" %9.4f %9.4f", p->k_spectral_norms[l], p->v_spectral_norms[l]);
        putchar('\n');
    }
}

/* A row of numbers for each layer, in millionths. */
static void print_table(const ProfileTable table, uint32_t n_layers) {
    printf("%5s", "layer");
    for (int side = 0; side < KV_SIDES; side++)
        for (int f = 0; f < KV_FORMATS; f++)
            if (kv_format_quantizes((KvFormat)f))
                printf(" %8c%s", side == KV_SIDE_K ? 'K' : 'V', kv_formats[f].name);
    putchar('\n');
    for (uint32_t l = 0; l < n_layers; l++) {
        printf("%5" PRIu32, l);
        for (int side = 0; side < KV_SIDES; side++)
            for (int f = 0; f < KV_FORMATS; f++)
                if (kv_format_quantizes((KvFormat)f))
                    printf(" %9.4g", 1e6 * table[l][side][f]);
        putchar('\n');
    }
}

static void print_measured_formats(const Profile *p) {
    const char *between = "";

    for (int f = 0; f < KV_FORMATS; f++)
        if (p->damages_direct[f]) {
            printf("%s%s", between, kv_formats[f].name);
            between = ", ";
        }
}

static void print_damages(const Profile *p) {
    printf(
        "\ndamage: KL divergence from an f16 cache when that side of that layer alone takes that "
        "format,\nmillionths of a nat a token, over %" PRIu64 " tokens; measured at ",
        p->n_damage_tokens);
    print_measured_formats(p);
    printf(" bits, else by distortions\n");
    print_table(p->damages, p->geometry.n_layers);
    printf("\ndistortion: of what attention adds to the hidden states, by their own squares, "
           "millionths\n");
    print_table(p->distortions, p->geometry.n_layers);
}

static void print_law(const char *of, const ProfileTable table, uint32_t n_layers) {
    for (int side = 0; side < KV_SIDES; side++) {
        DistortionLaw law = distortion_law_fit(table, n_layers, (KvSide)side);

        printf("%s of %s: %.4g * %.3f^-bits, residual %.3f in ln, %" PRIu32 " numbers\n", of,
               side == KV_SIDE_K ? "keys" : "values", law.alpha, law.beta, law.residual, law.n);
    }
}

typedef struct SwapCounts {
    uint32_t n, n_failed, n_sure;
} SwapCounts;

static void count_swap(void *userdata, const SwapTest *test) {
    SwapCounts *counts = userdata;

    counts->n++;
    counts->n_failed += swap_test_fails(test);
    counts->n_sure += swap_test_fails(test) && swap_test_is_sure(test);
}

static void print_failed_swap(void *userdata, const SwapTest *test) {
    const char *wide = kv_formats[test->wide].name, *narrow = kv_formats[test->narrow].name;

    (void)userdata;
    if (swap_test_fails(test))
        printf("layer %2" PRIu32 ": k%sv%s %.3g, k%sv%s %.3g, difference %.2g +- %.2g%s\n",
               test->layer, wide, narrow, 1e6 * test->for_keys, narrow, wide,
               1e6 * test->for_values, 1e6 * (test->for_keys - test->for_values), 1e6 * test->error,
               swap_test_is_sure(test) ? "" : " (may be chance)");
}

static void print_swaps(const Profile *p) {
    SwapCounts counts = { 0 };

    swap_test_all(p, count_swap, &counts);
    printf("\nthe wider format belongs to the keys in %" PRIu32 " of %" PRIu32
           " cases (a layer, two widths);\nin %" PRIu32 " it does not, %" PRIu32
           " of them beyond two standard errors:\n",
           counts.n - counts.n_failed, counts.n, counts.n_failed, counts.n_sure);
    swap_test_all(p, print_failed_swap, NULL);
}

void profile_report_print(const Profile *p) {
    print_norms(p);
    if (!is_measured(p))
        return;
    print_damages(p);
    putchar('\n');
    print_law("distortion", p->distortions, p->geometry.n_layers);
    print_law("damage", p->damages, p->geometry.n_layers);
    print_swaps(p);
}

int profile_report_print_matrices(const Checkpoint *checkpoint) {
    printf("\nnorms of every matrix: Frobenius/spectral\n%5s", "layer");
    for (size_t i = 0; i < N_MATRICES; i++)
        printf(" %17s", matrices[i].name);
    putchar('\n');
    for (uint32_t l = 0; l < checkpoint_config(checkpoint)->n_layers; l++) {
        printf("%5" PRIu32, l);
        for (size_t i = 0; i < N_MATRICES; i++) {
            MatrixNorms norms;
            int r = matrix_norms(&norms, checkpoint_tensor(checkpoint, matrices[i].role, l));

            if (r)
                return r;
            printf(" %8.3f/%8.4f", norms.frobenius, norms.spectral);
        }
        putchar('\n');
    }
    return 0;
}

/* JSON */

static void put_norms(JsonWriter *w, const char *key, const double *norms, uint32_t n_layers) {
    json_begin_array(w, key);
    for (uint32_t l = 0; l < n_layers; l++)
        json_put_double(w, NULL, norms[l]);
    json_end_array(w);
}

/* [{"k": {"8": ..., "2": ...}, "v": {...}}, ...] */
static void put_table(JsonWriter *w, const char *key, const ProfileTable table, uint32_t n_layers) {
    json_begin_array(w, key);
    for (uint32_t l = 0; l < n_layers; l++) {
        json_begin_object(w, NULL);
        for (int side = 0; side < KV_SIDES; side++) {
            json_begin_object(w, side_names[side]);
            for (int f = 0; f < KV_FORMATS; f++)
                if (kv_format_quantizes((KvFormat)f))
                    json_put_double(w, kv_formats[f].name, table[l][side][f]);
            json_end_object(w);
        }
        json_end_object(w);
    }
    json_end_array(w);
}

static void put_laws(JsonWriter *w, const char *key, const ProfileTable table, uint32_t n_layers) {
    json_begin_object(w, key);
    for (int side = 0; side < KV_SIDES; side++) {
        DistortionLaw law = distortion_law_fit(table, n_layers, (KvSide)side);

        json_begin_object(w, side_names[side]);
        json_put_double(w, "alpha", law.alpha);
        json_put_double(w, "beta", law.beta);
        json_put_double(w, "residual", law.residual);
        json_put_u64(w, "n", law.n);
        json_end_object(w);
    }
    json_end_object(w);
}

static void put_swap(void *userdata, const SwapTest *test) {
    JsonWriter *w = userdata;

    json_begin_object(w, NULL);
    json_put_u64(w, "layer", test->layer);
    json_put_u64(w, "wide", kv_formats[test->wide].bits);
    json_put_u64(w, "narrow", kv_formats[test->narrow].bits);
    json_put_double(w, "for_keys", test->for_keys);
    json_put_double(w, "for_values", test->for_values);
    json_put_double(w, "error", test->error);
    json_put_bool(w, "holds", !swap_test_fails(test));
    json_put_bool(w, "sure", swap_test_is_sure(test));
    json_end_object(w);
}

static int put_estimates(JsonWriter *w, const Profile *p) {
    CLEANUP(free) Profile *estimated = malloc(sizeof(*estimated));

    if (!estimated)
        return -ENOMEM;
    damage_estimate(p, estimated->damages);
    put_table(w, "damage_estimates", ((const Profile *)estimated)->damages, p->geometry.n_layers);
    return 0;
}

static int put_second_level(JsonWriter *w, const Profile *p) {
    uint32_t n_layers = p->geometry.n_layers;

    json_put_u64(w, "damage_tokens", p->n_damage_tokens);
    json_begin_array(w, "damages_measured");
    for (int f = 0; f < KV_FORMATS; f++)
        if (p->damages_direct[f])
            json_put_u64(w, NULL, kv_formats[f].bits);
    json_end_array(w);
    put_table(w, "damages", p->damages, n_layers);
    put_table(w, "damage_errors", p->damage_errors, n_layers);
    put_table(w, "distortions", p->distortions, n_layers);
    put_laws(w, "distortion_laws", p->distortions, n_layers);
    put_laws(w, "damage_laws", p->damages, n_layers);
    json_begin_array(w, "swaps");
    swap_test_all(p, put_swap, w);
    json_end_array(w);
    return put_estimates(w, p);
}

/* [{"q": {"frobenius": ..., "spectral": ...}, ...}, ...] */
static int put_matrices(JsonWriter *w, const Checkpoint *checkpoint) {
    json_begin_array(w, "matrices");
    for (uint32_t l = 0; l < checkpoint_config(checkpoint)->n_layers; l++) {
        json_begin_object(w, NULL);
        for (size_t i = 0; i < N_MATRICES; i++) {
            MatrixNorms norms;
            int r = matrix_norms(&norms, checkpoint_tensor(checkpoint, matrices[i].role, l));

            if (r)
                return r;
            json_begin_object(w, matrices[i].name);
            json_put_double(w, "frobenius", norms.frobenius);
            json_put_double(w, "spectral", norms.spectral);
            json_end_object(w);
        }
        json_end_object(w);
    }
    json_end_array(w);
    return 0;
}

int profile_report_json(const Profile *p, const Checkpoint *checkpoint, Buffer *out) {
    JsonWriter w = { .out = out, .indent = 1 };
    uint32_t n_layers = p->geometry.n_layers;
    int r = 0;

    json_begin_object(&w, NULL);
    json_put_text(&w, "model", p->identity);
    json_put_u64(&w, "n_layers", n_layers);
    json_put_text(&w, "text", p->text_name);
    json_put_u64(&w, "tokens", p->n_tokens);
    json_put_u64(&w, "tokens_wanted", p->n_tokens_wanted);
    put_norms(&w, "k_norms", p->k_norms, n_layers);
    put_norms(&w, "v_norms", p->v_norms, n_layers);
    if (p->has_spectral_norms) {
        put_norms(&w, "k_spectral_norms", p->k_spectral_norms, n_layers);
        put_norms(&w, "v_spectral_norms", p->v_spectral_norms, n_layers);
    }
    if (is_measured(p))
        r = put_second_level(&w, p);
    if (!r && checkpoint)
        r = put_matrices(&w, checkpoint);
    json_end_object(&w);
    return r ? r : buffer_failed(out) ? -ENOMEM : 0;
}
