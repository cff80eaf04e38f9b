/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into the daemon by tests/load/allocations.py: counts, by thread and stack, the calls
 * that allocate. The signal SIGRTMIN begins a count, the next one writes it to the file named by
 * COUNT_ALLOCATIONS: a line of "thread calls address address ..." for each stack, innermost first.
 *
 * State: a table for each thread, which that thread alone writes. A stack that a full table has no
 * place for is counted as one without addresses. A count that is written while threads allocate may
 * miss their last calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FRAMES 24
#define STACKS 1024 /* a thread; the first is that without addresses */
#define THREADS 64

typedef struct Stack {
    uint64_t hash, calls;
    int n_frames;
    void *frames[FRAMES];
} Stack;

typedef struct Table {
    pid_t thread;
    Stack stacks[STACKS];
} Table;

static Table tables[THREADS];
static atomic_uint n_tables;
static atomic_bool counting;
static __thread Table *own;
static __thread bool inside; /* what the unwinder allocates is not counted */
static char path[4096];

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void *(*real_aligned_alloc)(size_t, size_t);
static int (*real_posix_memalign)(void **, size_t, size_t);

static void find(void *function, const char *name) {
    void *symbol = dlsym(RTLD_NEXT, name);

    memcpy(function, &symbol, sizeof(symbol));
}

static void find_all(void) {
    find(&real_malloc, "malloc");
    find(&real_calloc, "calloc");
    find(&real_realloc, "realloc");
    find(&real_aligned_alloc, "aligned_alloc");
    find(&real_posix_memalign, "posix_memalign");
}

static Stack *place_of(Table *table, const Stack *stack) {
    for (uint32_t i = 0; i < STACKS - 1; i++) {
        Stack *at = &table->stacks[1 + (stack->hash + i) % (STACKS - 1)];

        if (at->hash == stack->hash)
            return at;
        if (!at->hash) {
            *at = *stack;
            return at;
        }
    }
    return &table->stacks[0];
}

static void count(void) {
    Stack stack = { .hash = 1469598103934665603u };

    if (!atomic_load_explicit(&counting, memory_order_relaxed) || inside)
        return;
    inside = true;
    if (!own) {
        uint32_t i = atomic_fetch_add(&n_tables, 1);

        if (i >= THREADS)
            abort();
        own = &tables[i];
        own->thread = (pid_t)syscall(SYS_gettid);
    }
    stack.n_frames = backtrace(stack.frames, FRAMES);
    for (int i = 0; i < stack.n_frames; i++)
        stack.hash = (stack.hash ^ (uintptr_t)stack.frames[i]) * 1099511628211u;
    stack.hash |= 1;
    place_of(own, &stack)->calls++;
    inside = false;
}

static void write_counts(void) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    uint32_t n = atomic_load(&n_tables);

    for (uint32_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < STACKS; i++) {
            const Stack *stack = &tables[t].stacks[i];

            if (!stack->calls)
                continue;
            dprintf(file, "%d %lu", tables[t].thread, (unsigned long)stack->calls);
            for (int f = 2; f < stack->n_frames; f++)
                dprintf(file, " %lx", (unsigned long)(uintptr_t)stack->frames[f]);
            dprintf(file, "\n");
        }
    dprintf(file, "end\n");
    close(file);
}

static void on_signal(int signal_number) {
    (void)signal_number;
    if (atomic_exchange(&counting, !atomic_load(&counting)))
        write_counts();
}

__attribute__((constructor)) static void begin(void) {
    const char *given = getenv("COUNT_ALLOCATIONS");
    void *frames[2];

    find_all();
    backtrace(frames, 2); /* loads the unwinder */
    if (!given)
        return;
    snprintf(path, sizeof(path), "%s", given);
    signal(SIGRTMIN, on_signal);
}

/* Before begin() the linker's own calls come through here. */
#define NEED(function)   \
    do {                 \
        if (!(function)) \
            find_all();  \
        count();         \
    } while (0)

void *malloc(size_t size) {
    NEED(real_malloc);
    return real_malloc(size);
}

/* dlsym() itself asks for zeroed memory, before the real function is known. */
void *calloc(size_t n, size_t size) {
    static _Alignas(16) char early[4096];
    static size_t used;

    if (!real_malloc && n * size <= sizeof(early) - used) {
        used += (n * size + 15) & ~(size_t)15;
        return early + used - ((n * size + 15) & ~(size_t)15);
    }
    NEED(real_calloc);
    return real_calloc(n, size);
}

void *realloc(void *memory, size_t size) {
    NEED(real_realloc);
    return real_realloc(memory, size);
}

void *aligned_alloc(size_t align, size_t size) {
    NEED(real_aligned_alloc);
    return real_aligned_alloc(align, size);
}

int posix_memalign(void **outp, size_t align, size_t size) {
    NEED(real_posix_memalign);
    return real_posix_memalign(outp, align, size);
}
