/* SPDX-License-Identifier: Apache-2.0 */
/* A GGUF file, as a container, as a checkpoint and as a tokenizer. */
#include "tests/fuzz/fuzz.h"

#include "model/checkpoint.h"
#include "model/gguf.h"
#include "text/tokenizer.h"

static void read_tensors(const Gguf *gguf) {
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) {
        const GgufTensor *tensor = gguf_tensor(gguf, i);

        assert(gguf_find_tensor(gguf, tensor->name));
        fuzz_touch(tensor->data, tensor->size_bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = fuzz_file("model.gguf", data, size);
    CLEANUP(gguf_free) Gguf *gguf = NULL;
    CLEANUP(checkpoint_free) Checkpoint *checkpoint = NULL;
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    Reason why = REASON_NULL;

    if (gguf_open(&gguf, path, &why)) {
        assert(why.text[0]);
        return 0;
    }
    read_tensors(gguf);
    if (checkpoint_open(&checkpoint, path, &why))
        assert(why.text[0]);
    if (tokenizer_open(&tokenizer, path, &why))
        assert(why.text[0]);
    return 0;
}
