/* config_load.c - one file, read once, the same on every rank. Rank 0 decides and speaks; the others
 * parse bytes that it has found good, so they have nothing to say. */
#include "config.h"
#include "ini.h"

#include <stdlib.h>
#include <string.h>

/* A configuration that is not there is a mistake in the command, not in the data. */
static ds_status read_text(struct ds_fs *fs, const char *path, char **text, size_t *bytes)
{
    struct ds_fs_stat stat;
    int code = ds_fs_stat(fs, path, &stat);
    ds_status st;

    if (code < 0)
        return ds_fail(DS_ERR_CONFIG, "%s: %s", path, strerror(-code));
    if (!stat.is_regular)
        return ds_fail(DS_ERR_CONFIG, "%s: not a regular file", path);
    if (stat.bytes > DS_INI_BYTES_MAX)
        return ds_fail(DS_ERR_CONFIG, "%s:1: the file has %llu bytes; at most %u are allowed", path,
                       (unsigned long long)stat.bytes, DS_INI_BYTES_MAX);
    st = ds_fs_read_file(fs, path, DS_INI_BYTES_MAX, text, bytes);
    return st == DS_ERR_DATA ? DS_ERR_CONFIG : st;
}

static ds_status parse_resolved(const struct ds_config_source *source, uint64_t rank_count,
                                const char *text, size_t bytes, struct ds_config *out)
{
    DS_TRY(
        ds_config_parse(source->path, text, bytes, source->overrides, source->override_count, out));
    ds_config_resolve(out, rank_count);
    return DS_OK;
}

static ds_status lead(const struct ds_config_source *source, uint64_t rank_count,
                      struct ds_config *out, char **text, size_t *bytes)
{
    DS_TRY(read_text(source->fs, source->path, text, bytes));
    DS_TRY(parse_resolved(source, rank_count, *text, *bytes, out));
    return ds_config_validate(out, source->use, rank_count);
}

static ds_status follow(struct ds_comm *world, const struct ds_config_source *source,
                        uint64_t rank_count, struct ds_config *out, char **text, size_t *bytes)
{
    uint64_t count = *bytes;
    ds_status local = DS_OK;

    DS_TRY(ds_comm_broadcast(world, &count, sizeof count, 0, NULL));
    if (world->rank != 0)
        *text = malloc(count + 1);
    if (!*text)
        local = ds_fail(DS_ERR_NO_MEMORY, "no memory for the configuration");
    DS_TRY(ds_comm_agreed(world, local));
    if (count > 0)
        DS_TRY(ds_comm_broadcast(world, *text, count, 0, NULL));
    if (world->rank != 0)
        local = parse_resolved(source, rank_count, *text, count, out);
    return ds_comm_agreed(world, local);
}

/* Command lines may differ from rank to rank, and then so would the run. */
static ds_status compare(struct ds_comm *world, const struct ds_config *config)
{
    uint64_t here = 0, there;
    ds_status local = ds_config_hash(config, &here);

    there = here;
    DS_TRY(ds_comm_broadcast(world, &there, sizeof there, 0, NULL));
    if (local == DS_OK && here != there)
        local = ds_fail(DS_ERR_CONFIG,
                        "this rank was started with another command line than rank 0: its "
                        "configuration differs");
    return ds_comm_agreed(world, local);
}

ds_status ds_config_load(struct ds_comm *world, const struct ds_config_source *source,
                         struct ds_config *out)
{
    const uint64_t rank_count = source->ranks_are_known ? world->size : 0;
    ds_status local = DS_OK, st;
    char *text = NULL;
    size_t bytes = 0;

    if (world->rank == 0)
        local = lead(source, rank_count, out, &text, &bytes);
    DS_TRY_GOTO(st, ds_comm_agreed(world, local), done);
    DS_TRY_GOTO(st, follow(world, source, rank_count, out, &text, &bytes), done);
    st = compare(world, out);
done:
    free(text);
    return st;
}
