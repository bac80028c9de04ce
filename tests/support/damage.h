/* damage.h - files of checkpoints made wrong on purpose, and whether anything in a folder has changed. */
#ifndef DSTRAIN_TEST_DAMAGE_H
#define DSTRAIN_TEST_DAMAGE_H

#include "dstrain/digest.h"
#include "dstrain/fs.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>

/* Of every file: name and bytes, and when it was changed. */
static inline uint64_t tree_sum(struct ds_fs *fs, const char *path, int has_times)
{
    struct ds_fs_stat stat;
    uint64_t sum = 0;
    char **names;
    size_t count;

    assert_int_equal(ds_fs_readdir(fs, path, &names, &count), 0);
    for (size_t i = 0; i < count; i++) {
        struct ds_digest name = ds_digest_of(names[i], strlen(names[i])), body = {{0}};
        char inner[1024], *text;
        uint64_t parts[2];
        size_t bytes;

        snprintf(inner, sizeof inner, "%s/%s", path, names[i]);
        assert_int_equal(ds_fs_stat(fs, inner, &stat), 0);
        if (!stat.is_directory) {
            assert_ok(ds_fs_read_file(fs, inner, 1 << 28, &text, &bytes));
            body = ds_digest_of(text, bytes);
            free(text);
        }
        memcpy(&parts[0], name.bytes, sizeof parts[0]);
        memcpy(&parts[1], body.bytes, sizeof parts[1]);
        sum = sum * 31 + (parts[0] ^ parts[1] * 3) + (has_times ? stat.mtime_ns : 0);
        if (stat.is_directory)
            sum += 7 * tree_sum(fs, inner, has_times);
    }
    free(names);
    return sum;
}

static inline void damage_flip(struct ds_fs *fs, const char *path, uint64_t at)
{
    uint8_t byte;
    int file = ds_fs_open(fs, path, DS_FS_READ | DS_FS_WRITE, 0);

    assert_true(file >= 0);
    assert_int_equal(ds_fs_read_all(fs, file, &byte, 1, at), 0);
    byte ^= 1;
    assert_int_equal(ds_fs_write_all(fs, file, &byte, 1, at), 0);
    assert_int_equal(ds_fs_close(fs, file), 0);
}

/* The same text with something else in it, as long, and a sum that is right. */
static inline void damage_forge(struct ds_fs *fs, const char *path, const char *from,
                                const char *to)
{
    char *text, hex[DS_DIGEST_TEXT_BYTES], seal[128];
    size_t bytes;

    assert_ok(ds_fs_read_file(fs, path, 1 << 24, &text, &bytes));
    char *at = strstr(text, from), *end = strstr(text, "{\"bytes\":\"");
    assert_true(at && end && strlen(from) == strlen(to));
    memcpy(at, to, strlen(to));
    const size_t body = (size_t)(end - text);
    const struct ds_digest digest = ds_digest_of(text, body);
    ds_digest_text(&digest, hex);
    snprintf(seal, sizeof seal, "{\"bytes\":\"%012zu\",\"xxh3_128\":\"%s\"}\n", body, hex);
    assert_int_equal(body + strlen(seal), bytes);
    memcpy(end, seal, strlen(seal));
    assert_ok(ds_fs_write_file(fs, path, text, bytes));
    free(text);
}

#endif
