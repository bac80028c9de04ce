// link: checkpoint storage base
// private: checkpoint
/* Any text with a good checksum as what an epoch goes on from, and as whose directory it is: refused, and then nothing
 * of it is left in what is asked for; or read, within its limits. */
#include "directory/base.h"
#include "format/document.h"

#include <stdlib.h>
#include <string.h>

#define ROOT "/c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ds_fs *disk_with(const char *path, const struct text *text)
{
    struct ds_fs *disk;

    DS_ASSERT(ds_fs_sim_open(&disk) == DS_OK);
    DS_ASSERT(ds_fs_mkdirs(disk, ROOT "/epochs", 0755) == 0);
    DS_ASSERT(ds_fs_write_file(disk, path, text->at, text->bytes) == DS_OK);
    return disk;
}

static void check_base(const struct text *text)
{
    static struct ds_checkpoint_skip skips[DS_CHECKPOINT_SKIPS_MAX];
    struct ds_fs *disk = disk_with(ROOT "/epochs/E-0000000000000001.base.json", text);
    char past[DS_CHECKPOINT_PAST_BYTES];
    uint32_t count = 7;
    struct base base = {0};
    const ds_status st = base_read(disk, ROOT, 1, &base, NULL, NULL, past);

    DS_ASSERT(st == DS_OK || st == DS_ERR_CORRUPT || st == DS_ERR_DATA);
    DS_ASSERT(st != DS_OK || base.epoch == 1);
    DS_ASSERT(ds_checkpoint_read_rollbacks(disk, ROOT, NULL, skips, &count, past) == DS_OK);
    DS_ASSERT(count <= DS_CHECKPOINT_SKIPS_MAX && memchr(past, 0, sizeof past));
    DS_ASSERT(st == DS_OK || (count == 0 && past[0] == '\0'));
    ds_fs_sim_close(disk);
}

static void check_run(const struct text *text)
{
    struct ds_fs *disk = disk_with(ROOT "/RUN.json", text);
    uint8_t run[16];
    const ds_status st = ds_checkpoint_read_run(disk, ROOT, run);

    DS_ASSERT(st == DS_OK || st == DS_ERR_CONFIG || st == DS_ERR_DATA);
    ds_fs_sim_close(disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text text = {.capacity = size + DOCUMENT_SEAL_BYTES};

    ds_log.terminal = -1;
    text.at = malloc(text.capacity);
    DS_ASSERT(text.at);
    text_add(&text, (const char *)data, size);
    document_seal(&text);
    check_base(&text);
    check_run(&text);
    free(text.at);
    return 0;
}
