// link: base
/* test_memory.c - the ledger books what it takes and gives all of it back; arenas place what they
 * measured. On a device table of two functions. */
#include "capture.h"
#include "dstrain/memory.h"
#include "dstrain/random.h"
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct fake_device {
    struct ds_device device;
    uint64_t live_bytes[DS_MEMORY_KIND_COUNT];
    int live_count, fail_at; /* fail_at: the n-th alloc from now fails; 0: none */
    size_t left;
};

static ds_status fake_alloc(struct ds_device *device, enum ds_memory_kind kind, size_t bytes,
                            uint32_t flags, void **at)
{
    struct fake_device *fake = (struct fake_device *)device;
    const size_t whole = (bytes + 4095) / 4096 * 4096;

    assert_int_equal(flags, 0);
    if (fake->fail_at > 0 && --fake->fail_at == 0)
        return DS_ERR_NO_MEMORY;
    *at = aligned_alloc(4096, whole);
    assert_non_null(*at);
    memset(*at, 0, whole);
    fake->live_bytes[kind] += bytes;
    fake->live_count++;
    return DS_OK;
}

static void fake_release(struct ds_device *device, enum ds_memory_kind kind, void *memory,
                         size_t bytes)
{
    struct fake_device *fake = (struct fake_device *)device;

    fake->live_bytes[kind] -= bytes;
    fake->live_count--;
    free(memory);
}

static const struct ds_device_ops fake_ops = {
    .name = "fake", .alloc = fake_alloc, .release = fake_release};

static ds_status fake_left(struct ds_device *device, size_t *bytes)
{
    *bytes = ((struct fake_device *)device)->left;
    return DS_OK;
}

static const struct ds_device_ops fake_ops_that_tell = {
    .name = "fake", .alloc = fake_alloc, .release = fake_release, .memory_left = fake_left};

static void the_ledger_books_by_kind_and_label(void **state)
{
    struct fake_device fake = {.device = {&fake_ops}};
    struct ds_memory memory;
    void *at[4];

    (void)state;
    ds_memory_init(&memory, &fake.device);
    assert_ok(ds_memory_take(&memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_PARAMS, 1000, &at[0]));
    assert_ok(ds_memory_take(&memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_GRADS, 5000, &at[1]));
    assert_ok(ds_memory_take(&memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_PARAMS, 24, &at[2]));
    assert_ok(ds_memory_take(&memory, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING, 7, &at[3]));
    assert_int_equal(memory.bytes[DS_MEMORY_DEVICE][DS_MEMORY_LABEL_PARAMS], 1024);
    assert_int_equal(ds_memory_total(&memory, DS_MEMORY_DEVICE), 6024);
    assert_int_equal(ds_memory_total(&memory, DS_MEMORY_PINNED), 7);
    assert_int_equal(ds_memory_total(&memory, DS_MEMORY_HOST), 0);
    assert_int_equal(fake.live_bytes[DS_MEMORY_DEVICE], 6024);
    for (int i = 0; i < 4; i++)
        assert_int_equal((uintptr_t)at[i] % 256, 0);
    ds_memory_fini(&memory);
}

static void fini_gives_everything_back_and_may_be_repeated(void **state)
{
    struct fake_device fake = {.device = {&fake_ops}};
    struct ds_memory memory;
    void *at;

    (void)state;
    ds_memory_init(&memory, &fake.device);
    for (size_t i = 1; i <= 20; i++)
        assert_ok(ds_memory_take(&memory, (enum ds_memory_kind)(i % DS_MEMORY_KIND_COUNT),
                                 DS_MEMORY_LABEL_COMM, 100 * i, &at));
    ds_memory_fini(&memory);
    ds_memory_fini(&memory);
    assert_int_equal(fake.live_count, 0);
    for (int kind = 0; kind < DS_MEMORY_KIND_COUNT; kind++) {
        assert_int_equal(fake.live_bytes[kind], 0);
        assert_int_equal(ds_memory_total(&memory, (enum ds_memory_kind)kind), 0);
    }
}

static void nothing_taken_is_null_and_costs_nothing(void **state)
{
    struct fake_device fake = {.device = {&fake_ops}};
    struct ds_memory memory;
    void *at = &fake;

    (void)state;
    ds_memory_init(&memory, &fake.device);
    assert_ok(ds_memory_take(&memory, DS_MEMORY_HOST, DS_MEMORY_LABEL_SLOTS, 0, &at));
    assert_null(at);
    assert_int_equal(fake.live_count, 0);
    ds_memory_fini(&memory);
}

/* With the log turned away: the failure is the point here. */
static ds_status take_quietly(struct ds_memory *memory, size_t bytes, void **at)
{
    const int terminal = ds_log.terminal;
    ds_status st;

    ds_log.terminal = open("/dev/null", O_WRONLY | O_CLOEXEC);
    st = ds_memory_take(memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_SLOTS, bytes, at);
    close(ds_log.terminal);
    ds_log.terminal = terminal;
    return st;
}

static void a_failed_take_books_nothing(void **state)
{
    struct fake_device fake = {.device = {&fake_ops}, .fail_at = 2};
    struct ds_memory memory;
    void *at = NULL, *kept = &fake;

    (void)state;
    ds_memory_init(&memory, &fake.device);
    assert_ok(take_quietly(&memory, 100, &at));
    assert_int_equal(take_quietly(&memory, 100, &kept), DS_ERR_NO_MEMORY);
    assert_ptr_equal(kept, &fake);
    assert_int_equal(ds_memory_total(&memory, DS_MEMORY_DEVICE), 100);
    ds_memory_fini(&memory);
    assert_int_equal(fake.live_count, 0);
}

static void a_failed_take_says_who_has_the_memory_and_what_helps(void **state)
{
    struct fake_device fake = {.device = {&fake_ops}, .fail_at = 4};
    struct ds_memory memory;
    struct capture capture;
    void *at;

    (void)state;
    ds_memory_init(&memory, &fake.device);
    assert_ok(ds_memory_take(&memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_PARAMS, 1000, &at));
    assert_ok(ds_memory_take(&memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_GRADS, 5000, &at));
    assert_ok(ds_memory_take(&memory, DS_MEMORY_HOST, DS_MEMORY_LABEL_STAGING, 7, &at));
    capture_begin(&capture);
    assert_int_equal(
        ds_memory_take(&memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_ACTIVATIONS, 123, &at),
        DS_ERR_NO_MEMORY);
    const char *text = capture_end(&capture);
    assert_non_null(strstr(text, "123 bytes of device memory for activations come on top of 6000 "
                                 "(parameters 1000, gradients 5000)"));
    assert_non_null(strstr(text, "train.micro_batch_size"));
    assert_non_null(strstr(text, "train.seq_length"));
    assert_non_null(strstr(text, "zero.stage"));
    ds_memory_fini(&memory);
}

/* Another program has the rest of the device; memory of the host is another matter. */
static void what_a_device_has_not_left_is_refused_in_one_line(void **state)
{
    struct fake_device fake = {.device = {&fake_ops_that_tell}, .left = 122};
    struct ds_memory memory;
    struct capture capture;
    void *at;

    (void)state;
    ds_memory_init(&memory, &fake.device);
    assert_ok(ds_memory_take(&memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_PARAMS, 122, &at));
    assert_ok(ds_memory_take(&memory, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING, 1000, &at));
    capture_begin(&capture);
    assert_int_equal(
        ds_memory_take(&memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_ACTIVATIONS, 123, &at),
        DS_ERR_NO_MEMORY);
    const char *text = capture_end(&capture);
    assert_null(strchr(text, '\n'));
    assert_non_null(strstr(text, "the device has 122 bytes left"));
    assert_non_null(strstr(text, "123 bytes of device memory for activations come on top of 122 "
                                 "(parameters 122)"));
    assert_non_null(strstr(text, "train.micro_batch_size"));
    assert_int_equal(fake.live_count, 2);
    ds_memory_fini(&memory);
}

/* No batch is small enough where the parameters are too large. */
static void where_the_model_alone_does_not_fit_no_batch_is_blamed(void **state)
{
    struct fake_device fake = {.device = {&fake_ops}, .fail_at = 2};
    struct ds_memory memory;
    struct capture capture;
    void *at;

    (void)state;
    ds_memory_init(&memory, &fake.device);
    assert_ok(ds_memory_take(&memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_PARAMS, 1000, &at));
    capture_begin(&capture);
    assert_int_equal(ds_memory_take(&memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_GRADS, 1000, &at),
                     DS_ERR_NO_MEMORY);
    const char *text = capture_end(&capture);
    assert_non_null(strstr(text, "let more ranks share its states"));
    assert_non_null(strstr(text, "offload.exp_avg"));
    assert_null(strstr(text, "train."));
    ds_memory_fini(&memory);
}

static void a_limit_is_reached_exactly_and_not_passed(void **state)
{
    struct fake_device fake = {.device = {&fake_ops}};
    struct ds_memory memory;
    void *at;

    (void)state;
    ds_memory_init(&memory, &fake.device);
    memory.limit_bytes[DS_MEMORY_DEVICE] = 1000;
    assert_ok(take_quietly(&memory, 600, &at));
    assert_int_equal(take_quietly(&memory, 401, &at), DS_ERR_NO_MEMORY);
    assert_int_equal(take_quietly(&memory, SIZE_MAX - 100, &at), DS_ERR_NO_MEMORY);
    assert_int_equal(take_quietly(&memory, 1001, &at), DS_ERR_NO_MEMORY);
    assert_ok(take_quietly(&memory, 400, &at));
    assert_int_equal(take_quietly(&memory, 1, &at), DS_ERR_NO_MEMORY);
    assert_int_equal(ds_memory_total(&memory, DS_MEMORY_DEVICE), 1000);
    ds_memory_fini(&memory);
}

static void a_take_after_the_freeze_is_a_bug(void **state)
{
    int how = 0;
    pid_t child = fork();

    (void)state;
    if (child == 0) {
        struct fake_device fake = {.device = {&fake_ops}};
        struct ds_memory memory;
        void *at;

        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL);
        ds_log.terminal = open("/dev/null", O_WRONLY | O_CLOEXEC);
        ds_memory_init(&memory, &fake.device);
        ds_memory_freeze(&memory);
        (void)!ds_memory_take(&memory, DS_MEMORY_HOST, DS_MEMORY_LABEL_COMM, 1, &at);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGABRT);
}

/* 50 parts of random sizes, the same ones whenever it is asked. */
static void take_parts(struct ds_arena *arena, struct ds_random random, uint8_t *parts[50])
{
    for (uint64_t i = 0; i < 50; i++)
        parts[i] = ds_arena_take(arena, ds_random_below(random, i, 1000));
}

static void an_arena_places_exactly_what_it_measured(void **state)
{
    const struct ds_random random = ds_random_of(test_seed(__func__), DS_RANDOM_TEST, 0);
    struct ds_arena measure = {0}, place = {0};
    uint8_t *parts[50];

    (void)state;
    take_parts(&measure, random, parts);
    for (int i = 0; i < 50; i++)
        assert_null(parts[i]);
    place.size = measure.used;
    place.base = aligned_alloc(256, (measure.used + 255) / 256 * 256);
    assert_non_null(place.base);
    take_parts(&place, random, parts);
    assert_int_equal(place.used, measure.used);
    for (uint64_t i = 0; i < 50; i++) {
        size_t bytes = ds_random_below(random, i, 1000);

        assert_int_equal((uintptr_t)parts[i] % 256, 0);
        assert_true(parts[i] + bytes <= place.base + place.size);
        if (i > 0) /* parts do not overlap */
            assert_true(parts[i - 1] + ds_random_below(random, i - 1, 1000) <= parts[i]);
    }
    free(place.base);
}

static void every_label_has_a_name(void **state)
{
    (void)state;
    for (int label = 0; label < DS_MEMORY_LABEL_COUNT; label++)
        assert_true(strlen(ds_memory_label_name((enum ds_memory_label)label)) > 0);
    assert_string_equal(ds_memory_label_name(DS_MEMORY_LABEL_SLOTS), "unit slots");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_ledger_books_by_kind_and_label),
        cmocka_unit_test(fini_gives_everything_back_and_may_be_repeated),
        cmocka_unit_test(nothing_taken_is_null_and_costs_nothing),
        cmocka_unit_test(a_failed_take_books_nothing),
        cmocka_unit_test(a_failed_take_says_who_has_the_memory_and_what_helps),
        cmocka_unit_test(what_a_device_has_not_left_is_refused_in_one_line),
        cmocka_unit_test(where_the_model_alone_does_not_fit_no_batch_is_blamed),
        cmocka_unit_test(a_limit_is_reached_exactly_and_not_passed),
        cmocka_unit_test(a_take_after_the_freeze_is_a_bug),
        cmocka_unit_test(an_arena_places_exactly_what_it_measured),
        cmocka_unit_test(every_label_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
