/* main.c - from a command line to a subcommand and to an exit code. */
#include "bootstrap.h"
#include "command.h"
#include "signals.h"

#include <stdio.h>
#include <string.h>

/* A first word that is no subcommand is the configuration of a run. */
static const struct ds_command_row *choose(int argc, char **argv, int *used)
{
    const struct ds_command_row *row = NULL;

    *used = 2;
    if (argc < 2 || argv[1][0] == '\0')
        return NULL;
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return ds_command_find("help");
    if (strcmp(argv[1], "--version") == 0)
        return ds_command_find("version");
    if (argv[1][0] != '-')
        row = ds_command_find(argv[1]);
    if (row)
        return row;
    *used = 1;
    return argv[1][0] == '-' ? NULL : ds_command_find("");
}

static ds_status load(struct ds_bootstrap *boot, const struct ds_command_row *row,
                      struct ds_command *command, struct ds_config *config)
{
    const struct ds_config_source source = {
        .fs = boot->fs,
        .path = command->argv[0],
        .overrides = (const char *const *)command->argv + 1,
        .override_count = (size_t)command->argc - 1,
        .use = row->use,
        .ranks_are_known = (row->flags & DS_COMMAND_RANKS) &&
                           (boot->is_mpirun || !(row->flags & DS_COMMAND_ANY_RANKS)),
    };

    DS_TRY(ds_config_load(boot->world, &source, config));
    command->config = config;
    command->argc = 0;
    command->thread_count = ds_bootstrap_configure(boot, config);
    return DS_OK;
}

/* collective: rank 0 speaks for all; the others have something to say where their command line is another */
static ds_status arrange(struct ds_bootstrap *boot, struct ds_command *command)
{
    const int leads = boot->world->rank == 0;

    DS_TRY(ds_comm_agreed(boot->world, leads ? ds_command_arrange(command) : DS_OK));
    return ds_comm_agreed(boot->world, leads ? DS_OK : ds_command_arrange(command));
}

static ds_status run(struct ds_bootstrap *boot, const struct ds_command_row *row,
                     struct ds_command *command)
{
    struct ds_config config;

    if (!row->name[0])
        ds_signals_hold(!boot->is_mpirun);
    DS_TRY(ds_bootstrap_open(boot, (row->flags & DS_COMMAND_RANKS) != 0));
    command->world = boot->world;
    if (!row->name[0])
        DS_TRY(ds_comm_agreed(boot->world, boot->rank == 0
                                               ? ds_command_check_path(boot->fs, command->argv[0])
                                               : DS_OK));
    if (row->flags & DS_COMMAND_FILE)
        DS_TRY(arrange(boot, command));
    if (row->flags & DS_COMMAND_CONFIG)
        DS_TRY(load(boot, row, command, &config));
    return row->run(command);
}

int main(int argc, char **argv)
{
    const struct ds_command_row *row, *topic = NULL;
    struct ds_bootstrap boot;
    int used;

    ds_bootstrap_init(&boot);
    row = choose(argc, argv, &used);
    if (!row) {
        const int is_missing = argc < 2 || argv[1][0] == '\0';
        if (boot.rank == 0)
            (void)ds_fail(DS_ERR_CONFIG, "%s%s; 'dstrain help' lists what can be done",
                          is_missing ? "a configuration or a subcommand is missing" : "unknown: ",
                          is_missing ? "" : argv[1]);
        return ds_status_exit_code(DS_ERR_CONFIG);
    }
    if (ds_command_asks_help(row, argc - used, argv + used)) {
        topic = row;
        row = ds_command_find("help");
    }
    if (!(row->flags & DS_COMMAND_RANKS) && boot.rank != 0)
        return 0; /* work for one process */
    if ((row->flags & DS_COMMAND_QUIET) && ds_log.level == DS_LOG_INFO)
        ds_log.level = DS_LOG_WARN;

    struct ds_command command = {.argc = argc - used,
                                 .argv = argv + used,
                                 .row = row,
                                 .topic = topic,
                                 .fs = boot.fs,
                                 .clock = boot.clock,
                                 .thread_count = boot.core_count,
                                 .local_count = boot.local_count,
                                 .local_rank = (uint32_t)boot.local_rank};
    ds_status st = run(&boot, row, &command);
    return ds_bootstrap_close(&boot, st, command.peers_wait, command.peer_ends);
}
