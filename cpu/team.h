/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The worker team: threads that share the tasks of one parallel region at a time.
 *
 * The caller is a member of the team (number 0) and works too. Tasks are claimed one by one, so a
 * thread that the system took off its core delays nothing but the task it holds. Between regions
 * the workers spin for some tens of microseconds, which is what the gap between two ops of a step
 * takes, and then park until the next region: an idle daemon uses no processor time.
 *
 * One thread at a time calls cpu_team_run, and never from inside a task.
 */

#include "util/cleanup.h"
#include "util/reason.h"

#include <stdint.h>

typedef struct CpuTeam CpuTeam;

/* i_task: 0 .. n_tasks - 1, each exactly once; i_thread: 0 .. cpu_team_threads - 1, for scratch. */
typedef void (*CpuTeamFn)(void *arg, uint32_t i_task, uint32_t i_thread);

/* n_threads counts the caller; 0: one per core this process may run on. */
int cpu_team_new(CpuTeam **outp, uint32_t n_threads, Reason *why);
CpuTeam *cpu_team_free(CpuTeam *team);
CLEANUP_DEFINE(CpuTeam, cpu_team_free);

uint32_t cpu_team_threads(const CpuTeam *team);

/* Runs fn for every task and returns when all are done; what they wrote is then visible to the
 * caller. With one task, or a team of one, it is a plain loop. */
void cpu_team_run(CpuTeam *team, CpuTeamFn fn, void *arg, uint32_t n_tasks);
