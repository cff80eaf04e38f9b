/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What config.json, generation_config.json and GGUF metadata mean, case by case. The expected
 * values are what Transformers 5's configuration classes and llama.cpp's loader make of them.
 */
#include "model/model_config.h"

#include "tests/unit/model_files.h"

#include <errno.h>
#include <math.h>

#define CONFIG "config.json"
#define GENERATION "generation_config.json"
#define REQUIRED                                                            \
    "\"num_hidden_layers\":4,\"num_attention_heads\":4,\"hidden_size\":64," \
    "\"intermediate_size\":96,\"vocab_size\":100,\"max_position_embeddings\":1024"

static ModelConfig config;
static GenerationDefaults generation;

static int forget(void **state) {
    (void)state;
    model_config_deinit(&config);
    remove(model_path(CONFIG));
    remove(model_path(GENERATION));
    return 0;
}

/* Hugging Face */

static int read_hf(const char *type, const char *more, Reason *why) {
    char text[2048];

    snprintf(text, sizeof(text), "{\"model_type\":\"%s\"," REQUIRED "%s%s}", type, *more ? "," : "",
             more);
    model_file_write_text(CONFIG, text);
    model_config_deinit(&config);
    memset(&generation, 0, sizeof(generation));
    *why = (Reason)REASON_NULL;
    return hf_config_read(model_directory, &config, &generation, why);
}

static void expect_hf(const char *type, const char *more) {
    Reason why;

    if (read_hf(type, more, &why))
        fail_msg("%s", why.text);
}

static void expect_hf_refusal(const char *type, const char *more, const char *part) {
    Reason why;

    assert_int_equal(read_hf(type, more, &why), -EINVAL);
    assert_mentions(why.text, model_path(CONFIG));
    assert_mentions(why.text, part);
}

static void test_shape_and_defaults(void **state) {
    (void)state;
    expect_hf("llama", "");
    assert_int_equal(config.arch, MODEL_ARCH_LLAMA);
    assert_int_equal(config.n_layers, 4);
    assert_int_equal(config.n_kv_heads, 4);
    assert_int_equal(config.head_dim, 16);
    assert_int_equal(config.ffn_dim, 96);
    assert_int_equal(config.n_vocab, 100);
    assert_int_equal(config.max_position, 1024);
    assert_true(config.rms_epsilon == 1e-6f);
    assert_false(config.tied_embeddings);
    assert_false(config.rope_interleaved_rows);
    assert_true(config.rope.theta == 10000);
    assert_int_equal(config.rope.scaling, ROPE_DEFAULT);

    expect_hf("llama", "\"num_key_value_heads\":2,\"head_dim\":32,\"tie_word_embeddings\":true,"
                       "\"rms_norm_eps\":1e-5");
    assert_int_equal(config.n_kv_heads, 2);
    assert_int_equal(config.head_dim, 32);
    assert_true(config.tied_embeddings);
    assert_true(config.rms_epsilon == 1e-5f);
    expect_hf("llama", "\"head_dim\":null");
    assert_int_equal(config.head_dim, 16);
    expect_hf("qwen3", "");
    assert_int_equal(config.head_dim, 128);
}

static void test_biases_and_norms_of_each_architecture(void **state) {
    (void)state;
    expect_hf("llama", "\"attention_bias\":true,\"mlp_bias\":true");
    assert_true(config.qkv_bias && config.o_bias && config.mlp_bias && !config.qk_norm);
    expect_hf("llama", "");
    assert_false(config.qkv_bias || config.o_bias || config.mlp_bias);
    expect_hf("mistral", "\"attention_bias\":true");
    assert_false(config.qkv_bias || config.o_bias);
    expect_hf("qwen2", "\"attention_bias\":false");
    assert_true(config.qkv_bias && !config.o_bias && !config.qk_norm);
    expect_hf("qwen3", "");
    assert_true(config.qk_norm && !config.qkv_bias && !config.o_bias);
    expect_hf("qwen3", "\"attention_bias\":true");
    assert_true(config.qkv_bias && config.o_bias && !config.mlp_bias);
}

/* `slides`: one digit a layer. */
static void expect_windows(uint32_t window, const char *slides) {
    assert_int_equal(config.sliding_window, window);
    for (uint32_t l = 0; l < config.n_layers; l++)
        assert_int_equal(config.layer_slides[l], slides[l] == '1');
}

static void test_sliding_windows_of_each_architecture(void **state) {
    (void)state;
    expect_hf("llama", "\"sliding_window\":16,\"use_sliding_window\":true");
    expect_windows(0, "0000");
    expect_hf("mistral", "\"sliding_window\":16");
    expect_windows(16, "1111");
    expect_hf("mistral", "\"sliding_window\":null");
    expect_windows(0, "0000");
    expect_hf("mistral", "");
    expect_windows(4096, "1111");
    expect_hf("qwen2", "\"sliding_window\":16,\"max_window_layers\":2");
    expect_windows(0, "0000");
    expect_hf("qwen2", "\"sliding_window\":16,\"max_window_layers\":2,\"use_sliding_window\":true");
    expect_windows(16, "0011");
    expect_hf("qwen3", "\"sliding_window\":16,\"use_sliding_window\":true");
    expect_windows(16, "0000");
    expect_hf("qwen3", "\"max_window_layers\":0,\"use_sliding_window\":true");
    expect_windows(4096, "1111");
    expect_hf("qwen3",
              "\"sliding_window\":null,\"max_window_layers\":0,\"use_sliding_window\":true");
    expect_windows(0, "0000");
    expect_hf("qwen2", "\"sliding_window\":16,\"max_window_layers\":0,\"use_sliding_window\":true,"
                       "\"layer_types\":[\"full_attention\",\"sliding_attention\","
                       "\"full_attention\",\"sliding_attention\"]");
    expect_windows(16, "0101");
}

static void expect_theta(float theta, float local_theta) {
    assert_true(config.has_local_rope);
    assert_true(config.rope.theta == theta && config.local_rope.theta == local_theta);
    assert_int_equal(config.local_rope.scaling, ROPE_DEFAULT);
}

static void test_gemma3_and_its_defaults(void **state) {
    (void)state;
    expect_hf("gemma3_text", "");
    assert_int_equal(config.arch, MODEL_ARCH_GEMMA3);
    assert_int_equal(config.n_kv_heads, 4);
    assert_int_equal(config.head_dim, 256);
    assert_true(config.score_divisor == 256);
    assert_true(config.tied_embeddings && config.qk_norm && config.post_norms);
    assert_true(config.norms_less_one && config.scaled_embeddings && !config.qkv_bias);
    assert_int_equal(config.activation, ACTIVATION_GELU_TANH);
    expect_windows(4096, "1111");
    expect_theta(1000000, 10000);

    expect_hf("gemma3_text", "\"query_pre_attn_scalar\":168,\"head_dim\":128,"
                             "\"sliding_window\":16,\"sliding_window_pattern\":2,"
                             "\"attention_bias\":true,\"tie_word_embeddings\":false,"
                             "\"final_logit_softcapping\":null");
    assert_true(config.score_divisor == 168 && config.qkv_bias && config.o_bias);
    assert_false(config.tied_embeddings);
    expect_windows(16, "1010");
    expect_hf("gemma3_text", "\"sliding_window\":null,\"sliding_window_pattern\":1");
    expect_windows(0, "0000");
    expect_hf("gemma3_text", "\"layer_types\":[\"full_attention\",\"sliding_attention\","
                             "\"full_attention\",\"sliding_attention\"]");
    expect_windows(4096, "0101");
    /* Other architectures have none of it. */
    expect_hf("qwen3", "\"head_dim\":64,\"query_pre_attn_scalar\":16,"
                       "\"rope_local_base_freq\":5,\"final_logit_softcapping\":30");
    assert_true(config.score_divisor == 64 && !config.has_local_rope && !config.post_norms);
    assert_false(config.scaled_embeddings || config.norms_less_one);
    assert_int_equal(config.activation, ACTIVATION_SILU);
}

static void test_gemma3_has_two_rotations(void **state) {
    (void)state;
    expect_hf("gemma3_text", "\"rope_theta\":500000,\"rope_local_base_freq\":20000,"
                             "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0}");
    expect_theta(500000, 20000);
    assert_int_equal(config.rope.scaling, ROPE_LINEAR);
    assert_true(config.rope.factor == 8);
    expect_hf("gemma3_text",
              "\"rope_parameters\":{\"full_attention\":{\"rope_theta\":2e6,\"rope_type\":"
              "\"linear\",\"factor\":4},\"sliding_attention\":{\"rope_theta\":30000,"
              "\"rope_type\":\"default\"}}");
    expect_theta(2000000, 30000);
    assert_int_equal(config.rope.scaling, ROPE_LINEAR);
    assert_true(config.rope.factor == 4);
    expect_hf("gemma3_text", "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"},"
                             "\"sliding_attention\":{\"rope_type\":\"linear\",\"factor\":2}}");
    assert_int_equal(config.rope.scaling, ROPE_DEFAULT);
    assert_true(config.rope.theta == 1000000 && config.local_rope.theta == 10000);
    assert_int_equal(config.local_rope.scaling, ROPE_LINEAR);
    assert_true(config.local_rope.factor == 2);
}

static void test_wrong_layer_types_are_refused(void **state) {
    (void)state;
    expect_hf_refusal("qwen2", "\"layer_types\":[\"full_attention\"]", "has 1 entries");
    expect_hf_refusal("qwen2",
                      "\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\","
                      "\"linear_attention\"]",
                      "layer_types[3] is \"linear_attention\"");
    expect_hf_refusal("qwen2",
                      "\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\","
                      "\"sliding_attention\"]",
                      "layer_types[3] slides, but");
    expect_hf_refusal("qwen2", "\"layer_types\":[1,2,3,4]", "layer_types[0]");
}

static void test_rotary_scaling_in_both_places(void **state) {
    static const char *const llama3[] = {
        "\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":500000.0,\"factor\":8.0,"
        "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
        "\"original_max_position_embeddings\":256}",
        "\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
        "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
        "\"original_max_position_embeddings\":256}",
        "\"rope_theta\":500000,\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,"
        "\"low_freq_factor\":1,\"high_freq_factor\":4,"
        "\"original_max_position_embeddings\":256}",
    };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        expect_hf("llama", llama3[i]);
        assert_int_equal(config.rope.scaling, ROPE_LLAMA3);
        assert_true(config.rope.theta == 500000 && config.rope.factor == 8);
        assert_true(config.rope.low_freq_factor == 1 && config.rope.high_freq_factor == 4);
        assert_int_equal(config.rope.original_max_position, 256);
    }
    expect_hf("mistral", "\"rope_theta\":1e6,\"rope_scaling\":null");
    assert_int_equal(config.rope.scaling, ROPE_DEFAULT);
    assert_true(config.rope.theta == 1e6f);
    expect_hf("qwen2", "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}");
    assert_int_equal(config.rope.scaling, ROPE_LINEAR);
    assert_true(config.rope.factor == 2.5f);
    /* Transformers lets the older name win. */
    expect_hf("qwen2", "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
                       "\"rope_parameters\":{\"rope_type\":\"default\"}");
    assert_int_equal(config.rope.scaling, ROPE_LINEAR);
    expect_hf("qwen2", "\"rope_scaling\":{},\"rope_parameters\":{\"rope_type\":\"linear\","
                       "\"factor\":3}");
    assert_true(config.rope.factor == 3);
}

static void test_yarn_and_its_defaults(void **state) {
    (void)state;
    expect_hf("qwen3", "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
                       "\"original_max_position_embeddings\":256}");
    assert_int_equal(config.rope.scaling, ROPE_YARN);
    assert_true(config.rope.factor == 4 && config.rope.beta_fast == 32);
    assert_true(config.rope.beta_slow == 1 && config.rope.truncate);
    assert_true(config.rope.attention_factor == 0);
    assert_int_equal(config.rope.original_max_position, 256);
    expect_hf("qwen3", "\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":16,"
                       "\"beta_slow\":2,\"attention_factor\":1.5,\"mscale\":0.7,"
                       "\"mscale_all_dim\":0.9,\"truncate\":false}");
    assert_true(config.rope.beta_fast == 16 && config.rope.beta_slow == 2);
    assert_true(config.rope.attention_factor == 1.5f && !config.rope.truncate);
    assert_true(config.rope.mscale == 0.7f && config.rope.mscale_all_dim == 0.9f);
    assert_int_equal(config.rope.original_max_position, 1024);
    /* At top level the original length overrides; without a factor their ratio is it. */
    expect_hf("qwen3", "\"original_max_position_embeddings\":128,\"rope_scaling\":"
                       "{\"rope_type\":\"yarn\",\"original_max_position_embeddings\":256}");
    assert_int_equal(config.rope.original_max_position, 128);
    assert_true(config.rope.factor == 8);
}

static void test_what_is_not_computed_is_refused_by_name(void **state) {
    static const struct {
        const char *type, *more, *part;
    } cases[] = {
        { "gemma2", "", "model_type \"gemma2\" is not supported; supported are llama" },
        { "gemma3", "", "sees images; supported is its text model alone, gemma3_text" },
        { "gemma3_text", "\"hidden_activation\":\"gelu\"", "supported is gelu_pytorch_tanh" },
        { "gemma3_text", "\"final_logit_softcapping\":30.0", "final_logit_softcapping is 30" },
        { "gemma3_text", "\"attn_logit_softcapping\":50", "only null is" },
        { "gemma3_text", "\"use_bidirectional_attention\":true", "does not generate text" },
        { "gemma3_text", "\"architectures\":[\"Gemma3TextModel\"]", "Gemma3ForCausalLM" },
        { "gemma3_text", "\"query_pre_attn_scalar\":0", "root of 0 (query_pre_attn_scalar)" },
        { "gemma3_text", "\"query_pre_attn_scalar\":-4", "root of -4" },
        { "gemma3_text", "\"query_pre_attn_scalar\":\"x\"", "query_pre_attn_scalar" },
        { "gemma3_text", "\"sliding_window\":null", "sliding_window is null" },
        { "gemma3_text", "\"sliding_window_pattern\":0", "sliding_window_pattern" },
        { "gemma3_text", "\"rope_local_base_freq\":0.5",
          "layers with a sliding window: the rotary base (theta) is 0.5" },
        { "gemma3_text", "\"rope_parameters\":{\"full_attention\":{}}",
          "rope_parameters: key \"sliding_attention\" is missing" },
        { "gemma3_text", "\"rope_parameters\":{\"rope_theta\":1e6}",
          "rope_parameters: key \"full_attention\" is missing" },
        { "llama", "\"architectures\":[\"LlamaForSequenceClassification\"]", "LlamaForCausalLM" },
        { "llama", "\"hidden_act\":\"gelu\"", "hidden_act \"gelu\"" },
        { "llama", "\"quantization_config\":{\"quant_method\":\"gptq\"}", "quantized by gptq" },
        { "llama", "\"partial_rotary_factor\":0.5", "partial_rotary_factor is 0.5" },
        { "llama", "\"rope_parameters\":{\"partial_rotary_factor\":0.25}", "is 0.25" },
        { "llama", "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}", "\"dynamic\"" },
        { "llama", "\"rope_scaling\":{\"rope_type\":\"longrope\"}", "default, linear, llama3 and" },
        { "qwen3", "\"rope_parameters\":{\"full_attention\":{}}", "per layer type" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        expect_hf_refusal(cases[i].type, cases[i].more, cases[i].part);
}

static void test_wrong_values_are_refused_by_key(void **state) {
    static const struct {
        const char *more, *part;
    } cases[] = {
        { "\"num_key_value_heads\":3", "4 attention heads cannot share 3" },
        { "\"num_key_value_heads\":0", "num_key_value_heads" },
        { "\"head_dim\":15", "15 channels; expected an even number" },
        { "\"head_dim\":4096", "head_dim" },
        { "\"rms_norm_eps\":\"small\"",
          "key \"rms_norm_eps\": expected a number, found \"small\"" },
        { "\"rms_norm_eps\":-1", "epsilon is -1" },
        { "\"tie_word_embeddings\":1", "tie_word_embeddings" },
        { "\"rope_theta\":0", "theta) is 0" },
        { "\"rope_theta\":\"big\"", "rope_theta" },
        { "\"rope_scaling\":[1]", "rope_scaling" },
        { "\"rope_scaling\":{\"type\":7}", "key \"type\"" },
        { "\"rope_scaling\":{\"type\":\"linear\"}", "key \"factor\" is missing" },
        { "\"rope_scaling\":{\"type\":\"linear\",\"factor\":-1}", "factor is -1" },
        { "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2}", "low_freq_factor" },
        { "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2,\"low_freq_factor\":4,"
          "\"high_freq_factor\":1}",
          "0 < low < high" },
        { "\"eos_token_id\":100", "id 100 is outside the vocabulary of 100" },
        { "\"eos_token_id\":\"x\"", "eos_token_id" },
        { "\"eos_token_id\":[1,-1]", "eos_token_id" },
        { "\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]", "more than 16 ids" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        expect_hf_refusal("llama", cases[i].more, cases[i].part);
}

static void test_missing_and_absurd_sizes_are_refused(void **state) {
    static const struct {
        const char *text, *part;
    } cases[] = {
        { "", "not valid JSON" },
        { "[]", "expected a JSON object" },
        { "{}", "key \"model_type\" is missing" },
        { "{\"model_type\":\"llama\"}", "key \"num_hidden_layers\" is missing" },
        { "{\"model_type\":\"llama\",\"num_hidden_layers\":0}", "from 1 to 4096, found 0" },
        { "{\"model_type\":\"llama\",\"num_hidden_layers\":1e9}", "from 1 to 4096" },
        { "{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"num_attention_heads\":4096,"
          "\"hidden_size\":64,\"intermediate_size\":1,\"vocab_size\":1,"
          "\"max_position_embeddings\":1}",
          "0 channels" },
    };
    Reason why;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        model_file_write_text(CONFIG, cases[i].text);
        assert_int_equal(hf_config_read(model_directory, &config, &generation, &why), -EINVAL);
        assert_mentions(why.text, model_path(CONFIG));
        assert_mentions(why.text, cases[i].part);
        model_config_deinit(&config);
    }
    remove(model_path(CONFIG));
    assert_int_equal(hf_config_read(model_directory, &config, &generation, &why), -ENOENT);
}

static void test_generation_defaults(void **state) {
    (void)state;
    model_file_write_text(GENERATION,
                          "{\"eos_token_id\":[7,8],\"temperature\":0.6,\"top_p\":0.95,\"top_k\":20,"
                          "\"min_p\":0,\"repetition_penalty\":1.1,\"do_sample\":false}");
    expect_hf("qwen3", "\"eos_token_id\":9");
    assert_int_equal(generation.n_eos_ids, 2);
    assert_int_equal(generation.eos_ids[1], 8);
    assert_true(generation.has_temperature && generation.temperature == 0.6f);
    assert_true(generation.has_top_p && generation.top_p == 0.95f);
    assert_true(generation.has_top_k && generation.top_k == 20);
    assert_true(generation.has_min_p && generation.min_p == 0);
    assert_true(generation.has_repetition_penalty && generation.repetition_penalty == 1.1f);

    model_file_write_text(GENERATION, "{\"temperature\":null,\"top_k\":-1}");
    expect_hf("qwen3", "\"eos_token_id\":9");
    assert_int_equal(generation.n_eos_ids, 1);
    assert_int_equal(generation.eos_ids[0], 9);
    assert_false(generation.has_temperature || generation.has_top_p);
    assert_true(generation.has_top_k && generation.top_k == 0);

    remove(model_path(GENERATION));
    expect_hf("qwen3", "");
    assert_int_equal(generation.n_eos_ids, 0);
    assert_false(generation.has_top_k);
}

static void test_wrong_generation_defaults_are_refused(void **state) {
    static const struct {
        const char *text, *part;
    } cases[] = {
        { "7", "" },
        { "{", "not valid JSON" },
        { "[]", "expected a JSON object" },
        { "{\"temperature\":-1}", "temperature is -1" },
        { "{\"temperature\":\"hot\"}", "temperature" },
        { "{\"top_p\":0}", "top_p is 0" },
        { "{\"top_p\":1.5}", "top_p is 1.5" },
        { "{\"min_p\":2}", "min_p is 2" },
        { "{\"top_k\":-2}", "top_k" },
        { "{\"repetition_penalty\":0}", "repetition_penalty is 0" },
        { "{\"eos_token_id\":[100]}", "id 100 is outside" },
    };
    Reason why;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        model_file_write_text(GENERATION, cases[i].text);
        assert_int_equal(read_hf("llama", "", &why), -EINVAL);
        assert_mentions(why.text, model_path(GENERATION));
        assert_mentions(why.text, cases[i].part);
    }
}

/* GGUF */

#define GGUF_FILE "model.gguf"

/* Head, the seven keys every file has, `more` by a callback, and token_embd [vocab 100]. */
static int read_gguf(const char *arch, void (*more)(Buffer *, const char *), uint64_t n_more,
                     Reason *why) {
    static const struct {
        const char *name;
        uint32_t value;
    } required[] = {
        { "block_count", 4 },          { "attention.head_count", 4 }, { "embedding_length", 64 },
        { "feed_forward_length", 96 }, { "context_length", 1024 },
    };
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;
    CLEANUP(gguf_free) Gguf *gguf = NULL;
    char key[128];
    int r;

    put_gguf_head(&b, 1, 7 + n_more);
    put_key_text(&b, "general.architecture", arch);
    for (size_t i = 0; i < sizeof(required) / sizeof(*required); i++) {
        snprintf(key, sizeof(key), "%s.%s", arch, required[i].name);
        put_key_u32(&b, key, required[i].value);
    }
    snprintf(key, sizeof(key), "%s.attention.layer_norm_rms_epsilon", arch);
    put_key_f32(&b, key, 1e-5f);
    if (more)
        more(&b, arch);
    put_tensor(&b, "token_embd.weight", 64, 100, 1, 0);
    put_padding(&b, 32);
    put_zeros(&b, 64 * 100 * 2);
    model_file_write(GGUF_FILE, b.data, b.size);

    model_config_deinit(&config);
    memset(&generation, 0, sizeof(generation));
    *why = (Reason)REASON_NULL;
    r = gguf_open(&gguf, model_path(GGUF_FILE), why);
    return r ? r : gguf_config_read(gguf, &config, &generation, why);
}

static void put_arch_u32(Buffer *b, const char *arch, const char *name, uint32_t value) {
    char key[128];

    snprintf(key, sizeof(key), "%s.%s", arch, name);
    put_key_u32(b, key, value);
}

static void put_arch_f32(Buffer *b, const char *arch, const char *name, float value) {
    char key[128];

    snprintf(key, sizeof(key), "%s.%s", arch, name);
    put_key_f32(b, key, value);
}

static void put_arch_text(Buffer *b, const char *arch, const char *name, const char *value) {
    char key[128];

    snprintf(key, sizeof(key), "%s.%s", arch, name);
    put_key_text(b, key, value);
}

static void expect_gguf(const char *arch, void (*more)(Buffer *, const char *), uint64_t n_more) {
    Reason why;

    if (read_gguf(arch, more, n_more, &why))
        fail_msg("%s", why.text);
}

static void expect_gguf_refusal(const char *arch, void (*more)(Buffer *, const char *),
                                uint64_t n_more, const char *part) {
    Reason why;

    assert_int_equal(read_gguf(arch, more, n_more, &why), -EINVAL);
    assert_mentions(why.text, model_path(GGUF_FILE));
    assert_mentions(why.text, part);
}

static void put_generation(Buffer *b, const char *arch) {
    (void)arch;
    put_key_u32(b, "tokenizer.ggml.eos_token_id", 5);
    put_key_u32(b, "tokenizer.ggml.eot_token_id", 6);
    put_key_u32(b, "tokenizer.ggml.eom_token_id", 5);
    put_key_f32(b, "general.sampling.temp", 0.25f);
    put_key_u32(b, "general.sampling.top_k", 40);
}

static void test_gguf_shape_and_defaults(void **state) {
    (void)state;
    expect_gguf("llama", NULL, 0);
    assert_int_equal(config.arch, MODEL_ARCH_LLAMA);
    assert_int_equal(config.n_vocab, 100);
    assert_int_equal(config.head_dim, 16);
    assert_int_equal(config.n_kv_heads, 4);
    assert_true(config.rms_epsilon == 1e-5f);
    assert_true(config.tied_embeddings && config.rope_interleaved_rows);
    assert_true(config.rope.theta == 10000);
    assert_int_equal(config.rope.scaling, ROPE_DEFAULT);
    expect_windows(0, "0000");
    expect_gguf("qwen2", NULL, 0);
    assert_true(config.qkv_bias && !config.o_bias && !config.rope_interleaved_rows);
    expect_gguf("qwen3", put_generation, 5);
    assert_true(config.qk_norm && !config.rope_interleaved_rows);
    assert_int_equal(generation.n_eos_ids, 2);
    assert_int_equal(generation.eos_ids[1], 6);
    assert_true(generation.has_temperature && generation.temperature == 0.25f);
    assert_true(generation.has_top_k && generation.top_k == 40);
    assert_false(generation.has_top_p);
}

static void put_window(Buffer *b, const char *arch) {
    put_arch_u32(b, arch, "attention.sliding_window", 48);
}

static void put_pattern(Buffer *b, const char *arch) {
    put_window(b, arch);
    put_arch_u32(b, arch, "attention.sliding_window_pattern", 2);
    put_arch_f32(b, arch, "rope.freq_base", 1e6f);
    put_arch_f32(b, arch, "rope.freq_base_swa", 20000);
    put_arch_f32(b, arch, "rope.scaling.factor", 8);
}

/* As many flags as `n`: of a bool array's items, each is a byte. */
static void put_flags(Buffer *b, const char *arch, const char *flags, size_t n) {
    char key[128];

    put_window(b, arch);
    snprintf(key, sizeof(key), "%s.attention.sliding_window_pattern", arch);
    put_key_array(b, key, 7, n);
    buffer_append(b, flags, n);
}

static void put_four_flags(Buffer *b, const char *arch) {
    put_flags(b, arch, "\0\1\1\0", 4);
}

static void put_three_flags(Buffer *b, const char *arch) {
    put_flags(b, arch, "\0\1\1", 3);
}

static void put_no_pattern(Buffer *b, const char *arch) {
    put_window(b, arch);
    put_arch_u32(b, arch, "attention.sliding_window_pattern", 0);
}

static void put_attention_cap(Buffer *b, const char *arch) {
    put_arch_f32(b, arch, "attn_logit_softcapping", 50);
}

static void put_logit_cap(Buffer *b, const char *arch) {
    put_arch_f32(b, arch, "final_logit_softcapping", 30);
}

static void put_local_base(Buffer *b, const char *arch) {
    put_arch_f32(b, arch, "rope.freq_base_swa", 0);
}

static void test_gguf_gemma3(void **state) {
    (void)state;
    expect_gguf("gemma3", NULL, 0);
    assert_int_equal(config.arch, MODEL_ARCH_GEMMA3);
    assert_true(config.qk_norm && config.post_norms && config.scaled_embeddings);
    assert_false(config.norms_less_one || config.rope_interleaved_rows);
    assert_int_equal(config.activation, ACTIVATION_GELU_TANH);
    assert_true(config.score_divisor == 16);
    expect_windows(0, "0000");
    expect_theta(10000, 10000);
    expect_gguf("gemma3", put_window, 1);
    expect_windows(48, "1111");
    expect_gguf("gemma3", put_pattern, 5);
    expect_windows(48, "1010");
    expect_theta(1000000, 20000);
    assert_int_equal(config.rope.scaling, ROPE_LINEAR);
    assert_true(config.rope.factor == 8);
    expect_gguf("gemma3", put_four_flags, 2);
    expect_windows(48, "0110");
    expect_gguf_refusal("gemma3", put_three_flags, 2, "has 3 entries; expected 4, one a layer");
    expect_gguf_refusal("gemma3", put_no_pattern, 2, "sliding_window_pattern");
    expect_gguf_refusal("gemma3", put_attention_cap, 1, "soft caps are not supported");
    expect_gguf_refusal("gemma3", put_logit_cap, 1, "logits at 30");
    expect_gguf_refusal("gemma3", put_local_base, 1, "layers with a sliding window: the rotary");
}

static void put_linear(Buffer *b, const char *arch) {
    put_arch_f32(b, arch, "rope.scale_linear", 4);
    put_arch_f32(b, arch, "rope.freq_base", 500000);
}

static void put_no_scaling(Buffer *b, const char *arch) {
    put_arch_text(b, arch, "rope.scaling.type", "none");
    put_arch_f32(b, arch, "rope.scaling.factor", 4);
}

static void put_yarn(Buffer *b, const char *arch) {
    put_arch_text(b, arch, "rope.scaling.type", "yarn");
    put_arch_f32(b, arch, "rope.scaling.factor", 4);
    put_arch_u32(b, arch, "rope.scaling.original_context_length", 256);
    put_arch_f32(b, arch, "rope.scaling.attn_factor", 0.5f);
}

static void test_gguf_windows_and_scaling(void **state) {
    (void)state;
    expect_gguf("llama", put_window, 1);
    expect_windows(48, "1111");
    expect_gguf_refusal("qwen2", put_window, 1, "sliding windows");
    expect_gguf("llama", put_linear, 2);
    assert_int_equal(config.rope.scaling, ROPE_LINEAR);
    assert_true(config.rope.factor == 4 && config.rope.theta == 500000);
    expect_gguf("llama", put_no_scaling, 2);
    assert_int_equal(config.rope.scaling, ROPE_DEFAULT);
    expect_gguf("qwen2", put_yarn, 4);
    assert_int_equal(config.rope.scaling, ROPE_YARN);
    assert_true(config.rope.factor == 4 && config.rope.beta_fast == 32);
    assert_true(config.rope.beta_slow == 1 && config.rope.truncate);
    assert_int_equal(config.rope.original_max_position, 256);
    assert_true(fabsf(config.rope.attention_factor - 0.5f * 1.1386294f) < 1e-6f);
}

static void put_longrope(Buffer *b, const char *arch) {
    put_arch_text(b, arch, "rope.scaling.type", "longrope");
}

static void put_experts(Buffer *b, const char *arch) {
    put_arch_u32(b, arch, "expert_count", 8);
}

static void put_split(Buffer *b, const char *arch) {
    (void)arch;
    put_key_u32(b, "split.count", 3);
}

static void put_partial(Buffer *b, const char *arch) {
    put_arch_u32(b, arch, "rope.dimension_count", 8);
}

static void put_value_length(Buffer *b, const char *arch) {
    put_arch_u32(b, arch, "attention.value_length", 8);
}

static void put_bidirectional(Buffer *b, const char *arch) {
    char key[64];

    snprintf(key, sizeof(key), "%s.attention.causal", arch);
    put_key(b, key, 7);
    buffer_append(b, "\0", 1);
}

static void put_kv_heads(Buffer *b, const char *arch) {
    put_arch_u32(b, arch, "attention.head_count_kv", 3);
}

static void put_wrong_eos(Buffer *b, const char *arch) {
    (void)arch;
    put_key_u32(b, "tokenizer.ggml.eos_token_id", 100);
}

static void put_text_heads(Buffer *b, const char *arch) {
    put_arch_text(b, arch, "attention.head_count_kv", "four");
}

static void test_gguf_that_is_not_computed_is_refused_by_name(void **state) {
    (void)state;
    expect_gguf_refusal("gemma2", NULL, 0, "general.architecture \"gemma2\" is not supported");
    expect_gguf_refusal("llama", put_longrope, 1, "\"longrope\"");
    expect_gguf_refusal("llama", put_experts, 1, "8 experts");
    expect_gguf_refusal("llama", put_split, 1, "one of 3 parts");
    expect_gguf_refusal("llama", put_partial, 1, "8 of 16 channels are rotated");
    expect_gguf_refusal("llama", put_value_length, 1, "keys have 16 channels and values 8");
    expect_gguf_refusal("llama", put_bidirectional, 1, "not causal");
    expect_gguf_refusal("llama", put_kv_heads, 1, "4 attention heads cannot share 3");
    expect_gguf_refusal("llama", put_wrong_eos, 1, "id 100 is outside");
    expect_gguf_refusal("llama", put_text_heads, 1, "expected an integer, found a text");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_shape_and_defaults, forget),
        cmocka_unit_test_teardown(test_biases_and_norms_of_each_architecture, forget),
        cmocka_unit_test_teardown(test_sliding_windows_of_each_architecture, forget),
        cmocka_unit_test_teardown(test_gemma3_and_its_defaults, forget),
        cmocka_unit_test_teardown(test_gemma3_has_two_rotations, forget),
        cmocka_unit_test_teardown(test_wrong_layer_types_are_refused, forget),
        cmocka_unit_test_teardown(test_rotary_scaling_in_both_places, forget),
        cmocka_unit_test_teardown(test_yarn_and_its_defaults, forget),
        cmocka_unit_test_teardown(test_what_is_not_computed_is_refused_by_name, forget),
        cmocka_unit_test_teardown(test_wrong_values_are_refused_by_key, forget),
        cmocka_unit_test_teardown(test_missing_and_absurd_sizes_are_refused, forget),
        cmocka_unit_test_teardown(test_generation_defaults, forget),
        cmocka_unit_test_teardown(test_wrong_generation_defaults_are_refused, forget),
        cmocka_unit_test_teardown(test_gguf_shape_and_defaults, forget),
        cmocka_unit_test_teardown(test_gguf_windows_and_scaling, forget),
        cmocka_unit_test_teardown(test_gguf_gemma3, forget),
        cmocka_unit_test_teardown(test_gguf_that_is_not_computed_is_refused_by_name, forget),
    };

    return cmocka_run_group_tests(tests, model_files_setup, model_files_teardown);
}
