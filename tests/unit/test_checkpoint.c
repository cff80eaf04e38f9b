/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole models: the tiny checkpoints of tests/data/models, and one-layer models made here in
 * either container, sound or with one defect.
 */
#include "model/checkpoint.h"

#include "tests/unit/model_files.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#define TINY_DIM 32
#define TINY_FFN 64
#define TINY_VOCAB 8

typedef struct TinyTensor {
    const char *hf, *gguf;
    uint32_t rows, columns; /* columns 0: a vector */
} TinyTensor;

/* llama, one layer, two query heads of 16, one key-value head */
static const TinyTensor tiny_tensors[] = {
    { "model.embed_tokens.weight", "token_embd.weight", TINY_VOCAB, TINY_DIM },
    { "model.norm.weight", "output_norm.weight", TINY_DIM, 0 },
    { "lm_head.weight", "output.weight", TINY_VOCAB, TINY_DIM },
    { "model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", TINY_DIM, 0 },
    { "model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", 32, TINY_DIM },
    { "model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", 16, TINY_DIM },
    { "model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", 16, TINY_DIM },
    { "model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight", TINY_DIM, 32 },
    { "model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", TINY_DIM, 0 },
    { "model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight", TINY_FFN, TINY_DIM },
    { "model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight", TINY_FFN, TINY_DIM },
    { "model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", TINY_DIM, TINY_FFN },
};

#define N_TINY (sizeof(tiny_tensors) / sizeof(*tiny_tensors))

/* What differs from the sound model; zero: nothing. `changed` counts from 1. */
typedef struct Defect {
    size_t changed;         /* tensor that has the following */
    const char *name;       /* instead of its own; NULL: its own */
    const char *dtype;      /* safetensors: instead of F32 */
    uint32_t type;          /* GGUF: instead of f32 */
    uint32_t rows, columns; /* instead of its own; 0: its own */
} Defect;

static TinyTensor defective(size_t i, const Defect *defect) {
    TinyTensor t = tiny_tensors[i];

    if (i + 1 != defect->changed)
        return t;
    if (defect->name)
        t.hf = t.gguf = defect->name;
    if (defect->rows) {
        t.rows = defect->rows;
        t.columns = defect->columns;
    }
    return t;
}

static size_t tensor_bytes(const TinyTensor *t, size_t value_bytes) {
    return (size_t)t->rows * (t->columns ? t->columns : 1) * value_bytes;
}

static void write_tiny_config(const char *more) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;

    buffer_printf(&text,
                  "{\"model_type\":\"llama\",\"num_hidden_layers\":1,"
                  "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"hidden_size\":32,"
                  "\"intermediate_size\":64,\"vocab_size\":8,"
                  "\"max_position_embeddings\":128%s}",
                  more);
    model_file_write("config.json", text.data, text.size);
}

static void write_tiny_safetensors(const Defect *defect) {
    CLEANUP(buffer_deinit) Buffer header = BUFFER_NULL, b = BUFFER_NULL;
    size_t offset = 0;

    write_tiny_config("");
    buffer_append_text(&header, "{");
    for (size_t i = 0; i < N_TINY; i++) {
        TinyTensor t = defective(i, defect);
        const char *dtype = i + 1 == defect->changed && defect->dtype ? defect->dtype : "F32";
        size_t size = tensor_bytes(&t, strcmp(dtype, "F32") ? 1 : 4);

        buffer_printf(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%u", i ? "," : "", t.hf,
                      dtype, t.rows);
        if (t.columns)
            buffer_printf(&header, ",%u", t.columns);
        buffer_printf(&header, "],\"data_offsets\":[%zu,%zu]}", offset, offset + size);
        offset += size;
    }
    buffer_append_text(&header, "}");
    put_safetensors(&b, buffer_text(&header), offset);
    model_file_write("model.safetensors", b.data, b.size);
}

static void put_tiny_gguf(Buffer *b, const Defect *defect) {
    uint64_t offset = 0;

    put_gguf_head(b, N_TINY, 8);
    put_key_text(b, "general.architecture", "llama");
    put_key_u32(b, "llama.block_count", 1);
    put_key_u32(b, "llama.attention.head_count", 2);
    put_key_u32(b, "llama.attention.head_count_kv", 1);
    put_key_u32(b, "llama.embedding_length", TINY_DIM);
    put_key_u32(b, "llama.feed_forward_length", TINY_FFN);
    put_key_u32(b, "llama.context_length", 128);
    put_key_f32(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    for (size_t i = 0; i < N_TINY; i++) {
        TinyTensor t = defective(i, defect);
        uint32_t type = i + 1 == defect->changed ? defect->type : 0;

        put_tensor(b, t.gguf, t.columns ? t.columns : t.rows, t.columns ? t.rows : 0, type, offset);
        offset += tensor_bytes(&t, 4); /* a multiple of 32, and room enough for any type */
    }
    put_padding(b, 32);
    put_zeros(b, offset);
}

static void write_tiny_gguf(const Defect *defect) {
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;

    put_tiny_gguf(&b, defect);
    model_file_write("tiny.gguf", b.data, b.size);
}

static size_t tiny_index(const char *gguf_name) {
    for (size_t i = 0; i < N_TINY; i++)
        if (!strcmp(tiny_tensors[i].gguf, gguf_name))
            return i + 1;
    fail_msg("no tensor %s", gguf_name);
    return 0;
}

/* Reads every byte that the checkpoint gives out. */
static uint64_t read_all(const Checkpoint *ck) {
    uint64_t sum = 0;

    for (uint32_t l = 0; l < checkpoint_config(ck)->n_layers; l++)
        for (TensorRole role = 0; role < TENSOR_ROLES; role++) {
            const TensorView *t = checkpoint_tensor(ck, role, l);

            for (size_t i = 0; t && i < t->size_bytes; i++)
                sum += ((const uint8_t *)t->data)[i];
        }
    return sum;
}

static void expect_refusal(const char *path, const char *part, const char *other_part) {
    Checkpoint *ck = NULL;
    Reason why = REASON_NULL;

    assert_int_equal(checkpoint_open(&ck, path, &why), -EINVAL);
    assert_mentions(why.text, model_directory);
    assert_mentions(why.text, part);
    assert_mentions(why.text, other_part);
}

/* the fixtures */

static int unpack_models(void **state) {
    const char *root = getenv("KVASIR_SOURCE_ROOT");
    static const char *const archs[] = { "llama", "mistral", "qwen2", "qwen3", "gemma3_text" };
    char command[4096];

    if (model_files_setup(state))
        return -1;
    for (size_t i = 0; i < sizeof(archs) / sizeof(*archs); i++) {
        snprintf(command, sizeof(command), "tar -xJf '%s/tests/data/models/%s.tar.xz' -C '%s'",
                 root ? root : ".", archs[i], model_directory);
        if (system(command))
            return -1;
    }
    return 0;
}

static Checkpoint *open_model(const char *name) {
    Checkpoint *ck = NULL;
    Reason why = REASON_NULL;

    if (checkpoint_open(&ck, model_path(name), &why))
        fail_msg("%s", why.text);
    return ck;
}

static void assert_tensor(const Checkpoint *ck, TensorRole role, const char *name, uint32_t rows,
                          uint32_t columns) {
    const TensorView *t = checkpoint_tensor(ck, role, 1);

    if (!t)
        fail_msg("%s is not there", name);
    assert_string_equal(t->name, name);
    assert_int_equal(t->shape[0], rows);
    assert_int_equal(t->shape[1], columns);
    assert_int_equal(t->n_dims, columns == 1 ? 1 : 2);
    assert_int_equal(t->format, WEIGHT_BF16);
    assert_int_equal(t->size_bytes, (size_t)rows * columns * 2);
}

/* Adds up all tensors that the model has. */
static uint64_t sum_up(const Checkpoint *ck, uint64_t (*of)(const TensorView *)) {
    uint64_t sum = 0;

    for (TensorRole role = 0; role < TENSOR_ROLES; role++) {
        uint32_t n_layers = role < TENSOR_ATTENTION_NORM ? 1 : checkpoint_config(ck)->n_layers;

        for (uint32_t layer = 0; layer < n_layers; layer++) {
            const TensorView *t = checkpoint_tensor(ck, role, layer);

            sum += t ? of(t) : 0;
        }
    }
    return sum;
}

static uint64_t values_in(const TensorView *t) {
    return (uint64_t)t->shape[0] * t->shape[1];
}

static uint64_t bytes_in(const TensorView *t) {
    return t->size_bytes;
}

static uint64_t parameters_of(const Checkpoint *ck) {
    return sum_up(ck, values_in);
}

static void test_llama_in_shards(void **state) {
    CLEANUP(checkpoint_free) Checkpoint *ck = open_model("llama");
    const ModelConfig *c = checkpoint_config(ck);

    (void)state;
    assert_int_equal(c->arch, MODEL_ARCH_LLAMA);
    assert_int_equal(c->rope.scaling, ROPE_LLAMA3);
    assert_false(c->tied_embeddings || c->rope_interleaved_rows);
    assert_tensor(ck, TENSOR_EMBED, "model.embed_tokens.weight", 512, 256);
    assert_tensor(ck, TENSOR_OUTPUT, "lm_head.weight", 512, 256);
    assert_tensor(ck, TENSOR_OUTPUT_NORM, "model.norm.weight", 256, 1);
    assert_tensor(ck, TENSOR_Q, "model.layers.1.self_attn.q_proj.weight", 256, 256);
    assert_tensor(ck, TENSOR_K, "model.layers.1.self_attn.k_proj.weight", 128, 256);
    assert_tensor(ck, TENSOR_FFN_NORM, "model.layers.1.post_attention_layernorm.weight", 256, 1);
    assert_tensor(ck, TENSOR_DOWN, "model.layers.1.mlp.down_proj.weight", 256, 512);
    assert_null(checkpoint_tensor(ck, TENSOR_Q_BIAS, 0));
    assert_null(checkpoint_tensor(ck, TENSOR_Q_NORM, 0));
    assert_int_equal(parameters_of(ck), 2033408);
    assert_int_equal(sum_up(ck, bytes_in), 4066816);
    assert_int_equal(checkpoint_generation(ck)->n_eos_ids, 1);
    assert_int_equal(checkpoint_generation(ck)->eos_ids[0], 1);
    assert_true(checkpoint_generation(ck)->temperature == 1);
}

static void test_mistral_with_a_window(void **state) {
    CLEANUP(checkpoint_free) Checkpoint *ck = open_model("mistral");

    (void)state;
    assert_int_equal(checkpoint_config(ck)->sliding_window, 48);
    assert_true(checkpoint_config(ck)->layer_slides[2]);
}

static void test_qwen2_with_biases_and_tied_embeddings(void **state) {
    CLEANUP(checkpoint_free) Checkpoint *ck = open_model("qwen2");

    (void)state;
    assert_true(checkpoint_config(ck)->tied_embeddings);
    assert_null(checkpoint_tensor(ck, TENSOR_OUTPUT, 0));
    assert_tensor(ck, TENSOR_Q_BIAS, "model.layers.1.self_attn.q_proj.bias", 256, 1);
    assert_tensor(ck, TENSOR_V_BIAS, "model.layers.1.self_attn.v_proj.bias", 128, 1);
    assert_null(checkpoint_tensor(ck, TENSOR_O_BIAS, 0));
}

static void test_qwen3_with_head_norms(void **state) {
    CLEANUP(checkpoint_free) Checkpoint *ck = open_model("qwen3");

    (void)state;
    assert_int_equal(checkpoint_config(ck)->head_dim, 128);
    assert_tensor(ck, TENSOR_Q, "model.layers.1.self_attn.q_proj.weight", 512, 256);
    assert_tensor(ck, TENSOR_Q_NORM, "model.layers.1.self_attn.q_norm.weight", 128, 1);
    assert_tensor(ck, TENSOR_K_NORM, "model.layers.1.self_attn.k_norm.weight", 128, 1);
}

static void test_gemma3_with_norms_on_both_sides(void **state) {
    CLEANUP(checkpoint_free) Checkpoint *ck = open_model("gemma3_text");
    const ModelConfig *c = checkpoint_config(ck);

    (void)state;
    assert_int_equal(c->arch, MODEL_ARCH_GEMMA3);
    assert_true(c->norms_less_one && c->scaled_embeddings && c->tied_embeddings);
    assert_true(c->layer_slides[1] && !c->layer_slides[2]);
    assert_tensor(ck, TENSOR_ATTENTION_NORM, "model.layers.1.input_layernorm.weight", 256, 1);
    assert_tensor(ck, TENSOR_ATTENTION_POST_NORM, "model.layers.1.post_attention_layernorm.weight",
                  256, 1);
    assert_tensor(ck, TENSOR_FFN_NORM, "model.layers.1.pre_feedforward_layernorm.weight", 256, 1);
    assert_tensor(ck, TENSOR_FFN_POST_NORM, "model.layers.1.post_feedforward_layernorm.weight", 256,
                  1);
    assert_tensor(ck, TENSOR_Q_NORM, "model.layers.1.self_attn.q_norm.weight", 64, 1);
    assert_null(checkpoint_tensor(ck, TENSOR_OUTPUT, 0));
}

/* Cut within its size, its header, and each eighth of its data: from the largest down. */
static void test_a_cut_fixture_is_refused(void **state) {
    char path[256];
    struct stat st;

    (void)state;
    strcpy(path, model_path("qwen3/model.safetensors"));
    assert_int_equal(stat(path, &st), 0);
    for (off_t eighth = 7; eighth > 0; eighth--) {
        assert_int_equal(truncate(path, st.st_size / 8 * eighth), 0);
        expect_refusal(model_path("qwen3"), "model.safetensors: tensor \"model.", "cut off");
    }
    for (off_t size = 2048; size >= 0; size = size * 3 / 4 - 1) {
        assert_int_equal(truncate(path, size), 0);
        expect_refusal(model_path("qwen3"), "model.safetensors: ", "");
    }
}

/* one-layer models */

static void test_tiny_models_open(void **state) {
    const Defect sound = { 0 };

    (void)state;
    write_tiny_safetensors(&sound);
    write_tiny_gguf(&sound);
    for (int i = 0; i < 2; i++) {
        CLEANUP(checkpoint_free) Checkpoint *ck = open_model(i ? "tiny.gguf" : ".");

        assert_false(checkpoint_config(ck)->tied_embeddings);
        assert_int_equal(checkpoint_config(ck)->rope_interleaved_rows, i);
        assert_int_equal(parameters_of(ck),
                         2 * 8 * 32 + 3 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32);
        read_all(ck);
    }
}

static void test_each_missing_tensor_is_named(void **state) {
    (void)state;
    for (size_t i = 0; i < N_TINY; i++) {
        Defect defect = { .changed = i + 1, .name = "model.spare" };

        write_tiny_safetensors(&defect);
        expect_refusal(model_directory, tiny_tensors[i].hf, "is missing");
        write_tiny_gguf(&defect);
        /* Without an output matrix a GGUF model's embeddings are tied: the spare is one too many.
         */
        if (i == 2)
            expect_refusal(model_path("tiny.gguf"), "\"model.spare\"", "has no place");
        else
            expect_refusal(model_path("tiny.gguf"), tiny_tensors[i].gguf, "is missing");
    }
}

static void test_each_wrong_shape_is_named(void **state) {
    (void)state;
    for (size_t i = 1; i < N_TINY; i++) {
        Defect defect = { .changed = i + 1, .rows = 24, .columns = 64 };

        write_tiny_safetensors(&defect);
        expect_refusal(model_directory, tiny_tensors[i].hf, ", found [24, 64]");
        write_tiny_gguf(&defect);
        expect_refusal(model_path("tiny.gguf"), tiny_tensors[i].gguf, ", found [24, 64]");
    }
}

static void test_matrix_in_the_place_of_a_vector_is_refused(void **state) {
    Defect defect = { .changed = 2, .rows = 32, .columns = 1 };

    (void)state;
    write_tiny_safetensors(&defect);
    expect_refusal(model_directory, "model.norm.weight", "expected shape [32], found [32, 1]");
}

static void test_types_are_checked(void **state) {
    Defect foreign = { .changed = tiny_index("blk.0.attn_q.weight"),
                       .type = 20,
                       .dtype = "F8_E4M3" };
    Defect future = { .changed = tiny_index("blk.0.attn_q.weight"), .type = 999 };
    Defect norm = { .changed = tiny_index("blk.0.attn_norm.weight"), .type = 2 };
    Defect block = { .changed = tiny_index("blk.0.attn_q.weight"), .type = 2 };
    Checkpoint *ck;

    (void)state;
    write_tiny_safetensors(&foreign);
    expect_refusal(model_directory, "q_proj.weight\": type F8_E4M3 is not supported", "bf16");
    write_tiny_gguf(&foreign);
    expect_refusal(model_path("tiny.gguf"), "attn_q.weight\": type iq4_nl is not",
                   "q4_k, q5_k and");
    write_tiny_gguf(&future);
    expect_refusal(model_path("tiny.gguf"), "type unknown is not", "supported are");
    write_tiny_gguf(&norm);
    expect_refusal(model_path("tiny.gguf"), "attn_norm.weight", "norm or bias of type q4_0");
    write_tiny_gguf(&block);
    ck = open_model("tiny.gguf");
    assert_int_equal(checkpoint_tensor(ck, TENSOR_Q, 0)->format, WEIGHT_Q4_0);
    checkpoint_free(ck);
}

static void test_a_tensor_without_a_role_is_refused(void **state) {
    Defect bias = { .changed = 3, .name = "model.layers.0.self_attn.q_proj.bias", .rows = 32 };

    (void)state;
    /* A copy of tied embeddings is common, and harmless. */
    write_tiny_safetensors(&(Defect){ 0 });
    write_tiny_config(",\"tie_word_embeddings\":true");
    checkpoint_free(open_model("."));
    write_tiny_safetensors(&bias);
    write_tiny_config(",\"tie_word_embeddings\":true");
    expect_refusal(model_directory, "q_proj.bias\" has no place in a llama model", "1 layers");
}

static void test_a_cut_gguf_model_is_refused(void **state) {
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;

    (void)state;
    put_tiny_gguf(&b, &(Defect){ 0 });
    for (size_t size = b.size - 1; size > 0; size -= size > 4096 ? 997 : 1) {
        model_file_write("tiny.gguf", b.data, size);
        expect_refusal(model_path("tiny.gguf"), "tiny.gguf: ", "");
    }
}

static void test_a_corrupted_gguf_model_is_survived(void **state) {
    static const uint8_t flips[] = { 0x01, 0x80, 0xff };
    CLEANUP(buffer_deinit) Buffer b = BUFFER_NULL;
    size_t header_end;

    (void)state;
    put_tiny_gguf(&b, &(Defect){ 0 });
    header_end = b.size;
    for (size_t i = 0; i < N_TINY; i++)
        header_end -= tensor_bytes(&tiny_tensors[i], 4);
    for (size_t i = 0; i < header_end; i++)
        for (size_t j = 0; j < sizeof(flips); j++) {
            CLEANUP(checkpoint_free) Checkpoint *ck = NULL;

            b.data[i] = (char)((uint8_t)b.data[i] ^ flips[j]);
            model_file_write("tiny.gguf", b.data, b.size);
            if (!checkpoint_open(&ck, model_path("tiny.gguf"), NULL))
                read_all(ck);
            b.data[i] = (char)((uint8_t)b.data[i] ^ flips[j]);
        }
}

static void test_a_path_that_is_no_model(void **state) {
    Checkpoint *ck = NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(checkpoint_open(&ck, model_path("absent"), &why), -ENOENT);
    assert_mentions(why.text, "absent: No such file");
    assert_int_equal(mkdir(model_path("empty"), 0700), 0);
    assert_int_equal(checkpoint_open(&ck, model_path("empty"), &why), -ENOENT);
    assert_mentions(why.text, "empty/config.json: No such file");
    model_file_write_text("text", "hello");
    expect_refusal(model_path("text"), "not a GGUF file", "");
    assert_int_equal(mkfifo(model_path("fifo"), 0600), 0);
    expect_refusal(model_path("fifo"), "expected a regular file", "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_in_shards),
        cmocka_unit_test(test_mistral_with_a_window),
        cmocka_unit_test(test_qwen2_with_biases_and_tied_embeddings),
        cmocka_unit_test(test_qwen3_with_head_norms),
        cmocka_unit_test(test_gemma3_with_norms_on_both_sides),
        cmocka_unit_test(test_a_cut_fixture_is_refused),
        cmocka_unit_test(test_tiny_models_open),
        cmocka_unit_test(test_each_missing_tensor_is_named),
        cmocka_unit_test(test_each_wrong_shape_is_named),
        cmocka_unit_test(test_matrix_in_the_place_of_a_vector_is_refused),
        cmocka_unit_test(test_types_are_checked),
        cmocka_unit_test(test_a_tensor_without_a_role_is_refused),
        cmocka_unit_test(test_a_cut_gguf_model_is_refused),
        cmocka_unit_test(test_a_corrupted_gguf_model_is_survived),
        cmocka_unit_test(test_a_path_that_is_no_model),
    };

    return cmocka_run_group_tests(tests, unpack_models, model_files_teardown);
}
