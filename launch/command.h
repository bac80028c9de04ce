/* command.h (private to launch) - a subcommand is a row and a function `ds_<name>_main` in a file of its
 * own. main() parses, bootstrap opens the world, the row's flags say what the function finds ready. */
#ifndef DSTRAIN_LAUNCH_COMMAND_H
#define DSTRAIN_LAUNCH_COMMAND_H

#include "config/config.h"

enum ds_command_flag {
    /* every rank of mpirun takes part; without it only one process works, whatever mpirun started */
    DS_COMMAND_RANKS = 1u << 0,
    /* with FILE: the configuration and its overrides are loaded and validated */
    DS_COMMAND_CONFIG = 1u << 1,
    /* with CONFIG: outside mpirun the number of ranks is not known, so rules about it are left out; so
     * they are always without RANKS */
    DS_COMMAND_ANY_RANKS = 1u << 2,
    /* what it prints is the whole answer: no INFO lines around it */
    DS_COMMAND_QUIET = 1u << 3,
    /* the arguments are a configuration, overrides and the options of the row, in any order; what the function
     * finds are the file and then the overrides */
    DS_COMMAND_FILE = 1u << 4,
};

#define DS_COMMAND_OPTIONS_MAX 2

struct ds_command_option {
    const char *name; /* "--ranks", which a whole number follows */
    uint32_t least, most;
};

struct ds_command {
    int argc; /* arguments behind the subcommand; with CONFIG none is left over */
    char **argv;
    const struct ds_command_row *row;
    uint32_t numbers[DS_COMMAND_OPTIONS_MAX]; /* with FILE: of the row's options; 0: not given */
    const struct ds_command_row *topic; /* of help: the subcommand that was asked about, or NULL */
    const struct ds_config *config;     /* resolved, validated; NULL without CONFIG */
    struct ds_comm *world;              /* control; one rank without RANKS */
    struct ds_fs *fs;
    const struct ds_clock *clock;
    int thread_count;    /* for arithmetic of this rank, already set for OpenMP */
    int local_count;     /* ranks on this host, of which this is one */
    uint32_t local_rank; /* of those */
    int peers_wait; /* out: this rank fails inside a step, where nothing can be agreed any more */
    int peer_ends; /* out, where nothing can be agreed: another rank ends the job, this one only if that fails */
};

struct ds_command_row {
    const char *name;  /* "": what runs without a subcommand */
    const char *usage; /* what follows the name */
    const char *help;
    ds_status (*run)(struct ds_command *command);
    uint32_t flags;
    enum ds_config_use use;                                   /* with CONFIG */
    struct ds_command_option options[DS_COMMAND_OPTIONS_MAX]; /* with FILE */
};

extern const struct ds_command_row ds_commands[];
extern const size_t ds_command_count;
const struct ds_command_row *ds_command_find(const char *name); /* or NULL */

/* local: refuses a first word that is no subcommand and no configuration either, as a bare word that names no
 * file; DS_OK: it may be one */
DS_CHECKED ds_status ds_command_check_path(struct ds_fs *fs, const char *word);

/* local: with FILE, takes the options out of the arguments and puts the file before the overrides; refuses an
 * unknown option, a second file, and a command line without one */
DS_CHECKED ds_status ds_command_arrange(struct ds_command *command);
/* local: of an option of the row; 0: not given */
uint32_t ds_command_number(const struct ds_command *command, const char *option);
/* local: --help or -h, with FILE anywhere, else in front */
int ds_command_asks_help(const struct ds_command_row *row, int argc, char **argv);

/* What every subcommand says when its arguments are wrong. */
DS_CHECKED ds_status ds_command_usage(const char *name);

ds_status ds_bench_main(struct ds_command *command);
ds_status ds_check_main(struct ds_command *command);
ds_status ds_eval_main(struct ds_command *command);
ds_status ds_export_main(struct ds_command *command);
ds_status ds_generate_main(struct ds_command *command);
ds_status ds_plan_main(struct ds_command *command);
ds_status ds_prepare_main(struct ds_command *command);
ds_status ds_train_main(struct ds_command *command);
ds_status ds_help_main(struct ds_command *command);
ds_status ds_inspect_main(struct ds_command *command);
ds_status ds_verify_main(struct ds_command *command);
ds_status ds_version_main(struct ds_command *command);

#endif
