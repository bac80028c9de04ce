/* prepare.c - `dstrain prepare config.ini`: text into token shards, ahead of a run. A run does the same for
 * what is missing; what is there and unchanged is used again. */
#include "command.h"
#include "console.h"
#include "trainer/sources.h"

#include <stdio.h>

static void show_progress(void *user, uint64_t done, uint64_t total)
{
    ds_console_progress(user, "preparing", done, total);
}

static ds_status prepare_set(struct ds_command *command, struct ds_console *console,
                             const char *key)
{
    const struct ds_config *config = command->config;
    char cache[DS_TEXT_MAX + 16];
    const struct ds_prepare_options options = {.fs = command->fs,
                                               .clock = command->clock,
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
    struct ds_console console;

    if (config->data.format != DS_DATA_TEXT) {
        ds_info("data.format is not text: nothing to prepare");
        return DS_OK;
    }
    ds_console_init(&console, 0, 1, command->clock);
    DS_TRY(prepare_set(command, &console, "train"));
    return config->data.eval[0] ? prepare_set(command, &console, "eval") : DS_OK;
}
