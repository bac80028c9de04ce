/* prepare.c - `dstrain prepare config.ini`: text into token shards, ahead of a run. A run does the same for
 * what is missing; what is there and unchanged is used again. */
#include "command.h"
#include "console.h"
#include "trainer/sources.h"
#include "trainer/text_tokenizer.h"

#include <stdio.h>

static void show_progress(void *user, uint64_t done, uint64_t total)
{
    ds_console_progress(user, "preparing", done, total);
}

static ds_status prepare_set(struct ds_command *command, struct ds_console *console,
                             const struct ds_tokenizer *tokenizer, const char *key)
{
    const struct ds_config *config = command->config;
    char cache[DS_TEXT_MAX + 16];
    const struct ds_prepare_options options = {.fs = command->fs,
                                               .clock = command->clock,
                                               .tokenizer = tokenizer,
                                               .replaces_invalid = config->data.invalid_utf8,
                                               .cache = cache,
                                               .progress = show_progress,
                                               .user = console};
    struct ds_prepare_report report = {0};
    struct ds_sources sources;
    ds_status st;

    ds_sources_cache(config, cache, sizeof cache);
    st = ds_sources_open(config, &options, key, &report, &sources);
    ds_console_clear(console);
    DS_TRY(st);
    ds_info("[data] %s: %llu document%s, %llu byte%s, %llu token%s; %u shard%s made, %u used "
            "again, in %s",
            key, (unsigned long long)report.documents, ds_console_plural(report.documents),
            (unsigned long long)report.bytes, ds_console_plural(report.bytes),
            (unsigned long long)report.tokens, ds_console_plural(report.tokens), report.files_made,
            ds_console_plural(report.files_made), report.files_reused, cache);
    ds_sources_close(&sources);
    return DS_OK;
}

ds_status ds_prepare_main(struct ds_command *command)
{
    const struct ds_config *config = command->config;
    struct ds_tokenizer *tokenizer;
    struct ds_console console;
    ds_status st;

    if (config->data.format != DS_DATA_TEXT) {
        ds_info("data.format is not text: nothing to prepare");
        return DS_OK;
    }
    DS_TRY(ds_text_tokenizer_open(config, command->fs, &tokenizer));
    ds_console_init(&console, 0, 1, command->clock);
    st = prepare_set(command, &console, tokenizer, "train");
    if (st == DS_OK && config->data.eval[0])
        st = prepare_set(command, &console, tokenizer, "eval");
    ds_tokenizer_close(tokenizer);
    return st;
}
