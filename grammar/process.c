/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A compiler's question is its kind, its limits and the text; its answer an outcome and what it
 * made, or words. Frames are in the machine's own byte order, since both sides are the same
 * machine. A compiler is not trusted: a text may have got the better of it. A header that cannot be
 * is taken for its death, and nothing is taken that is longer than was allowed.
 *
 * It ends by itself when the other side closes: SIGIO, which the system sends for that, ends a
 * process that does not wait for it. Limits on memory and processor time are the system's too.
 */
#include "grammar/process.h"

#include "util/channel.h"
#include "util/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define PURPOSE_VOCAB 'v'
#define PURPOSE_COMPILE 'c'

typedef struct VocabHead {
    uint32_t n_vocab, n_stop_ids;
    uint64_t n_bytes;
} VocabHead;

typedef struct Question {
    uint32_t kind, unused;
    uint64_t size, memory_bytes, answer_bytes, time_ms;
} Question;

typedef struct Answer {
    int32_t outcome; /* 0, GRAMMAR_E_INVALID, GRAMMAR_E_LIMIT: too long an answer; or -ENOMEM */
    uint32_t unused;
    uint64_t size;
} Answer;

static int nursery_fd = -1; /* set once, before there are threads */

/* the compiler's side */

static uint64_t memory_now(void) {
    CLEANUP(fclose) FILE *file = fopen("/proc/self/statm", "r");
    uint64_t n_pages = 0;

    if (!file || fscanf(file, "%" SCNu64, &n_pages) != 1)
        return 0;
    return n_pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void limit_to(int resource, uint64_t value) {
    struct rlimit limit = { .rlim_cur = value, .rlim_max = value };

    setrlimit((__rlimit_resource_t)resource, &limit);
}

/* More processor time than there is time to wait is of no use. The memory is on top of what it
 * shares with the process that it was forked from. */
static void limit_self(const Question *question) {
    limit_to(RLIMIT_CPU, question->time_ms / 1000 + 2);
    limit_to(RLIMIT_CORE, 0);
    limit_to(RLIMIT_AS, memory_now() + question->memory_bytes);
}

static void end_when_closed(int fd) {
    char byte;

    fcntl(fd, F_SETOWN, getpid());
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC);
    if (recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
        _exit(1); /* it had closed before */
}

static int answer(int fd, int outcome, const void *data, size_t size) {
    const Answer head = { .outcome = outcome, .size = size };
    int r;

    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_ASYNC);
    r = channel_send(fd, &head, sizeof(head));
    return r ? r : channel_send(fd, data, size);
}

static int compile(int fd, const CoreVocab *vocab) {
    char why[CORE_WHY_BYTES] = "";
    Question question;
    char *text, *made;
    size_t size;
    int r;

    if (channel_receive(fd, &question, sizeof(question)))
        return 1;
    text = malloc(question.size + 1);
    if (!text || channel_receive(fd, text, question.size))
        return 1;
    end_when_closed(fd);
    limit_self(&question);
    r = core_compile(vocab, (GrammarKind)question.kind, text, question.size, &made, &size, why);
    if (r)
        return answer(fd, r, why, strlen(why)) != 0;
    if (size > question.answer_bytes)
        return answer(fd, GRAMMAR_E_LIMIT, "", 0) != 0;
    return answer(fd, 0, made, size) != 0;
}

/* the vocabulary's side */

static int read_vocab(int fd, CoreVocab **vocabp) {
    VocabHead head;
    CoreVocabText text;
    uint32_t *numbers;
    char *bytes, why[CORE_WHY_BYTES];

    if (channel_receive(fd, &head, sizeof(head)))
        return -EPIPE;
    numbers = calloc((size_t)head.n_vocab + head.n_stop_ids, sizeof(*numbers));
    bytes = malloc(head.n_bytes + 1);
    if (!numbers || !bytes)
        return -ENOMEM;
    if (channel_receive(fd, numbers, (head.n_vocab + head.n_stop_ids) * sizeof(*numbers)) ||
        channel_receive(fd, bytes, head.n_bytes))
        return -EPIPE;
    text = (CoreVocabText){ .n_vocab = head.n_vocab,
                            .n_stop_ids = head.n_stop_ids,
                            .ends = numbers,
                            .stop_ids = numbers + head.n_vocab,
                            .bytes = bytes };
    return core_vocab_new(vocabp, &text, why);
}

/* Receives sockets and forks for each, until the other side closes. In the child, sets *fdp to the
 * one it got, and returns true. */
static bool fork_for_each(int *fdp) {
    int fd;
    char purpose;

    while (!channel_receive_descriptor(*fdp, &fd, &purpose)) {
        pid_t pid = fork();

        if (pid == 0) {
            close(*fdp);
            *fdp = fd;
            return true;
        }
        close(fd);
    }
    return false;
}

static int serve_vocab(int fd) {
    CoreVocab *vocab = NULL;
    const char came = read_vocab(fd, &vocab) ? 0 : 1;

    if (channel_send(fd, &came, 1) || !came || !fork_for_each(&fd))
        return 0;
    return compile(fd, vocab);
}

/* the nursery's side */

/* Standard error stays; signals are as at the start of a program, and no terminal sends any. */
static void be_alone(int fd) {
    sigset_t none;

    sigemptyset(&none);
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGCHLD, SIG_IGN); /* nobody waits for children */
    for (char **variable = environ; *variable; variable++)
        memset(*variable, 0, strlen(*variable)); /* they may hold secrets */
    environ = NULL;
    setsid();
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_NAME, "grammars");
    dup2(fd, STDIN_FILENO);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    close_range(STDERR_FILENO + 1, ~0u, 0);
}

static int nurse(int fd) {
    be_alone(fd);
    fd = STDIN_FILENO;
    return fork_for_each(&fd) ? serve_vocab(fd) : 0;
}

int grammar_nursery_start(Reason *why) {
    int r, pair[2];
    pid_t pid;

    assert(nursery_fd < 0);
    r = channel_pair(pair);
    if (r)
        return reason_set(why, r, "no socket for the process that compiles grammars: %s",
                          strerror(-r));
    pid = fork();
    if (pid == 0)
        _exit(nurse(pair[1]));
    r = pid < 0 ? -errno : 0;
    close(pair[1]);
    if (r) {
        close(pair[0]);
        return reason_set(why, r, "the process that compiles grammars cannot be started: %s",
                          strerror(-r));
    }
    nursery_fd = pair[0];
    return 0;
}

bool grammar_nursery_is_started(void) {
    return nursery_fd >= 0;
}

/* the program's side */

/* A socket to a process that is forked from the one at `parent`. */
static int fork_of(int parent, char purpose, int *fdp) {
    int r, pair[2];

    r = channel_pair(pair);
    if (r)
        return r;
    r = channel_send_descriptor(parent, pair[1], purpose);
    close(pair[1]);
    if (r)
        close(pair[0]);
    else
        *fdp = pair[0];
    return r;
}

static int send_vocab(int fd, const CoreVocabText *text) {
    const VocabHead head = { .n_vocab = text->n_vocab,
                             .n_stop_ids = text->n_stop_ids,
                             .n_bytes = text->n_vocab ? text->ends[text->n_vocab - 1] : 0 };
    char came = 0;
    int r = channel_send(fd, &head, sizeof(head));

    if (!r)
        r = channel_send(fd, text->ends, text->n_vocab * sizeof(*text->ends));
    if (!r)
        r = channel_send(fd, text->stop_ids, text->n_stop_ids * sizeof(*text->stop_ids));
    if (!r)
        r = channel_send(fd, text->bytes, head.n_bytes);
    if (!r)
        r = channel_receive(fd, &came, 1);
    return r || came ? r : -ENOMEM;
}

int vocab_process_start(VocabProcess *process, const CoreVocabText *text, Reason *why) {
    int r, fd = -1;

    r = fork_of(nursery_fd, PURPOSE_VOCAB, &fd);
    if (!r)
        r = send_vocab(fd, text);
    if (r) {
        if (fd >= 0)
            close(fd);
        return reason_set(why, r, "the process that compiles grammars does not answer: %s",
                          strerror(-r));
    }
    process->fd = fd;
    return 0;
}

void vocab_process_close(VocabProcess *process) {
    if (process->fd >= 0)
        close(process->fd);
    *process = (VocabProcess)VOCAB_PROCESS_NULL;
}

static int send_question(int fd, GrammarKind kind, const char *text, size_t size,
                         const GrammarLimits *limits) {
    const Question question = { .kind = kind,
                                .size = size,
                                .memory_bytes = limits->compile_bytes,
                                .answer_bytes = limits->compiled_bytes,
                                .time_ms = limits->compile_ms };
    int r = channel_send(fd, &question, sizeof(question));

    return r ? r : channel_send(fd, text, size);
}

static int refuse_limit(const GrammarLimits *limits, int r, Reason *why) {
    switch (r) {
    case CHANNEL_E_TIMEOUT:
        return reason_set(why, GRAMMAR_E_LIMIT,
                          "it takes longer to compile than the %" PRIu64 " ms there are (option "
                          "grammar_timeout); make it simpler",
                          limits->compile_ms);
    case GRAMMAR_E_LIMIT:
        return reason_set(why, GRAMMAR_E_LIMIT,
                          "it is too involved: compiled, it would be more than %" PRIu64 " bytes; "
                          "make it simpler",
                          limits->compiled_bytes);
    default: /* it ran out of memory, or of its stack */
        return reason_set(why, GRAMMAR_E_LIMIT,
                          "it is too involved: compiling it takes more than %" PRIu64 " bytes of "
                          "memory, or too deep a recursion; make it simpler",
                          limits->compile_bytes);
    }
}

/* Words for whoever wrote the text. */
static int receive_words(int fd, const Answer *head, uint64_t deadline_ns, Account *account,
                         Reason *why) {
    char words[CORE_WHY_BYTES];
    int r = head->size < sizeof(words)
                ? channel_receive_until(fd, words, head->size, deadline_ns, account)
                : -EPIPE;

    if (r)
        return r;
    words[head->size] = 0;
    return reason_set(why, GRAMMAR_E_INVALID, "%s", words);
}

static int receive_answer(int fd, const GrammarLimits *limits, Account *account, Buffer *out,
                          Reason *why) {
    uint64_t deadline_ns = clock_ns() + limits->compile_ms * 1000000;
    Answer head;
    char *to;
    int r = channel_receive_until(fd, &head, sizeof(head), deadline_ns, account);

    if (!r && head.outcome == GRAMMAR_E_INVALID)
        return receive_words(fd, &head, deadline_ns, account, why);
    if (!r && head.outcome)
        return refuse_limit(limits, head.outcome, why);
    if (!r && head.size > limits->compiled_bytes)
        r = -EPIPE;
    if (!r) {
        to = buffer_reserve(out, head.size);
        if (!to)
            return -ENOMEM;
        r = channel_receive_until(fd, to, head.size, deadline_ns, account);
        out->size += r ? 0 : head.size;
    }
    return r == -ECANCELED || !r ? r : refuse_limit(limits, r, why);
}

int vocab_process_fork(const VocabProcess *process, int *fdp) {
    return process->fd < 0 ? -EPIPE : fork_of(process->fd, PURPOSE_COMPILE, fdp);
}

int compiler_ask(int fd, GrammarKind kind, const char *text, size_t size,
                 const GrammarLimits *limits, Account *account, Buffer *out, Reason *why) {
    int r = send_question(fd, kind, text, size, limits);

    return r ? refuse_limit(limits, r, why) : receive_answer(fd, limits, account, out, why);
}
