/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `kvasird bench`: the figures of server/commands/bench.h as a table with their floors, for people,
 * and the same as JSON. Each line is printed as soon as it is known.
 */
#include "server/commands/bench.h"
#include "server/commands/bench_grammar.h"
#include "server/commands/commands.h"
#include "server/commands/device_rates.h"
#include "server/commands/model_run.h"

#include "cpu/cpu_backend.h"
#include "util/integer.h"
#include "util/json_writer.h"
#include "util/output_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define SHORT_PROMPT_TOKENS 16
#define DECODE_TOKENS 128
#define DECODE_SEQUENCES 16
#define CONTEXT_TOKENS 4000

typedef struct Figures {
    DeviceRates device;
    BenchWork work;
    double decode_s, decode_batch_s, prompt_s; /* of a step, a step, a prompt */
    double prompt_f16_s;                       /* of the same prompt with an f16 cache */
    BenchAttention attention[KV_FORMATS];
    double write_s[KV_FORMATS]; /* of a prompt's token */
    BenchGrammar grammar;
} Figures;

typedef struct BenchRun {
    const Config *config;
    Session session;
    KvPlan plan; /* for decoding and prompts */
    uint32_t n_prompt, n_decode;
    Figures figures;
} BenchRun;

static const char *isa_name(const DeviceRates *device) {
    return device->is_gpu ? "cuda" : cpu_isa_name(cpu_isa_detect());
}

static void bench_run_deinit(BenchRun *b) {
    session_deinit(&b->session);
}

CLEANUP_DEINIT_DEFINE(BenchRun, bench_run_deinit);

/* the machine */

static void print_machine(const BenchRun *b, const Reason *why) {
    const DeviceRates *d = &b->figures.device;

    if (d->is_gpu)
        printf("machine  %s, %u multiprocessors\n", d->name, d->n_units);
    else
        printf("machine  %s, %u threads, %s\n", d->name, d->n_units, isa_name(d));
    printf("model    %s: a token reads %.1f MB of weights and makes %.1f M multiply-adds\n",
           b->config->model, b->figures.work.weight_bytes * 1e-6,
           b->figures.work.parameters * 1e-6);
    printf("memory   %.1f GB/s %s; %.1f GB/s where it is as large as the weights\n",
           d->read_bytes_per_s * 1e-9, d->is_gpu ? "copied, read and written" : "read",
           d->weights_read_bytes_per_s * 1e-9);
    printf("profile  made up: what rounding takes does not depend on the model's own\n");
    if (d->library)
        printf("product  %.1f G multiply-adds/s in %s by %s, %u x %u x %u\n", d->madds_per_s * 1e-9,
               d->is_gpu ? "bf16" : "f32", d->library, d->n_tokens, d->n_in, d->n_out);
    else
        printf("product  not measured: %s\n", why->text);
}

static int measure_machine(BenchRun *b, Reason *why) {
    Figures *f = &b->figures;
    int r = device_rates_measure(&f->device, &b->session, b->config->n_threads,
                                 f->work.weight_bytes, why);

    if (!r)
        print_machine(b, why);
    return r;
}

/* derived figures */

static double decode_floor_s(const Figures *f) {
    return f->work.weight_bytes / f->device.weights_read_bytes_per_s;
}

/* How much faster 16 sequences get their tokens than one. */
static double batch_gain(const Figures *f) {
    return DECODE_SEQUENCES * f->decode_s / f->decode_batch_s;
}

/* A prompt's tokens attend to half of it on average; the head is computed for its last alone. */
static double prompt_madds(const BenchRun *b) {
    const BenchWork *w = &b->figures.work;
    double n = b->n_prompt;

    return n * (w->parameters - w->head_parameters + w->attended_madds * n / 2) +
           w->head_parameters;
}

static double prompt_madds_per_s(const BenchRun *b) {
    return prompt_madds(b) / b->figures.prompt_s;
}

/* The time that a format adds to that of f16, of a prompt's time. */
static double sealing_share(const BenchRun *b, KvFormat format) {
    const Figures *f = &b->figures;

    return (f->write_s[format] - f->write_s[KV_FORMAT_F16]) * b->n_prompt / f->prompt_s;
}

/* the model */

static int measure_decode(BenchRun *b, Reason *why) {
    Figures *f = &b->figures;
    int r;

    r = bench_decode(&b->session, &b->plan, 1, SHORT_PROMPT_TOKENS, b->n_decode, &f->decode_s, why);
    if (r)
        return r;
    printf("\ndecode, kv %s, %u tokens\n", model_run_spec(b->config), b->n_decode);
    printf("  1 sequence    %9.1f tokens/s   floor %8.1f   reached %.2f\n", 1 / f->decode_s,
           1 / decode_floor_s(f), decode_floor_s(f) / f->decode_s);
    r = bench_decode(&b->session, &b->plan, DECODE_SEQUENCES, SHORT_PROMPT_TOKENS, b->n_decode,
                     &f->decode_batch_s, why);
    if (r)
        return r;
    printf("  %u sequences  %9.1f tokens/s   %.2f times one sequence\n", DECODE_SEQUENCES,
           DECODE_SEQUENCES / f->decode_batch_s, batch_gain(f));
    return 0;
}

static int measure_prompt(BenchRun *b, Reason *why) {
    Figures *f = &b->figures;
    KvPlan exact;
    int r;

    r = kv_spec_parse(&exact, "f16", b->session.config->n_layers, why);
    if (!r)
        r = bench_prefill(&b->session, &exact, b->n_prompt, &f->prompt_f16_s, why);
    if (!r)
        r = bench_prefill(&b->session, &b->plan, b->n_prompt, &f->prompt_s, why);
    if (r)
        return r;
    printf("\nprompt, kv %s, %u tokens in steps of %u\n", model_run_spec(b->config), b->n_prompt,
           MODEL_RUN_STEP_TOKENS);
    printf("                %9.1f tokens/s   %.2f of f16's   %.1f G multiply-adds/s",
           b->n_prompt / f->prompt_s, f->prompt_f16_s / f->prompt_s, prompt_madds_per_s(b) * 1e-9);
    if (f->device.library)
        printf("   %.2f of the library's", prompt_madds_per_s(b) / f->device.madds_per_s);
    printf("\n");
    return 0;
}

/* the cache */

/* As --kv has it. */
static const char *spec_of(KvFormat format) {
    static const char *const specs[KV_FORMATS] = { "bf16", "f16",  "k8v8", "k6v6",
                                                   "k5v5", "k4v4", "k3v3", "k2v2" };

    return specs[format];
}

static int measure_cache(BenchRun *b, Reason *why) {
    Figures *f = &b->figures;

    printf(
        "\nattention alone, all layers: of the next token after %u, and of a token of a prompt of "
        "%u;\nand writing a prompt's token\n",
        CONTEXT_TOKENS, CONTEXT_TOKENS / 4 * 6);
    printf("  kv           us/token  floor us  reached  of f16 | prompt us  of f16 |  write us  of "
           "the prompt\n");
    for (uint32_t i = 0; i < KV_FORMATS; i++) {
        /* f16 first: it is what the others are compared with. */
        KvFormat format = i == 0 ? KV_FORMAT_F16 : i == KV_FORMAT_F16 ? 0 : i;
        BenchAttention *a = &f->attention[format];
        const BenchAttention *base = &f->attention[KV_FORMAT_F16];
        int r;

        r = bench_attention(&b->session, format, CONTEXT_TOKENS, f->device.cache_bytes, a, why);
        if (!r)
            r = bench_sealing(&b->session, format, &f->write_s[format], why);
        if (r)
            return r;
        printf("  %-10s %10.1f %9.1f %8.2f %6.2fx | %9.1f %6.2fx | %9.2f", spec_of(format),
               a->seconds * 1e6, a->bytes / f->device.read_bytes_per_s * 1e6,
               a->bytes / f->device.read_bytes_per_s / a->seconds, a->seconds / base->seconds,
               a->prompt_row_s * 1e6, a->prompt_row_s / base->prompt_row_s,
               f->write_s[format] * 1e6);
        if (!kv_format_quantizes(format))
            printf("\n");
        else
            printf("  %+12.2f%%\n", 100 * sealing_share(b, format));
        fflush(stdout);
    }
    return 0;
}

/* grammars */

/* Of the time of a step of 16 sequences: their masks, made one after another. */
static double masks_share(const Figures *f) {
    return DECODE_SEQUENCES * f->grammar.mask_mean_s / f->decode_batch_s;
}

static int measure_grammar(BenchRun *b, Reason *why) {
    Figures *f = &b->figures;
    const BenchGrammar *g = &f->grammar;
    int r = bench_grammar(&b->session, b->config, &f->grammar, why);

    if (r)
        return r;
    if (!g->is_built) {
        printf("\ngrammars are not measured: the program was built without, or the model has no "
               "tokenizer\n");
        return 0;
    }
    printf("\ngrammar of a JSON schema of %u lines, %u tokens in the vocabulary\n", g->n_lines,
           g->n_vocab);
    printf("  compiling     %9.1f ms, %.1f MB\n", g->compile_s * 1e3, g->compiled_bytes * 1e-6);
    printf("  a mask        %9.1f us p50 %9.1f us p99; those of %u sequences %.1f%% of a step\n",
           g->mask_p50_s * 1e6, g->mask_p99_s * 1e6, DECODE_SEQUENCES, 100 * masks_share(f));
    printf("  of free text  %9.1f us p50 %9.1f us p99, where calls of tools may come\n",
           g->free_p50_s * 1e6, g->free_p99_s * 1e6);
    return 0;
}

/* JSON: rates in units a second, times in seconds */

static void put_cache(const BenchRun *b, JsonWriter *w) {
    const Figures *f = &b->figures;

    json_begin_array(w, "cache");
    for (KvFormat format = 0; format < KV_FORMATS; format++) {
        const BenchAttention *a = &f->attention[format];

        json_begin_object(w, NULL);
        json_put_text(w, "kv", spec_of(format));
        json_put_double(w, "attention_s", a->seconds);
        json_put_double(w, "attention_floor_s", a->bytes / f->device.read_bytes_per_s);
        json_put_double(w, "attention_per_f16", a->seconds / f->attention[KV_FORMAT_F16].seconds);
        json_put_double(w, "prompt_attention_token_s", a->prompt_row_s);
        json_put_double(w, "write_token_s", f->write_s[format]);
        json_put_double(w, "sealing_share", sealing_share(b, format));
        json_end_object(w);
    }
    json_end_array(w);
}

static void put_machine(const BenchRun *b, JsonWriter *w) {
    const Figures *f = &b->figures;

    json_begin_object(w, "machine");
    json_put_text(w, "device", f->device.name);
    json_put_u64(w, f->device.is_gpu ? "multiprocessors" : "threads", f->device.n_units);
    json_put_text(w, "isa", isa_name(&f->device));
    json_put_double(w, "read_bytes_per_s", f->device.read_bytes_per_s);
    json_put_double(w, "weights_read_bytes_per_s", f->device.weights_read_bytes_per_s);
    json_put_double(w, "product_madds_per_s", f->device.library ? f->device.madds_per_s : NAN);
    json_end_object(w);
}

static void put_model(const BenchRun *b, JsonWriter *w) {
    json_begin_object(w, "model");
    json_put_text(w, "path", b->config->model);
    json_put_double(w, "weight_bytes", b->figures.work.weight_bytes);
    json_put_double(w, "parameters", b->figures.work.parameters);
    json_end_object(w);
}

static void put_decode(const BenchRun *b, JsonWriter *w) {
    const Figures *f = &b->figures;

    json_begin_object(w, "decode");
    json_put_u64(w, "tokens", b->n_decode);
    json_put_double(w, "tokens_per_s", 1 / f->decode_s);
    json_put_double(w, "floor_tokens_per_s", 1 / decode_floor_s(f));
    json_put_double(w, "reached", decode_floor_s(f) / f->decode_s);
    json_put_u64(w, "batch", DECODE_SEQUENCES);
    json_put_double(w, "batch_tokens_per_s", DECODE_SEQUENCES / f->decode_batch_s);
    json_put_double(w, "batch_gain", batch_gain(f));
    json_end_object(w);
}

static void put_prompt(const BenchRun *b, JsonWriter *w) {
    const Figures *f = &b->figures;

    json_begin_object(w, "prompt");
    json_put_u64(w, "tokens", b->n_prompt);
    json_put_double(w, "tokens_per_s", b->n_prompt / f->prompt_s);
    json_put_double(w, "f16_tokens_per_s", b->n_prompt / f->prompt_f16_s);
    json_put_double(w, "madds_per_s", prompt_madds_per_s(b));
    json_put_double(w, "of_product",
                    f->device.library ? prompt_madds_per_s(b) / f->device.madds_per_s : NAN);
    json_end_object(w);
}

static void put_grammar(const BenchRun *b, JsonWriter *w) {
    const BenchGrammar *g = &b->figures.grammar;

    if (!g->is_built) {
        json_put_null(w, "grammar");
        return;
    }
    json_begin_object(w, "grammar");
    json_put_u64(w, "schema_lines", g->n_lines);
    json_put_u64(w, "vocabulary", g->n_vocab);
    json_put_double(w, "compile_s", g->compile_s);
    json_put_double(w, "compiled_bytes", g->compiled_bytes);
    json_put_double(w, "mask_p50_s", g->mask_p50_s);
    json_put_double(w, "mask_p99_s", g->mask_p99_s);
    json_put_double(w, "free_mask_p50_s", g->free_p50_s);
    json_put_double(w, "free_mask_p99_s", g->free_p99_s);
    json_put_double(w, "batch_share", masks_share(&b->figures));
    json_end_object(w);
}

static void put_figures(const BenchRun *b, JsonWriter *w) {
    json_begin_object(w, NULL);
    put_machine(b, w);
    put_model(b, w);
    json_put_text(w, "kv", model_run_spec(b->config));
    put_decode(b, w);
    put_prompt(b, w);
    json_put_u64(w, "context_tokens", CONTEXT_TOKENS);
    put_grammar(b, w);
    put_cache(b, w);
    json_end_object(w);
}

static int write_json(const BenchRun *b, OutputFile *file, Reason *why) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    JsonWriter writer = { .out = &text, .indent = 1 };

    put_figures(b, &writer);
    if (buffer_failed(&text))
        return reason_set(why, -ENOMEM, "out of memory");
    fwrite(text.data, 1, text.size, file->stream); /* errors stay with the stream */
    return output_file_commit(file, why);
}

static int run(const Config *config, Reason *why) {
    CLEANUP(bench_run_deinit) BenchRun b = { .config = config };
    CLEANUP(output_file_deinit) OutputFile json = OUTPUT_FILE_NULL;
    uint32_t max_position;
    int r = 0;

    if (config->json_path)
        r = output_file_open(&json, config->json_path, why);
    if (!r)
        r = model_run_check(config, model_run_spec(config), why);
    if (!r)
        r = session_init(&b.session,
                         &(SessionOptions){ .model_path = config->model,
                                            .device = config->device,
                                            .gpu_memory_bytes = config->gpu_memory_bytes,
                                            .n_threads = config->n_threads,
                                            .max_step_tokens = MODEL_RUN_STEP_TOKENS,
                                            .max_logit_rows = DECODE_SEQUENCES,
                                            .max_sequences = DECODE_SEQUENCES },
                         why);
    if (!r)
        r = kv_spec_parse(&b.plan, model_run_spec(config), b.session.config->n_layers, why);
    if (r)
        return r;
    max_position = b.session.config->max_position;
    if (max_position <= SHORT_PROMPT_TOKENS)
        return reason_set(why, -EINVAL, "%s: made for only %u tokens, too few to measure",
                          config->model, max_position);
    b.n_prompt = min_u32(config->prompt_tokens, max_position);
    b.n_decode = min_u32(DECODE_TOKENS, max_position - SHORT_PROMPT_TOKENS);
    b.figures.work = bench_work(&b.session);
    r = measure_machine(&b, why);
    if (!r)
        r = measure_decode(&b, why);
    if (!r)
        r = measure_prompt(&b, why);
    if (!r)
        r = measure_grammar(&b, why);
    if (!r)
        r = measure_cache(&b, why);
    if (r)
        return r;
    return config->json_path ? write_json(&b, &json, why) : 0;
}

int cmd_bench(const Config *config) {
    Reason why = REASON_NULL;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (grammars_start(&why))
        return model_run_failed(&why);
    return run(config, &why) ? model_run_failed(&why) : 0;
}
