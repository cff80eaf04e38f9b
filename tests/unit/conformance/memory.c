/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where memory begins, that it is zeros whatever lay there before, and that upload and download are
 * each other's inverse.
 */
#include "tests/unit/conformance/conformance.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Odd sizes, and sizes on both sides of the processor's page sizes. */
static const size_t sizes[] = {
    1, 3, 63, 64, 65, 4095, 4096, 100001, (2u << 20) - 1, 2u << 20, (2u << 20) + 1
};
#define N_SIZES (sizeof(sizes) / sizeof(*sizes))

/* Leaves memory full of ones behind, so that zeros do not come from the system by themselves. */
static void soil(Device *d, size_t size) {
    uint8_t *ones = host_new(d, size, 1);

    memset(ones, 0xff, size);
    device_put(d, ones, size);
    case_end(d);
}

void check_memory_is_aligned_zeros(Device *d) {
    for (size_t i = 0; i < N_SIZES; i++) {
        DevAddr address;
        uint8_t *bytes;

        soil(d, sizes[i]);
        address = device_new(d, sizes[i]);
        assert_true(address);
        assert_int_equal(address % BACKEND_ALIGN_BYTES, 0);
        bytes = host_new(d, sizes[i], 1);
        memset(bytes, 0xff, sizes[i]);
        device_get(d, bytes, address, sizes[i]);
        for (size_t k = 0; k < sizes[i]; k++)
            if (bytes[k])
                fail_msg("byte %zu of %zu is %u", k, sizes[i], bytes[k]);
        case_end(d);
    }
}

void check_memory_comes_back(Device *d) {
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i], middle = random_below(&d->random, (uint32_t)size);
        uint8_t *in = host_new(d, size, 1), *out = host_new(d, size, 1);
        DevAddr address;

        for (size_t k = 0; k < size; k++)
            in[k] = (uint8_t)random_u64(&d->random);
        address = device_put(d, in, size);
        device_get(d, out, address, size);
        assert_memory_equal(in, out, size);
        device_get(d, out, address + middle, size - middle);
        assert_memory_equal(in + middle, out, size - middle);
        assert_int_equal(d->ops->upload(d->backend, address + middle, in, size - middle), 0);
        device_get(d, out, address, size);
        assert_memory_equal(in, out, middle);
        assert_memory_equal(in, out + middle, size - middle);
        case_end(d);
    }
}

void check_memory_is_refused_by_purpose(Device *d) {
    Reason why = REASON_NULL;
    DevAddr address = 5;

    assert_int_equal(d->ops->memory_new(d->backend, &address, SIZE_MAX / 4, "too much", &why),
                     -ENOMEM);
    assert_int_equal(address, 5);
    assert_non_null(strstr(why.text, "too much"));
}
