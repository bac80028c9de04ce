/* hf_write.c - the model as a Hugging Face folder that appears whole or not at all. One safetensors file after the
 * other is filled from a source, in the order in which its runs come. */
#include "hf_write.h"
#include "hf_base.h"
#include "hf_items.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct hf_writer {
    /* owns */
    uint32_t *params;   /* what is written, in this order */
    uint32_t *places;   /* [param_count]: where each of them is in its file */
    uint32_t *first_of; /* [file_count + 1]: which of `params` each file begins with */
    uint32_t file_count;
    int is_adapter; /* what is trained alone is written, as peft has it */
    /* of a tied table that an adapter trains peft wants both tensors: this one is the head's, too; or NULL */
    const struct ds_param *twice;
    /* owns; whoever writes: */
    struct ds_safetensors_writer *file; /* being filled, or NULL */
    struct hf_items items;              /* what is in it */
    struct hf_quantiser quantiser;
    uint32_t file_index;
    struct hf_folder folder;
    /* borrows */
    const struct ds_hf_write_options *options;
    const struct hf_source *source;
    enum ds_dtype dtype;
};

/* ---- which parameter goes where */

static uint64_t param_bytes(const struct hf_writer *w, uint32_t index)
{
    const struct ds_param *param = &w->source->model->params[index];
    const struct ds_quant_form form = hf_quantised_form(w->options, param, w->dtype);

    return hf_quantises(w->options, param) ? ds_quant_bytes(&form)
                                           : ds_param_whole_elems(param) * ds_dtype_bytes(w->dtype);
}

/* Of an adapter what is trained, of a model everything. */
static uint32_t list_params(struct hf_writer *w)
{
    const struct ds_model *model = w->source->model;
    uint32_t count = 0;

    for (uint32_t i = 0; i < model->param_count; i++)
        if (!w->is_adapter || model->params[i].is_trainable)
            w->params[count++] = i;
    const struct ds_param *table = ds_model_find(model, "model.embed_tokens.weight");
    if (w->is_adapter && model->config.tie_word_embeddings && table->is_trainable)
        w->twice = table;
    return count;
}

static void cut_files(struct hf_writer *w, uint32_t count)
{
    const uint64_t wanted = w->options->file_bytes_max ? w->options->file_bytes_max : 5000000000u;
    const uint64_t most = w->is_adapter ? UINT64_MAX : wanted; /* peft knows one file */
    uint64_t bytes = 0;

    w->file_count = 1;
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t more = param_bytes(w, w->params[i]);
        if (bytes > 0 && bytes + more > most) {
            w->first_of[w->file_count++] = i;
            bytes = 0;
        }
        bytes += more;
        w->places[w->params[i]] = i - w->first_of[w->file_count - 1];
    }
    w->first_of[w->file_count] = count;
}

static ds_status plan_files(struct hf_writer *w)
{
    const uint32_t most = w->source->model->param_count;

    w->params = calloc(most, sizeof *w->params);
    w->places = calloc(most, sizeof *w->places);
    w->first_of = calloc(most + 1u, sizeof *w->first_of);
    if (!w->params || !w->places || !w->first_of)
        return ds_fail(DS_ERR_NO_MEMORY, "the files of an export");
    cut_files(w, list_params(w));
    return DS_OK;
}

static void file_name(const struct hf_writer *w, uint32_t file, char *to, size_t bytes)
{
    if (w->is_adapter)
        snprintf(to, bytes, "adapter_model.safetensors");
    else if (w->file_count == 1)
        snprintf(to, bytes, "model.safetensors");
    else
        snprintf(to, bytes, "model-%05u-of-%05u.safetensors", file + 1, w->file_count);
}

/* ---- one file */

static void name_item(const struct hf_writer *w, const struct ds_param *param,
                      char to[HF_NAME_BYTES])
{
    char wrapped[HF_NAME_BYTES];

    hf_wrapped_name(param->name, wrapped);
    snprintf(to, HF_NAME_BYTES, "%s%s", w->is_adapter ? HF_ADAPTER_PREFIX : "",
             w->is_adapter && ds_lora_wraps(w->source->model, param) ? wrapped : param->name);
}

static ds_status fill_items(const struct hf_writer *w, uint32_t file, struct hf_items *items)
{
    char name[HF_NAME_BYTES];

    for (uint32_t i = w->first_of[file]; i < w->first_of[file + 1]; i++) {
        const struct ds_param *param = &w->source->model->params[w->params[i]];

        name_item(w, param, name);
        DS_TRY(hf_items_add(items, w->options, param, name, w->dtype));
    }
    return w->twice ? hf_items_add(items, w->options, w->twice, HF_ADAPTER_PREFIX "lm_head.weight",
                                   w->dtype)
                    : DS_OK;
}

static ds_status list_items(const struct hf_writer *w, uint32_t file, struct hf_items *out)
{
    const uint32_t count = w->first_of[file + 1] - w->first_of[file] + (w->twice != NULL);

    DS_TRY(hf_items_init(out, count, w->options->is_quantised));
    const ds_status st = fill_items(w, file, out);
    if (st != DS_OK)
        hf_items_fini(out);
    return st;
}

static ds_status open_file(struct hf_writer *w)
{
    const struct ds_hf_base *beside = &w->options->beside;
    const int says_base = w->is_adapter && beside->dtype != DS_BOOL;
    char name[64], path[HF_PATH_BYTES + 64];
    struct hf_base_text text;

    hf_base_print(beside, &text);
    file_name(w, w->file_index, name, sizeof name);
    snprintf(path, sizeof path, "%s/%s", w->folder.temporary, name);
    DS_TRY(list_items(w, w->file_index, &w->items));
    return ds_safetensors_create(w->options->fs, path, w->items.items, w->items.count,
                                 says_base ? text.metadata : NULL, &w->file);
}

static ds_status close_file(struct hf_writer *w)
{
    struct ds_safetensors_writer *done = w->file;

    w->file = NULL;
    hf_quantiser_fini(&w->quantiser);
    hf_items_fini(&w->items);
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
    const uint32_t place = w->places[param];
    const size_t item = w->items.first[place];

    DS_TRY(check_values(w, &w->source->model->params[param], start, count, from));
    if (hf_quantises(w->options, &w->source->model->params[param]))
        return hf_quantise(&w->quantiser, &w->items.matrices[place], w->file, item, start, count,
                           from);
    if (w->twice == &w->source->model->params[param])
        DS_TRY(
            ds_safetensors_write_f32(w->file, w->items.first[w->first_of[1]], start, count, from));
    return ds_safetensors_write_f32(w->file, item, start, count, from);
}

/* ---- the small files */

static ds_status write_text(struct hf_writer *w, const char *name, const char *text)
{
    char path[HF_PATH_BYTES + 64];

    snprintf(path, sizeof path, "%s/%s", w->folder.temporary, name);
    return ds_fs_write_file(w->options->fs, path, text, strlen(text));
}

/* Which tensors are in which file. */
static ds_status map_files(const struct hf_writer *w, json_t *map)
{
    struct hf_items items;
    char name[64];

    for (uint32_t file = 0; file < w->file_count; file++) {
        file_name(w, file, name, sizeof name);
        DS_TRY(list_items(w, file, &items));
        for (size_t i = 0; i < items.count; i++)
            json_object_set_new(map, items.items[i].name, json_string(name));
        hf_items_fini(&items);
    }
    return DS_OK;
}

static ds_status write_index(struct hf_writer *w)
{
    json_t *map = json_object(), *index;
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < w->first_of[w->file_count]; i++)
        bytes += param_bytes(w, w->params[i]);
    index =
        json_pack("{s:{s:I},s:o}", "metadata", "total_size", (json_int_t)bytes, "weight_map", map);
    ds_status st = map_files(w, map);
    char *text = index && st == DS_OK ? json_dumps(index, JSON_INDENT(2)) : NULL;
    if (st == DS_OK)
        st = text ? write_text(w, "model.safetensors.index.json", text)
                  : ds_fail(DS_ERR_NO_MEMORY, "the index of an export");
    free(text);
    json_decref(index);
    return st;
}

static ds_status write_config(struct hf_writer *w)
{
    const struct ds_model *model = w->source->model;
    const char *base = w->options->base ? w->options->base : "";
    char *text = NULL;
    ds_status st;

    DS_TRY(w->is_adapter ? ds_lora_write(model, base, &text)
                         : ds_model_config_write(&model->config, w->dtype, &text));
    st = w->options->is_quantised ? hf_quantise_config(w->options->quant, &text) : DS_OK;
    if (st == DS_OK)
        st = write_text(w, w->is_adapter ? "adapter_config.json" : "config.json", text);
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
    hf_quantiser_fini(&w->quantiser);
    hf_items_fini(&w->items);
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

/* Those that lie side by side at once. */
static ds_status read_params(struct hf_writer *w)
{
    const struct hf_source *source = w->source;
    const struct hf_sink sink = {.put = put, .user = w};
    const uint32_t end = w->first_of[w->file_index + 1];

    for (uint32_t i = w->first_of[w->file_index], count; i < end; i += count) {
        for (count = 1; i + count < end && w->params[i + count] == w->params[i] + count;)
            count++;
        DS_TRY(source->ops->read(source->self, w->params[i], w->params[i] + count, &sink));
    }
    return DS_OK;
}

static ds_status write_file(struct hf_writer *w)
{
    DS_TRY(on_writer(w, open_file));
    DS_TRY(read_params(w));
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
                          .is_adapter = ds_model_is_adapted(source->model),
                          .dtype = options->dtype == DS_BOOL ? DS_F32 : options->dtype};
    ds_status st;

    hf_folder_init(&w.folder, options->fs, options->folder);
    st = source->ops->agree(source->self, plan_files(&w));
    if (st == DS_OK) {
        st = write_all(&w);
        if (st != DS_OK && source->is_writer)
            give_up(&w);
    }
    free(w.params);
    free(w.places);
    free(w.first_of);
    return st;
}
