/* hf_write.c - the model as a Hugging Face folder: rank 0 collects one parameter after the other and writes
 * it, with what else belongs there, into a folder that appears whole or not at all. All ranks agree after
 * each parameter: whoever failed, all stop there, and no more than one parameter is under way. */
#include "hf_folder.h"
#include "hf_tokenizer.h"

#include "dstrain/hf.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct hf_writer {
    /* owns */
    struct ds_hf_gather *gather;
    /* owns; on rank 0 alone: */
    struct ds_safetensors_writer *file; /* being filled, or NULL */
    float *host;                        /* one whole parameter, the largest */
    uint32_t *file_of;                  /* [param_count] which file a parameter goes to */
    uint32_t file_count;
    struct hf_folder folder;
    /* borrows */
    const struct ds_hf_write_options *options;
};

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
    char name[64], path[HF_PATH_BYTES + 64];
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
    snprintf(path, sizeof path, "%s/%s", w->folder.temporary, name);
    st = ds_safetensors_create(w->options->fs, path, items, count, NULL, &w->file);
    free(items);
    return st;
}

/* Of bits, since a compiler does many of them at once. */
static int all_finite(const float *at, uint64_t count)
{
    const uint32_t exponent = 0x7f800000u;
    uint32_t found = 0;

    for (uint64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &at[i], sizeof bits);
        found |= (bits & exponent) == exponent;
    }
    return !found;
}

/* What would be read back is looked at here: a folder that nobody can load is no result. */
static ds_status check_values(const struct ds_param *param, const float *at)
{
    const uint64_t count = ds_param_whole_elems(param);
    uint64_t i = 0;

    if (all_finite(at, count))
        return DS_OK;
    while (isfinite(at[i]))
        i++;
    return ds_fail(DS_ERR_DIVERGED,
                   "the run has diverged: element %" PRIu64 " of '%s' is %s; nothing is exported",
                   i, param->name, isnan(at[i]) ? "not a number" : "infinite");
}

/* Parameters come in order, so one file is open at a time. */
static ds_status write_param(struct hf_writer *w, uint32_t i)
{
    const struct ds_model *model = w->options->parts.model;
    const int is_first = i == 0 || w->file_of[i] != w->file_of[i - 1];
    const int is_last = i + 1 == model->param_count || w->file_of[i] != w->file_of[i + 1];
    uint32_t first = i;

    DS_TRY(check_values(&model->params[i], w->host));
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
    char path[HF_PATH_BYTES + 64];

    snprintf(path, sizeof path, "%s/%s", w->folder.temporary, name);
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

static ds_status copy_companions(struct hf_writer *w)
{
    struct ds_fs *fs = w->options->fs;

    for (size_t i = 0; hf_companion(i); i++) {
        char from[HF_PATH_BYTES], to[HF_PATH_BYTES + 64];
        struct ds_fs_stat stat;
        char *text = NULL;
        size_t bytes = 0;
        ds_status st;

        snprintf(from, sizeof from, "%s/%s", w->options->companions, hf_companion(i));
        int code = ds_fs_stat(fs, from, &stat);
        if (code == -ENOENT)
            continue;
        if (code != 0)
            return hf_folder_failed(&w->folder, from, code);
        DS_TRY(ds_fs_read_file(fs, from, 256u << 20, &text, &bytes));
        snprintf(to, sizeof to, "%s/%s", w->folder.temporary, hf_companion(i));
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

/* The files of the tokenizer that the model's tokens came from: none where nobody here knows it. */
static ds_status write_tokenizer(struct hf_writer *w)
{
    enum ds_hf_tokenizer there = DS_HF_TOKENIZER_NONE;

    if (w->options->companions) {
        DS_TRY(copy_companions(w));
        DS_TRY(ds_hf_which_tokenizer(w->options->fs, w->folder.temporary, &there));
    }
    return w->options->has_byte_tokens && there == DS_HF_TOKENIZER_NONE ? write_byte_tokenizer(w)
                                                                        : DS_OK;
}

/* ---- begin and end, on rank 0 */

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
    DS_TRY(hf_folder_begin(&w->folder));
    plan_files(w);
    DS_TRY(write_config(w));
    if (w->file_count > 1)
        DS_TRY(write_index(w));
    return write_tokenizer(w);
}

static ds_status commit(struct hf_writer *w)
{
    return hf_folder_commit(&w->folder);
}

static void give_up(struct hf_writer *w)
{
    ds_safetensors_abandon(w->file);
    hf_folder_drop(&w->folder);
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

    hf_folder_init(&w.folder, options->fs, options->folder);
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
