/* prepare.c - `dstrain prepare config.ini`: text and rows into token shards, ahead of a run. A run does the same for
 * what is missing; what is there and unchanged is used again. Rows that are too long for a run are spoken of. `--show N` prints the first rows with what is learned of
 * them. With `--train-tokenizer N` the tokenizer that
 * data.tokenizer names is learned from what data.train says first, unless it is there. */
#include "command.h"
#include "console.h"
#include "prepare_show.h"
#include "trainer/sources.h"
#include "trainer/text_tokenizer.h"

#include "dstrain/learner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct preparing {
    struct ds_command *command;
    const struct ds_config *config;
    struct ds_console console;
    uint32_t vocab_size;    /* of a tokenizer to learn; 0: none */
    uint32_t show_count;    /* of rows to show */
    int tokenizer_is_there; /* though one was to be learned */
};

static ds_status load(struct ds_command *command, struct ds_config *config)
{
    const struct ds_config_source source = {
        .fs = command->fs,
        .path = command->argv[0],
        .overrides = (const char *const *)command->argv + 1,
        .override_count = (size_t)command->argc - 1,
        .use = DS_CONFIG_PREPARE,
    };

    return ds_config_load(command->world, &source, config);
}

/* ---- a tokenizer */

static void show_learning(void *user, uint64_t done, uint64_t total)
{
    ds_console_progress(user, "learning a tokenizer", done, total);
}

static ds_status learn_from(struct preparing *p, const struct ds_data_parts *parts,
                            const char *folder)
{
    const char **sources = malloc((parts->count + 1) * sizeof *sources);
    uint32_t made = 0;
    ds_status st;

    if (!sources)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu sources", parts->count);
    for (size_t i = 0; i < parts->count; i++)
        sources[i] = parts->parts[i].path;
    const struct ds_rows_options rows = {.kind = (enum ds_row_kind)p->config->data.rows,
                                         .skips_malformed = p->config->data.malformed,
                                         .line_bytes_max = p->config->data.line_limit};
    const struct ds_learn_options options = {.fs = p->command->fs,
                                             .sources = sources,
                                             .source_count = parts->count,
                                             .vocab_size = p->vocab_size,
                                             .replaces_invalid = p->config->data.invalid_utf8,
                                             .rows = p->config->data.format == DS_DATA_JSONL ? &rows
                                                                                             : NULL,
                                             .progress = show_learning,
                                             .user = &p->console};
    st = ds_learn_tokenizer(&options, folder, &made);
    ds_console_clear(&p->console);
    free(sources);
    DS_TRY(st);
    ds_info("%s: a tokenizer of %u tokens, learned from [data] train%s", folder, made,
            made < p->vocab_size ? "; no other pair is there twice" : "");
    return DS_OK;
}

/* What is there is never written over: models may know it. */
static ds_status learn(struct preparing *p)
{
    const struct ds_config *config = p->config;
    const char *folder = config->data.tokenizer;
    char file[DS_TEXT_MAX + 32], key[DS_KEY_BYTES];
    struct ds_data_parts parts;
    struct ds_fs_stat stat;
    ds_status st;

    if (folder[0] == '\0' || ds_config_has_byte_text(config))
        return ds_config_refuse(config, "data", "tokenizer", "%s",
                                "must name the folder that --train-tokenizer writes to");
    snprintf(file, sizeof file, "%s/tokenizer.json", folder);
    if (ds_fs_stat(p->command->fs, file, &stat) == 0) {
        p->tokenizer_is_there = 1;
        return DS_OK;
    }
    DS_TRY(ds_data_parts_parse(ds_config_key(config, "data", "train", key), config->data.train,
                               &parts));
    st = learn_from(p, &parts, folder);
    ds_data_parts_fini(&parts);
    return st;
}

static void say_kept(const struct preparing *p, const struct ds_tokenizer *tokenizer)
{
    const uint32_t end = tokenizer ? ds_tokenizer_id_end(tokenizer) : 0;
    char with[48] = "";
    uint32_t count = 0;

    for (uint32_t id = 0; id < end; id++)
        count += ds_tokenizer_token(tokenizer, id) != NULL;
    if (tokenizer)
        snprintf(with, sizeof with, " with %u tokens", count);
    ds_info("%s/tokenizer.json: is there%s, and used as it is; remove it to have "
            "--train-tokenizer %u learn a new one",
            p->config->data.tokenizer, with, p->vocab_size);
}

/* ---- shards */

static void show_progress(void *user, uint64_t done, uint64_t total)
{
    ds_console_progress(user, "preparing", done, total);
}

static void say_prepared(const struct ds_config *config, const char *key,
                         const struct ds_prepare_report *r, const char *cache)
{
    const int has_rows = config->data.format == DS_DATA_JSONL;
    char learned[64] = "";

    if (has_rows)
        snprintf(learned, sizeof learned, ", %llu of them learned", (unsigned long long)r->learned);
    ds_info(
        "[data] %s: %llu %s%s, %llu byte%s, %llu token%s%s; %u shard%s made, %u used again, in %s",
        key, (unsigned long long)r->documents, has_rows ? "row" : "document",
        ds_console_plural(r->documents), (unsigned long long)r->bytes, ds_console_plural(r->bytes),
        (unsigned long long)r->tokens, ds_console_plural(r->tokens), learned, r->files_made,
        ds_console_plural(r->files_made), r->files_reused, cache);
}

/* Of rows, whose shards do not depend on it: what a run of this train.seq_length will make of those that are longer. It
 * says what is left out, cut or refused. */
static ds_status check_lengths(const struct preparing *p, const struct ds_tokenizer *tokenizer,
                               const struct ds_sources *sources)
{
    const struct ds_config *config = p->config;
    char place[DS_PLACE_BYTES];
    struct ds_dataset *rows = NULL;
    const struct ds_dataset_options options = {
        .fs = p->command->fs,
        .format = DS_DATA_JSONL,
        .paths = (const char *const *)sources->paths,
        .path_count = sources->path_count,
        .seq_length = config->train.seq_length,
        .seq_place = ds_config_place(config, "train", "seq_length", place),
        .vocab_size = tokenizer ? ds_tokenizer_id_end(tokenizer) : DS_BYTE_VOCAB,
        .packs = config->data.packing,
        .overlong = (enum ds_overlong)config->data.overlong,
    };

    if (config->data.format != DS_DATA_JSONL || config->train.seq_length == 0)
        return DS_OK;
    DS_TRY(ds_dataset_open(&options, &rows));
    ds_dataset_close(rows);
    return DS_OK;
}

static ds_status prepare_set(struct preparing *p, const struct ds_tokenizer *tokenizer,
                             const char *key)
{
    const struct ds_config *config = p->config;
    char cache[DS_TEXT_MAX + 16];
    const struct ds_prepare_options options = {.fs = p->command->fs,
                                               .clock = p->command->clock,
                                               .tokenizer = tokenizer,
                                               .replaces_invalid = config->data.invalid_utf8,
                                               .cache = cache,
                                               .thread_count = (uint32_t)p->command->thread_count,
                                               .progress = show_progress,
                                               .user = &p->console};
    struct ds_prepare_report report = {0};
    struct ds_sources sources;
    ds_status st;

    ds_sources_cache(config, cache, sizeof cache);
    st = ds_sources_open(config, &options, key, &report, &sources);
    ds_console_clear(&p->console);
    DS_TRY(st);
    say_prepared(config, key, &report, cache);
    for (size_t i = 0; i < sources.path_count && p->show_count && st == DS_OK; i++)
        st = ds_prepare_show(p->command->fs, tokenizer, sources.paths[i],
                             sources.parts.parts[i].path, p->show_count);
    if (st == DS_OK)
        st = check_lengths(p, tokenizer, &sources);
    ds_sources_close(&sources);
    return st;
}

/* A folder without a tokenizer is one of bytes; one that is not there is none. */
static ds_status find_model(const struct preparing *p)
{
    const struct ds_config *config = p->config;
    struct ds_fs_stat stat;
    const int code = config->model.path[0] && !config->data.tokenizer[0]
                         ? ds_fs_stat(p->command->fs, config->model.path, &stat)
                         : 0;

    return code < 0 ? ds_config_refuse(config, "model", "path", "= %s: %s", config->model.path,
                                       strerror(-code))
                    : DS_OK;
}

static ds_status prepare(struct preparing *p)
{
    const struct ds_config *config = p->config;
    struct ds_text_tokenizer found;
    struct ds_tokenizer *tokenizer;
    ds_status st;

    if (p->show_count && config->data.format != DS_DATA_JSONL)
        return ds_config_refuse(config, "data", "format", "%s",
                                "must be jsonl for --show: it shows what is learned of rows");
    ds_console_init(&p->console, 0, 1, p->command->clock);
    if (p->vocab_size)
        DS_TRY(learn(p));
    DS_TRY(find_model(p));
    DS_TRY(ds_text_tokenizer_find(config, p->command->fs, &found));
    ds_text_tokenizer_warn(config, &found);
    DS_TRY(ds_text_tokenizer_open(config, p->command->fs, &tokenizer));
    if (p->tokenizer_is_there)
        say_kept(p, tokenizer);
    st = prepare_set(p, tokenizer, "train");
    if (st == DS_OK && config->data.eval[0])
        st = prepare_set(p, tokenizer, "eval");
    ds_tokenizer_close(tokenizer);
    return st;
}

ds_status ds_prepare_main(struct ds_command *command)
{
    struct ds_config *config = malloc(sizeof *config);
    struct preparing p = {.command = command,
                          .config = config,
                          .vocab_size = ds_command_number(command, "--train-tokenizer"),
                          .show_count = ds_command_number(command, "--show")};
    ds_status st = config ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "a configuration");

    if (st == DS_OK)
        st = load(command, config);
    if (st == DS_OK)
        st = prepare(&p);
    free(config);
    return st;
}
