/* run_dir.c - see run_dir.h. Made in an order in which every prefix is either nothing or taken away
 * again: directories first, config.ini last and in one rename. Whoever reads or changes what is in it
 * has its lock. Evidence of a failure that nobody wrote (a log, an incident) stays. */
#include "run_dir.h"
#include "config/ini.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MARK "# The configuration of this run as dstrain resolved it; dstrain rewrites this file.\n"

enum { PART_LOG, PART_INCIDENTS };
static const char *const parts[DS_RUN_PARTS] = {"log", "incidents"};

/* "config.ini:2: run.dir": where messages about the directory begin */
#define WHERE_BYTES (DS_PLACE_BYTES + 16)
static const char *where(const struct ds_config *config, char to[WHERE_BYTES])
{
    char place[DS_PLACE_BYTES];

    snprintf(to, WHERE_BYTES, "%s: run.dir", ds_config_place(config, "run", "dir", place));
    return to;
}

/* What a person chose wrongly is theirs to mend; what the disk does is not. */
static ds_status refuse(const struct ds_config *config, const char *path, int code)
{
    char here[WHERE_BYTES];
    const int is_disk = code == -EIO || code == -ENOSPC || code == -EDQUOT || code == -ENOMEM ||
                        code == -EMFILE || code == -ENFILE;

    return ds_fail(is_disk ? DS_ERR_IO : DS_ERR_CONFIG, "%s: %s: %s", where(config, here), path,
                   strerror(-code));
}

static void join(char to[DS_RUN_PATH_BYTES], const char *dir, const char *name)
{
    snprintf(to, DS_RUN_PATH_BYTES, "%s/%s", dir, name);
}

/* ---- a directory that is there */

ds_status ds_run_check_directory(const struct ds_config *config, const char *section,
                                 const char *key, const char *dir, const struct ds_fs_stat *stat)
{
    char place[DS_PLACE_BYTES];

    ds_config_place(config, section, key, place);
    if (!stat->is_directory)
        return ds_fail(DS_ERR_CONFIG, "%s: %s.%s: %s: not a directory", place, section, key, dir);
    if (stat->owner != (uint32_t)geteuid())
        return ds_fail(DS_ERR_CONFIG, "%s: %s.%s: %s: belongs to user %u, this is user %u", place,
                       section, key, dir, stat->owner, (unsigned)geteuid());
    if (stat->mode & 0002u)
        return ds_fail(
            DS_ERR_CONFIG,
            "%s: %s.%s: %s: everybody may write there (mode %04o), so anybody could change what "
            "the run writes and reads; chmod o-w",
            place, section, key, dir, stat->mode);
    return DS_OK;
}

/* a launch before this one, and this one */
struct comparison {
    const struct ds_config *there, *here;
    const struct ds_inputs *was, *now;
};

static void show_value(const struct ds_field *field, const struct ds_config *config, char *to,
                       size_t bytes)
{
    char value[DS_TEXT_MAX];

    ds_field_print(field, config, value, sizeof value);
    if (!field->preset && field->kind == DS_FIELD_COUNT && strcmp(value, "0") == 0)
        strcpy(value, "none");
    snprintf(to, bytes, field->kind == DS_FIELD_TEXT ? "'%.*s'" : "%.*s", ds_ini_shown(value),
             value);
}

/* What a key names counts, where both launches know what that held, and not how it is written. */
static int is_other(const struct ds_field *field, const struct comparison *c)
{
    const int i = ds_inputs_find(field);

    if (!(field->flags & DS_FIELD_FIXED))
        return 0;
    if (i < 0 || !c->was->at[i].is_known)
        return !ds_field_equal(field, c->there, c->here);
    return strcmp(c->was->at[i].name, c->now->at[i].name) != 0 &&
           (!c->now->at[i].is_known || ds_input_is_other(&c->was->at[i], &c->now->at[i]));
}

static size_t put_difference(const struct ds_field *field, const struct comparison *c, char *to,
                             size_t bytes)
{
    char old[160], new[160], place[DS_PLACE_BYTES + 2] = "", begins[DS_PLACE_BYTES];
    const int i = ds_inputs_find(field);
    const int is_input = i >= 0 && c->was->at[i].is_known;
    const int is_there = i >= 0 && c->now->at[i].is_known;

    show_value(field, c->there, old, sizeof old);
    show_value(field, c->here, new, sizeof new);
    if (c->here->places.line[ds_field_index(field)] != 0)
        snprintf(place, sizeof place, "%.500s, ",
                 ds_config_place(c->here, field->section, field->key, begins));
    return (size_t)snprintf(to, bytes, " [%s] %s = %s%s (%sthere %s%s)", field->section, field->key,
                            new, is_input && !is_there ? ", which is not there" : "", place, old,
                            is_input && is_there ? ", which held something else" : "");
}

/* One line with every fixed key that differs, with both values and where it was written. */
static ds_status compare(const struct comparison *c)
{
    char list[4096] = "", begins[WHERE_BYTES];
    size_t used = 0;

    for (size_t i = 0; i < ds_config_field_count && used < sizeof list; i++) {
        if (!is_other(&ds_config_fields[i], c))
            continue;
        if (used > 0)
            used += (size_t)snprintf(list + used, sizeof list - used, ",");
        if (used < sizeof list)
            used += put_difference(&ds_config_fields[i], c, list + used, sizeof list - used);
    }
    if (used == 0)
        return DS_OK;
    return ds_fail(DS_ERR_CONFIG,
                   "%s: %s: holds another run; it differs in%s; take that back, or "
                   "name another folder",
                   where(c->here, begins), c->here->run.dir, list);
}

/* The same name, and other files: a person may have meant it, and the samples that follow are other ones. */
static void warn_of_changes(const struct ds_config *config, const struct ds_inputs *was,
                            const struct ds_inputs *now)
{
    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];
        const int input = ds_inputs_find(field);
        char place[DS_KEY_BYTES];

        if (input >= 0 && ds_input_is_other(&was->at[input], &now->at[input]))
            ds_warn("%s = %s: does not hold what it held at the last launch of this run, which "
                    "goes on with what is there now",
                    ds_config_key(config, field->section, field->key, place), now->at[input].name);
    }
}

static ds_status read_stored(struct ds_fs *fs, const char *path, char **text, size_t *bytes)
{
    ds_status st = ds_fs_read_file(fs, path, DS_INI_BYTES_MAX, text, bytes);

    return st == DS_ERR_DATA ? DS_ERR_CONFIG : st;
}

/* No step has left its numbers: a launch that failed at once (a wrong path, say) claims nothing. */
static int has_steps(struct ds_fs *fs, const char *dir)
{
    static const char *const names[] = {"metrics.jsonl", "metrics-1.jsonl"}; /* -1: set aside */
    char path[DS_RUN_PATH_BYTES];
    struct ds_fs_stat stat;

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        join(path, dir, names[i]);
        int code = ds_fs_stat(fs, path, &stat);
        if (code == 0 ? stat.bytes > 0 : code != -ENOENT)
            return 1;
    }
    return 0;
}

/* A person's own config.ini is what it is now: what the last launch has read, it has kept itself. */
static void name_inputs(const struct ds_inputs *was, struct ds_config *there)
{
    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];
        const int input = ds_inputs_find(field);

        if (input >= 0 && was->at[input].is_known)
            strcpy((char *)there + field->offset, was->at[input].name);
    }
}

static ds_status check_stored(const char *path, const char *stored, size_t bytes,
                              const struct ds_config *config, const struct ds_inputs *was,
                              const struct ds_inputs *now)
{
    struct ds_config there;

    DS_TRY(ds_config_parse(path, stored, bytes, NULL, 0, &there));
    ds_config_resolve(&there, 0);
    name_inputs(was, &there);
    return compare(&(struct comparison){&there, config, was, now});
}

static int is_by_us(const char *stored)
{
    return strncmp(stored, MARK, sizeof MARK - 1) == 0;
}

static void keep_first_names(const struct ds_inputs *was, struct ds_inputs *now)
{
    for (int i = 0; i < DS_INPUT_COUNT; i++)
        if (was->at[i].is_known)
            strcpy(now->at[i].first_name, was->at[i].first_name);
}

static ds_status check_run(struct ds_fs *fs, const char *dir, const char *path,
                           const struct ds_config *config, struct ds_inputs *inputs)
{
    struct ds_inputs was = {0};
    char *stored = NULL;
    size_t bytes = 0;
    ds_status st = DS_OK;

    const int is_begun = has_steps(fs, dir);
    if (is_begun)
        DS_TRY(ds_inputs_read(fs, dir, &was));
    DS_TRY(read_stored(fs, path, &stored, &bytes));
    if (!is_by_us(stored) || is_begun)
        st = check_stored(path, stored, bytes, config, &was, inputs);
    free(stored);
    if (st == DS_OK) {
        keep_first_names(&was, inputs);
        warn_of_changes(config, &was, inputs);
    }
    return st;
}

/* The stored text is ours to rewrite if we wrote it; a person's own config.ini stays as it is. */
static ds_status store(struct ds_fs *fs, const char *path, const char *text)
{
    char *stored = NULL;
    size_t bytes = 0;
    ds_status st = DS_OK;

    DS_TRY(read_stored(fs, path, &stored, &bytes));
    if (is_by_us(stored) && strcmp(stored, text) != 0)
        st = ds_fs_write_file(fs, path, text, strlen(text));
    free(stored);
    return st;
}

/* ---- a directory that is not */

static ds_status fill(struct ds_fs *fs, const struct ds_config *config, const char *text,
                      struct ds_run_files *files)
{
    const char *dir = config->run.dir;
    char path[DS_RUN_PATH_BYTES];

    for (size_t i = 0; i < DS_RUN_PARTS; i++) {
        join(path, dir, parts[i]);
        int code = ds_fs_mkdir(fs, path, 0750);
        files->made_parts[i] = code == 0;
        if (code < 0 && code != -EEXIST)
            return refuse(config, path, code);
    }
    files->made_config = 1; /* there, even if what fails comes after its rename */
    join(path, dir, "config.ini");
    return ds_fs_write_file(fs, path, text, strlen(text));
}

static void unmake(struct ds_fs *fs, const char *dir, struct ds_run_files *files)
{
    char path[DS_RUN_PATH_BYTES];

    join(path, dir, "config.ini");
    if (files->made_config)
        (void)ds_fs_unlink(fs, path);
    for (size_t i = 0; i < DS_RUN_PARTS; i++) {
        join(path, dir, parts[i]);
        if (files->made_parts[i])
            (void)ds_fs_remove_tree(fs, path);
    }
}

static ds_status make_run(struct ds_fs *fs, const struct ds_config *config, const char *text,
                          struct ds_run_files *files)
{
    ds_status st = fill(fs, config, text, files);

    if (st != DS_OK)
        unmake(fs, config->run.dir, files);
    return st;
}

/* ---- the lock: one launch at a time */

#define LOCK_WAIT_NS 2000000000u
#define LOCK_POLL_NS 20000000u

static ds_status refuse_second(struct ds_fs *fs, const struct ds_config *config, int file)
{
    char owner[160] = "", here[WHERE_BYTES];

    if (ds_fs_pread(fs, file, owner, sizeof owner - 1, 0) < 0)
        owner[0] = '\0';
    owner[strcspn(owner, "\n")] = '\0';
    return ds_fail(DS_ERR_FENCED,
                   "%s: %s: another launch is at work there (%s); wait until it ends, or choose "
                   "another directory",
                   where(config, here), config->run.dir, owner[0] ? owner : "unknown process");
}

/* Who it is, for those who come second. Only words: the lock holds without them. */
static void sign(struct ds_fs *fs, int file)
{
    char host[64] = "", text[160];

    (void)gethostname(host, sizeof host - 1);
    snprintf(text, sizeof text, "process %ld on host %s\n", (long)getpid(), host);
    if (ds_fs_truncate(fs, file, 0) == 0)
        (void)ds_fs_pwrite(fs, file, text, strlen(text), 0);
}

/* A launch that was killed holds it until the system has taken down the last of its processes. */
static int take_lock(struct ds_fs *fs, const struct ds_clock *clock, int file)
{
    const uint64_t begin_ns = ds_clock_mono_ns(clock);
    int code = ds_fs_lock(fs, file);

    while (code == -EAGAIN && ds_clock_mono_ns(clock) - begin_ns < LOCK_WAIT_NS) {
        ds_clock_sleep_ns(clock, LOCK_POLL_NS);
        code = ds_fs_lock(fs, file);
    }
    return code;
}

static ds_status lock(struct ds_fs *fs, const struct ds_clock *clock,
                      const struct ds_config *config, const char *path, int *out)
{
    int file, code;
    ds_status st;

    file = ds_fs_open(fs, path, DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE, 0640);
    if (file < 0)
        return refuse(config, path, file);
    code = take_lock(fs, clock, file);
    if (code == 0 || code == -ENOTSUP) {
        if (code == -ENOTSUP)
            ds_warn("run.dir: %s: this file system has no locks; a second launch would not be seen",
                    config->run.dir);
        sign(fs, file);
        *out = file;
        return DS_OK;
    }
    st = code == -EAGAIN ? refuse_second(fs, config, file) : refuse(config, path, code);
    (void)ds_fs_close(fs, file);
    return st;
}

/* ---- both */

/* What was left to the number of ranks stays so: `mpirun -n 2 dstrain run/config.ini` may follow a launch on 4.
 * What a person has written stays, too, and is refused where it does not fit. */
static ds_status print(const struct ds_config *config, char **text)
{
    struct ds_config *copy = malloc(sizeof *copy);
    ds_status st;

    if (!copy)
        return ds_fail(DS_ERR_NO_MEMORY, "a configuration");
    *copy = *config;
    if (ds_config_was_auto(config, "parallel", "data"))
        copy->parallel.data = DS_AUTO;
    if (ds_config_was_auto(config, "parallel", "shard"))
        copy->parallel.shard = DS_AUTO;
    st = ds_config_print(copy, text);
    free(copy);
    return st;
}

/* "# offload.exp_avg = host:0.43", a line for each home that was left to the plan: what it was in the last launch. The
 * key itself stays as it is, for others may have other room. */
static void print_chosen(const struct ds_config *config, const struct ds_config *settled, char *to,
                         size_t bytes)
{
    char value[DS_TEXT_MAX];
    size_t used = 0;

    to[0] = '\0';
    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];

        if (strcmp(field->section, "offload") != 0 || ds_field_equal(field, config, settled))
            continue;
        ds_field_print(field, settled, value, sizeof value);
        used += (size_t)snprintf(to + used, bytes - used, "%s# %s.%s = %s\n",
                                 used ? "" : "# The plan has chosen for the last launch:\n",
                                 field->section, field->key, value);
    }
}

static ds_status text_of(const struct ds_config *config, const struct ds_config *settled,
                         char **text)
{
    char *printed = NULL, chosen[512];
    size_t bytes;

    DS_TRY(print(config, &printed));
    print_chosen(config, settled, chosen, sizeof chosen);
    bytes = sizeof MARK + strlen(chosen) + strlen(printed) + 1;
    *text = malloc(bytes);
    if (*text)
        snprintf(*text, bytes, MARK "%s\n%s", chosen, printed);
    free(printed);
    return *text ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "no memory for %zu bytes", bytes);
}

static ds_status make_or_continue(struct ds_fs *fs, const struct ds_config *config,
                                  const char *text, struct ds_run_files *files)
{
    const char *dir = config->run.dir;
    char path[DS_RUN_PATH_BYTES];
    struct ds_fs_stat stat;
    int code;

    DS_TRY(ds_inputs_look(fs, config, &files->inputs));
    join(path, dir, "config.ini");
    code = ds_fs_stat(fs, path, &stat);
    if (code == -ENOENT)
        return make_run(fs, config, text, files);
    if (code < 0)
        return refuse(config, path, code);
    return check_run(fs, dir, path, config, &files->inputs);
}

static ds_status make_directory(struct ds_fs *fs, const struct ds_config *config,
                                const char *missing)
{
    int code = ds_fs_mkdirs(fs, config->run.dir, 0750);

    if (code == 0)
        code = ds_fs_fsync_parent(fs, missing);
    return code < 0 ? refuse(config, config->run.dir, code) : DS_OK;
}

static ds_status find_directory(struct ds_fs *fs, const struct ds_config *config,
                                char missing[DS_RUN_PATH_BYTES])
{
    const char *dir = config->run.dir;
    struct ds_fs_stat stat;
    int code = ds_fs_first_missing(fs, dir, missing, DS_RUN_PATH_BYTES);

    if (code < 0)
        return refuse(config, dir, code);
    if (missing[0] != '\0')
        return DS_OK;
    code = ds_fs_stat(fs, dir, &stat);
    return code < 0 ? refuse(config, dir, code)
                    : ds_run_check_directory(config, "run", "dir", dir, &stat);
}

/* The lock is ours; all below happens under it. */
static ds_status prepare_locked(struct ds_fs *fs, const struct ds_config *config, const char *path,
                                struct ds_run_files *files)
{
    char *text = NULL;
    ds_status st = text_of(config, config, &text);

    if (st == DS_OK)
        st = make_or_continue(fs, config, text, files);
    free(text);
    if (st != DS_OK && files->made_lock)
        (void)ds_fs_unlink(fs, path);
    return st;
}

static void unlock(struct ds_fs *fs, int *file)
{
    if (*file >= 0)
        (void)ds_fs_close(fs, *file);
    *file = -1;
}

ds_status ds_run_dir_prepare(struct ds_fs *fs, const struct ds_clock *clock,
                             const struct ds_config *config, struct ds_run_files *files)
{
    const char *dir = config->run.dir, *missing = files->missing;
    char path[DS_RUN_PATH_BYTES];
    struct ds_fs_stat stat;
    ds_status st = DS_OK;

    *files = DS_RUN_FILES_NONE;
    join(path, dir, "lock");
    DS_TRY(find_directory(fs, config, files->missing));
    files->made_lock = missing[0] != '\0' || ds_fs_stat(fs, path, &stat) == -ENOENT;
    if (missing[0] != '\0')
        st = make_directory(fs, config, missing);
    if (st == DS_OK)
        st = lock(fs, clock, config, path, &files->lock);
    if (st == DS_OK)
        st = prepare_locked(fs, config, path, files);
    if (st == DS_OK)
        return DS_OK;
    if (missing[0] != '\0' && st != DS_ERR_FENCED)
        (void)ds_fs_remove_tree(fs, missing);
    else if (files->lock < 0 && files->made_lock && st != DS_ERR_FENCED)
        (void)ds_fs_unlink(fs, path); /* made, but not locked */
    unlock(fs, &files->lock);
    return st;
}

ds_status ds_run_dir_store(struct ds_fs *fs, const struct ds_config *config,
                           const struct ds_config *settled, const struct ds_inputs *inputs)
{
    char path[DS_RUN_PATH_BYTES], *text = NULL;

    join(path, config->run.dir, "config.ini");
    DS_TRY(text_of(config, settled, &text));
    const ds_status st = store(fs, path, text);
    free(text);
    return st == DS_OK ? ds_inputs_write(fs, config->run.dir, inputs) : st;
}

/* ---- a launch that was refused takes away what it has made */

static int is_empty(struct ds_fs *fs, const char *path)
{
    char **names = NULL;
    size_t count = 0;

    if (ds_fs_readdir(fs, path, &names, &count) < 0)
        return 0;
    free(names);
    return count == 0;
}

static void take_back(struct ds_fs *fs, const char *dir, struct ds_run_files *files)
{
    char path[DS_RUN_PATH_BYTES];

    join(path, dir, parts[PART_INCIDENTS]);
    if (!files->made_config || has_steps(fs, dir) || !is_empty(fs, path))
        return;
    join(path, dir, "metrics.jsonl");
    (void)ds_fs_unlink(fs, path); /* no steps: empty */
    ds_inputs_remove(fs, dir);
    unmake(fs, dir, files);
    join(path, dir, "data");
    (void)ds_fs_rmdir(fs, path); /* stays with what is in it */
    join(path, dir, "lock");
    if (files->made_lock)
        (void)ds_fs_unlink(fs, path);
    if (files->missing[0] != '\0')
        ds_fs_remove_empty(fs, dir, files->missing);
}

/* ---- what the ranks see of it */

ds_status ds_run_dir_open_log(struct ds_fs *fs, const struct ds_config *config, uint32_t rank,
                              int *file)
{
    char path[DS_RUN_PATH_BYTES];
    int code;

    snprintf(path, sizeof path, "%s/log/rank-%04u.log", config->run.dir, rank);
    code = ds_fs_open(fs, path, DS_FS_WRITE | DS_FS_CREATE | DS_FS_APPEND, 0640);
    if (code < 0)
        return refuse(config, path, code);
    *file = code;
    return DS_OK;
}

ds_status ds_run_dir_open(struct ds_comm *world, struct ds_fs *fs, const struct ds_config *config,
                          struct ds_run_files *files)
{
    ds_status local = DS_OK;

    *files = DS_RUN_FILES_NONE;
    if (world->rank == 0)
        local = ds_run_dir_prepare(fs, world->clock, config, files);
    DS_TRY(ds_comm_agreed(world, local));
    local = ds_run_dir_open_log(fs, config, world->rank, &files->log);
    if (local == DS_OK) {
        int native = ds_fs_native(fs, files->log);
        ds_log.file = native >= 0 ? native : -1;
    }
    return ds_comm_agreed(world, local);
}

void ds_run_dir_close(struct ds_fs *fs, const struct ds_config *config, struct ds_run_files *files,
                      int is_refused)
{
    ds_log.file = -1;
    if (files->log >= 0)
        (void)ds_fs_close(fs, files->log);
    files->log = -1;
    if (is_refused && files->lock >= 0)
        take_back(fs, config->run.dir, files);
    unlock(fs, &files->lock);
}
