/* SPDX-License-Identifier: Apache-2.0 */
/* The generation_config.json of a model directory. */
#include "tests/fuzz/fuzz.h"

#include "model/model_config.h"

#include <string.h>

static const char config_json[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 64,"
    " \"intermediate_size\": 64, \"num_hidden_layers\": 1, \"num_attention_heads\": 1,"
    " \"vocab_size\": 100, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ModelConfig config = { .n_layers = 0 };
    GenerationDefaults generation = { .n_eos_ids = 0 };
    Reason why = REASON_NULL;

    fuzz_file("config.json", (const uint8_t *)config_json, strlen(config_json));
    fuzz_file("generation_config.json", data, size);
    if (hf_config_read(fuzz_directory(), &config, &generation, &why))
        assert(why.text[0]);
    else
        assert(generation.n_eos_ids <= MODEL_EOS_MAX);
    model_config_deinit(&config);
    return 0;
}
