/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* POST /tokenize and POST /detokenize, in vLLM's shape; POST /v1/messages/count_tokens, in
 * Anthropic's. */

#include "server/api/api_job.h"

extern const ApiJobKind api_tokenize, api_detokenize, api_count_tokens;
