/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The one program that the daemon runs: the system's Python, with the code of chat_worker.py, in
 * which chat templates are rendered. Templates are programs of strangers, and a single call in one
 * can take seconds or for ever without looking up; a process can be ended all the same.
 *
 * There is one nursery in the daemon, started when it is first needed and again if it is gone. It
 * has Jinja2 loaded, runs no template, and forks a worker for every socket that it is sent, which
 * takes milliseconds. It and its workers sit in a session of their own with no descriptor of the
 * daemon's but standard error, gain no privileges, and end when the daemon does.
 */

#include "util/reason.h"

/* Gives `fd`, one end of a socket pair, to a new worker; borrowed. 0, or -errno with `why`. That
 * the worker came to life shows in its answering; else the other end closes. Any thread. */
int chat_nursery_fork(int fd, Reason *why);
