// link: checkpoint storage base
// private: checkpoint
/* Pack files: what comes back is what was put, other readers of safetensors see the same tensors, and no byte of one
 * can change, move, go or come without being noticed. */
#include "pack_case.h"
#include "watch_fs.h"

#include "format/pack_format.h"

#include "dstrain/safetensors.h"

#include <errno.h>
#include <unistd.h>

struct rig {
    struct ds_fs *fs;
    struct pack_case c;
    struct ds_pack_plan plan;
    struct ds_pack_writer *writer;
    struct ds_pack_other written;
};

#define PATH  "/pack"
#define CHUNK DS_PACK_CHUNK_BYTES

static const struct ds_pack_id id_of_test = {.epoch = 7, .step = 100, .rank = 1, .attempt = 2};

static void rig_open(struct rig *rig, int large, uint32_t chunks_max)
{
    struct ds_piece pieces[PACK_CASE_TENSORS];

    assert_ok(ds_fs_sim_open(&rig->fs));
    pack_case_open(&rig->c, rig->fs, large);
    size_t count = pack_case_pieces(&rig->c, 1, pieces);
    assert_ok(ds_pack_plan_make(&rig->c.catalogue, pieces, count, chunks_max, &rig->plan));
    assert_ok(ds_pack_writer_open(rig->fs, rig->c.storage, 2, &rig->plan, &rig->writer));
}

static void rig_close(struct rig *rig)
{
    ds_pack_writer_close(rig->writer);
    ds_pack_plan_fini(&rig->plan);
    pack_case_close(&rig->c);
    assert_int_equal(ds_fs_sim_open_files(rig->fs), 0);
    ds_fs_sim_close(rig->fs);
}

static void rig_write(struct rig *rig)
{
    assert_ok(pack_case_write(&rig->c, rig->writer, &rig->plan, PATH, &id_of_test, &rig->written));
}

/* The whole check of a file, as `dstrain verify` makes it. */
static ds_status verify_at(struct rig *rig, const char *path)
{
    static uint8_t buffer[CHUNK];
    struct ds_pack *pack = NULL;
    ds_status st = ds_pack_open(rig->fs, path, &rig->written, &pack);

    if (st == DS_OK)
        st = ds_pack_verify(pack, &rig->c.catalogue, buffer);
    ds_pack_close(pack);
    return st;
}

static char *contents(struct rig *rig, size_t *bytes)
{
    char *text;

    assert_ok(ds_fs_read_file(rig->fs, PATH, 1 << 28, &text, bytes));
    return text;
}

static void overwrite(struct rig *rig, const void *data, size_t bytes, uint64_t offset)
{
    int file = ds_fs_open(rig->fs, PATH, DS_FS_WRITE, 0);

    assert_int_equal(ds_fs_write_all(rig->fs, file, data, bytes, offset), 0);
    assert_int_equal(ds_fs_close(rig->fs, file), 0);
}

/* ---- what it holds */

static void what_is_put_comes_back_chunk_by_chunk(void **state)
{
    struct rig rig;
    struct ds_pack *pack;
    uint8_t *wanted = malloc(CHUNK), *got = malloc(CHUNK);

    (void)state;
    rig_open(&rig, 1, DS_PACK_CHUNKS_MAX);
    rig_write(&rig);
    assert_ok(verify_at(&rig, PATH));
    assert_ok(ds_pack_open(rig.fs, PATH, &rig.written, &pack));
    assert_ok(ds_pack_match(pack, &rig.c.catalogue));
    assert_int_equal(ds_pack_info(pack)->chunk_count, rig.plan.chunk_count);
    assert_int_equal(rig.plan.chunk_count, PACK_CASE_TENSORS); /* 601 columns: 2.9 MB */
    for (uint32_t i = 0; i < rig.plan.chunk_count; i++) {
        const struct ds_piece piece = ds_pack_piece(pack, &rig.c.catalogue, i);

        pack_case_fill(&rig.c, &piece, wanted);
        assert_ok(ds_pack_read(pack, i, got));
        assert_memory_equal(got, wanted, rig.plan.chunks[i].body_bytes);
    }
    ds_pack_close(pack);
    free(wanted);
    free(got);
    rig_close(&rig);
}

/* A piece's chunks are 4 MiB from its own beginning, and one tensor of the file. */
static void chunks_of_a_piece_are_one_run(void **state)
{
    struct rig rig;
    struct ds_safetensors *file;
    struct ds_pack_plan plan;

    (void)state;
    rig_open(&rig, 1, DS_PACK_CHUNKS_MAX);
    const struct ds_piece piece = {0, ds_box_whole(&rig.c.tensors[0]), 7, 1200 * 1001};
    assert_ok(ds_pack_plan_make(&rig.c.catalogue, &piece, 1, DS_PACK_CHUNKS_MAX, &plan));
    assert_int_equal(plan.chunk_count, 2);
    assert_int_equal(plan.chunks[0].end, 7 + CHUNK / 4);
    ds_pack_writer_close(rig.writer);
    assert_ok(ds_pack_writer_open(rig.fs, rig.c.storage, 2, &plan, &rig.writer));
    assert_ok(pack_case_write(&rig.c, rig.writer, &plan, PATH, &id_of_test, &rig.written));
    assert_ok(verify_at(&rig, PATH));
    assert_ok(ds_safetensors_open(rig.fs, PATH, &file));
    const struct ds_safetensors_entry *run =
        ds_safetensors_find(file, "master/model.embed_tokens.weight@7-1201200");
    assert_non_null(run);
    assert_int_equal(run->elems, 1201193);
    ds_safetensors_close(file);
    ds_pack_writer_close(rig.writer);
    rig.writer = NULL;
    ds_pack_plan_fini(&plan);
    rig_close(&rig);
}

static void a_reader_of_safetensors_sees_the_tensors(void **state)
{
    static const char *const names[] = {
        "master/model.embed_tokens.weight@box:0-12,5-10@0-60",
        "exp_avg/model.embed_tokens.weight@16-33",
        "master/model.norm.weight@1024-2048",
        "exp_avg_sq/model.norm.weight@7-15",
        "__dstrain__.boxes",
        "__dstrain__.table",
        "__dstrain__.footer",
    };
    struct rig rig;
    struct ds_safetensors *file;
    uint8_t wanted[8192], got[8192];

    (void)state;
    rig_open(&rig, 0, DS_PACK_CHUNKS_MAX);
    rig_write(&rig);
    assert_ok(ds_safetensors_open(rig.fs, PATH, &file));
    assert_string_equal(ds_safetensors_metadata(file, "dstrain"), "pack/1");
    assert_string_equal(ds_safetensors_metadata(file, "step"), "100");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct ds_safetensors_entry *entry = ds_safetensors_find(file, names[i]);

        assert_non_null(entry);
        assert_int_equal(entry->offset % DS_PACK_ALIGN, 0);
        if (i >= PACK_CASE_TENSORS)
            continue;
        const struct ds_piece piece = pack_case_piece(&rig.plan, (uint32_t)i);
        assert_int_equal(entry->dtype, rig.c.tensors[i].dtype);
        pack_case_fill(&rig.c, &piece, wanted);
        assert_ok(ds_safetensors_read(file, entry, 0, entry->elems, got));
        assert_memory_equal(got, wanted, entry->bytes);
    }
    /* a run that is all of a box has the box's shape */
    const struct ds_safetensors_entry *box = ds_safetensors_find(file, names[0]);
    assert_true(box->dim_count == 2 && box->shape[0] == 12 && box->shape[1] == 5);
    /* all else is padding: 3 behind tensors, 2 behind boxes and table; 1024 floats need none */
    assert_int_equal(ds_safetensors_count(file), 7 + 3 + 2);
    assert_null(ds_safetensors_find(file, "__dstrain__.pad.000005"));
    ds_safetensors_close(file);
    rig_close(&rig);
}

static void many_chunks_make_several_files(void **state)
{
    struct rig rig;
    struct ds_pack_other written;

    (void)state;
    rig_open(&rig, 0, 3);
    assert_int_equal(rig.plan.part_count, 2);
    assert_int_equal(rig.plan.parts[0].count, 3);
    assert_int_equal(rig.plan.parts[1].first, 3);
    for (uint32_t part = 0; part < 2; part++) {
        const struct ds_pack_id id = {.epoch = 1, .step = 2, .part = part};

        assert_ok(
            pack_case_write(&rig.c, rig.writer, &rig.plan, part ? "/b" : "/a", &id, &written));
        rig.written = written;
        assert_ok(verify_at(&rig, part ? "/b" : "/a"));
    }
    rig_close(&rig);
}

static void unchanged_chunks_refer_to_where_they_lie(void **state)
{
    struct rig rig;
    struct ds_pack *first, *second;
    struct ds_pack_chunk at;

    (void)state;
    rig_open(&rig, 0, DS_PACK_CHUNKS_MAX);
    rig_write(&rig);
    assert_ok(ds_pack_open(rig.fs, PATH, NULL, &first));
    struct ds_pack_new pack = {.path = "/second",
                               .run = "a run's own name",
                               .id = {.epoch = 7, .step = 200, .rank = 1},
                               .others = &rig.written,
                               .other_count = 1,
                               .done = pack_case_done,
                               .user = &rig.c};
    assert_ok(ds_pack_begin(rig.writer, &pack));
    for (uint32_t i = 0; i < PACK_CASE_TENSORS; i++) {
        at = ds_pack_chunks(first)[i];
        at.pack = 0;
        if (i == 1) /* changed */
            assert_ok(pack_case_put(&rig.c, rig.writer, &rig.plan, i, NULL));
        else if (i == 2) /* kept twice from now on */
            assert_ok(pack_case_put(&rig.c, rig.writer, &rig.plan, i, &at));
        else
            assert_ok(ds_pack_refer(rig.writer, &at));
    }
    assert_ok(ds_pack_finish(rig.writer, &rig.written));
    assert_ok(verify_at(&rig, "/second"));
    assert_ok(ds_pack_open(rig.fs, "/second", &rig.written, &second));
    const struct ds_pack_chunk *chunks = ds_pack_chunks(second);
    assert_true(chunks[0].pack == 0 && chunks[0].chunk == 0 && chunks[3].chunk == 3);
    assert_int_equal(chunks[0].offset, ds_pack_chunks(first)[0].offset);
    assert_true(pack_is_here(&chunks[1]) && chunks[1].copy_pack == DS_PACK_HERE);
    assert_true(pack_is_here(&chunks[2]) && chunks[2].copy_pack == 0);
    assert_int_equal(chunks[2].copy_offset, ds_pack_chunks(first)[2].offset);
    assert_int_equal(ds_pack_info(second)->body_bytes, ds_pack_info(first)->body_bytes);
    assert_true(ds_pack_info(second)->file_bytes < ds_pack_info(first)->file_bytes);
    assert_memory_equal(&ds_pack_info(second)->content, &ds_pack_info(first)->content, 16);
    ds_pack_close(first);
    ds_pack_close(second);
    rig_close(&rig);
}

/* ---- what reading it costs */

static uint64_t bytes_read;

static int64_t counted_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    bytes_read += bytes;
    return watch_pread(fs, file, to, bytes, offset);
}

/* A launch does it to all packs. */
static void header_and_tables_are_read_once_to_be_looked_at(void **state)
{
    struct ds_fs_ops ops = watch_ops;
    struct watch_fs watch;
    struct ds_pack *pack = NULL;
    const char *flaw = NULL;
    struct rig rig;

    (void)state;
    rig_open(&rig, 0, DS_PACK_CHUNKS_MAX);
    rig_write(&rig);
    ops.pread = counted_pread;
    watch = (struct watch_fs){.fs = {&ops}, .inner = rig.fs};
    bytes_read = 0;
    assert_ok(ds_pack_open(&watch.fs, PATH, &rig.written, &pack));
    assert_ok(ds_pack_find_flaw(pack, &flaw));
    assert_null(flaw);
    const struct ds_pack_info *info = ds_pack_info(pack);
    /* footers say where tables lie, and come with them again */
    assert_int_equal(bytes_read, info->header_bytes + info->file_bytes - info->boxes_offset +
                                     2 * PACK_FOOTER_BYTES);
    ds_pack_close(pack);
    rig_close(&rig);
}

/* ---- what it does not let through */

static void every_changed_byte_is_noticed(void **state)
{
    struct rig rig;
    struct ds_random random = ds_random_of(test_seed("test_pack"), DS_RANDOM_TEST, 0);
    size_t bytes;

    (void)state;
    rig_open(&rig, 0, DS_PACK_CHUNKS_MAX);
    rig_write(&rig);
    char *good = contents(&rig, &bytes);
    ds_log.terminal = -1;
    for (size_t i = 0; i < bytes; i++) {
        const char bad = (char)(good[i] ^ 1 << ds_random_below(random, i, 8));

        overwrite(&rig, &bad, 1, i);
        if (verify_at(&rig, PATH) != DS_ERR_CORRUPT)
            fail_msg("byte %zu can change", i);
        overwrite(&rig, &good[i], 1, i);
    }
    ds_log.terminal = 2;
    assert_ok(verify_at(&rig, PATH));
    free(good);
    rig_close(&rig);
}

static void what_is_cut_swapped_or_stale_is_noticed(void **state)
{
    struct rig rig;
    size_t bytes, other_bytes;

    (void)state;
    rig_open(&rig, 0, DS_PACK_CHUNKS_MAX);
    rig.c.changed_at[0] = 1;
    rig_write(&rig);
    char *stale = contents(&rig, &other_bytes);
    assert_int_equal(ds_fs_unlink(rig.fs, PATH), 0);
    memset(rig.c.changed_at, 9, sizeof rig.c.changed_at);
    rig_write(&rig);
    char *good = contents(&rig, &bytes);
    assert_int_equal(bytes, other_bytes);
    ds_log.terminal = -1;
    for (size_t a = 0; a < bytes; a += 4096) {
        static const char zeros[4096];

        for (size_t b = 0; b < bytes; b += 4096) {
            if (memcmp(good + a, good + b, 4096) == 0)
                continue;
            overwrite(&rig, good + a, 4096, b); /* in the wrong place */
            assert_int_equal(verify_at(&rig, PATH), DS_ERR_CORRUPT);
            overwrite(&rig, good + b, 4096, a); /* swapped */
            assert_int_equal(verify_at(&rig, PATH), DS_ERR_CORRUPT);
            overwrite(&rig, good, bytes, 0);
        }
        if (memcmp(good + a, zeros, 4096) != 0) {
            overwrite(&rig, zeros, 4096, a); /* lost */
            assert_int_equal(verify_at(&rig, PATH), DS_ERR_CORRUPT);
        }
        if (memcmp(good + a, stale + a, 4096) != 0) {
            overwrite(&rig, stale + a, 4096, a); /* of the save before */
            assert_int_equal(verify_at(&rig, PATH), DS_ERR_CORRUPT);
        }
        overwrite(&rig, good, bytes, 0);
    }
    assert_ok(verify_at(&rig, PATH));
    overwrite(&rig, "", 1, bytes); /* longer */
    assert_int_equal(verify_at(&rig, PATH), DS_ERR_CORRUPT);
    for (size_t end = bytes - 1; end > 512; end -= 511) { /* shorter */
        int file = ds_fs_open(rig.fs, PATH, DS_FS_WRITE, 0);

        assert_int_equal(ds_fs_truncate(rig.fs, file, end), 0);
        assert_int_equal(ds_fs_close(rig.fs, file), 0);
        assert_int_equal(verify_at(&rig, PATH), DS_ERR_CORRUPT);
    }
    assert_int_equal(ds_fs_unlink(rig.fs, PATH), 0);
    assert_int_equal(verify_at(&rig, PATH), DS_ERR_CORRUPT);
    ds_log.terminal = 2;
    free(good);
    free(stale);
    rig_close(&rig);
}

/* Sums are no protection against somebody who makes them: sizes are looked at for themselves. */
static void a_table_with_good_sums_and_bad_sizes_is_refused(void **state)
{
    struct rig rig;
    struct ds_pack *pack;
    size_t bytes;
    int refused = 0;

    (void)state;
    rig_open(&rig, 0, DS_PACK_CHUNKS_MAX);
    rig_write(&rig);
    char *good = contents(&rig, &bytes);
    assert_ok(ds_pack_open(rig.fs, PATH, NULL, &pack));
    const struct ds_pack_info info = *ds_pack_info(pack);
    uint8_t *tail = malloc(bytes - info.boxes_offset);
    uint8_t *table = tail + (info.table_offset - info.boxes_offset);
    uint8_t *footer = tail + (info.file_bytes - info.boxes_offset) - 2 * PACK_FOOTER_BYTES;

    ds_log.terminal = -1;
    for (int how = 0; how < 12; how++) {
        struct ds_pack_chunk chunk = ds_pack_chunks(pack)[1];
        struct ds_pack_info now = info;
        struct ds_pack *opened = NULL;

        memcpy(tail, good + info.boxes_offset, bytes - info.boxes_offset);
        switch (how) {
        case 1:
            chunk.end++;
            break;
        case 2:
            chunk.begin = chunk.end;
            break;
        case 3:
            chunk.box = 2;
            break;
        case 4:
            chunk.offset += 4096;
            break;
        case 5:
            chunk.stored_bytes += 4096;
            break;
        case 6:
            chunk.body_bytes = 0;
            break;
        case 7:
            chunk.pack = 0;
            break; /* there is no other */
        case 8:
            chunk.copy_pack = 0;
            break;
        case 9:
            chunk.chunk = 5;
            break;
        case 10:
            now.body_bytes++;
            break;
        case 11:
            now.header_bytes += 4096;
            break;
        default:
            break;
        }
        pack_entry_encode(&chunk, table + PACK_ENTRY_BYTES);
        now.table = ds_digest_of(table, pack_table_bytes(info.chunk_count));
        pack_footer_encode(&now, footer);
        memcpy(footer + PACK_FOOTER_BYTES, footer, PACK_FOOTER_BYTES);
        ds_status st = ds_pack_parse("test", tail, bytes - info.boxes_offset, bytes, &opened);
        assert_int_equal(st, how == 0 ? DS_OK : DS_ERR_CORRUPT);
        refused += st != DS_OK;
        ds_pack_close(opened);
    }
    ds_log.terminal = 2;
    assert_int_equal(refused, 11);
    free(tail);
    free(good);
    ds_pack_close(pack);
    rig_close(&rig);
}

static void a_pack_of_another_model_is_refused(void **state)
{
    struct rig rig;

    (void)state;
    rig_open(&rig, 0, DS_PACK_CHUNKS_MAX);
    rig_write(&rig);
    ds_log.terminal = -1;
    rig.c.tensors[2].shape[0] = 2047;
    assert_int_equal(verify_at(&rig, PATH), DS_ERR_CORRUPT);
    rig.c.tensors[2].shape[0] = 2048;
    rig.c.tensors[2].dtype = DS_I32;
    assert_int_equal(verify_at(&rig, PATH), DS_ERR_CORRUPT);
    rig.c.tensors[2].dtype = DS_F32;
    strcpy(rig.c.tensors[2].name, "model.other.weight");
    assert_int_equal(verify_at(&rig, PATH), DS_ERR_CORRUPT);
    ds_log.terminal = 2;
    rig_close(&rig);
}

static void a_chunk_that_changes_after_it_was_sealed_is_not_written(void **state)
{
    struct rig rig;
    struct ds_fs_stat stat;

    (void)state;
    rig_open(&rig, 0, DS_PACK_CHUNKS_MAX);
    struct ds_pack_new pack = {
        .path = PATH, .id = id_of_test, .done = pack_case_done, .user = &rig.c};
    assert_ok(ds_pack_begin(rig.writer, &pack));
    void *data = aligned_alloc(DS_PACK_ALIGN, rig.plan.chunks[0].stored_bytes);
    memset(data, 1, rig.plan.chunks[0].stored_bytes);
    const struct ds_digest sealed = ds_digest_of(data, rig.plan.chunks[0].body_bytes);
    ((uint8_t *)data)[3] = 2;
    rig.c.buffers_out = 1;
    ds_log.terminal = -1;
    assert_int_equal(ds_pack_put(rig.writer, data, &sealed, NULL), DS_ERR_CORRUPT);
    ds_log.terminal = 2;
    ds_pack_abandon(rig.writer);
    assert_int_equal(ds_fs_stat(rig.fs, PATH, &stat), -ENOENT);
    rig_close(&rig);
}

/* Fail the 1st, 2nd, 3rd ... call until a pack meets no fault. */
static void a_failed_pack_is_told_and_the_next_one_is_good(void **state)
{
    struct rig rig;
    ds_status st = DS_ERR_IO;
    uint64_t fail_at;

    (void)state;
    rig_open(&rig, 0, DS_PACK_CHUNKS_MAX);
    for (fail_at = 1; st != DS_OK; fail_at++) {
        struct ds_pack_writer *writer;
        struct ds_storage *storage;
        struct ds_fs *faulty;

        assert_true(fail_at < 100);
        assert_ok(ds_fs_fault_open(rig.fs, fail_at, &faulty));
        assert_ok(ds_storage_open(faulty, "threads", 1, &storage));
        assert_ok(ds_pack_writer_open(faulty, storage, 1, &rig.plan, &writer));
        ds_log.terminal = -1;
        st = pack_case_write(&rig.c, writer, &rig.plan, PATH, &id_of_test, &rig.written);
        ds_log.terminal = 2;
        assert_int_equal(ds_fs_fault_hit(faulty), st != DS_OK);
        assert_int_equal(ds_fs_sim_open_files(rig.fs), 0);
        if (st != DS_OK) /* the same writer, a new file */
            assert_ok(pack_case_write(&rig.c, writer, &rig.plan, PATH, &id_of_test, &rig.written));
        assert_ok(verify_at(&rig, PATH));
        assert_int_equal(ds_fs_unlink(rig.fs, PATH), 0);
        ds_pack_writer_close(writer);
        ds_storage_close(storage);
        ds_fs_fault_close(faulty);
    }
    assert_true(fail_at > 9); /* open, reserve, four chunks, header, tail, fsync */
    rig_close(&rig);
}

static void names_have_one_spelling(void **state)
{
    char text[DS_PACK_NAME_BYTES];
    struct ds_pack_id id;

    (void)state;
    ds_pack_name(&id_of_test, text);
    assert_string_equal(text, "P-000007-000000000100-00001-0-2.safetensors");
    assert_true(ds_pack_name_parse(text, &id));
    assert_true(ds_pack_id_equal(&id, &id_of_test));
    static const char *const bad[] = {
        "",
        "P-7-100-1-0-2.safetensors",
        "P-000007-000000000100-00001-0-2.safetensors.tmp",
        "P-000007-000000000100-00001-0.safetensors",
        "P-000007-000000000100-00001-0-4294967296.safetensors",
        "P-000007-99999999999999999999-00001-0-2.safetensors",
        "P-000007-9007199254740993-00001-0-2.safetensors", /* in no manifest */
        "P-+00007-000000000100-00001-0-2.safetensors",
        "../P-000007-000000000100-00001-0-2.safetensors",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(ds_pack_name_parse(bad[i], &id));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(what_is_put_comes_back_chunk_by_chunk),
    cmocka_unit_test(chunks_of_a_piece_are_one_run),
    cmocka_unit_test(a_reader_of_safetensors_sees_the_tensors),
    cmocka_unit_test(many_chunks_make_several_files),
    cmocka_unit_test(unchanged_chunks_refer_to_where_they_lie),
    cmocka_unit_test(header_and_tables_are_read_once_to_be_looked_at),
    cmocka_unit_test(every_changed_byte_is_noticed),
    cmocka_unit_test(what_is_cut_swapped_or_stale_is_noticed),
    cmocka_unit_test(a_table_with_good_sums_and_bad_sizes_is_refused),
    cmocka_unit_test(a_pack_of_another_model_is_refused),
    cmocka_unit_test(a_chunk_that_changes_after_it_was_sealed_is_not_written),
    cmocka_unit_test(a_failed_pack_is_told_and_the_next_one_is_good),
    cmocka_unit_test(names_have_one_spelling),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
