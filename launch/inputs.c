/* inputs.c - see inputs.h. */
#include "inputs.h"
#include "run_dir.h"

#include "dstrain/data.h"
#include "dstrain/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *section, *key;
} keys[DS_INPUT_COUNT] = {{"data", "train"},
                          {"data", "eval"},
                          {"data", "tokenizer"},
                          {"model", "path"},
                          {"lora", "adapter"}};

#define TEXT_BYTES_MAX (1u << 20)

static const struct ds_field *field_of(int input)
{
    return ds_field_find(keys[input].section, keys[input].key);
}

int ds_inputs_find(const struct ds_field *field)
{
    for (int i = 0; i < DS_INPUT_COUNT; i++)
        if (strcmp(field->section, keys[i].section) == 0 && strcmp(field->key, keys[i].key) == 0)
            return i;
    return -1;
}

/* ---- what they hold */

enum { TRAIN, EVAL, TOKENIZER }; /* of the keys */

static int is_list(int input)
{
    return input == TRAIN || input == EVAL;
}

/* "", and the tokenizer that needs no file */
static int is_word(int input, const char *name)
{
    return name[0] == '\0' || (input == TOKENIZER && strcmp(name, "bytes") == 0);
}

static void look_at_parts(struct ds_fs *fs, const struct ds_data_parts *parts, struct ds_input *out)
{
    struct {
        struct ds_digest before, content;
        double weight;
    } all = {.weight = 0};

    out->is_known = 0;
    for (size_t i = 0; i < parts->count; i++) {
        if (ds_data_content(fs, parts->parts[i].path, &all.content) < 0)
            return;
        all.weight = parts->parts[i].weight;
        all.before = ds_digest_of(&all, sizeof all);
    }
    out->content = all.before;
    out->is_known = 1;
}

static ds_status look_at(struct ds_fs *fs, const char *place, int input, struct ds_input *out)
{
    struct ds_data_part one = {out->name, 1};
    struct ds_data_parts parts;

    out->is_known = is_word(input, out->name);
    out->content = ds_digest_of(out->name, strlen(out->name));
    if (out->is_known)
        return DS_OK;
    if (!is_list(input)) {
        look_at_parts(fs, &(struct ds_data_parts){&one, 1}, out);
        return DS_OK;
    }
    DS_TRY(ds_data_parts_parse(place, out->name, &parts));
    look_at_parts(fs, &parts, out);
    ds_data_parts_fini(&parts);
    return DS_OK;
}

ds_status ds_inputs_look(struct ds_fs *fs, const struct ds_config *config, struct ds_inputs *out)
{
    char place[DS_KEY_BYTES];

    for (int i = 0; i < DS_INPUT_COUNT; i++) {
        struct ds_input *input = &out->at[i];

        ds_field_print(field_of(i), config, input->name, sizeof input->name);
        strcpy(input->first_name, input->name);
        DS_TRY(look_at(fs, ds_config_key(config, keys[i].section, keys[i].key, place), i, input));
    }
    return DS_OK;
}

int ds_input_is_other(const struct ds_input *was, const struct ds_input *now)
{
    return was->is_known && now->is_known && !ds_digest_equal(&was->content, &now->content);
}

void ds_inputs_name(const struct ds_inputs *inputs, const struct ds_config *config,
                    struct ds_config *out)
{
    *out = *config;
    for (int i = 0; i < DS_INPUT_COUNT; i++)
        strcpy((char *)out + field_of(i)->offset, inputs->at[i].first_name);
}

/* ---- what is kept of them: {"data.train": {"content": hex, "name": text, "first_name": text}, ...} */

static void path_of(const char *dir, char to[DS_RUN_PATH_BYTES])
{
    snprintf(to, DS_RUN_PATH_BYTES, "%s/inputs.json", dir);
}

static void key_of(int input, char to[64])
{
    snprintf(to, 64, "%s.%s", keys[input].section, keys[input].key);
}

static ds_status read_text(const char *path, const json_t *object, const char *key,
                           char to[DS_TEXT_MAX])
{
    const char *text = "";

    DS_TRY(ds_json_text(path, object, key, &text));
    if (strlen(text) >= DS_TEXT_MAX)
        return ds_fail(DS_ERR_DATA, "%s: '%s' is longer than a key can be", path, key);
    strcpy(to, text);
    return DS_OK;
}

static ds_status read_input(const char *path, const json_t *object, struct ds_input *out)
{
    char hex[DS_TEXT_MAX];

    DS_TRY(read_text(path, object, "content", hex));
    DS_TRY(read_text(path, object, "name", out->name));
    DS_TRY(read_text(path, object, "first_name", out->first_name));
    out->is_known = ds_digest_parse(hex, &out->content);
    return out->is_known ? DS_OK
                         : ds_fail(DS_ERR_DATA, "%s: 'content' must be 32 digits of hex", path);
}

static ds_status read_inputs(const char *path, const char *text, size_t bytes,
                             struct ds_inputs *out)
{
    json_t *root = NULL;
    ds_status st = ds_json_parse(path, text, bytes, &root);
    char key[64];

    for (int i = 0; i < DS_INPUT_COUNT && st == DS_OK; i++) {
        key_of(i, key);
        const json_t *object = json_object_get(root, key);
        st = object ? read_input(path, object, &out->at[i]) : DS_OK;
    }
    json_decref(root);
    return st;
}

ds_status ds_inputs_read(struct ds_fs *fs, const char *dir, struct ds_inputs *out)
{
    char path[DS_RUN_PATH_BYTES], *text = NULL;
    struct ds_fs_stat stat;
    size_t bytes = 0;

    memset(out, 0, sizeof *out);
    path_of(dir, path);
    if (ds_fs_stat(fs, path, &stat) == -ENOENT)
        return DS_OK;
    ds_status st = ds_fs_read_file(fs, path, TEXT_BYTES_MAX, &text, &bytes);
    if (st == DS_OK)
        st = read_inputs(path, text, bytes, out);
    free(text);
    if (st != DS_ERR_DATA)
        return st;
    ds_warn("%s: what the run has read is not known: the names of its files count", path);
    memset(out, 0, sizeof *out);
    return DS_OK;
}

static ds_status print_inputs(const struct ds_inputs *inputs, char **text)
{
    json_t *root = json_object();
    char key[64], hex[DS_DIGEST_TEXT_BYTES];

    for (int i = 0; i < DS_INPUT_COUNT; i++) {
        const struct ds_input *input = &inputs->at[i];

        if (!input->is_known)
            continue;
        key_of(i, key);
        ds_digest_text(&input->content, hex);
        json_object_set_new(root, key,
                            json_pack("{s:s, s:s, s:s}", "content", hex, "name", input->name,
                                      "first_name", input->first_name));
    }
    *text = root ? json_dumps(root, JSON_INDENT(1) | JSON_SORT_KEYS) : NULL;
    json_decref(root);
    return *text ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "what a run reads");
}

ds_status ds_inputs_write(struct ds_fs *fs, const char *dir, const struct ds_inputs *inputs)
{
    char path[DS_RUN_PATH_BYTES], *text = NULL;

    path_of(dir, path);
    DS_TRY(print_inputs(inputs, &text));
    const ds_status st = ds_fs_write_file(fs, path, text, strlen(text));
    free(text);
    return st;
}

void ds_inputs_remove(struct ds_fs *fs, const char *dir)
{
    char path[DS_RUN_PATH_BYTES];

    path_of(dir, path);
    (void)ds_fs_unlink(fs, path);
}
