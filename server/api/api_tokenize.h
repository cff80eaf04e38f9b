/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* POST /tokenize and POST /detokenize, in vLLM's shape. */

#include "server/api/api_job.h"

extern const ApiJobKind api_tokenize, api_detokenize;
