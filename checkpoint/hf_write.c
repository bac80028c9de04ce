/* hf_write.c - the model as a Hugging Face folder. Rank 0 collects one parameter after the other and
 * writes it into `folder`.tmp, which becomes `folder` when everything in it is durable: whole or absent. An older
 * export waits as `folder`.old meanwhile and comes back if that fails; what a killed process left of
 * either is put in order by the next export. An older folder that holds what no export writes is kept
 * as `folder`.kept-N. All ranks agree after each parameter: whoever failed, all stop there, and no more
 * than one parameter is under way. */
#include "hf_tokenizer.h"

#include "dstrain/hf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4352 };

struct hf_writer {
    /* owns */
    struct ds_hf_gather *gather;
    /* owns; on rank 0 alone: */
    struct ds_safetensors_writer *file; /* being filled, or NULL */
    float *host;                        /* one whole parameter, the largest */
    uint32_t *file_of;                  /* [param_count] which file a parameter goes to */
    uint32_t file_count;
    char temporary[PATH_BYTES], old[PATH_BYTES];
    /* borrows */
    const struct ds_hf_write_options *options;
};

static ds_status failed(const struct hf_writer *w, const char *what, int code)
{
    return ds_fail(DS_ERR_IO, "export to %s: %s: %s", w->options->folder, what, strerror(-code));
}

/* ---- which parameter goes where */

static void plan_files(struct hf_writer *w)
{
    const struct ds_model *model = w->options->parts.model;
    const uint64_t most = w->options->file_bytes_max ? w->options->file_bytes_max : 5000000000u;
    uint64_t bytes = 0;

    w->file_count = 1;
    for (uint32_t i = 0; i < model->param_count; i++) {
        uint64_t more = ds_param_whole_elems(&model->params[i]) * sizeof(float);
        if (bytes > 0 && bytes + more > most) {
            w->file_count++;
            bytes = 0;
        }
        bytes += more;
        w->file_of[i] = w->file_count - 1;
    }
}

static void file_name(const struct hf_writer *w, uint32_t file, char *to, size_t bytes)
{
    if (w->file_count == 1)
        snprintf(to, bytes, "model.safetensors");
    else
        snprintf(to, bytes, "model-%05u-of-%05u.safetensors", file + 1, w->file_count);
}

static ds_status open_file(struct hf_writer *w, uint32_t first_param)
{
    const struct ds_model *model = w->options->parts.model;
    struct ds_safetensors_item *items = calloc(model->param_count, sizeof *items);
    char name[64], path[PATH_BYTES + 64];
    size_t count = 0;
    ds_status st;

    if (!items)
        return ds_fail(DS_ERR_NO_MEMORY, "the header of an export");
    for (uint32_t i = first_param; i < model->param_count; i++) {
        const struct ds_param *param = &model->params[i];
        if (w->file_of[i] != w->file_of[first_param])
            break;
        items[count] = (struct ds_safetensors_item){
            .name = param->name, .dtype = DS_F32, .dim_count = param->dim_count};
        memcpy(items[count++].shape, param->shape, sizeof param->shape);
    }
    file_name(w, w->file_of[first_param], name, sizeof name);
    snprintf(path, sizeof path, "%s/%s", w->temporary, name);
    st = ds_safetensors_create(w->options->fs, path, items, count, NULL, &w->file);
    free(items);
    return st;
}

/* Parameters come in order, so one file is open at a time. */
static ds_status write_param(struct hf_writer *w, uint32_t i)
{
    const struct ds_model *model = w->options->parts.model;
    const int is_first = i == 0 || w->file_of[i] != w->file_of[i - 1];
    const int is_last = i + 1 == model->param_count || w->file_of[i] != w->file_of[i + 1];
    uint32_t first = i;

    if (is_first)
        DS_TRY(open_file(w, i));
    while (first > 0 && w->file_of[first - 1] == w->file_of[i])
        first--;
    DS_TRY(ds_safetensors_write_f32(w->file, i - first, 0, ds_param_whole_elems(&model->params[i]),
                                    w->host));
    if (!is_last)
        return DS_OK;
    struct ds_safetensors_writer *done = w->file;
    w->file = NULL;
    return ds_safetensors_commit(done);
}

/* ---- the small files */

static ds_status write_text(struct hf_writer *w, const char *name, const char *text)
{
    char path[PATH_BYTES + 64];

    snprintf(path, sizeof path, "%s/%s", w->temporary, name);
    return ds_fs_write_file(w->options->fs, path, text, strlen(text));
}

static ds_status write_index(struct hf_writer *w)
{
    const struct ds_model *model = w->options->parts.model;
    const uint64_t bytes = model->elems_total * sizeof(float);
    json_t *map = json_object();
    json_t *index =
        json_pack("{s:{s:I},s:o}", "metadata", "total_size", (json_int_t)bytes, "weight_map", map);
    char name[64];
    ds_status st;

    for (uint32_t i = 0; i < model->param_count; i++) {
        file_name(w, w->file_of[i], name, sizeof name);
        json_object_set_new(map, model->params[i].name, json_string(name));
    }
    char *text = index ? json_dumps(index, JSON_INDENT(2)) : NULL;
    st = text ? write_text(w, "model.safetensors.index.json", text)
              : ds_fail(DS_ERR_NO_MEMORY, "the index of an export");
    free(text);
    json_decref(index);
    return st;
}

static ds_status write_config(struct hf_writer *w)
{
    char *text = NULL;
    ds_status st;

    DS_TRY(ds_model_config_write(&w->options->parts.model->config, &text));
    st = write_text(w, "config.json", text);
    free(text);
    return st;
}

/* Tokenizer and generation settings travel with the model they belong to. */
static const char *const companions[] = {
    "tokenizer.json",     "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "merges.txt",         "tokenizer.model",       "generation_config.json",  "added_tokens.json",
    "chat_template.jinja"};
#define COMPANION_COUNT (sizeof companions / sizeof *companions)

static ds_status copy_companions(struct hf_writer *w)
{
    struct ds_fs *fs = w->options->fs;

    for (size_t i = 0; i < COMPANION_COUNT; i++) {
        char from[PATH_BYTES], to[PATH_BYTES + 64];
        struct ds_fs_stat stat;
        char *text = NULL;
        size_t bytes = 0;
        ds_status st;

        snprintf(from, sizeof from, "%s/%s", w->options->companions, companions[i]);
        int code = ds_fs_stat(fs, from, &stat);
        if (code == -ENOENT)
            continue;
        if (code != 0)
            return failed(w, from, code);
        DS_TRY(ds_fs_read_file(fs, from, 256u << 20, &text, &bytes));
        snprintf(to, sizeof to, "%s/%s", w->temporary, companions[i]);
        st = ds_fs_write_file(fs, to, text, bytes);
        free(text);
        DS_TRY(st);
    }
    return DS_OK;
}

static ds_status write_byte_tokenizer(struct hf_writer *w)
{
    char *tokenizer = NULL, *settings = NULL;
    ds_status st;

    DS_TRY_GOTO(st, hf_byte_tokenizer(&tokenizer, &settings), done);
    DS_TRY_GOTO(st, write_text(w, "tokenizer.json", tokenizer), done);
    st = write_text(w, "tokenizer_config.json", settings);
done:
    free(tokenizer);
    free(settings);
    return st;
}

/* ---- an older export goes, but nothing with it that is not ours */

static int is_weights(const char *name)
{
    static const char pattern[] = "model-#####-of-#####.safetensors"; /* #: a digit */

    for (size_t i = 0; i < sizeof pattern; i++)
        if (pattern[i] == '#' ? name[i] < '0' || name[i] > '9' : name[i] != pattern[i])
            return 0;
    return 1;
}

static int is_ours(const char *name)
{
    if (strcmp(name, "config.json") == 0 || strcmp(name, "model.safetensors") == 0 ||
        strcmp(name, "model.safetensors.index.json") == 0)
        return 1;
    for (size_t i = 0; i < COMPANION_COUNT; i++)
        if (strcmp(name, companions[i]) == 0)
            return 1;
    return is_weights(name);
}

/* Is there anything that no export writes? 1, 0 or -errno */
static int holds_more(struct ds_fs *fs, const char *path)
{
    char **names = NULL;
    size_t count = 0;
    int code = ds_fs_readdir(fs, path, &names, &count), more = 0;

    if (code == -ENOTDIR)
        return 1; /* no folder: no export at all */
    if (code < 0)
        return code;
    for (size_t i = 0; i < count; i++)
        more |= !is_ours(names[i]);
    free(names);
    return more;
}

static int keep(const struct hf_writer *w)
{
    struct ds_fs *fs = w->options->fs;
    char path[PATH_BYTES + 32];
    struct ds_fs_stat stat;
    int code = 0;

    for (unsigned n = 1; code == 0; n++) {
        snprintf(path, sizeof path, "%s.kept-%u", w->options->folder, n);
        code = ds_fs_stat(fs, path, &stat);
    }
    if (code == -ENOENT)
        code = ds_fs_rename(fs, w->old, path);
    if (code == 0)
        ds_warn("export to %s: what was there holds more than an export; it is kept as %s",
                w->options->folder, path);
    return code;
}

static int discard_old(const struct hf_writer *w)
{
    int more = holds_more(w->options->fs, w->old);

    if (more < 0)
        return more == -ENOENT ? 0 : more;
    return more ? keep(w) : ds_fs_remove_tree(w->options->fs, w->old);
}

/* ---- begin and end, on rank 0 */

static int exists(struct ds_fs *fs, const char *path, int *code)
{
    struct ds_fs_stat stat;
    int got = ds_fs_stat(fs, path, &stat);

    if (got != 0 && got != -ENOENT)
        *code = got;
    return got == 0;
}

/* A process that ended between two renames left the older export under its other name. */
static int settle(struct hf_writer *w)
{
    struct ds_fs *fs = w->options->fs;
    int code = ds_fs_remove_tree(fs, w->temporary);

    if (code != 0 || !exists(fs, w->old, &code) || code != 0)
        return code;
    if (exists(fs, w->options->folder, &code))
        return discard_old(w);
    return code != 0 ? code : ds_fs_rename(fs, w->old, w->options->folder);
}

static ds_status take_host(struct hf_writer *w)
{
    const struct ds_model *model = w->options->parts.model;
    uint64_t most = 1;

    DS_ASSERT(model->param_count > 0);
    for (uint32_t i = 0; i < model->param_count; i++) {
        const uint64_t elems = ds_param_whole_elems(&model->params[i]);
        most = elems > most ? elems : most;
    }
    w->host = malloc((size_t)most * sizeof *w->host);
    w->file_of = calloc(model->param_count, sizeof *w->file_of);
    if (!w->host || !w->file_of)
        return ds_fail(DS_ERR_NO_MEMORY, "export: %zu bytes for one tensor",
                       (size_t)most * sizeof *w->host);
    return DS_OK;
}

static ds_status begin(struct hf_writer *w)
{
    DS_TRY(take_host(w));
    int code = settle(w);

    if (code != 0)
        return failed(w, "cannot remove an unfinished one", code);
    code = ds_fs_mkdirs(w->options->fs, w->temporary, 0750);
    if (code != 0)
        return failed(w, "cannot make its folder", code);
    plan_files(w);
    DS_TRY(write_config(w));
    if (w->file_count > 1)
        DS_TRY(write_index(w));
    return w->options->companions ? copy_companions(w) : write_byte_tokenizer(w);
}

/* Names change places; if one of the changes fails, those before it are taken back. */
static ds_status swap(struct hf_writer *w)
{
    struct ds_fs *fs = w->options->fs;
    const char *folder = w->options->folder, *what = "cannot move the older one aside";
    int code = 0, has_old = exists(fs, folder, &code);

    if (code == 0 && has_old)
        code = ds_fs_rename(fs, folder, w->old);
    if (code != 0)
        return failed(w, what, code);
    what = "cannot give it its name";
    code = ds_fs_rename(fs, w->temporary, folder);
    if (code == 0) {
        what = "cannot make it durable";
        code = ds_fs_fsync_parent(fs, folder);
        if (code == 0)
            return DS_OK;
        (void)ds_fs_rename(fs, folder, w->temporary);
    }
    if (has_old)
        (void)ds_fs_rename(fs, w->old, folder);
    return failed(w, what, code);
}

/* The new one stands; the older one goes. What fails once may be done the second time. */
static ds_status commit(struct hf_writer *w)
{
    struct ds_fs *fs = w->options->fs;
    int code = ds_fs_fsync_dir(fs, w->temporary);

    if (code != 0)
        return failed(w, "cannot make it durable", code);
    DS_TRY(swap(w));
    code = discard_old(w);
    if (code != 0)
        code = discard_old(w);
    if (code != 0)
        ds_warn("export to %s: the older one stays as %s: it cannot be removed", w->options->folder,
                w->old);
    return DS_OK;
}

static void give_up(struct hf_writer *w)
{
    ds_safetensors_abandon(w->file);
    (void)ds_fs_remove_tree(w->options->fs, w->temporary);
}

/* ---- all ranks */

typedef ds_status part_fn(struct hf_writer *w);

static ds_status on_writer(struct hf_writer *w, part_fn *part)
{
    struct ds_comm *world = w->options->parts.world;

    return ds_comm_agreed(world, world->rank == 0 ? part(w) : DS_OK);
}

static ds_status write_params(struct hf_writer *w)
{
    const struct ds_hf_parts *parts = &w->options->parts;

    for (uint32_t i = 0; i < parts->model->param_count; i++) {
        ds_status st = ds_hf_gather_param(w->gather, i, w->host);
        if (st == DS_OK && parts->world->rank == 0)
            st = write_param(w, i);
        DS_TRY(ds_comm_agreed(parts->world, st));
    }
    return DS_OK;
}

ds_status ds_hf_write(const struct ds_hf_write_options *options)
{
    struct hf_writer w = {.options = options};
    ds_status st;

    snprintf(w.temporary, sizeof w.temporary, "%s.tmp", options->folder);
    snprintf(w.old, sizeof w.old, "%s.old", options->folder);
    st = ds_hf_gather_open(&options->parts, &w.gather);
    if (st == DS_OK)
        st = on_writer(&w, begin);
    if (st == DS_OK)
        st = write_params(&w);
    if (st == DS_OK)
        st = on_writer(&w, commit);
    if (st != DS_OK && options->parts.world->rank == 0)
        give_up(&w);
    ds_hf_gather_close(w.gather);
    free(w.host);
    free(w.file_of);
    return st;
}
