/* SPDX-License-Identifier: Apache-2.0 */
/* Norms of weights, plan --norms FILE; what is taken, the paper's allocator must be able to use. */
#include "tests/fuzz/fuzz.h"

#include "kvcache/norms_file.h"
#include "kvcache/paper_plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static NormsFile norms;
    static PaperPlan plan;
    Reason why = REASON_NULL;
    PaperProblem problem = { .widths = { 2, 3, 4 }, .n_widths = 3, .budget = 3 };

    if (norms_file_load(&norms, fuzz_file("norms.json", data, size), &why)) {
        assert(why.text[0]);
        return 0;
    }
    assert(norms.n_layers && norms.n_layers <= KV_LAYERS_MAX);
    problem.n_layers = norms.n_layers;
    for (KvSide side = 0; side < KV_SIDES; side++) {
        problem.norms[side] = norms.norms[side];
        for (uint32_t layer = 0; layer < norms.n_layers; layer++)
            assert(norms.norms[side][layer] >= 0 && norms.norms[side][layer] <= NORMS_FILE_MAX);
    }
    paper_plan_make(&plan, &problem);
    for (uint32_t layer = 0; layer < norms.n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            assert(plan.bits[side][layer] >= 2 && plan.bits[side][layer] <= 4);
    return 0;
}
