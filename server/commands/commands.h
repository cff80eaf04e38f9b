/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The subcommands of kvasird. Each is one function in server/cmd_<name>.c that does all its work
 * and returns the exit status: 0; 1 if it failed, having said why on standard error.
 *
 * To add one: a COMMAND_X bit and its options in config/, a prototype here, a row in main.c.
 */

#include "config/config.h"

int cmd_bench(const Config *config);
int cmd_chat_template(const Config *config);
int cmd_config(const Config *config);
int cmd_detokenize(const Config *config);
int cmd_eval(const Config *config);
int cmd_generate(const Config *config);
int cmd_logits(const Config *config);
int cmd_plan(const Config *config);
int cmd_profile(const Config *config);
int cmd_serve(const Config *config);
int cmd_tokenize(const Config *config);
