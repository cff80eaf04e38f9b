/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What damages are most likely, all measurements of a layer and side together.
 *
 * The mean of a divergence hangs on few tokens: of 2,048 or 4,096, a single one that changes its
 * mind can make half of it. Distortions, measured at every token, do not have this noise, and what
 * damage they do is much the same at all widths of one layer and side. So each measured damage is
 * weighed with what the other widths and the distortions say it should be, by the errors of both: a
 * damage that is sure stays as it was measured.
 */

#include "kvcache/profile.h"

/* `profile` has damages and distortions; fills the first n_layers of `out`. */
void damage_estimate(const Profile *profile, ProfileTable out);
