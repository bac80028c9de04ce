/* hf_read.c - a Hugging Face folder opened and checked against a model.
 *
 * The index file is the authority on which tensor lies in which file; names of files are taken only
 * as plain names in the same folder. Tensors the model does not know are named once and left alone. */
#include "hf_read.h"

#include "dstrain/json.h"

#include <stdlib.h>
#include <string.h>

enum { FILES_MAX = 4096, PATH_BYTES = 4352 };

struct ds_hf {
    /* owns */
    struct ds_safetensors **files;
    size_t file_count;
    json_t *index; /* or NULL: one file */
    char folder[4096];
    const char *prefix;  /* of names in its files */
    const char *decides; /* the file that says what must be there */
    /* borrows */
    struct ds_fs *fs;
};

static void join(char path[PATH_BYTES], const char *folder, const char *name)
{
    snprintf(path, PATH_BYTES, "%s/%s", folder, name);
}

static int is_there(struct ds_fs *fs, const char *folder, const char *name)
{
    char path[PATH_BYTES];
    struct ds_fs_stat stat;

    join(path, folder, name);
    return ds_fs_stat(fs, path, &stat) == 0;
}

/* A run's folder holds what its export/ has in it. */
static ds_status check_no_run(struct ds_fs *fs, const char *folder, const char *name,
                              const char *what)
{
    char export[PATH_BYTES];

    join(export, folder, "export");
    if (is_there(fs, folder, name) || !is_there(fs, export, name))
        return DS_OK;
    return ds_fail(DS_ERR_DATA, "%s: a run's folder; its %s is %s", folder, what, export);
}

ds_status ds_hf_read_config(struct ds_fs *fs, const char *folder, struct ds_model_config *out)
{
    char path[PATH_BYTES];
    char *text = NULL;
    size_t bytes = 0;
    ds_status st;

    DS_TRY(check_no_run(fs, folder, "config.json", "model"));
    join(path, folder, "config.json");
    DS_TRY(ds_fs_read_file(fs, path, 16u << 20, &text, &bytes));
    st = ds_model_config_parse(path, text, bytes, out);
    free(text);
    return st;
}

/* ---- opening */

static int is_plain_name(const char *name)
{
    size_t length = strlen(name);

    return length > 0 && length < 256 && name[0] != '.' && !strchr(name, '/');
}

static ds_status open_file(struct ds_hf *hf, const char *name)
{
    char path[PATH_BYTES];

    for (size_t i = 0; i < hf->file_count; i++) {
        const char *known = strrchr(ds_safetensors_path(hf->files[i]), '/');
        if (known && strcmp(known + 1, name) == 0)
            return DS_OK;
    }
    if (hf->file_count == FILES_MAX)
        return ds_fail(DS_ERR_DATA, "%s: more than %d weight files", hf->folder, FILES_MAX);
    join(path, hf->folder, name);
    DS_TRY(ds_safetensors_open(hf->fs, path, &hf->files[hf->file_count]));
    hf->file_count++;
    return DS_OK;
}

static ds_status open_indexed(struct ds_hf *hf, const char *path)
{
    char *text = NULL;
    size_t bytes = 0;
    const char *tensor;
    json_t *name;
    ds_status st;

    DS_TRY(ds_fs_read_file(hf->fs, path, 256u << 20, &text, &bytes));
    st = ds_json_parse(path, text, bytes, &hf->index);
    free(text);
    DS_TRY(st);
    json_t *map = json_object_get(hf->index, "weight_map");
    if (!json_is_object(map))
        return ds_fail(DS_ERR_DATA, "%s: no object 'weight_map'", path);
    json_object_foreach(map, tensor, name)
    {
        if (!json_is_string(name) || !is_plain_name(json_string_value(name)))
            return ds_fail(DS_ERR_DATA, "%s: weight_map['%s'] must be the name of a file beside it",
                           path, tensor);
        DS_TRY(open_file(hf, json_string_value(name)));
    }
    return DS_OK;
}

static ds_status open_weights(struct ds_hf *hf)
{
    char path[PATH_BYTES];
    struct ds_fs_stat stat;

    join(path, hf->folder, "model.safetensors.index.json");
    if (ds_fs_stat(hf->fs, path, &stat) == 0)
        return open_indexed(hf, path);
    join(path, hf->folder, "model.safetensors");
    if (ds_fs_stat(hf->fs, path, &stat) == 0)
        return open_file(hf, "model.safetensors");
    join(path, hf->folder, "pytorch_model.bin");
    if (ds_fs_stat(hf->fs, path, &stat) == 0)
        return ds_fail(
            DS_ERR_DATA,
            "%s: only pickled weights (.bin), which can run code and are not read; "
            "convert the folder to safetensors (transformers' save_pretrained writes them)",
            hf->folder);
    return ds_fail(DS_ERR_DATA, "%s: neither model.safetensors nor model.safetensors.index.json",
                   hf->folder);
}

static ds_status open_factors(struct ds_hf *hf)
{
    char path[PATH_BYTES];
    struct ds_fs_stat stat;

    join(path, hf->folder, "adapter_model.safetensors");
    if (ds_fs_stat(hf->fs, path, &stat) == 0)
        return open_file(hf, "adapter_model.safetensors");
    join(path, hf->folder, "adapter_model.bin");
    return ds_fail(DS_ERR_DATA, "%s: no adapter_model.safetensors%s", hf->folder,
                   ds_fs_stat(hf->fs, path, &stat) == 0
                       ? ", only pickled weights (.bin), which can run code and are not read"
                       : "");
}

static ds_status open_with(struct ds_fs *fs, const char *folder, const char *prefix,
                           const char *decides, ds_status (*open_all)(struct ds_hf *hf),
                           struct ds_hf **out)
{
    struct ds_hf *hf = calloc(1, sizeof *hf);
    ds_status st;

    if (!hf)
        return ds_fail(DS_ERR_NO_MEMORY, "a model folder");
    hf->fs = fs;
    hf->prefix = prefix;
    hf->decides = decides;
    snprintf(hf->folder, sizeof hf->folder, "%s", folder);
    hf->files = calloc(FILES_MAX, sizeof *hf->files);
    st = hf->files ? open_all(hf) : ds_fail(DS_ERR_NO_MEMORY, "a model folder's files");
    if (st != DS_OK) {
        ds_hf_close(hf);
        return st;
    }
    *out = hf;
    return DS_OK;
}

ds_status ds_hf_open(struct ds_fs *fs, const char *folder, struct ds_hf **out)
{
    return open_with(fs, folder, "", "config.json", open_weights, out);
}

ds_status ds_hf_open_adapter(struct ds_fs *fs, const char *folder, struct ds_hf **out)
{
    return open_with(fs, folder, HF_ADAPTER_PREFIX, "adapter_config.json", open_factors, out);
}

void ds_hf_close(struct ds_hf *hf)
{
    if (!hf)
        return;
    for (size_t i = 0; hf->files && i < hf->file_count; i++)
        ds_safetensors_close(hf->files[i]);
    free(hf->files);
    json_decref(hf->index);
    free(hf);
}

const char *hf_metadata(const struct ds_hf *hf, const char *key)
{
    return ds_safetensors_metadata(hf->files[0], key);
}

const char *hf_first_path(const struct ds_hf *hf)
{
    return ds_safetensors_path(hf->files[0]);
}

/* ---- checking */

static const char *index_says(const struct ds_hf *hf, const char *name)
{
    return json_string_value(json_object_get(json_object_get(hf->index, "weight_map"), name));
}

/* PEFT keeps a matrix that has factors in a base_layer, and its bias with it. */
#define BASE_LAYER "base_layer."

void hf_plain_name(const char *name, char to[HF_NAME_BYTES])
{
    const char *inside = strstr(name, "." BASE_LAYER);

    if (inside)
        snprintf(to, HF_NAME_BYTES, "%.*s%s", (int)(inside + 1 - name), name,
                 inside + sizeof BASE_LAYER);
    else
        snprintf(to, HF_NAME_BYTES, "%s", name);
}

void hf_wrapped_name(const char *name, char to[HF_NAME_BYTES])
{
    const char *last = strrchr(name, '.') + 1;

    snprintf(to, HF_NAME_BYTES, "%.*s%s%s", (int)(last - name), name, BASE_LAYER, last);
}

/* The index names the file; a tensor that lies elsewhere is a mistake worth a word. */
static const struct ds_safetensors_entry *find_named(const struct ds_hf *hf, const char *param,
                                                     const struct ds_safetensors **file)
{
    char name[HF_NAME_BYTES];

    snprintf(name, sizeof name, "%s%s", hf->prefix, param);
    const char *expected = index_says(hf, name);

    for (size_t i = 0; i < hf->file_count; i++) {
        const char *base = strrchr(ds_safetensors_path(hf->files[i]), '/');
        if (hf->index && (!expected || !base || strcmp(base + 1, expected) != 0))
            continue;
        const struct ds_safetensors_entry *entry = ds_safetensors_find(hf->files[i], name);
        if (entry) {
            *file = hf->files[i];
            return entry;
        }
    }
    return NULL;
}

const struct ds_safetensors_entry *hf_find(const struct ds_hf *hf, const char *param,
                                           const struct ds_safetensors **file)
{
    const struct ds_safetensors_entry *entry = find_named(hf, param, file);
    char wrapped[HF_NAME_BYTES];

    if (entry || hf->prefix[0] == '\0')
        return entry;
    hf_wrapped_name(param, wrapped);
    return find_named(hf, wrapped, file);
}

static void write_shape(char *to, size_t bytes, const uint64_t *shape, uint32_t dim_count)
{
    size_t used = (size_t)snprintf(to, bytes, "[");

    for (uint32_t i = 0; i < dim_count && used < bytes; i++)
        used += (size_t)snprintf(to + used, bytes - used, "%s%llu", i ? ", " : "",
                                 (unsigned long long)shape[i]);
    if (used < bytes)
        snprintf(to + used, bytes - used, "]");
}

/* Nobody has it, or it is not where the index says. */
static ds_status refuse_absent(const struct ds_hf *hf, const char *name)
{
    for (size_t i = 0; i < hf->file_count; i++)
        if (ds_safetensors_find(hf->files[i], name)) /* with an index, then */
            return ds_fail(DS_ERR_DATA,
                           "%s: tensor '%s' is here, but model.safetensors.index.json %s%s",
                           ds_safetensors_path(hf->files[i]), name,
                           index_says(hf, name) ? "says that it is in " : "does not name it",
                           index_says(hf, name) ? index_says(hf, name) : "");
    return ds_fail(DS_ERR_DATA, "%s: %s asks for tensor '%s%s', which no weight file has%s",
                   hf->folder, hf->decides, hf->prefix, name,
                   hf->prefix[0] ? ": it is not whole, or of another model" : "");
}

/* *found: it is quantised, and of the right shape. */
static ds_status check_quantised(const struct ds_hf *hf, const struct ds_param *param, int *found)
{
    struct ds_quant_matrix *matrix;
    struct ds_quant_form form;

    DS_TRY(hf_quant_open(hf, param->name, &matrix));
    *found = matrix != NULL;
    if (!matrix)
        return DS_OK;
    form = ds_quant_form_of(matrix);
    ds_quant_close(matrix);
    if (param->dim_count == 2 && form.rows == param->shape[0] && form.columns == param->shape[1])
        return DS_OK;
    return ds_fail(DS_ERR_DATA, "%s: tensor '%s' is %s of [%llu, %llu], which %s does not make it",
                   hf->folder, param->name, ds_quant_name(form.kind), (unsigned long long)form.rows,
                   (unsigned long long)form.columns, hf->decides);
}

static ds_status check_param(const struct ds_hf *hf, const struct ds_param *param)
{
    const struct ds_safetensors *file = NULL;
    const struct ds_safetensors_entry *entry = hf_find(hf, param->name, &file);
    char want[128], have[256];
    int is_quantised;
    float unused;

    if (!entry)
        return refuse_absent(hf, param->name);
    DS_TRY(check_quantised(hf, param, &is_quantised));
    if (is_quantised)
        return DS_OK;
    if (entry->dim_count != param->dim_count ||
        memcmp(entry->shape, param->shape, param->dim_count * sizeof *param->shape) != 0) {
        write_shape(want, sizeof want, param->shape, param->dim_count);
        write_shape(have, sizeof have, entry->shape, entry->dim_count);
        return ds_fail(DS_ERR_DATA, "%s: tensor '%s' is %s, but %s makes it %s%s",
                       ds_safetensors_path(file), entry->name, have, hf->decides, want,
                       hf->prefix[0] ? " beside this model: it is of another one" : "");
    }
    if (!ds_dtype_to_f32(&unused, &unused, entry->dtype, 0))
        return ds_fail(DS_ERR_DATA, "%s: tensor '%s' is %s; weights must be floats",
                       ds_safetensors_path(file), entry->name, ds_dtype_name(entry->dtype));
    return DS_OK;
}

/* Buffers that old versions stored, and a head that is tied anyway (hf_tied.c). */
static int may_be_left_alone(const struct ds_model *model, const char *name)
{
    const char *end = strstr(name, "rotary_emb.inv_freq");

    return (end && strlen(end) == strlen("rotary_emb.inv_freq")) ||
           (model->config.tie_word_embeddings && strcmp(name, "lm_head.weight") == 0);
}

/* A transformer layer the config does not count is a contradiction, not an extra. */
static ds_status check_extra(const struct ds_hf *hf, const struct ds_model *model)
{
    size_t extra_count = 0;
    const char *example = NULL;

    for (size_t f = 0; f < hf->file_count; f++)
        for (size_t i = 0; i < ds_safetensors_count(hf->files[f]); i++) {
            const char *name = ds_safetensors_at(hf->files[f], i)->name;
            if (ds_model_find(model, name) || may_be_left_alone(model, name) ||
                hf_quant_is_beside(model, name))
                continue;
            if (strncmp(name, "model.layers.", 13) == 0)
                return ds_fail(
                    DS_ERR_DATA,
                    "%s: tensor '%s' is not part of the model that config.json describes "
                    "(%llu layers of family %s)",
                    hf->folder, name, (unsigned long long)model->config.num_hidden_layers,
                    ds_family_name(model->config.family));
            example = name;
            extra_count++;
        }
    if (extra_count > 0 && ds_log.is_leader) /* every rank finds the same */
        ds_warn("%s: %zu tensors are not part of the model and are ignored, '%s' among them",
                hf->folder, extra_count, example);
    return DS_OK;
}

ds_status ds_hf_check(const struct ds_hf *hf, const struct ds_model *model)
{
    for (uint32_t i = 0; i < model->param_count; i++)
        if (!model->params[i].is_factor)
            DS_TRY(check_param(hf, &model->params[i]));
    return check_extra(hf, model);
}

/* ---- adapters */

int ds_hf_is_adapter(struct ds_fs *fs, const char *folder)
{
    return is_there(fs, folder, "adapter_config.json");
}

static ds_status read_adapter_text(struct ds_fs *fs, const char *folder, char path[PATH_BYTES],
                                   char **text, size_t *bytes)
{
    DS_TRY(check_no_run(fs, folder, "adapter_config.json", "adapter"));
    join(path, folder, "adapter_config.json");
    if (!ds_hf_is_adapter(fs, folder))
        return ds_fail(DS_ERR_DATA, "%s: no adapter_config.json: it is no adapter's folder",
                       folder);
    return ds_fs_read_file(fs, path, 16u << 20, text, bytes);
}

/* Empty: it names none. `path`: of its settings. */
static ds_status read_base(struct ds_fs *fs, const char *folder, char path[PATH_BYTES], char *to,
                           size_t room)
{
    const char *base = "";
    char *text = NULL;
    json_t *root = NULL;
    size_t bytes = 0;

    DS_TRY(read_adapter_text(fs, folder, path, &text, &bytes));
    ds_status st = ds_json_parse(path, text, bytes, &root);
    free(text);
    DS_TRY(st);
    st = ds_json_text(path, root, "base_model_name_or_path", &base);
    if (st == DS_OK && (size_t)snprintf(to, room, "%s", base) >= room)
        st = ds_fail(DS_ERR_DATA, "%s: the path of its model is too long", path);
    json_decref(root);
    return st;
}

ds_status ds_hf_adapter_base(struct ds_fs *fs, const char *folder, char *to, size_t room)
{
    char path[PATH_BYTES];

    DS_TRY(read_base(fs, folder, path, to, room));
    return to[0] ? DS_OK : ds_fail(DS_ERR_DATA, "%s: names no model that the adapter is for", path);
}

/* "org/NAME" may lie in /models/NAME, or in models--org--NAME/snapshots/... */
ds_status ds_hf_doubt_base(struct ds_fs *fs, const char *folder, const char *model)
{
    char path[PATH_BYTES], base[PATH_BYTES];

    DS_TRY(read_base(fs, folder, path, base, sizeof base));
    for (size_t end = strlen(base); end > 1 && base[end - 1] == '/'; end--)
        base[end - 1] = '\0';
    const char *slash = strrchr(base, '/'), *name = slash ? slash + 1 : base;
    if (!strstr(model, name))
        ds_warn("%s: the adapter was made for %s, and goes on with %s; it fits by its shapes alone "
                "if these are not the same model",
                path, base, model);
    return DS_OK;
}

ds_status ds_hf_read_adapter(struct ds_fs *fs, const char *folder,
                             const struct ds_model_config *config, struct ds_lora *out)
{
    char path[PATH_BYTES];
    char *text = NULL;
    size_t bytes = 0;

    DS_TRY(read_adapter_text(fs, folder, path, &text, &bytes));
    ds_status st = ds_lora_parse(path, text, bytes, config, out);
    free(text);
    return st;
}

/* A tied head may lie beside the table, as PEFT writes it. */
static int is_trained(const struct ds_model *model, const char *name)
{
    char plain[HF_NAME_BYTES];
    const struct ds_param *param;

    hf_plain_name(name, plain);
    if (model->config.tie_word_embeddings && strcmp(plain, "lm_head.weight") == 0)
        snprintf(plain, sizeof plain, "model.embed_tokens.weight");
    param = ds_model_find(model, plain);
    return param && param->is_trainable;
}

/* What is not used here would be lost in what is written in the end. */
static ds_status check_no_more(const struct ds_hf *hf, const struct ds_model *model)
{
    const size_t skipped = strlen(hf->prefix);

    for (size_t i = 0; i < ds_safetensors_count(hf->files[0]); i++) {
        const char *name = ds_safetensors_at(hf->files[0], i)->name;
        if (strncmp(name, hf->prefix, skipped) != 0 || !is_trained(model, name + skipped))
            return ds_fail(DS_ERR_DATA,
                           "%s: tensor '%s' belongs to no matrix of this model that "
                           "adapter_config.json names: the adapter is of another one",
                           ds_safetensors_path(hf->files[0]), name);
    }
    return DS_OK;
}

ds_status ds_hf_check_adapter(const struct ds_hf *hf, const struct ds_model *model)
{
    for (uint32_t i = 0; i < model->param_count; i++)
        if (model->params[i].is_trainable)
            DS_TRY(check_param(hf, &model->params[i]));
    return check_no_more(hf, model);
}
