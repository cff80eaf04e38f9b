/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A plan as one HTML page: which layer has which bits, what the model's norms and its measured
 * damage look like beside each other, and where the plan lies among all that could be had for other
 * numbers of bytes. Nothing in it comes from anywhere else, and no script runs.
 */

#include "server/commands/plan_report.h"

/* Appends the page. `model`: its name, for people. -ENOMEM. */
int plan_page_write(const PlanReport *report, const char *model, Buffer *out, Reason *why);
