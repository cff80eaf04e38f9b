/* SPDX-License-Identifier: Apache-2.0 */
/* A directory of one safetensors file. */
#include "tests/fuzz/fuzz.h"

#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    CLEANUP(safetensors_free) Safetensors *st = NULL;
    Reason why = REASON_NULL;

    fuzz_file("model.safetensors", data, size);
    if (safetensors_open(&st, fuzz_directory(), &why)) {
        assert(why.text[0]);
        return 0;
    }
    for (size_t i = 0; i < safetensors_n_tensors(st); i++) {
        const SafetensorsTensor *tensor = safetensors_tensor(st, i);

        assert(safetensors_find(st, tensor->name) == tensor);
        fuzz_touch(tensor->data, tensor->size_bytes);
    }
    return 0;
}
