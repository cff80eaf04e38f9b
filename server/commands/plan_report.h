/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A plan of the cache in words and in JSON: what `serve` prints at its start and answers at
 * GET /v1/kv, and what `plan` prints and writes.
 */

#include "kvcache/ledger.h"
#include "server/commands/cache_plan.h"
#include "util/buffer.h"
#include "util/json_writer.h"

/* All borrowed. */
typedef struct PlanReport {
    const CachePlan *plan; /* finished */
    const Ledger *ledger;
    const Profile *profile; /* that it was chosen by; NULL: none */
    const char *identity;   /* of the model */
} PlanReport;

/* The ledger, then the formats, what they were chosen by, and the expected damage. Appends. */
void plan_report_print(const PlanReport *report, Buffer *out);
/* One object with all of it. What is in it reads as a plan file, too (kvcache/kv_spec.h). */
void plan_report_json(const PlanReport *report, JsonWriter *writer);
/* The plan alone, for a plan file. */
void plan_report_file(const PlanReport *report, Buffer *out);
