// link: launch
// tsan
// cost: 125
/* A drive that fails or changes what it was given, in the middle of a run whose states, or what whose layers keep, live in
 * files: the run ends with the file named and no checkpoint of what came back wrong, and a launch goes on from the newest one
 * with the bits of a run that nobody disturbed. Two runs never share a directory, and what cannot begin says why. */
#include "hooked_disk.h"
#include "saved_run.h"

#include "dstrain/random.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STEPS = 6, INTERVAL = 2 };

static uint64_t drawn;

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(saved.seed, DS_RANDOM_TEST, 13), drawn++, bound);
}

/* ---- the fault: one call of one kind, on the files of states alone */

static struct {
    const char *what; /* "pread", "pwrite"; NULL: none */
    int code;         /* -errno; 0: a bit of what is read is another one */
    atomic_uint_fast64_t at, count;
} fault;

/* The file has no name any more. */
static void flip(const struct disk_call *call)
{
    char path[64];
    uint8_t byte;

    snprintf(path, sizeof path, "/proc/self/fd/%d", call->file);
    const int file = open(path, O_RDWR | O_CLOEXEC);

    if (pread(file, &byte, 1, (off_t)call->offset + 5) == 1) {
        byte ^= 1;
        (void)!pwrite(file, &byte, 1, (off_t)call->offset + 5);
        (void)fsync(file);
    }
    close(file);
}

/* Not what says whose the place is. */
static int is_of_states(const struct disk_call *call)
{
    return strstr(call->path, ".states.data") != NULL;
}

static int spoil(const struct disk_call *call)
{
    if (!fault.what || strcmp(call->what, fault.what) != 0 || !is_of_states(call) ||
        ++fault.count != fault.at)
        return 0;
    if (fault.code == 0)
        flip(call);
    return fault.code;
}

/* ---- runs */

static disk_hook *hook_now = spoil;
static uint64_t steps = STEPS;
static int updates; /* enum ds_updates_when */
enum { STATES = 1, KEPT = 2 };
static int filed = STATES;

static void states_in_files(struct ds_config *config)
{
    config->offload.params = config->offload.master = (struct ds_home_key){DS_HOME_NVME, 1};
    config->offload.exp_avg = (struct ds_home_key){DS_HOME_NVME, 0.5};
    config->offload.exp_avg_sq = config->offload.grads = (struct ds_home_key){DS_HOME_NVME, 1};
    config->offload.depth = 2;
    config->offload.updates = updates;
}

static void in_files(struct ds_config *config)
{
    config->precision.compute = DS_PRECISION_BF16;
    if (filed & STATES)
        states_in_files(config);
    if (filed & KEPT) {
        config->offload.activations = (struct ds_home_key){DS_HOME_NVME, 1};
        config->offload.block_size = 8192; /* several of what was saved */
    }
    snprintf(config->offload.directories, sizeof config->offload.directories, "%s", saved.folder);
    config->train.eval_interval = hook_now == spoil ? 3 : 0; /* a fault may come there, too */
    config->checkpoint.interval = saved.interval;
    if (saved.interval > 0)
        snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", saved.root);
}

static struct tiny_result run(uint32_t ranks, int mode)
{
    const struct tiny_case c = {.ranks = ranks,
                                .shard = ranks,
                                .stage = 3,
                                .mode = mode,
                                .steps = steps,
                                .global_batch = 8,
                                .micro_batch = 2,
                                .window = 1,
                                .reshard = DS_RESHARD_KEY_ALWAYS,
                                .layers = filed & KEPT ? 9 : 3,
                                .heads = 4,
                                .kv_heads = 2,
                                .head_dim = 16,
                                .seed = saved.seed,
                                .data = saved.data,
                                .fs = hooked_disk(hook_now),
                                .adjust = in_files};
    struct tiny_result result;

    tiny_run(&c, &result);
    return result;
}

static size_t files_left(void)
{
    char **names;
    size_t count, left = 0;

    assert_int_equal(ds_fs_readdir(ds_fs_posix(), saved.folder, &names, &count), 0);
    for (size_t i = 0; i < count; i++)
        left += strstr(names[i], ".states") != NULL;
    free(names);
    return left;
}

/* How many of these calls a run makes: the fault comes at one of them. */
static uint64_t count_calls(uint32_t ranks, const char *what)
{
    fault.what = what;
    fault.at = UINT64_MAX;
    fault.count = 0;
    saved.interval = 0;
    struct tiny_result result = run(ranks, DS_DEVICE_INLINE);
    assert_int_equal(result.status, DS_OK);
    tiny_result_fini(&result);
    fault.what = NULL;
    return fault.count;
}

static void assert_told(const struct capture *capture, ds_status st, int code)
{
    const char *how = code == 0 ? "another checksum" : "Input/output error";

    if (st != (code == 0 ? DS_ERR_CORRUPT : DS_ERR_IO) || !strstr(capture->text, ".states") ||
        !strstr(capture->text, how))
        fail_msg("status %d; said: %s", (int)st, capture->text);
}

/* The run ends, and another goes on. */
static void disturb(const struct tiny_result *whole, uint32_t ranks, const char *what, int code,
                    uint64_t at)
{
    const int mode = draw(2) ? DS_DEVICE_DEFERRED : DS_DEVICE_INLINE;
    static struct capture capture;

    saved.interval = INTERVAL;
    fault.what = what;
    fault.code = code;
    fault.count = 0;
    fault.at = at;
    capture_begin(&capture);
    struct tiny_result broken = run(ranks, mode);
    (void)capture_end(&capture);
    fault.what = NULL;
    assert_true(fault.count >= at);
    assert_told(&capture, broken.status, code);
    for (uint64_t step = 1; step <= broken.steps; step++)
        if (memcmp(&broken.loss[step - 1], &whole->loss[step - 1], sizeof(double)) != 0)
            assert_true(isnan(broken.loss[step - 1]) && broken.skipped > 0); /* no wrong number */
    assert_int_equal(files_left(), 0);
    struct tiny_result next = run(ranks, mode);
    assert_int_equal(next.status, DS_OK);
    assert_memory_equal(&next.loss[STEPS - 1], &whole->loss[STEPS - 1], sizeof(double));
    assert_memory_equal(next.params, whole->params, whole->param_elems * sizeof *whole->params);
    tiny_result_fini(&broken);
    tiny_result_fini(&next);
    saved_forget(saved.root);
}

static void check_faults(uint32_t ranks, const char *what, int code)
{
    const uint64_t calls = count_calls(ranks, what);

    saved.interval = 0;
    struct tiny_result whole = run(ranks, DS_DEVICE_INLINE);
    assert_int_equal(whole.status, DS_OK);
    for (int i = 0; i < test_draws(3, 1, 30); i++)
        disturb(&whole, ranks, what, code, 1 + draw(calls));
    tiny_result_fini(&whole);
}

static void a_flipped_bit_ends_the_run_at_its_last_checkpoint(void **state)
{
    (void)state;
    check_faults(1, "pread", 0);
    check_faults(2, "pread", 0);
}

static void a_failed_read_ends_the_run_at_its_last_checkpoint(void **state)
{
    (void)state;
    check_faults(2, "pread", -EIO);
}

static void a_failed_write_ends_the_run_at_its_last_checkpoint(void **state)
{
    (void)state;
    check_faults(1, "pwrite", -EIO);
    check_faults(2, "pwrite", -EIO);
}

/* States are near: what fails is known by the verdict, and by the save behind it, from these files alone. */
static void a_fault_in_what_layers_keep_ends_the_run_at_its_last_checkpoint(void **state)
{
    (void)state;
    filed = KEPT;
    check_faults(2, "pread", 0);
    check_faults(1, "pwrite", -EIO);
    filed = STATES;
}

/* ---- what passes */

static atomic_uint_fast64_t passed[2];

static int add_bytes(const struct disk_call *call)
{
    const int is_write = strcmp(call->what, "pwrite") == 0;

    if ((is_write || strcmp(call->what, "pread") == 0) && is_of_states(call))
        passed[is_write] += call->bytes;
    return 0;
}

static void a_step_moves_the_bytes_of_the_plan(void **state)
{
    (void)state;
    saved.interval = 0;
    filed = STATES | KEPT;
    for (updates = DS_UPDATES_KEY_END; updates <= DS_UPDATES_KEY_LATE; updates++) {
        uint64_t before[2] = {0}, planned[2] = {0};

        for (steps = 3; steps <= 4; steps++) {
            passed[0] = passed[1] = 0;
            hook_now = add_bytes;
            struct tiny_result result = run(1, DS_DEVICE_INLINE);
            assert_int_equal(result.status, DS_OK);
            planned[0] = result.file_reads;
            planned[1] = result.file_writes;
            tiny_result_fini(&result);
            if (steps == 3)
                for (int i = 0; i < 2; i++)
                    before[i] = passed[i];
        }
        for (int i = 0; i < 2; i++)
            assert_int_equal(passed[i] - before[i], planned[i]);
        assert_true(planned[0] > planned[1] && planned[1] > 0);
    }
    updates = DS_UPDATES_KEY_END;
    filed = STATES;
    steps = STEPS;
    hook_now = spoil;
}

/* ---- what cannot begin */

static void no_space_is_told_before_the_run(void **state)
{
    static struct capture capture;

    (void)state;
    saved.interval = 0;
    fault.what = "fallocate";
    fault.code = -ENOSPC;
    fault.count = 0;
    fault.at = 1;
    capture_begin(&capture);
    struct tiny_result result = run(2, DS_DEVICE_INLINE);
    (void)capture_end(&capture);
    fault.what = NULL;
    assert_int_equal(result.status, DS_ERR_CONFIG);
    assert_non_null(strstr(capture.text, "bytes are needed"));
    assert_int_equal(files_left(), 0);
}

/* ---- where states may live, but somebody may not have meant it */

static uint32_t magic; /* what the file system of the directory is said to be; 0: what it is */

/* libc's, for ds_fs_warning */
int statfs(const char *path, struct statfs *out)
{
    const int code = (int)syscall(SYS_statfs, path, out);

    if (code == 0 && magic && strcmp(path, saved.folder) == 0)
        out->f_type = (__typeof__(out->f_type))magic;
    return code;
}

static void memory_and_networks_are_allowed_and_named(void **state)
{
    static const struct {
        uint32_t magic;
        const char *what;
    } kinds[] = {{0x01021994, "; that is memory (tmpfs)"},
                 {0x6969, "; that is a network mount (NFS)"},
                 {0x0bd00bd0, "; that is a network mount (Lustre)"},
                 {0xef53, NULL}};
    static struct capture capture;

    (void)state;
    saved.interval = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        magic = kinds[i].magic;
        ds_log.is_leader = 1;
        capture_begin(&capture);
        struct tiny_result result = run(2, DS_DEVICE_INLINE);
        (void)capture_end(&capture);
        ds_log.is_leader = magic = 0;
        assert_int_equal(result.status, DS_OK);
        assert_non_null(strstr(capture.text, "offload: "));
        if (kinds[i].what)
            assert_non_null(strstr(capture.text, kinds[i].what));
        else
            assert_null(strstr(capture.text, "; that is "));
        tiny_result_fini(&result);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flipped_bit_ends_the_run_at_its_last_checkpoint),
        cmocka_unit_test(a_failed_read_ends_the_run_at_its_last_checkpoint),
        cmocka_unit_test(a_failed_write_ends_the_run_at_its_last_checkpoint),
        cmocka_unit_test(a_fault_in_what_layers_keep_ends_the_run_at_its_last_checkpoint),
        cmocka_unit_test(a_step_moves_the_bytes_of_the_plan),
        cmocka_unit_test(no_space_is_told_before_the_run),
        cmocka_unit_test(memory_and_networks_are_allowed_and_named),
    };
    int failed;

    saved_begin("test_offload_faults", 64);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
