/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The memory that this process may use: the machine's, or that of the control group it is held to.
 */

#include "backend/ops.h"

/* The op. Returns 0, or -ENODATA: the system does not say how much it has. */
int cpu_memory_info(Backend *backend, MemoryInfo *info);
