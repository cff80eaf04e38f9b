/* SPDX-License-Identifier: Apache-2.0 */
/* The config.json of a model directory. */
#include "tests/fuzz/fuzz.h"

#include "model/model_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ModelConfig config = { .n_layers = 0 };
    GenerationDefaults generation = { .n_eos_ids = 0 };
    Reason why = REASON_NULL;

    fuzz_file("config.json", data, size);
    if (hf_config_read(fuzz_directory(), &config, &generation, &why)) {
        assert(why.text[0]);
    } else {
        assert(config.n_layers && config.n_layers <= MODEL_LAYERS_MAX);
        assert(config.n_heads % config.n_kv_heads == 0);
        fuzz_touch(config.layer_slides, config.n_layers * sizeof(bool));
    }
    model_config_deinit(&config);
    return 0;
}
