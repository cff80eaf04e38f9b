/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * --help, composed from the option table: one entry an option with its bounds and default, grouped
 * by topic, filled to the width of the terminal.
 */

#include <stdint.h>
#include <stdio.h>

/* Columns to fill: those of the terminal behind `file` or of $COLUMNS, within 40 to 100. */
uint32_t help_width(FILE *file);

/* Prints `text` from column `column` on, breaking lines so that they start at `indent`; ends the
 * last line. `column`: where the line stands already. */
void help_fill(FILE *file, const char *text, uint32_t column, uint32_t indent, uint32_t width);

/* The options of one command (COMMAND_X), by topic. */
void help_options(FILE *file, unsigned command);
