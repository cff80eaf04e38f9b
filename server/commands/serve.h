/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The daemon: the event loop with the HTTP server and the API on it, the model loading beside it,
 * the signals that end it, and what the service manager is told of all that.
 */

#include "config/config.h"
#include "util/reason.h"

/* Runs until a signal ends it. 0; negative with the words in `why` if it could not start. */
int serve(const Config *config, Reason *why);
