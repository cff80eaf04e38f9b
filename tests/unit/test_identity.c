/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The checkpoint here is one in memory: identity reads it through three functions, which are this
 * file's instead of the library's.
 */
#include "model/identity.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { N_LAYERS = 2, DATA_BYTES = 20000 };

struct Checkpoint {
    ModelConfig config;
    TensorView tensors[N_LAYERS][TENSOR_ROLES]; /* no data: the model has none there */
    uint8_t data[DATA_BYTES];
};

const ModelConfig *checkpoint_config(const Checkpoint *checkpoint) {
    return &checkpoint->config;
}

const TensorView *checkpoint_tensor(const Checkpoint *checkpoint, TensorRole role, uint32_t layer) {
    const TensorView *tensor = &checkpoint->tensors[layer][role];

    return tensor->data ? tensor : NULL;
}

const char *model_arch_name(ModelArch arch) {
    return arch == MODEL_ARCH_LLAMA ? "llama" : "another";
}

static const bool slides[N_LAYERS] = { false, true };
static const float freq_factors[32] = { 1 };
static Checkpoint model;

static void make_model(void) {
    memset(&model, 0, sizeof(model));
    model.config = (ModelConfig){ .n_layers = N_LAYERS, .n_heads = 4, .head_dim = 64 };
    model.tensors[0][TENSOR_EMBED] = (TensorView){ .name = "embed",
                                                   .n_dims = 2,
                                                   .shape = { 50, 100 },
                                                   .data = model.data,
                                                   .size_bytes = DATA_BYTES };
    model.tensors[1][TENSOR_UP] = (TensorView){
        .name = "up", .n_dims = 2, .shape = { 2, 4 }, .data = model.data + 9000, .size_bytes = 32
    };
}

static bool identity_is(const char *expected) {
    char hex[HASH128_HEX_BYTES];

    return !strcmp(model_identity(&model, hex), expected);
}

static void test_identity_does_not_depend_on_where_things_lie(void **state) {
    char hex[HASH128_HEX_BYTES];
    static uint8_t copy[DATA_BYTES];

    (void)state;
    make_model();
    model_identity(&model, hex);
    assert_int_equal(strlen(hex), 32);
    assert_true(identity_is(hex));
    model.tensors[0][TENSOR_EMBED].data = copy;
    assert_true(identity_is(hex));
}

#define ASSERT_COUNTS(_field, _value)   \
    do {                                \
        make_model();                   \
        model._field = _value;          \
        assert_false(identity_is(hex)); \
    } while (0)

static void test_everything_the_decoder_reads_counts(void **state) {
    char hex[HASH128_HEX_BYTES];

    (void)state;
    make_model();
    model_identity(&model, hex);
    ASSERT_COUNTS(config.arch, MODEL_ARCH_QWEN3);
    ASSERT_COUNTS(config.n_heads, 5);
    ASSERT_COUNTS(config.n_kv_heads, 5);
    ASSERT_COUNTS(config.head_dim, 32);
    ASSERT_COUNTS(config.dim, 1);
    ASSERT_COUNTS(config.ffn_dim, 1);
    ASSERT_COUNTS(config.n_vocab, 1);
    ASSERT_COUNTS(config.max_position, 1);
    ASSERT_COUNTS(config.rms_epsilon, 1e-6f);
    ASSERT_COUNTS(config.sliding_window, 1);
    ASSERT_COUNTS(config.layer_slides, slides);
    ASSERT_COUNTS(config.tied_embeddings, true);
    ASSERT_COUNTS(config.qkv_bias, true);
    ASSERT_COUNTS(config.o_bias, true);
    ASSERT_COUNTS(config.mlp_bias, true);
    ASSERT_COUNTS(config.qk_norm, true);
    ASSERT_COUNTS(config.post_norms, true);
    ASSERT_COUNTS(config.norms_less_one, true);
    ASSERT_COUNTS(config.scaled_embeddings, true);
    ASSERT_COUNTS(config.activation, ACTIVATION_GELU_TANH);
    ASSERT_COUNTS(config.score_divisor, 1);
    ASSERT_COUNTS(config.rope_interleaved_rows, true);
    ASSERT_COUNTS(config.rope.scaling, ROPE_YARN);
    ASSERT_COUNTS(config.rope.theta, 1);
    ASSERT_COUNTS(config.rope.factor, 1);
    ASSERT_COUNTS(config.rope.low_freq_factor, 1);
    ASSERT_COUNTS(config.rope.high_freq_factor, 1);
    ASSERT_COUNTS(config.rope.beta_fast, 1);
    ASSERT_COUNTS(config.rope.beta_slow, 1);
    ASSERT_COUNTS(config.rope.attention_factor, 1);
    ASSERT_COUNTS(config.rope.mscale, 1);
    ASSERT_COUNTS(config.rope.mscale_all_dim, 1);
    ASSERT_COUNTS(config.rope.truncate, true);
    ASSERT_COUNTS(config.rope.original_max_position, 1);
    ASSERT_COUNTS(config.rope.freq_factors, freq_factors);
    ASSERT_COUNTS(config.has_local_rope, true);
    ASSERT_COUNTS(config.local_rope.theta, 1);
    ASSERT_COUNTS(tensors[0][TENSOR_EMBED].name, "embad");
    ASSERT_COUNTS(tensors[0][TENSOR_EMBED].format, WEIGHT_F16);
    ASSERT_COUNTS(tensors[0][TENSOR_EMBED].shape[1], 101);
    ASSERT_COUNTS(tensors[0][TENSOR_EMBED].size_bytes, DATA_BYTES - 1);
    ASSERT_COUNTS(tensors[1][TENSOR_DOWN], model.tensors[1][TENSOR_UP]);
    ASSERT_COUNTS(data[0], 1);
    ASSERT_COUNTS(data[4095], 1);
    ASSERT_COUNTS(data[9031], 1);
    ASSERT_COUNTS(data[DATA_BYTES / 2], 1);
    ASSERT_COUNTS(data[DATA_BYTES / 2 + 4095], 1);
}

static void test_role_and_layer_of_a_tensor_count(void **state) {
    char hex[HASH128_HEX_BYTES];

    (void)state;
    make_model();
    model_identity(&model, hex);
    model.tensors[1][TENSOR_GATE] = model.tensors[1][TENSOR_UP];
    model.tensors[1][TENSOR_UP].data = NULL;
    assert_false(identity_is(hex));
    make_model();
    model.tensors[0][TENSOR_UP] = model.tensors[1][TENSOR_UP];
    model.tensors[1][TENSOR_UP].data = NULL;
    assert_false(identity_is(hex));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity_does_not_depend_on_where_things_lie),
        cmocka_unit_test(test_everything_the_decoder_reads_counts),
        cmocka_unit_test(test_role_and_layer_of_a_tensor_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
