/* command.c - the table of subcommands. */
#include "command.h"

#include "dstrain/learner.h"

#include <stdio.h>
#include <string.h>

/* clang-format off */
const struct ds_command_row ds_commands[] = {
    {"", "config.ini [section.key=value ...]", "train, under mpirun on as many ranks as it starts",
     ds_train_main, DS_COMMAND_RANKS | DS_COMMAND_FILE | DS_COMMAND_CONFIG, DS_CONFIG_TRAIN, {{0}}},
    {"check", "config.ini [section.key=value ...]", "parse and validate; print the resolved configuration",
     ds_check_main, DS_COMMAND_RANKS | DS_COMMAND_FILE | DS_COMMAND_CONFIG | DS_COMMAND_ANY_RANKS, DS_CONFIG_TRAIN, {{0}}},
    {"plan", "config.ini --ranks N [section.key=value ...]", "memory of every rank by kind, and what would change it",
     ds_plan_main, DS_COMMAND_FILE, DS_CONFIG_TRAIN, {{"--ranks", 1, 1000000}}},
    {"prepare", "config.ini [--show N] [--train-tokenizer N] [section.key=value ...]", "text and JSONL into token shards, ahead of a run; the first N rows with what of them is learned, or a tokenizer of N tokens learned from text, if wanted",
     ds_prepare_main, DS_COMMAND_FILE, DS_CONFIG_PREPARE,
     {{"--show", 1, 1000000}, {"--train-tokenizer", DS_LEARNER_VOCAB_MIN, DS_LEARNER_VOCAB_MAX}}},
    {"eval", "config.ini [section.key=value ...]", "loss and perplexity on the evaluation data",
     ds_eval_main, DS_COMMAND_RANKS | DS_COMMAND_FILE | DS_COMMAND_CONFIG | DS_COMMAND_QUIET, DS_CONFIG_EVAL, {{0}}},
    {"generate", "MODEL --prompt TEXT [--tokens N] [--temperature T] [--top-k K] [--seed S] [--base FOLDER]",
     "a few tokens, to see what was learned", ds_generate_main, DS_COMMAND_QUIET, 0, {{0}}},
    {"export", "CHECKPOINT OUT [--step N] [--dtype fp32|bf16|fp16] [--quant nf4|int8] [--tokenizer FOLDER] [--merge [--base FOLDER]]",
     "a checkpoint as a Hugging Face folder: the newest of a run that verifies, of a step, or one (its manifest); with --merge the adapter of one, or of a PEFT folder, in its model; with --quant in the form of bitsandbytes, of a model's folder, too",
     ds_export_main, DS_COMMAND_QUIET, 0, {{0}}},
    {"inspect", "PATH [--verbose]", "what is in a run's checkpoints, in one (its manifest), in a safetensors file or a Hugging Face folder",
     ds_inspect_main, DS_COMMAND_QUIET, 0, {{0}}},
    {"verify", "PATH", "every checksum of a run's checkpoints, of one (its manifest) or of a pack", ds_verify_main,
     DS_COMMAND_QUIET, 0, {{0}}},
    {"bench", "kernels [--device NAME] [--dtype f32|bf16|f16] [--only NAME] [--shape NAME] [--deterministic] [--threads N] | comm | storage [FOLDER] [--mib N] [--buffered] [--saves] [--depth N] [--block-mib N] | storage [FOLDER] --stream read|write [--level NAME] [--block-kib N] [--depth N] [--mib N] [--buffered] | "
     "step config.ini [section.key=value ...] [--steps N] | tokenizer MODEL TEXT | host [--threads N] | link [--device NAME]; each: [--quick]",
     "measure this machine: a line of JSON a figure",
     ds_bench_main, DS_COMMAND_RANKS, 0, {{0}}},
    {"help", "[SECTION[.KEY] | --markdown]", "this, or what a section or key means", ds_help_main, 0, 0, {{0}}},
    {"version", "", "print the version", ds_version_main, 0, 0, {{0}}},
};
/* clang-format on */
const size_t ds_command_count = sizeof ds_commands / sizeof ds_commands[0];

const struct ds_command_row *ds_command_find(const char *name)
{
    for (size_t i = 0; i < ds_command_count; i++)
        if (strcmp(ds_commands[i].name, name) == 0)
            return &ds_commands[i];
    return NULL;
}

ds_status ds_command_check_path(struct ds_fs *fs, const char *word)
{
    const char *names[sizeof ds_commands / sizeof ds_commands[0]], *near;
    struct ds_fs_stat stat;
    size_t count = 0;

    if (strpbrk(word, "./") || ds_fs_stat(fs, word, &stat) == 0)
        return DS_OK;
    for (size_t i = 0; i < ds_command_count; i++)
        if (ds_commands[i].name[0])
            names[count++] = ds_commands[i].name;
    near = ds_config_hint_word(word, names, count);
    if (near)
        return ds_fail(DS_ERR_CONFIG, "unknown command '%s'; did you mean '%s'?", word, near);
    return ds_fail(DS_ERR_CONFIG, "unknown command '%s'; 'dstrain help' lists the commands", word);
}

ds_status ds_command_usage(const char *name)
{
    const struct ds_command_row *row = ds_command_find(name);

    DS_ASSERT(row);
    return ds_fail(DS_ERR_CONFIG, "usage: dstrain %s%s%s", row->name,
                   row->name[0] && row->usage[0] ? " " : "", row->usage);
}

ds_status ds_version_main(struct ds_command *command)
{
    if (command->argc > 0)
        return ds_command_usage("version");
    printf("dstrain " DS_VERSION "\n");
    return DS_OK;
}
