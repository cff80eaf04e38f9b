/* SPDX-License-Identifier: Apache-2.0 */
/* A profile file. */
#include "tests/fuzz/fuzz.h"

#include "kvcache/profile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    CLEANUP(profile_free) Profile *profile = NULL;
    Reason why = REASON_NULL;

    if (profile_load(&profile, fuzz_file("a.profile", data, size), NULL, NULL, &why)) {
        assert(why.text[0]);
        return 0;
    }
    fuzz_touch(profile->q_moments, profile_moments_count(profile) * sizeof(float));
    fuzz_touch(profile->damages, sizeof(profile->damages));
    fuzz_touch(profile->k_covariances, profile_moments_count(profile) * sizeof(float));
    return 0;
}
