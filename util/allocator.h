/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which malloc serves the process. The program links jemalloc (option `allocator` of the build): it
 * gives pages that nobody uses back to the system by itself, where glibc keeps what lies below the
 * last allocation that lives, so that memory of a burst of requests would stay for good. Nothing
 * calls it by name; this is for people who want to know.
 */

/* "jemalloc 5.3.0", or "system". */
const char *allocator_name(void);
