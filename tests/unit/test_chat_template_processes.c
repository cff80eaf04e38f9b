/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chat templates as processes: each can be ended, is replaced, and takes nobody else with it.
 */
#include "tests/unit/chat_model.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

/* Seconds in one call of C code that looks up for nothing, of half a megabyte; "slow" asks for it.
 */
#define STRIPTAGS "{% if x %}{{ ('<' * 524288) | striptags | length }}{% else %}fast{% endif %}"
#define SLOW "{\"messages\": [{}], \"kwargs\": {\"x\": true}}"
#define MIB (UINT64_C(1) << 20)

static double now_s(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void sleep_ms(int ms) {
    nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L }, NULL);
}

static ChatTemplate *template_make(const char *source, uint32_t time_ms_max, uint32_t n_workers) {
    const ChatTemplateOptions options = { .time_ms_max = time_ms_max,
                                          .output_bytes_max = 1 << 20,
                                          .n_workers = n_workers };

    return chat_template_make(source, &options);
}

static int count_descriptors(void) {
    DIR *folder = opendir("/proc/self/fd");
    int n = 0;

    assert_non_null(folder);
    while (readdir(folder))
        n++;
    closedir(folder);
    return n;
}

/* The parent of a process, and its state's letter; 0 where it is gone. */
static int parent_of(int pid, char *state) {
    char path[64];
    int parent = 0;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    CLEANUP(fclose) FILE *file = fopen(path, "r");

    if (!file || fscanf(file, "%*d (%*[^)]) %c %d", state, &parent) != 2)
        return 0;
    return parent;
}

/* Calls `fn` for each child of a process; returns their number. */
static int each_child(int parent, void (*fn)(int pid, char state)) {
    DIR *folder = opendir("/proc");
    const struct dirent *entry;
    int n = 0;

    assert_non_null(folder);
    while ((entry = readdir(folder))) {
        int pid = atoi(entry->d_name);
        char state;

        if (pid > 0 && parent_of(pid, &state) == parent) {
            n++;
            if (fn)
                fn(pid, state);
        }
    }
    closedir(folder);
    return n;
}

static int nursery_pid;

static void remember_nursery(int pid, char state) {
    assert_int_not_equal(state, 'Z');
    nursery_pid = pid;
}

static int find_nursery(void) {
    assert_int_equal(each_child(getpid(), remember_nursery), 1);
    return nursery_pid;
}

static void kill_process(int pid, char state) {
    (void)state;
    kill(pid, SIGKILL);
}

static int render(ChatTemplate *ct, const char *request, Account *account, Reason *why) {
    CLEANUP(buffer_deinit) Buffer prompt = BUFFER_NULL;

    *why = (Reason)REASON_NULL;
    return chat_template_render(ct, request, strlen(request), account, &prompt, why);
}

typedef struct Rendering {
    ChatTemplate *ct;
    Account *account;
    int outcome;
    double end_s;
    Reason why;
} Rendering;

static void *render_slowly(void *arg) {
    Rendering *r = arg;

    r->outcome = render(r->ct, SLOW, r->account, &r->why);
    r->end_s = now_s();
    return NULL;
}

static void test_one_call_ends_at_its_time_and_others_go_on(void **state) {
    CLEANUP(chat_template_free) ChatTemplate *ct = template_make(STRIPTAGS, 1000, 2);
    Rendering slow = { .ct = ct };
    double start_s = now_s(), before_s;
    pthread_t thread;
    int n = 0;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, render_slowly, &slow), 0);
    for (; now_s() - start_s < 0.8; n++) {
        before_s = now_s();
        assert_prompt(ct, HELLO, "fast");
        assert_true(now_s() - before_s < 0.8);
    }
    pthread_join(thread, NULL);
    assert_int_equal(slow.outcome, CHAT_TEMPLATE_E_LIMIT);
    assert_non_null(strstr(slow.why.text, "took longer than 1000 ms"));
    assert_true(slow.end_s - start_s > 0.9 && slow.end_s - start_s < 3);
    assert_true(n > 5);
}

/* More of them than there are workers: everybody else waits for their ends, and no longer. */
static void test_all_workers_busy(void **state) {
    CLEANUP(chat_template_free) ChatTemplate *ct = template_make(STRIPTAGS, 300, 2);
    Rendering slow[4];
    pthread_t threads[4];
    double start_s = now_s();

    (void)state;
    for (int i = 0; i < 4; i++) {
        slow[i] = (Rendering){ .ct = ct };
        assert_int_equal(pthread_create(&threads[i], NULL, render_slowly, &slow[i]), 0);
    }
    sleep_ms(50);
    assert_prompt(ct, HELLO, "fast");
    assert_true(now_s() - start_s < 5);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(slow[i].outcome, CHAT_TEMPLATE_E_LIMIT);
    }
}

/* Whether it is rendered or waits for a worker. */
static void test_a_closed_account_ends_it_at_once(void **state) {
    CLEANUP(chat_template_free) ChatTemplate *ct = template_make(STRIPTAGS, 20000, 1);
    Account account;
    Rendering slow[2];
    pthread_t threads[2];
    double closed_s;

    (void)state;
    account_init(&account, NULL, 1024 * MIB, "x");
    for (int i = 0; i < 2; i++) {
        slow[i] = (Rendering){ .ct = ct, .account = &account };
        assert_int_equal(pthread_create(&threads[i], NULL, render_slowly, &slow[i]), 0);
    }
    sleep_ms(300);
    closed_s = now_s();
    account_close(&account);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(slow[i].outcome, -ECANCELED);
        assert_true(slow[i].end_s - closed_s < 0.5);
    }
    account_deinit(&account);
    assert_prompt(ct, HELLO, "fast");
}

static void test_killed_processes_are_replaced(void **state) {
    CLEANUP(chat_template_free) ChatTemplate *ct = template_make(STRIPTAGS, 20000, 2);
    Rendering slow = { .ct = ct };
    pthread_t thread;

    (void)state;
    assert_prompt(ct, HELLO, "fast");
    each_child(find_nursery(), kill_process); /* idle ones */
    sleep_ms(50);
    assert_prompt(ct, HELLO, "fast");

    assert_int_equal(pthread_create(&thread, NULL, render_slowly, &slow), 0);
    sleep_ms(200);
    each_child(find_nursery(), kill_process); /* a busy one */
    pthread_join(thread, NULL);
    assert_int_equal(slow.outcome, CHAT_TEMPLATE_E_LIMIT);
    assert_non_null(strstr(slow.why.text, "ended"));
    assert_prompt(ct, HELLO, "fast");

    kill(find_nursery(), SIGKILL);
    sleep_ms(50);
    assert_prompt(ct, HELLO, "fast"); /* by a worker that has lost its nursery */
}

static void test_a_killed_nursery_is_replaced(void **state) {
    CLEANUP(chat_template_free) ChatTemplate *ct = template_make("fine", 20000, 1);
    int before;

    (void)state;
    assert_prompt(ct, HELLO, "fine");
    before = find_nursery();
    each_child(before, kill_process);
    kill(before, SIGKILL);
    sleep_ms(50);
    assert_prompt(ct, HELLO, "fine");
    assert_int_not_equal(find_nursery(), before);
}

#define HUNGRY "{% if x %}{{ ('a' * x) | length }}{% else %}{{ messages[0].content }}{% endif %}"

static void test_memory_is_the_requests(void **state) {
    static const char request[] = "{\"messages\": [{}], \"kwargs\": {\"x\": 40000000}}";
    CLEANUP(chat_template_free) ChatTemplate *ct = template_make(HUNGRY, 10000, 1);
    Account all, one;
    Reason why;

    (void)state;
    account_init(&all, NULL, 1024 * MIB, "all");
    account_init(&one, &all, 8 * MIB, "one");
    assert_int_equal(render(ct, HELLO, &one, &why), 0);
    assert_int_equal(render(ct, request, &one, &why), -ENOMEM);
    assert_ptr_equal(one.refused_by, &one);
    assert_int_equal(one.used, 0);

    account_set_limit(&one, 100 * MIB);
    account_set_limit(&all, 8 * MIB);
    assert_int_equal(render(ct, request, &one, &why), -ENOMEM);
    assert_ptr_equal(one.refused_by, &all);

    account_set_limit(&all, 100 * MIB);
    assert_int_equal(render(ct, request, &one, &why), 0);
    account_set_limit(&all, 0);
    assert_int_equal(render(ct, HELLO, &one, &why), -ENOMEM);
    assert_ptr_equal(one.refused_by, &all);

    account_set_limit(&all, 1024 * MIB);
    account_set_limit(&one, 1024 * MIB);
    assert_int_equal(render(ct, "{\"messages\": [{}], \"kwargs\": {\"x\": 400000000}}", &one, &why),
                     CHAT_TEMPLATE_E_LIMIT); /* the template's own */
    assert_non_null(strstr(why.text, "bytes of memory"));
    assert_int_equal(all.used, 0);
    account_deinit(&one);
    account_deinit(&all);
}

/* A prompt may take all the room that there was while the template ran. */
static void test_prompt_is_charged_after_the_templates_memory(void **state) {
    static const char request[] = "{\"messages\": [{\"content\": \"Hello\"}]}";
    CLEANUP(chat_template_free)
    ChatTemplate *ct = template_make("{{ messages[0].content * 60000 }}", 10000, 1);
    CLEANUP(buffer_deinit) Buffer prompt = BUFFER_NULL;
    Account account;
    Reason why;

    (void)state;
    account_init(&account, NULL, 4 * MIB, "x");
    prompt.account = &account;
    assert_int_equal(chat_template_render(ct, request, strlen(request), &account, &prompt, &why),
                     0);
    assert_int_equal(prompt.size, 300000);
    buffer_deinit(&prompt);

    account_set_limit(&account, MIB);
    account_charge(&account, MIB - 200000);
    prompt.account = &account;
    assert_int_equal(chat_template_render(ct, request, strlen(request), &account, &prompt, &why),
                     -ENOMEM);
    account_release(&account, MIB - 200000);
    buffer_deinit(&prompt);
    assert_prompt(ct, "{\"messages\": [{\"content\": \"\"}]}", "");
    account_deinit(&account);
}

/* Waits a few seconds for the nursery to have at most so many workers. */
static void wait_for_workers(int n_max) {
    double start_s = now_s();

    while (each_child(find_nursery(), NULL) > n_max) {
        assert_true(now_s() - start_s < 5);
        sleep_ms(20);
    }
}

static size_t resident_of_children;

static void add_resident(int pid, char state) {
    long total, resident;
    char path[64];

    (void)state;
    snprintf(path, sizeof(path), "/proc/%d/statm", pid);
    CLEANUP(fclose) FILE *file = fopen(path, "r");

    if (file && fscanf(file, "%ld %ld", &total, &resident) == 2)
        resident_of_children += (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* Forty million bytes, in a circle that Python does not look for at once. */
#define HOARDER                                               \
    "{% if x %}{% set ns = namespace(text='a' * 40000000) %}" \
    "{% set ns.self = ns %}{{ ns.text | length }}{% else %}fine{% endif %}"

static void test_a_worker_that_has_grown_is_replaced(void **state) {
    CLEANUP(chat_template_free) ChatTemplate *ct = template_make(HOARDER, 10000, 1);
    size_t before;
    Reason why;

    (void)state;
    assert_prompt(ct, HELLO, "fine");
    resident_of_children = 0;
    each_child(find_nursery(), add_resident);
    before = resident_of_children;
    for (int i = 0; i < 3; i++)
        assert_int_equal(render(ct, SLOW, NULL, &why), 0);
    assert_prompt(ct, HELLO, "fine");
    wait_for_workers(1);
    resident_of_children = 0;
    each_child(find_nursery(), add_resident);
    assert_true(resident_of_children < before + 20 * MIB);
}

static void check_no_zombie(int pid, char state) {
    (void)pid;
    assert_int_not_equal(state, 'Z');
}

static void test_nothing_is_left_of_those_that_were_ended(void **state) {
    CLEANUP(chat_template_free) ChatTemplate *ct = template_make(STRIPTAGS, 10, 2);
    int n_descriptors = 0;
    Reason why;

    (void)state;
    for (int i = 0; i < 200; i++) {
        assert_int_equal(render(ct, SLOW, NULL, &why), CHAT_TEMPLATE_E_LIMIT);
        if (i == 10)
            n_descriptors = count_descriptors();
    }
    assert_true(count_descriptors() <= n_descriptors + 1);
    wait_for_workers(2);
    each_child(find_nursery(), check_no_zombie);
}

static void test_processes_end_with_the_templates(void **state) {
    (void)state;
    chat_template_free(template_make(STRIPTAGS, 100, 2));
    wait_for_workers(0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_call_ends_at_its_time_and_others_go_on),
        cmocka_unit_test(test_all_workers_busy),
        cmocka_unit_test(test_a_closed_account_ends_it_at_once),
        cmocka_unit_test(test_memory_is_the_requests),
        cmocka_unit_test(test_prompt_is_charged_after_the_templates_memory),
        cmocka_unit_test(test_a_worker_that_has_grown_is_replaced),
        cmocka_unit_test(test_nothing_is_left_of_those_that_were_ended),
        cmocka_unit_test(test_processes_end_with_the_templates),
        cmocka_unit_test(test_killed_processes_are_replaced),
        cmocka_unit_test(test_a_killed_nursery_is_replaced),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
