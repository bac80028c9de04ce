/* inspect.c - `dstrain inspect PATH`: what is in a run's checkpoints, in a safetensors file or in a Hugging Face folder.
 * Reads headers, and of quantised matrices what lies beside their codes. */
#include "inspect.h"
#include "command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 8192

struct totals {
    uint64_t tensors, elems, bytes;
};

static void print_file(const struct ds_safetensors *file, struct totals *totals)
{
    const char *key, *value;

    inspect_print_plain(ds_safetensors_path(file), 0);
    printf(": %zu tensors\n", ds_safetensors_count(file));
    for (size_t i = 0; i < ds_safetensors_metadata_count(file); i++) {
        ds_safetensors_metadata_at(file, i, &key, &value);
        printf("  # ");
        inspect_print_plain(key, 0);
        printf(" = ");
        inspect_print_plain(value, 0);
        printf("\n");
    }
    for (size_t i = 0; i < ds_safetensors_count(file); i++) {
        const struct ds_safetensors_entry *entry = ds_safetensors_at(file, i);

        printf("  ");
        inspect_print_plain(entry->name, 56);
        inspect_print_shape(entry->dtype, entry->dim_count, entry->shape);
        printf(" %llu bytes\n", (unsigned long long)entry->bytes);
        totals->tensors++;
        totals->elems += entry->elems;
        totals->bytes += entry->bytes;
    }
}

static ds_status inspect_file(struct ds_fs *fs, const char *path, struct inspect_files *files,
                              struct totals *totals)
{
    DS_TRY(ds_safetensors_open(fs, path, &files->files[files->count]));
    print_file(files->files[files->count++], totals);
    return DS_OK;
}

static void close_files(struct inspect_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        ds_safetensors_close(files->files[i]);
    free(files->files);
}

static ds_status inspect_config(struct ds_fs *fs, const char *path)
{
    struct ds_model_config config;
    char *text = NULL;
    size_t bytes = 0;
    ds_status st;

    DS_TRY(ds_fs_read_file(fs, path, 1u << 20, &text, &bytes));
    st = ds_model_config_parse(path, text, bytes, &config);
    free(text);
    if (st != DS_OK)
        return st;
    printf("%s: ", path);
    inspect_print_model(&config);
    return DS_OK;
}

static int ends_with(const char *text, const char *end)
{
    const size_t length = strlen(text), tail = strlen(end);

    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static ds_status inspect_entries(struct ds_fs *fs, const char *path, char *const *names,
                                 size_t count, struct inspect_files *files, struct totals *totals)
{
    char child[PATH_BYTES];

    for (size_t i = 0; i < count; i++) {
        if ((size_t)snprintf(child, sizeof child, "%s/%s", path, names[i]) >= sizeof child)
            return ds_fail(DS_ERR_DATA, "%.100s...: the path is too long", path);
        if (strcmp(names[i], "config.json") == 0)
            DS_TRY(inspect_config(fs, child));
        else if (ends_with(names[i], ".safetensors"))
            DS_TRY(inspect_file(fs, child, files, totals));
    }
    if (totals->tensors == 0)
        return ds_fail(DS_ERR_CONFIG,
                       "%s: neither checkpoints (RUN.json) nor tensors (*.safetensors) here", path);
    return DS_OK;
}

static ds_status with_room(struct inspect_files *files, size_t count)
{
    *files = (struct inspect_files){.files = calloc(count > 0 ? count : 1, sizeof *files->files)};
    return files->files ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "no memory for %zu files", count);
}

static ds_status inspect_folder(struct ds_fs *fs, const char *path, struct totals *totals)
{
    struct inspect_files files;
    char **names = NULL;
    size_t count = 0;
    int code = ds_fs_readdir(fs, path, &names, &count);
    ds_status st;

    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: %s", path, strerror(-code));
    st = with_room(&files, count);
    if (st == DS_OK)
        st = inspect_entries(fs, path, names, count, &files, totals);
    if (st == DS_OK)
        st = inspect_quantised(&files);
    close_files(&files);
    free(names);
    return st;
}

static ds_status inspect_one(struct ds_fs *fs, const char *path, struct totals *totals)
{
    struct inspect_files files;
    ds_status st;

    DS_TRY(with_room(&files, 1));
    st = inspect_file(fs, path, &files, totals);
    if (st == DS_OK)
        st = inspect_quantised(&files);
    close_files(&files);
    return st;
}

static ds_status inspect_tensors(struct ds_fs *fs, const char *path)
{
    struct totals totals = {0, 0, 0};
    struct ds_fs_stat stat;
    const int code = ds_fs_stat(fs, path, &stat);

    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: %s", path, strerror(-code));
    DS_TRY(stat.is_directory ? inspect_folder(fs, path, &totals) : inspect_one(fs, path, &totals));
    printf("total: %llu tensors, %llu elements, %llu bytes\n", (unsigned long long)totals.tensors,
           (unsigned long long)totals.elems, (unsigned long long)totals.bytes);
    return DS_OK;
}

ds_status ds_inspect_main(struct ds_command *command)
{
    const char *path = NULL;
    struct ds_checkpoint_place place;
    int is_verbose = 0, found = 0;

    for (int i = 0; i < command->argc; i++)
        if (strcmp(command->argv[i], "--verbose") == 0)
            is_verbose = 1;
        else if (path || command->argv[i][0] == '-')
            return ds_command_usage("inspect");
        else
            path = command->argv[i];
    if (!path)
        return ds_command_usage("inspect");
    DS_TRY(ds_checkpoint_place_find(command->fs, path, &place, &found));
    return found ? inspect_checkpoints(command->fs, &place, is_verbose)
                 : inspect_tensors(command->fs, path);
}
