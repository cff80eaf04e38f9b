/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * An address in a backend's memory. Only the backend that gave it may dereference it; everyone
 * else may add bytes to it. 0 means none.
 */

#include <stdint.h>

typedef uint64_t DevAddr;
