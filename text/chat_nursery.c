/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lock is held while a nursery is started and while a socket is sent to it, never while Python
 * is waited for: a socket sent to a nursery that still loads Jinja2 waits in its own queue.
 *
 * The interpreter is that of the system, whatever PATH, PYTHONHOME and PYTHONPATH say, and sees the
 * system's packages only: no site module, no user directory, no current directory. Of the
 * environment it gets the time zone.
 */
#include "text/chat_nursery.h"

#include "text/chat_messages_source.h"
#include "text/chat_template_source.h"
#include "text/chat_worker_source.h"
#include "util/channel.h"
#include "util/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define PYTHON "/usr/bin/python3"

/* Standard input is the socket that the sources come through, in the order of the arguments. */
static const char bootstrap[] =
    "import socket, sys, types\n"
    "channel = socket.socket(fileno=0)\n"
    "named_sizes = [(name, int(size)) for name, size in zip(sys.argv[1::2], sys.argv[2::2])]\n"
    "name, size = named_sizes[0]\n"
    "source = channel.recv(size, socket.MSG_WAITALL)\n"
    "module = sys.modules[name] = types.ModuleType(name)\n"
    "exec(compile(source, name + '.py', 'exec'), module.__dict__)\n"
    "module.nurse(channel, named_sizes[1:])\n";

static const struct {
    const char *name;
    const unsigned char *text;
    size_t size;
} sources[] = {
    { "chat_worker", chat_worker_source, chat_worker_source_SIZE },
    { "chat_messages", chat_messages_source, chat_messages_source_SIZE },
    { "chat_template", chat_template_source, chat_template_source_SIZE },
};

enum { N_SOURCES = sizeof(sources) / sizeof(sources[0]), N_FIRST_ARGUMENTS = 8 };

static struct {
    pthread_mutex_t lock; /* guards what follows */
    pid_t pid;
    int fd; /* -1: not started */
} nursery = { .lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1 };

/* Every signal as it was at the start, and a session without a terminal. */
static void set_attributes(posix_spawnattr_t *attributes) {
    sigset_t none, all;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(attributes, &none);
    posix_spawnattr_setsigdefault(attributes, &all);
    posix_spawnattr_setflags(attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

static int spawn(pid_t *pid, int fd, const char *const *arguments) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    const char *zone = getenv("TZ");
    char set_zone[256];
    char *environment[] = { NULL, NULL };
    int r;

    if (zone && snprintf(set_zone, sizeof(set_zone), "TZ=%s", zone) < (int)sizeof(set_zone))
        environment[0] = set_zone;
    posix_spawnattr_init(&attributes);
    set_attributes(&attributes);
    posix_spawn_file_actions_init(&files);
    r = posix_spawn_file_actions_adddup2(&files, fd, STDIN_FILENO);
    if (!r)
        r = posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (!r)
        r = posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
    if (!r)
        r = posix_spawn(pid, PYTHON, &files, &attributes, (char *const *)arguments, environment);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    return -r;
}

static int send_sources(int fd) {
    int r = 0;

    for (size_t i = 0; !r && i < N_SOURCES; i++)
        r = channel_send(fd, sources[i].text, sources[i].size);
    return r;
}

/* Lock held. */
static int start(Reason *why) {
    const char *arguments[N_FIRST_ARGUMENTS + 2 * N_SOURCES + 1] = {
        "python3", "-I", "-S", "-B", "-X", "utf8", "-c", bootstrap,
    };
    const char **next = arguments + N_FIRST_ARGUMENTS;
    char sizes[N_SOURCES][24];
    int r, pair[2];

    for (size_t i = 0; i < N_SOURCES; i++) {
        snprintf(sizes[i], sizeof(sizes[i]), "%zu", sources[i].size);
        *next++ = sources[i].name;
        *next++ = sizes[i];
    }
    r = channel_pair(pair);
    if (r)
        return reason_set(why, r, "no socket for chat templates: %s", strerror(-r));
    /* Of this thread, and so of what it starts. */
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    r = spawn(&nursery.pid, pair[1], arguments);
    close(pair[1]);
    if (r < 0) {
        close(pair[0]);
        return reason_set(why, r, PYTHON ", which runs chat templates, cannot be started: %s",
                          strerror(-r));
    }
    nursery.fd = pair[0];
    send_sources(nursery.fd); /* where it fails, so does what is sent next */
    return 0;
}

/* Lock held. It is gone, or about to be: its socket is closed. */
static void reap(void) {
    close(nursery.fd);
    nursery.fd = -1;
    while (waitpid(nursery.pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

int chat_nursery_fork(int fd, Reason *why) {
    int r = -EPIPE;

    pthread_mutex_lock(&nursery.lock);
    if (nursery.fd >= 0) {
        r = channel_send_descriptor(nursery.fd, fd, 0);
        if (r < 0)
            reap();
    }
    if (r < 0) {
        r = start(why);
        if (!r && (r = channel_send_descriptor(nursery.fd, fd, 0)) < 0)
            reason_set(why, r, PYTHON ", which runs chat templates, ended at once: %s",
                       strerror(-r));
    }
    pthread_mutex_unlock(&nursery.lock);
    return r;
}
