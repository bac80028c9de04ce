/* hf_write.c - the model as a Hugging Face folder that appears whole or not at all. One safetensors file after the
 * other is filled from a source, in the order in which its runs come. */
#include "hf_write.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct hf_writer {
    /* owns */
    uint32_t *first_of; /* [file_count + 1]: the first parameter of each file */
    uint32_t file_count;
    /* owns; whoever writes: */
    struct ds_safetensors_writer *file; /* being filled, or NULL */
    uint32_t file_index;
    struct hf_folder folder;
    /* borrows */
    const struct ds_hf_write_options *options;
    const struct hf_source *source;
    enum ds_dtype dtype;
};

/* ---- which parameter goes where */

static uint64_t param_bytes(const struct hf_writer *w, uint32_t param)
{
    return ds_param_whole_elems(&w->source->model->params[param]) * ds_dtype_bytes(w->dtype);
}

static ds_status plan_files(struct hf_writer *w)
{
    const struct ds_model *model = w->source->model;
    const uint64_t most = w->options->file_bytes_max ? w->options->file_bytes_max : 5000000000u;
    uint64_t bytes = 0;

    DS_ASSERT(model->param_count > 0);
    w->first_of = calloc(model->param_count + 1u, sizeof *w->first_of);
    if (!w->first_of)
        return ds_fail(DS_ERR_NO_MEMORY, "the files of an export");
    w->file_count = 1;
    for (uint32_t i = 0; i < model->param_count; i++) {
        const uint64_t more = param_bytes(w, i);
        if (bytes > 0 && bytes + more > most) {
            w->first_of[w->file_count++] = i;
            bytes = 0;
        }
        bytes += more;
    }
    w->first_of[w->file_count] = model->param_count;
    return DS_OK;
}

static void file_name(const struct hf_writer *w, uint32_t file, char *to, size_t bytes)
{
    if (w->file_count == 1)
        snprintf(to, bytes, "model.safetensors");
    else
        snprintf(to, bytes, "model-%05u-of-%05u.safetensors", file + 1, w->file_count);
}

/* ---- one file */

static ds_status open_file(struct hf_writer *w)
{
    const uint32_t first = w->first_of[w->file_index], end = w->first_of[w->file_index + 1];
    struct ds_safetensors_item *items = calloc(end - first, sizeof *items);
    char name[64], path[HF_PATH_BYTES + 64];

    if (!items)
        return ds_fail(DS_ERR_NO_MEMORY, "the header of an export");
    for (uint32_t i = first; i < end; i++) {
        const struct ds_param *param = &w->source->model->params[i];

        items[i - first] = (struct ds_safetensors_item){
            .name = param->name, .dtype = w->dtype, .dim_count = param->dim_count};
        memcpy(items[i - first].shape, param->shape, sizeof param->shape);
    }
    file_name(w, w->file_index, name, sizeof name);
    snprintf(path, sizeof path, "%s/%s", w->folder.temporary, name);
    ds_status st = ds_safetensors_create(w->options->fs, path, items, end - first, NULL, &w->file);
    free(items);
    return st;
}

static ds_status close_file(struct hf_writer *w)
{
    struct ds_safetensors_writer *done = w->file;

    w->file = NULL;
    return ds_safetensors_commit(done);
}

/* The bits of the least number that is not finite any more in this dtype, rounded to nearest. */
static uint32_t least_infinite(enum ds_dtype dtype)
{
    return dtype == DS_BF16 ? 0x7f7f8000u : dtype == DS_F16 ? 0x477ff000u : 0x7f800000u;
}

/* Of bits, since a compiler does many of them at once. */
static int all_finite(const float *at, uint64_t count, uint32_t limit)
{
    uint32_t found = 0;

    for (uint64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &at[i], sizeof bits);
        found |= (bits & 0x7fffffffu) >= limit;
    }
    return !found;
}

/* What would be read back is looked at here: a folder that nobody can load is no result. */
static ds_status check_values(const struct hf_writer *w, const struct ds_param *param,
                              uint64_t start, uint64_t count, const float *at)
{
    const uint32_t limit = least_infinite(w->dtype);
    uint64_t i = 0;

    if (all_finite(at, count, limit))
        return DS_OK;
    while (all_finite(at + i, 1, limit))
        i++;
    if (isfinite(at[i]))
        return ds_fail(DS_ERR_DATA,
                       "element %" PRIu64 " of '%s' is %g, too large for %s; nothing is exported",
                       start + i, param->name, (double)at[i], ds_dtype_name(w->dtype));
    return ds_fail(DS_ERR_DIVERGED,
                   "the run has diverged: element %" PRIu64 " of '%s' is %s; nothing is exported",
                   start + i, param->name, isnan(at[i]) ? "not a number" : "infinite");
}

static ds_status put(void *user, uint32_t param, uint64_t start, uint64_t count, const float *from)
{
    struct hf_writer *w = user;

    DS_TRY(check_values(w, &w->source->model->params[param], start, count, from));
    return ds_safetensors_write_f32(w->file, param - w->first_of[w->file_index], start, count,
                                    from);
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
    const struct ds_model *model = w->source->model;
    const uint64_t bytes = model->elems_total * ds_dtype_bytes(w->dtype);
    json_t *map = json_object();
    json_t *index =
        json_pack("{s:{s:I},s:o}", "metadata", "total_size", (json_int_t)bytes, "weight_map", map);
    char name[64];
    ds_status st;

    for (uint32_t file = 0; file < w->file_count; file++) {
        file_name(w, file, name, sizeof name);
        for (uint32_t i = w->first_of[file]; i < w->first_of[file + 1]; i++)
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

    DS_TRY(ds_model_config_write(&w->source->model->config, w->dtype, &text));
    st = write_text(w, "config.json", text);
    free(text);
    return st;
}

/* ---- begin and end, whoever writes */

static ds_status begin(struct hf_writer *w)
{
    DS_TRY(hf_folder_begin(&w->folder));
    DS_TRY(write_config(w));
    if (w->file_count > 1)
        DS_TRY(write_index(w));
    return hf_write_companions(w->options, &w->folder);
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

/* ---- all who read together */

typedef ds_status part_fn(struct hf_writer *w);

static ds_status on_writer(struct hf_writer *w, part_fn *part)
{
    const struct hf_source *source = w->source;

    return source->ops->agree(source->self, source->is_writer ? part(w) : DS_OK);
}

static ds_status write_file(struct hf_writer *w)
{
    const struct hf_source *source = w->source;
    const struct hf_sink sink = {.put = put, .user = w};

    DS_TRY(on_writer(w, open_file));
    DS_TRY(source->ops->read(source->self, w->first_of[w->file_index],
                             w->first_of[w->file_index + 1], &sink));
    return on_writer(w, close_file);
}

static ds_status write_all(struct hf_writer *w)
{
    DS_TRY(on_writer(w, begin));
    for (w->file_index = 0; w->file_index < w->file_count; w->file_index++)
        DS_TRY(write_file(w));
    return on_writer(w, commit);
}

ds_status hf_write_from(const struct ds_hf_write_options *options, const struct hf_source *source)
{
    struct hf_writer w = {.options = options,
                          .source = source,
                          .dtype = options->dtype == DS_BOOL ? DS_F32 : options->dtype};
    ds_status st;

    hf_folder_init(&w.folder, options->fs, options->folder);
    st = source->ops->agree(source->self, plan_files(&w));
    if (st == DS_OK) {
        st = write_all(&w);
        if (st != DS_OK && source->is_writer)
            give_up(&w);
    }
    free(w.first_of);
    return st;
}
