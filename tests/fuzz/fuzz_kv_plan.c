/* SPDX-License-Identifier: Apache-2.0 */
/* A plan by layer, --kv plan:FILE. */
#include "tests/fuzz/fuzz.h"

#include "kvcache/kv_spec.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char spec[256];
    KvPlan plan;
    Reason why = REASON_NULL;

    snprintf(spec, sizeof(spec), "plan:%s", fuzz_file("plan.json", data, size));
    if (kv_spec_parse(&plan, spec, 2, &why))
        assert(why.text[0]);
    return 0;
}
