/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * --help, composed from the option table: one entry an option with its bounds and default, grouped
 * by topic, filled to the width of the terminal.
 */

#include "config/options.h"

#include <stdint.h>
#include <stdio.h>

/* Columns to fill: those of the terminal behind `file` or of $COLUMNS, within 40 to 100. */
uint32_t help_width(FILE *file);

/* Prints `text` from column `column` on, breaking lines at spaces, each new line after `prefix`,
 * and ends the last line. `column`: where the line stands; 0 begins it with `prefix`, else spaces
 * take its place. */
void help_fill(FILE *file, const char *text, uint32_t column, const char *prefix, uint32_t width);

/* What an option is, what it allows and its default, as sentences; returns `text`. */
const char *help_describe(const Option *option, unsigned command, char *text, size_t size);

/* The options of one command (COMMAND_X), by topic. */
void help_options(FILE *file, unsigned command);
const char *help_topic_title(OptionTopic topic);
