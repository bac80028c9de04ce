// link: launch
/* What has not changed since the last checkpoint is not written again, and nothing is lost by it: what such
 * checkpoints hold is what was trained, they verify, retention leaves what they refer to, what is damaged at one place
 * is read from the other, and a save that failed is never what others refer to. */
#include "capture.h"
#include "test.h"
#include "tiny_run.h"

#include "dstrain/checkpoint.h"
#include "dstrain/random.h"
#include "dstrain/safetensors.h"

#include <errno.h>
#include <stdio.h>

/* Nothing is trained in the steps behind FIRST, up to LAST: labels are missing, updates are skipped. */
enum { FIRST = 3, LAST = 10, STEPS = 13, BATCH = 4 };

static char *folder, *data, *root;
static uint64_t seed, interval, keep;

/* ---- data whose labels are missing for a while */

static char *make_data(void)
{
    const uint64_t samples = (uint64_t)BATCH * STEPS, count = samples * TINY_SEQ;
    const struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, 0);
    struct ds_safetensors_item items[2] = {{"input_ids", DS_I64, 2, {samples, TINY_SEQ}},
                                           {"labels", DS_I64, 2, {samples, TINY_SEQ}}};
    struct ds_safetensors_writer *writer = NULL;
    int64_t *ids = calloc(2 * count, sizeof *ids), *labels = ids + count;
    char *path = malloc(512);

    for (uint64_t i = 0; i < count; i++) {
        const uint64_t step = i / (BATCH * TINY_SEQ) + 1;

        ids[i] = (int64_t)ds_random_below(random, i, TINY_VOCAB);
        labels[i] = step > FIRST && step <= LAST ? -100 : ids[i];
    }
    snprintf(path, 512, "%s/tokens.safetensors", folder);
    assert_ok(ds_safetensors_create(ds_fs_posix(), path, items, 2, NULL, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, count, ids));
    assert_ok(ds_safetensors_write(writer, 1, 0, count, labels));
    assert_ok(ds_safetensors_commit(writer));
    free(ids);
    return path;
}

/* ---- runs */

static void with_checkpoints(struct ds_config *config)
{
    config->run.seed = seed;
    config->data.shuffle = 0;
    config->schedule.decay_steps = STEPS;
    config->checkpoint.interval = interval;
    config->checkpoint.keep = keep;
    snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", root);
}

static void without_checkpoints(struct ds_config *config)
{
    with_checkpoints(config);
    config->checkpoint.dir[0] = '\0';
    config->checkpoint.interval = 0;
}

static struct tiny_result run_on(struct ds_fs *fs, uint64_t steps,
                                 void (*adjust)(struct ds_config *config))
{
    const struct tiny_case c = {.ranks = 2,
                                .stage = 3,
                                .steps = steps,
                                .global_batch = BATCH,
                                .micro_batch = 2,
                                .layers = 2,
                                .data = data,
                                .fs = fs,
                                .adjust = adjust};
    struct tiny_result result;

    tiny_run(&c, &result);
    if (result.status != DS_OK)
        fail_msg("%llu steps: %s", (unsigned long long)steps, ds_status_text(result.status));
    return result;
}

static void run(uint64_t steps)
{
    struct tiny_result result = run_on(NULL, steps, with_checkpoints);

    tiny_result_fini(&result);
}

/* The last steps from the newest checkpoint are what they would have been. */
static void assert_goes_on(void)
{
    struct tiny_result whole = run_on(NULL, STEPS, without_checkpoints);
    struct tiny_result rest = run_on(NULL, STEPS, with_checkpoints);

    assert_true(rest.loss[FIRST - 1] == 0); /* loaded, not made again */
    assert_memory_equal(rest.loss + LAST, whole.loss + LAST, (STEPS - LAST) * sizeof *whole.loss);
    assert_memory_equal(rest.norm + LAST, whole.norm + LAST, (STEPS - LAST) * sizeof *whole.norm);
    assert_memory_equal(rest.params, whole.params, whole.param_elems * sizeof *whole.params);
    tiny_result_fini(&whole);
    tiny_result_fini(&rest);
}

/* ---- checkpoints */

static void forget_checkpoints(void)
{
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), root), 0);
}

struct held {
    uint64_t step, written_bytes, state_bytes;
    uint32_t other_count; /* packs that it refers to */
};

/* What each of them is, oldest first; every byte of each is checked. */
static size_t look(struct held held[STEPS])
{
    static uint8_t buffer[DS_PACK_CHUNK_BYTES];
    struct ds_checkpoint_list list;

    assert_ok(ds_checkpoint_list_make(ds_fs_posix(), root, &list));
    for (size_t i = 0; i < list.count; i++) {
        struct held *at = &held[list.count - 1 - i];
        struct ds_manifest manifest;

        assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), root, &list.entries[i].id, &manifest));
        assert_ok(ds_checkpoint_verify(ds_fs_posix(), root, &manifest, buffer));
        *at = (struct held){.step = manifest.id.step};
        for (uint32_t k = 0; k < manifest.pack_count; k++)
            if (ds_checkpoint_owns(&manifest, &manifest.packs[k].pack.id))
                at->written_bytes += manifest.packs[k].pack.file_bytes;
            else
                at->other_count++;
        for (uint32_t k = 0; k < manifest.catalogue.count; k++)
            at->state_bytes += ds_logical_elems(&manifest.catalogue.tensors[k]) *
                               ds_dtype_bytes(manifest.catalogue.tensors[k].dtype);
        ds_manifest_fini(&manifest);
    }
    const size_t count = list.count;
    ds_checkpoint_list_fini(&list);
    return count;
}

/* ---- a disk that counts what is written to packs, and has one file that cannot be made */

#define INNER ds_fs_posix()->ops
static _Atomic uint64_t pack_bytes;
static _Atomic char is_pack[4096];
static const char *refused; /* NULL: none */

static int count_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    if (refused && strstr(path, refused))
        return -EIO;
    const int file = INNER->open(fs, path, flags, mode);
    if (file >= 0 && file < 4096)
        is_pack[file] = strstr(path, "/P-") != NULL;
    return file;
}

static int64_t count_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                            uint64_t offset)
{
    if (file < 4096 && is_pack[file])
        pack_bytes += bytes;
    return INNER->pwrite(fs, file, from, bytes, offset);
}

static struct ds_fs *counting_disk(void)
{
    static struct ds_fs_ops ops;
    static struct ds_fs fs = {&ops};

    ops = *INNER;
    ops.open = count_open;
    ops.pwrite = count_pwrite;
    ops.native = NULL; /* so that writes come through here */
    return &fs;
}

/* ---- tests */

/* Header, table and footer of two ranks, and no more. */
static void assert_is_table_alone(const struct held *at)
{
    if (at->written_bytes > at->state_bytes / 2)
        fail_msg("step %llu wrote %llu of %llu bytes", (unsigned long long)at->step,
                 (unsigned long long)at->written_bytes, (unsigned long long)at->state_bytes);
    assert_true(at->other_count > 0);
}

/* One launch for each save: what an earlier one has written is known, too. */
static void launches_write_what_has_changed(void **state)
{
    struct held held[STEPS];

    (void)state;
    interval = 100;
    for (uint64_t step = FIRST; step < LAST; step++)
        run(step);
    const uint64_t before = pack_bytes;
    struct tiny_result result = run_on(counting_disk(), LAST, with_checkpoints);
    tiny_result_fini(&result);
    assert_int_equal(look(held), LAST - FIRST + 1);
    assert_true(held[0].written_bytes > held[0].state_bytes);
    assert_true(held[1].written_bytes > held[1].state_bytes); /* the second place */
    for (size_t i = 2; i < LAST - FIRST + 1; i++)
        assert_is_table_alone(&held[i]);
    assert_true(pack_bytes - before > 0);
    assert_true(pack_bytes - before <= held[LAST - FIRST].written_bytes);
    assert_goes_on();
    assert_int_equal(look(held), LAST - FIRST + 2);
    assert_true(held[LAST - FIRST + 1].written_bytes > held[0].state_bytes); /* all has changed */
    forget_checkpoints();
}

/* Saved while training goes on, each one that is not left out. */
static void one_launch_writes_what_has_changed(void **state)
{
    struct held held[STEPS];
    struct capture capture;
    size_t count, same = 0;

    (void)state;
    interval = 1;
    ds_log.is_leader = 1;
    capture_begin(&capture);
    run(LAST);
    const char *said = capture_end(&capture);
    ds_log.is_leader = 0;
    assert_non_null(strstr(said, "MB of states"));
    count = look(held);
    for (size_t i = 0; i < count; i++)
        if (held[i].step >= FIRST && ++same > 2)
            assert_is_table_alone(&held[i]);
    interval = 100;
    assert_goes_on();
    forget_checkpoints();
}

/* Old checkpoints go, what newer ones have of them stays. */
static void retention_leaves_what_is_referred_to(void **state)
{
    struct held held[STEPS];

    (void)state;
    interval = 100;
    keep = 1;
    for (uint64_t step = FIRST; step <= LAST; step++) {
        run(step);
        const size_t count = look(held);
        assert_true(count == (step == FIRST ? 1 : 2)); /* two known ones always stay */
    }
    assert_is_table_alone(&held[0]);
    assert_is_table_alone(&held[1]);
    assert_goes_on();
    keep = 100;
    forget_checkpoints();
}

enum damage { DAMAGE_CHUNK, DAMAGE_FOOTER, DAMAGE_GONE };

/* Packs of a step. */
static void spoil(uint64_t step, enum damage damage)
{
    char path[DS_CHECKPOINT_PATH_BYTES], wanted[32], **names;
    struct ds_fs *fs = ds_fs_posix();
    struct ds_fs_stat stat;
    size_t count, spoilt = 0;

    snprintf(path, sizeof path, "%s/data/0", root);
    snprintf(wanted, sizeof wanted, "-%012llu-", (unsigned long long)step);
    assert_int_equal(ds_fs_readdir(fs, path, &names, &count), 0);
    for (size_t i = 0; i < count; i++) {
        if (!strstr(names[i], wanted))
            continue;
        snprintf(path, sizeof path, "%s/data/0/%s", root, names[i]);
        spoilt++;
        if (damage == DAMAGE_GONE) {
            assert_int_equal(ds_fs_unlink(fs, path), 0);
            continue;
        }
        const int file = ds_fs_open(fs, path, DS_FS_READ | DS_FS_WRITE, 0);
        assert_int_equal(ds_fs_fstat(fs, file, &stat), 0);
        if (damage == DAMAGE_FOOTER)
            assert_int_equal(ds_fs_truncate(fs, file, stat.bytes - 4096), 0);
        for (uint64_t at = 2 * 4096; at < stat.bytes && damage == DAMAGE_CHUNK; at += 4096)
            assert_int_equal(ds_fs_pwrite(fs, file, "\x5a\xa5", 2, at + 40), 2);
        assert_int_equal(ds_fs_close(fs, file), 0);
    }
    free(names);
    assert_int_equal(spoilt, 2);
}

static void what_is_damaged_at_one_place_is_read_from_the_other(void **state)
{
    (void)state;
    interval = 100;
    for (int place = 0; place < 2; place++)
        for (int damage = DAMAGE_CHUNK; damage <= DAMAGE_GONE; damage++) {
            struct capture capture;

            for (uint64_t step = FIRST; step <= FIRST + 2; step++)
                run(step);
            spoil(FIRST + (uint64_t)place, (enum damage)damage);
            capture_begin(&capture);
            assert_goes_on();
            const char *said = capture_end(&capture);
            /* a reader goes to what was written last, and straight to chunks, whatever the footer */
            const int is_second = place == 1 && damage != DAMAGE_FOOTER;
            if (!strstr(said, "is read from its second place") != !is_second)
                fail_msg("place %d, damage %d: %s", place, damage, said);
            forget_checkpoints();
        }
}

static void a_failed_save_is_nobodys_base(void **state)
{
    struct held held[STEPS];
    char name[32];

    (void)state;
    interval = 100;
    run(FIRST);
    snprintf(name, sizeof name, "M-%06d-%012d", 2, FIRST + 1); /* all packs are there by then */
    refused = name;
    struct tiny_result result = run_on(counting_disk(), FIRST + 1, with_checkpoints);
    tiny_result_fini(&result);
    refused = NULL;
    for (uint64_t step = FIRST + 1; step <= FIRST + 3; step++)
        run(step);
    const size_t count = look(held);
    assert_int_equal(count, 4);
    assert_is_table_alone(&held[count - 1]);
    assert_goes_on();
    forget_checkpoints();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(launches_write_what_has_changed),
        cmocka_unit_test(one_launch_writes_what_has_changed),
        cmocka_unit_test(retention_leaves_what_is_referred_to),
        cmocka_unit_test(what_is_damaged_at_one_place_is_read_from_the_other),
        cmocka_unit_test(a_failed_save_is_nobodys_base),
    };
    int failed;

    ds_log.is_leader = 0;
    seed = test_seed("test_resume_unchanged");
    keep = 100;
    folder = tiny_folder();
    data = make_data();
    root = malloc(512);
    snprintf(root, 512, "%s/checkpoints", folder);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(root);
    free(data);
    tiny_remove(folder);
    return failed;
}
