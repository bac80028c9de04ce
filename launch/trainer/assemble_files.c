/* assemble_files.c - the files in which that lives whose home is nvme: one of each rank in each directory, of their whole
 * size before anything is computed, gone when the run is.
 *
 *   | what layers keep | states | their second places, where checkpoints are references |
 */
#include "config/config.h"
#include "console.h"
#include "trainer.h"

#include <stdlib.h>

static const char *const levels[] = {[DS_OFFLOAD_STORAGE_AUTO] = "auto",
                                     [DS_OFFLOAD_STORAGE_FIXED] = "fixed",
                                     [DS_OFFLOAD_STORAGE_PLAIN] = "plain",
                                     [DS_OFFLOAD_STORAGE_THREADS] = "threads"};

static int has_files(const struct ds_trainer *t)
{
    return ds_executor_file_bytes(t->executor, 0) + ds_zero_file_bytes(t->zero, 0) > 0;
}

uint64_t trainer_states_at(const struct ds_trainer *t, uint32_t drive)
{
    return ds_executor_file_bytes(t->executor, drive);
}

/* One directory's part; `texts`: the key and the path. */
static struct ds_swap_file_options options_of(const struct ds_trainer *t, uint32_t drive,
                                              char key[DS_KEY_BYTES], char path[DS_TEXT_MAX])
{
    (void)ds_config_directory(t->config, drive, path);
    return (struct ds_swap_file_options){
        .fs = t->options.fs,
        .clock = t->options.clock,
        .who = ds_config_key(t->config, "offload", "directories", key),
        .directory = path,
        .local_rank = t->options.local_rank,
        .bytes = ds_executor_file_bytes(t->executor, drive) + ds_zero_file_bytes(t->zero, drive),
    };
}

static void tell(const struct ds_swap_file_options *options, const struct ds_swap_file *file)
{
    const char *warning = ds_fs_warning(options->fs, options->directory);
    char bytes[32];

    ds_console_bytes(options->bytes, bytes, sizeof bytes);
    if (warning && !file->buffered)
        ds_info("offload: %s: %s a rank; that is %s", options->directory, bytes, warning);
    else
        ds_info("offload: %s: %s a rank%s%s%s%s", options->directory, bytes,
                file->buffered ? ", through the page cache: " : ", around the page cache",
                file->buffered ? file->buffered : "", warning ? "; that is " : "",
                warning ? warning : "");
}

static ds_status make_files(struct ds_trainer *t)
{
    const uint32_t count = t->homes.drive_count;
    char key[DS_KEY_BYTES], path[DS_TEXT_MAX];

    if (!has_files(t))
        return DS_OK;
    t->files = calloc(count, sizeof *t->files);
    if (!t->files)
        return ds_fail(DS_ERR_NO_MEMORY, "%u files of states", count);
    for (uint32_t i = 0; i < count; i++)
        t->files[i].file = t->files[i].lock = -1;
    for (uint32_t i = 0; i < count; i++) {
        const struct ds_swap_file_options options = options_of(t, i, key, path);

        DS_TRY(ds_swap_file_open(&options, &t->files[i]));
        tell(&options, &t->files[i]);
    }
    return DS_OK;
}

static ds_status start(struct ds_trainer *t)
{
    const struct ds_swap_files files = {.fs = t->options.fs,
                                        .level = levels[t->config->offload.storage],
                                        .clock = t->options.clock};
    const uint32_t count = t->homes.drive_count;
    struct ds_swap_drive *drives;
    struct ds_swap_files all = files;
    ds_status st;

    if (!has_files(t))
        return DS_OK;
    drives = calloc(count, sizeof *drives);
    if (!drives)
        return ds_fail(DS_ERR_NO_MEMORY, "%u drives", count);
    for (uint32_t i = 0; i < count; i++)
        drives[i] = (struct ds_swap_drive){t->files[i].file, 0, t->files[i].path};
    all.drives = drives;
    st = ds_executor_start_files(t->executor, &all);
    for (uint32_t i = 0; i < count; i++)
        drives[i].offset = trainer_states_at(t, i);
    if (st == DS_OK)
        st = ds_zero_start_files(t->zero, &all);
    free(drives);
    return st;
}

/* All ranks of this host have theirs: what else there is belongs to nobody, or to another run. */
static ds_status sweep_and_start(struct ds_trainer *t)
{
    char key[DS_KEY_BYTES], path[DS_TEXT_MAX];

    for (uint32_t i = 0; has_files(t) && t->options.local_rank == 0 && i < t->homes.drive_count;
         i++) {
        const struct ds_swap_file_options options = options_of(t, i, key, path);
        ds_swap_file_sweep(&options);
    }
    return start(t);
}

ds_status trainer_open_files(struct ds_trainer *t)
{
    DS_TRY(trainer_leader_first(t, make_files)); /* what one is refused, others mostly are, too */
    return trainer_together(t, sweep_and_start);
}

void trainer_close_files(struct ds_trainer *t)
{
    for (uint32_t i = 0; t->files && i < t->homes.drive_count; i++)
        ds_swap_file_close(t->options.fs, &t->files[i]);
    free(t->files);
    t->files = NULL;
}
