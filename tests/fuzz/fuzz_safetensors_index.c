/* SPDX-License-Identifier: Apache-2.0 */
/* The index of a sharded checkpoint, beside one shard. */
#include "tests/fuzz/fuzz.h"

#include "model/safetensors.h"

#include <string.h>

static const char header[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}  ";

static void write_shard(void) {
    uint8_t shard[8 + sizeof(header)] = { 0 }; /* one byte of data after the header */
    uint64_t header_bytes = sizeof(header) - 1;

    memcpy(shard, &header_bytes, sizeof(header_bytes));
    memcpy(shard + 8, header, header_bytes);
    fuzz_file("a.safetensors", shard, sizeof(shard));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool shard_written;
    CLEANUP(safetensors_free) Safetensors *st = NULL;
    Reason why = REASON_NULL;

    if (!shard_written)
        write_shard();
    shard_written = true;
    fuzz_file("model.safetensors.index.json", data, size);
    if (safetensors_open(&st, fuzz_directory(), &why))
        assert(why.text[0]);
    else
        assert(safetensors_n_tensors(st) == 1);
    return 0;
}
