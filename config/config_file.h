/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The config file: one JSON object whose keys are names of options, with comments of three kinds:
 * from // or # to the end of the line, and from slash-star to star-slash. null counts as not given.
 */

#include "config/config.h"
#include "util/reason.h"

/* Sets what the file gives, and where it came from. Errors read "path:line: key: ...". */
int config_file_apply(Config *config, const char *path, Reason *why);
