// link: launch
/* What has not changed since the last checkpoint is not written again, and nothing is lost by it: what such
 * checkpoints hold is what was trained, they verify, retention leaves what they refer to, what is damaged at one place
 * is read from the other and no new one refers to it, and a save that failed is never what others refer to. */
#include "hooked_disk.h"
#include "saved_run.h"

#include "dstrain/random.h"
#include "dstrain/safetensors.h"

#include <errno.h>
#include <stdio.h>

/* Nothing is trained in the steps behind FIRST, up to LAST: labels are missing, updates are skipped. */
enum { FIRST = 3, LAST = 10, STEPS = 13, BATCH = 4 };

/* ---- data whose labels are missing for a while */

static char *make_data(void)
{
    const uint64_t samples = (uint64_t)BATCH * STEPS, count = samples * TINY_SEQ;
    const struct ds_random random = ds_random_of(saved.seed, DS_RANDOM_TEST, 0);
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
    snprintf(path, 512, "%s/tokens.safetensors", saved.folder);
    assert_ok(ds_safetensors_create(ds_fs_posix(), path, items, 2, NULL, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, count, ids));
    assert_ok(ds_safetensors_write(writer, 1, 0, count, labels));
    assert_ok(ds_safetensors_commit(writer));
    free(ids);
    return path;
}

/* ---- runs */

static void in_order(struct ds_config *config)
{
    config->data.shuffle = 0;
}

static uint32_t shard; /* of two ranks; 0: both */

static struct tiny_result run_on(struct ds_fs *fs, uint64_t steps, saved_adjust *adjust)
{
    struct tiny_case c = saved_case();

    c.global_batch = BATCH;
    c.layers = 2;
    c.shard = shard;
    c.fs = fs;
    return saved_run(c, steps, adjust);
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
    assert_same_run(&rest, &whole, LAST);
    tiny_result_fini(&whole);
    tiny_result_fini(&rest);
}

/* ---- checkpoints */

struct held {
    uint64_t step, written_bytes, state_bytes;
    uint32_t other_count; /* packs that it refers to */
};

/* What each of them is, oldest first; every byte of each is checked. */
static size_t look(struct held held[STEPS])
{
    struct ds_manifest_id ids[SAVED_MAX];
    const size_t count = saved_verify(saved.root, ids);

    for (size_t i = 0; i < count; i++) {
        struct held *at = &held[count - 1 - i];
        struct ds_manifest manifest;

        assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), saved.root, &ids[i], &manifest));
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
    return count;
}

/* ---- a disk that counts what is written to packs, and has one file that cannot be made */

static _Atomic uint64_t pack_bytes;
static const char *refused; /* NULL: none */

static int count_writes(const struct disk_call *call)
{
    if (disk_call_is(call, "pwrite", "/P-"))
        pack_bytes += call->bytes;
    return refused && disk_call_is(call, "open", refused) ? -EIO : 0;
}

static struct ds_fs *counting_disk(void)
{
    return hooked_disk(count_writes);
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
    saved.interval = 100;
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
    saved_forget(saved.root);
}

/* Saved while training goes on, each one that is not left out. */
static void one_launch_writes_what_has_changed(void **state)
{
    struct held held[STEPS];
    struct capture capture;
    size_t count, same = 0;

    (void)state;
    saved.interval = 1;
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
    saved.interval = 100;
    assert_goes_on();
    saved_forget(saved.root);
}

/* Old checkpoints go, what newer ones have of them stays. */
static void retention_leaves_what_is_referred_to(void **state)
{
    struct held held[STEPS];

    (void)state;
    saved.interval = 100;
    saved.keep = 1;
    for (uint64_t step = FIRST; step <= LAST; step++) {
        run(step);
        const size_t count = look(held);
        assert_true(count == (step == FIRST ? 1 : 2)); /* two known ones always stay */
    }
    assert_is_table_alone(&held[0]);
    assert_is_table_alone(&held[1]);
    assert_goes_on();
    saved.keep = 100;
    saved_forget(saved.root);
}

enum damage { DAMAGE_CHUNK, DAMAGE_FOOTER, DAMAGE_GONE };

static enum damage spoilt_by;

static void spoil(const char *path)
{
    struct ds_fs *fs = ds_fs_posix();
    struct ds_fs_stat stat;

    if (spoilt_by == DAMAGE_GONE) {
        assert_int_equal(ds_fs_unlink(fs, path), 0);
        return;
    }
    const int file = ds_fs_open(fs, path, DS_FS_READ | DS_FS_WRITE, 0);
    assert_int_equal(ds_fs_fstat(fs, file, &stat), 0);
    if (spoilt_by == DAMAGE_FOOTER)
        assert_int_equal(ds_fs_truncate(fs, file, stat.bytes - 4096), 0);
    for (uint64_t at = 2 * 4096; at < stat.bytes && spoilt_by == DAMAGE_CHUNK; at += 4096)
        assert_int_equal(ds_fs_pwrite(fs, file, "\x5a\xa5", 2, at + 40), 2);
    assert_int_equal(ds_fs_close(fs, file), 0);
}

static size_t count_of(const char *text, const char *words)
{
    size_t count = 0;

    for (const char *at = text; (at = strstr(at, words)) != NULL; at += strlen(words))
        count++;
    return count;
}

/* However many chunks it was, a line says it of each file. */
static void what_is_damaged_at_one_place_is_read_from_the_other(void **state)
{
    (void)state;
    saved.interval = 100;
    for (int place = 0; place < 2; place++)
        for (int damage = DAMAGE_CHUNK; damage <= DAMAGE_GONE; damage++) {
            struct capture capture;

            for (uint64_t step = FIRST; step <= FIRST + 2; step++)
                run(step);
            spoilt_by = (enum damage)damage;
            assert_int_equal(saved_packs_of(saved.root, FIRST + (uint64_t)place, spoil), 2);
            capture_begin(&capture);
            assert_goes_on();
            const char *said = capture_end(&capture);
            /* a reader goes to what was written last, and straight to chunks, whatever the footer */
            const size_t files = place == 1 && damage != DAMAGE_FOOTER ? 2 : 0; /* a rank's each */
            if (count_of(said, "second place") != files ||
                count_of(said, "dstrain: ") != files + 2 /* it opens them, too */)
                fail_msg("place %d, damage %d: %s", place, damage, said);
            saved_forget(saved.root);
        }
}

/* ---- what a launch has seen to be damaged */

enum flaw { FLAW_FIRST_CHUNK, FLAW_NEXT_CHUNK, FLAW_HEADER, FLAW_FOOTER, FLAW_COUNT };

static enum flaw flawed_by;

/* One bit. */
static void flaw(const char *path)
{
    struct ds_fs *fs = ds_fs_posix();
    struct ds_pack *pack = NULL;
    uint8_t byte;

    assert_ok(ds_pack_open(fs, path, NULL, &pack));
    const uint64_t places[FLAW_COUNT] = {ds_pack_chunks(pack)[0].offset,
                                         ds_pack_chunks(pack)[1].offset, 20,
                                         ds_pack_info(pack)->file_bytes - 4000};
    ds_pack_close(pack);
    const int file = ds_fs_open(fs, path, DS_FS_READ | DS_FS_WRITE, 0);
    assert_int_equal(ds_fs_pread(fs, file, &byte, 1, places[flawed_by]), 1);
    byte ^= 1;
    assert_int_equal(ds_fs_pwrite(fs, file, &byte, 1, places[flawed_by]), 1);
    assert_int_equal(ds_fs_close(fs, file), 0);
}

/* Those behind `step` are whole. */
static void assert_newer_verify(const char *root, uint64_t step, size_t least)
{
    static uint8_t buffer[DS_PACK_CHUNK_BYTES];
    struct ds_manifest_id ids[SAVED_MAX];
    const size_t count = saved_list(root, ids);
    size_t seen = 0;

    for (size_t i = 0; i < count && ids[i].step > step; i++) {
        struct ds_manifest manifest;

        assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), root, &ids[i], &manifest));
        assert_ok(ds_checkpoint_verify(ds_fs_posix(), root, &manifest, buffer));
        for (uint32_t k = 0; k < manifest.pack_count; k++)
            assert_true(manifest.packs[k].pack.id.step != FIRST + 1);
        ds_manifest_fini(&manifest);
        seen++;
    }
    assert_true(seen >= least);
}

static void assert_new_ones_do_without(const char *mirror)
{
    static const char *const words[FLAW_COUNT] = {"second place", "second place",
                                                  "the header fails its checksum",
                                                  "one of the two footers is damaged"};
    struct capture capture;

    for (uint64_t step = FIRST; step <= FIRST + 2; step++)
        run(step);
    assert_true(saved_packs_of(saved.root, FIRST + 1, flaw) > 0);
    capture_begin(&capture);
    run(FIRST + 3);
    const char *said = capture_end(&capture);
    if (!strstr(said, words[flawed_by]) || !strstr(said, "P-000002-000000000004-0000"))
        fail_msg("shard %u, flaw %d: %s", shard, (int)flawed_by, said);
    for (uint64_t step = FIRST + 4; step <= FIRST + 5; step++)
        run(step);
    assert_newer_verify(saved.root, FIRST + 2, 3);
    if (mirror)
        assert_newer_verify(mirror, FIRST + 2, 3);
    assert_goes_on();
    saved_forget(saved.root);
    if (mirror)
        saved_forget(mirror);
}

/* Whichever rank has seen it: with one copy of all states on each, one saves them, and both load. */
static void no_new_one_refers_to_what_was_seen_damaged(void **state)
{
    (void)state;
    saved.interval = 100;
    for (shard = 1; shard <= 2; shard++)
        for (int by = 0; by < FLAW_COUNT; by++) {
            flawed_by = (enum flaw)by;
            assert_new_ones_do_without(NULL);
        }
    shard = 0;
}

static char mirror_root[512];

static void in_order_with_mirror(struct ds_config *config)
{
    in_order(config);
    snprintf(config->checkpoint.mirror, sizeof config->checkpoint.mirror, "%s", mirror_root);
}

static void nor_does_one_that_is_copied(void **state)
{
    (void)state;
    saved.interval = 100;
    snprintf(mirror_root, sizeof mirror_root, "%.400s/mirror", saved.folder);
    saved.also = in_order_with_mirror;
    for (int by = 0; by < FLAW_COUNT; by += FLAW_HEADER) {
        flawed_by = (enum flaw)by;
        assert_new_ones_do_without(mirror_root);
    }
    saved.also = in_order;
}

/* What new copies refer to lies there already: it is looked at, and copied again where it has not lasted. */
static void a_copy_that_was_damaged_is_made_anew(void **state)
{
    (void)state;
    saved.interval = 100;
    snprintf(mirror_root, sizeof mirror_root, "%.400s/mirror", saved.folder);
    saved.also = in_order_with_mirror;
    for (int by = 0; by < FLAW_COUNT; by++) {
        struct ds_manifest_id ids[SAVED_MAX];
        struct capture capture;

        if (by == FLAW_NEXT_CHUNK)
            continue; /* not all are looked at */
        flawed_by = (enum flaw)by;
        for (uint64_t step = FIRST; step <= FIRST + 2; step++)
            run(step);
        assert_true(saved_packs_of(mirror_root, FIRST + 1, flaw) > 0);
        capture_begin(&capture);
        run(FIRST + 3);
        const char *said = capture_end(&capture);
        if (count_of(said, "it is copied anew") != 2) /* a rank's each */
            fail_msg("flaw %d: %s", by, said);
        assert_int_equal(saved_verify(mirror_root, ids), 4);
        saved_forget(saved.root);
        saved_forget(mirror_root);
    }
    saved.also = in_order;
}

/* A file of the mirror that cannot be read, until another takes its name. */
static char unreadable[32];
static _Atomic int is_replaced;

static int fail_reads(const struct disk_call *call)
{
    if (!strstr(call->path, mirror_root) || !strstr(call->path, unreadable))
        return 0;
    if (strcmp(call->what, "rename") == 0)
        is_replaced = 1;
    return strcmp(call->what, "pread") == 0 && !is_replaced ? -EIO : 0;
}

static void one_that_cannot_be_read_is_made_anew(void **state)
{
    struct ds_manifest_id ids[SAVED_MAX];
    struct capture capture;

    (void)state;
    saved.interval = 100;
    snprintf(mirror_root, sizeof mirror_root, "%.400s/mirror", saved.folder);
    saved.also = in_order_with_mirror;
    for (uint64_t step = FIRST; step <= FIRST + 2; step++)
        run(step);
    snprintf(unreadable, sizeof unreadable, "P-%06d-%012d-%05d", 2, FIRST + 1, 0);
    capture_begin(&capture);
    struct tiny_result result = run_on(hooked_disk(fail_reads), FIRST + 3, with_checkpoints);
    const char *said = capture_end(&capture);
    tiny_result_fini(&result);
    if (!is_replaced || count_of(said, "it is copied anew") != 1)
        fail_msg("%s", said);
    assert_int_equal(saved_verify(mirror_root, ids), 4);
    saved_forget(saved.root);
    saved_forget(mirror_root);
    saved.also = in_order;
}

static void a_failed_save_is_nobodys_base(void **state)
{
    struct held held[STEPS];
    char name[32];

    (void)state;
    saved.interval = 100;
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
    saved_forget(saved.root);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(launches_write_what_has_changed),
        cmocka_unit_test(one_launch_writes_what_has_changed),
        cmocka_unit_test(retention_leaves_what_is_referred_to),
        cmocka_unit_test(what_is_damaged_at_one_place_is_read_from_the_other),
        cmocka_unit_test(no_new_one_refers_to_what_was_seen_damaged),
        cmocka_unit_test(nor_does_one_that_is_copied),
        cmocka_unit_test(a_copy_that_was_damaged_is_made_anew),
        cmocka_unit_test(one_that_cannot_be_read_is_made_anew),
        cmocka_unit_test(a_failed_save_is_nobodys_base),
    };
    int failed;

    saved_begin("test_resume_unchanged", 0);
    saved.data = make_data();
    saved.decay_steps = STEPS;
    saved.also = in_order;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
