/* rows_case.h - JSONL on a simulated disk, prepared with the byte tokenizer, and the documents of the shard. */
#ifndef DSTRAIN_TEST_ROWS_CASE_H
#define DSTRAIN_TEST_ROWS_CASE_H

#include "data_case.h"

#include "dstrain/random.h"
#include "dstrain/rows.h"

#include "rows_part.h"

static const struct ds_rows_options plain_rows = {.chat = DS_CHAT_PLAIN, .line_bytes_max = 1 << 20};

static inline ds_status prepare_rows(struct ds_fs *fs, const struct ds_rows_options *rows,
                                     uint32_t threads, char **shard,
                                     struct ds_prepare_report *report)
{
    const struct ds_prepare_options options = {
        .fs = fs, .clock = ds_clock_system(), .cache = "cache", .thread_count = threads};

    return ds_prepare_rows(&options, rows, "in.jsonl", shard, report);
}

/* The same, refused with a message that has `said` in it. */
static inline void assert_rows_refused(struct ds_fs *fs, const struct ds_rows_options *rows,
                                       uint32_t threads, const char *said)
{
    struct ds_prepare_report report = {0};
    struct capture capture;
    char *shard = NULL;

    capture_begin(&capture);
    const ds_status st = prepare_rows(fs, rows, threads, &shard, &report);
    const char *text = capture_end(&capture);
    assert_int_equal(st, DS_ERR_DATA);
    if (!strstr(text, said))
        fail_msg("'%s' does not say '%s'", text, said);
    assert_null(strchr(text, '\n')); /* one line */
    assert_null(shard);
}

/* A shard of rows, open: the caller closes the file. */
static inline struct ds_safetensors *open_rows(struct ds_fs *fs, const char *path,
                                               struct shard_file *shard)
{
    struct ds_safetensors *file = NULL;
    char why[SHARD_WHY_BYTES];

    assert_ok(ds_safetensors_open(fs, path, &file));
    assert_ok(shard_file_check(file, &(struct shard_check){0}, shard, why));
    assert_string_equal(why, "");
    assert_non_null(shard->learned);
    return file;
}

/* Rows of random kinds and lengths; malloc'ed. */
static inline char *draw_rows(struct ds_random random, size_t count)
{
    char *text = malloc(count * 400 + 1), *at = text;
    uint64_t drawn = 0;

    assert_non_null(text);
    *at = '\0';
    for (size_t i = 0; i < count; i++) {
        const int a = (int)ds_random_below(random, drawn++, 120);
        const int b = 1 + (int)ds_random_below(random, drawn++, 120);
        const char letter = (char)('a' + ds_random_below(random, drawn++, 26));
        char run[128];

        memset(run, letter, sizeof run);
        switch (ds_random_below(random, drawn++, 4)) {
        case 0:
            at += sprintf(at, "{\"text\":\"%.*s\"}\r\n", b, run);
            break;
        case 1:
            at += sprintf(at, "{\"prompt\":\"%.*s\",\"completion\":\"%.*s\"}\n", a, run, b, run);
            break;
        case 2:
            at += sprintf(at, "  \n");
            break;
        default:
            at += sprintf(at,
                          "{\"messages\":[{\"role\":\"user\",\"content\":\"%.*s\"},"
                          "{\"role\":\"assistant\",\"content\":\"%.*s\"}]}\n",
                          a, run, b, run);
        }
    }
    return text;
}

#endif
