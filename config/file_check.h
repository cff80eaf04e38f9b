/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Whether the files that options name can be read or written, before anything is loaded. What is in
 * them is for others to judge.
 */

#include "config/config.h"

/* Looks at every option of the command that names a file (Option.file). -errno, -EISDIR, -EINVAL
 * with where the option was given, its name, the path and what is wrong. Changes nothing. */
int file_check_all(const Config *config, Reason *why);
