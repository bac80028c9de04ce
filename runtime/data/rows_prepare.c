/* rows_prepare.c - a source of rows becomes a shard: what is there and made of the same is used again, what was begun is
 * gone on with. */
#include "rows_work.h"
#include "shard_place.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char format_tag[] = "dstrain rows 1", lock_name[] = "/lock";
static const uint64_t wait_ns = 50000000;

struct preparing {
    struct rows_work work;
    /* owns */
    struct corpus corpus;
    struct ds_tokenizer *bytes; /* where the caller has none */
    struct chat chat;
    char path[CORPUS_PATH_BYTES], lock_path[CORPUS_PATH_BYTES];
    int lock; /* of the parts; -1: it is not this one's turn */
};

/* ---- what it is made of */

static uint64_t hash_text(const char *text, uint64_t seed)
{
    return text ? XXH3_64bits_withSeed(text, strlen(text) + 1, seed) : seed;
}

static uint64_t fingerprint(const struct preparing *p)
{
    const struct ds_rows_options *rows = p->work.rows;
    const uint64_t numbers[] = {(uint64_t)rows->kind, (uint64_t)rows->chat,
                                (uint64_t)rows->train_on, rows->skips_malformed != 0,
                                rows->line_bytes_max};
    const char *const texts[] = {rows->texts.start,     rows->texts.system, rows->texts.user,
                                 rows->texts.assistant, rows->texts.tool,   rows->texts.end};
    uint64_t hash = corpus_fingerprint(&p->corpus, p->work.tokenizer, 0);

    hash = hash_text(format_tag, hash);
    hash = XXH3_64bits_withSeed(numbers, sizeof numbers, hash);
    for (size_t i = 0; i < sizeof texts / sizeof *texts && rows->chat == DS_CHAT_CUSTOM; i++)
        hash = hash_text(texts[i], hash);
    return hash;
}

/* ---- what is there */

/* Its counts, where it can be used again. What the reader itself refuses it has logged. */
static int can_reuse(const struct preparing *p, struct rows_counts *counts)
{
    const struct ds_prepare_options *options = p->work.options;
    const struct shard_check check = {options->is_checked, options->progress, options->user};
    char why[SHARD_WHY_BYTES] = "it cannot be read";
    struct ds_safetensors *file = NULL;
    struct shard_file shard = {0};
    struct ds_fs_stat stat;

    if (ds_fs_stat(options->fs, p->path, &stat) != 0)
        return 0;
    if (ds_safetensors_open(options->fs, p->path, &file) == DS_OK) {
        const char *made_of = ds_safetensors_metadata(file, "fingerprint");
        const char *skipped = ds_safetensors_metadata(file, "skipped");
        if (!made_of || strcmp(made_of, p->work.fingerprint) != 0 ||
            !rows_counts_parse(ds_safetensors_metadata(file, "counts"), counts))
            snprintf(why, sizeof why, "it was made of something else");
        else if (shard_file_check(file, &check, &shard, why) != DS_OK)
            snprintf(why, sizeof why, "it cannot be mapped");
        else if (!why[0] && !shard.learned)
            snprintf(why, sizeof why, "it does not say what is learned");
        snprintf(counts->skipped_why, sizeof counts->skipped_why, "%s", skipped ? skipped : "");
    }
    ds_safetensors_close(file);
    if (why[0])
        ds_warn("%s: not a sound shard of rows: %s; it is made again", p->path, why);
    return !why[0];
}

/* ---- one launch at a time: others that want the same shard wait for it */

static ds_status make_folder(struct preparing *p)
{
    const int length = snprintf(p->work.folder, sizeof p->work.folder, "%s.parts", p->path);
    int code;

    if ((size_t)length + sizeof lock_name > sizeof p->work.folder)
        return ds_fail(DS_ERR_CONFIG, "%s: the path is too long", p->path);
    snprintf(p->lock_path, sizeof p->lock_path, "%s%s", p->work.folder, lock_name);
    code = ds_fs_mkdirs(p->work.options->fs, p->work.folder, 0750);
    return code < 0 ? shard_place_refuse(p->work.options, code) : DS_OK;
}

/* Whoever has made the shard takes the folder away, perhaps right now. */
static ds_status open_lock(struct preparing *p)
{
    for (int tries = 0; tries < 3; tries++) {
        DS_TRY(make_folder(p));
        p->lock = ds_fs_open(p->work.options->fs, p->lock_path, DS_FS_WRITE | DS_FS_CREATE, 0640);
        if (p->lock != -ENOENT)
            break;
    }
    return p->lock >= 0 ? DS_OK : shard_place_refuse(p->work.options, p->lock);
}

/* Where nobody can tell, parts are whole or absent all the same. */
static void await_turn(const struct preparing *p, const char *source, int *has_waited)
{
    const struct ds_prepare_options *options = p->work.options;
    const struct ds_clock *clock = options->clock ? options->clock : ds_clock_system();

    while (ds_fs_lock(options->fs, p->lock) == -EAGAIN) {
        if (!*has_waited)
            ds_info("%s: another launch prepares it; this one waits", source);
        *has_waited = 1;
        ds_clock_sleep_ns(clock, wait_ns);
        if (options->progress)
            options->progress(options->user, 0, p->corpus.bytes);
    }
}

/* Goes where it is empty: parts stay for the next launch. */
static void end_turn(struct preparing *p)
{
    if (p->lock < 0)
        return;
    (void)ds_fs_unlink(p->work.options->fs, p->lock_path);
    (void)ds_fs_close(p->work.options->fs, p->lock);
    (void)ds_fs_rmdir(p->work.options->fs, p->work.folder);
    p->lock = -1;
}

/* ---- making it */

static ds_status check_learned(const struct preparing *p, const char *source,
                               const struct rows_counts *total)
{
    if (total->rows == 0)
        return ds_fail(DS_ERR_DATA, "%s: there is no row to learn from%s%s", source,
                       total->skipped ? ": " : "", total->skipped ? total->skipped_why : "");
    if (total->ends == 0)
        return ds_fail(
            DS_ERR_DATA,
            "%s: no token that ends an answer is learned, so a model would never stop: %s", source,
            ds_tokenizer_marks(p->work.tokenizer).has_eos
                ? "the chat template has none; set data.chat_end"
                : "the tokenizer names no eos; tokenizer_config.json says it as eos_token");
    return DS_OK;
}

static ds_status make_shard(struct preparing *p, const char *source, struct rows_counts *total)
{
    const char *skipped_file;
    int code;

    DS_TRY(rows_work_init(&p->work));
    DS_TRY(rows_work_run(&p->work));
    *total = rows_work_total(&p->work, &skipped_file);
    DS_TRY(check_learned(p, source, total));
    if (p->work.reused_count > 0)
        ds_info("%s: %u of %zu parts were there", source, p->work.reused_count,
                p->work.chunk_count);
    DS_TRY(rows_work_assemble(&p->work, source, p->path));
    code = ds_fs_remove_tree(p->work.options->fs, p->work.folder);
    if (code < 0)
        ds_warn("%s: these parts are not needed any more, and cannot be removed: %s",
                p->work.folder, strerror(-code));
    return DS_OK;
}

/* Also where they were left out some other day. */
static void say_skipped(const struct preparing *p, const char *source,
                        const struct rows_counts *total)
{
    if (total->skipped > 0 && !p->work.options->is_checked)
        ds_warn("%s: %llu of %llu lines are left out (data.malformed = skip); the first is line "
                "%llu%s: %s",
                source, (unsigned long long)total->skipped, (unsigned long long)total->lines,
                (unsigned long long)total->skipped_line,
                p->corpus.count > 1 ? " of a file in it" : "", total->skipped_why);
}

static ds_status open_parts(struct preparing *p, const char *source)
{
    struct rows_work *work = &p->work;

    DS_TRY(corpus_list(work->options->fs, source, &p->corpus));
    DS_TRY(corpus_keep_ending(source, ".jsonl", &p->corpus));
    if (!work->tokenizer)
        DS_TRY(ds_tokenizer_open(work->options->fs, "bytes", &p->bytes));
    if (!work->tokenizer)
        work->tokenizer = p->bytes;
    DS_TRY(chat_init(&p->chat, work->rows, work->tokenizer));
    work->chat = &p->chat;
    work->corpus = &p->corpus;
    work->is_wide = ds_tokenizer_id_end(work->tokenizer) > UINT16_MAX + 1u;
    shard_file_sum_text(fingerprint(p), work->fingerprint);
    return shard_place_path(work->options, source, work->fingerprint, p->path);
}

/* Unless it is there, or another launch brings it meanwhile. */
static ds_status find_or_make(struct preparing *p, const char *source, struct rows_counts *total,
                              int *is_reused)
{
    struct ds_fs_stat stat;
    const int was_there = ds_fs_stat(p->work.options->fs, p->path, &stat) == 0;
    int has_waited = 0;

    *is_reused = can_reuse(p, total);
    if (*is_reused)
        return DS_OK;
    DS_TRY(open_lock(p));
    await_turn(p, source, &has_waited);
    *is_reused = (has_waited || !was_there) && can_reuse(p, total);
    return *is_reused ? DS_OK : make_shard(p, source, total);
}

static ds_status prepare(struct preparing *p, const char *source, char **shard,
                         struct ds_prepare_report *report)
{
    struct rows_counts total = {0};
    int is_reused = 0;

    DS_TRY(open_parts(p, source));
    *shard = strdup(p->path);
    if (!*shard)
        return ds_fail(DS_ERR_NO_MEMORY, "a path");
    DS_TRY(find_or_make(p, source, &total, &is_reused));
    say_skipped(p, source, &total);
    report->bytes += p->corpus.bytes;
    report->tokens += total.tokens;
    report->learned += total.learned;
    report->documents += total.rows;
    report->skipped += total.skipped;
    report->files_made += !is_reused;
    report->files_reused += is_reused;
    return DS_OK;
}

ds_status ds_prepare_rows(const struct ds_prepare_options *options,
                          const struct ds_rows_options *rows, const char *source, char **shard,
                          struct ds_prepare_report *report)
{
    struct preparing p = {
        .work = {.options = options, .rows = rows, .tokenizer = options->tokenizer}, .lock = -1};
    char *path = NULL;
    ds_status st = prepare(&p, source, &path, report);

    end_turn(&p);
    rows_work_fini(&p.work);
    chat_fini(&p.chat);
    ds_tokenizer_close(p.bytes);
    corpus_fini(&p.corpus);
    if (st == DS_OK)
        *shard = path;
    else
        free(path);
    return st;
}

/* ---- looking */

static ds_status show_row(const struct shard_file *shard, uint64_t number, uint32_t **ids,
                          ds_row_sink *sink, void *user)
{
    const uint64_t begin = shard->documents[number];
    const size_t count = (size_t)(shard->documents[number + 1] - begin);
    uint32_t *more = realloc(*ids, (count + 1) * sizeof *more);

    if (!more)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu tokens", count);
    *ids = more;
    for (size_t i = 0; i < count; i++)
        more[i] = shard_file_token(shard, begin + i);
    sink(user, number, more, shard->learned + begin, count);
    return DS_OK;
}

ds_status ds_rows_show(struct ds_fs *fs, const char *path, uint64_t count, ds_row_sink *sink,
                       void *user)
{
    const struct shard_check check = {.skips_sum = 1};
    char why[SHARD_WHY_BYTES] = "";
    struct ds_safetensors *file;
    struct shard_file shard = {0};
    uint32_t *ids = NULL;
    ds_status st;

    DS_TRY(ds_safetensors_open(fs, path, &file));
    st = shard_file_check(file, &check, &shard, why);
    if (st == DS_OK && (why[0] || !shard.learned))
        st = ds_fail(DS_ERR_CORRUPT, "%s: not a sound shard of rows: %s", path, why);
    for (uint64_t i = 0; i < count && i < shard.document_count && st == DS_OK; i++)
        st = show_row(&shard, i, &ids, sink, user);
    free(ids);
    ds_safetensors_close(file);
    return st;
}
