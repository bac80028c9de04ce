/* config.h (private to launch) - the one table of keys and what is made from it: the parser, the
 * limits, the errors, `help`, the README's reference, the record in a run directory.
 *
 *   text --parse--> struct ds_config --resolve--> no "auto" left that ranks decide --validate--> const
 */
#ifndef DSTRAIN_LAUNCH_CONFIG_H
#define DSTRAIN_LAUNCH_CONFIG_H

#include "dstrain/comm.h"
#include "dstrain/config.h"
#include "dstrain/fs.h"

enum ds_field_kind {
    DS_FIELD_COUNT,  /* uint64_t */
    DS_FIELD_AUTO,   /* uint64_t; "auto" is DS_AUTO */
    DS_FIELD_REAL,   /* double */
    DS_FIELD_BOOL,   /* int: true, false */
    DS_FIELD_CHOICE, /* int: one of `choices` */
    DS_FIELD_NAME,   /* char[]: one of `choices`, kept as text */
    DS_FIELD_TEXT,   /* char[]: anything that fits a line */
    DS_FIELD_HOME, /* struct ds_home_key: one of `choices`, or NAME:SHARE of those in the middle */
};

struct ds_choice {
    const char *name; /* NULL ends a list */
    int value;
};

enum ds_field_flag {
    DS_FIELD_FIXED = 1u << 0,       /* must be equal for a run directory to be used again */
    DS_FIELD_TRAIN_NEEDS = 1u << 1, /* no preset: the command cannot do without */
    DS_FIELD_EVAL_NEEDS = 1u << 2,
    DS_FIELD_PREPARE_NEEDS = 1u << 3,
    DS_FIELD_SHAPES_MODEL = 1u << 4,   /* not together with model.path, which brings them all */
    DS_FIELD_SHAPES_ADAPTER = 1u << 6, /* not together with lora.adapter, which brings them all */
    DS_FIELD_FOLLOWS = 1u << 5, /* auto: other keys, the number of ranks or the plan decide */
};

/* A knob exists if it has a row. */
struct ds_field {
    const char *section, *key;
    const char *preset; /* in the syntax of the file; NULL: none */
    enum ds_field_kind kind;
    uint32_t flags;
    size_t offset, bytes;
    double min, max;
    const struct ds_choice *choices;
    const char *help;
    const char *peers; /* what other systems call it, for "did you mean"; never accepted */
};

struct ds_section {
    const char *name, *help;
};

extern const struct ds_field ds_config_fields[];
extern const size_t ds_config_field_count;
extern const struct ds_section ds_config_sections[];
extern const size_t ds_config_section_count;

const struct ds_field *ds_field_find(const char *section, const char *key); /* or NULL */
const struct ds_section *ds_section_find(const char *name);                 /* or NULL */
static inline size_t ds_field_index(const struct ds_field *field)
{
    return (size_t)(field - ds_config_fields);
}

/* ---- one value (config_value.c). Numbers are read whole and without a locale. */
#define DS_PLACE_BYTES 512
DS_CHECKED ds_status ds_field_parse(const struct ds_field *field, const char *place,
                                    const char *text, struct ds_config *config);
/* pure: as the file would say it; text that parses back to an equal value */
void ds_field_print(const struct ds_field *field, const struct ds_config *config, char *to,
                    size_t bytes);
int ds_field_equal(const struct ds_field *field, const struct ds_config *a,
                   const struct ds_config *b);
/* pure: what a value may be, "a whole number in 1..64, or auto" */
void ds_field_describe(const struct ds_field *field, char *to, size_t bytes);

/* ---- the nearest thing to what was typed (config_hint.c): "; did you mean ...?" or where to look */
void ds_config_hint_section(const char *section, char *to, size_t bytes);
/* the nearest of `known`; NULL: none is near */
const char *ds_config_hint_word(const char *word, const char *const *known, size_t count);
void ds_config_hint_key(const char *section, const char *key, char *to, size_t bytes);

/* ---- a whole configuration (config.c) */
void ds_config_preset(struct ds_config *out);
/* local: presets, then the file, then the overrides "section.key=value" */
DS_CHECKED ds_status ds_config_parse(const char *name, const char *text, size_t bytes,
                                     const char *const *overrides, size_t override_count,
                                     struct ds_config *out);
/* pure: "config.ini:12", "command line", or the file alone where nobody wrote the key */
const char *ds_config_place(const struct ds_config *config, const char *section, const char *key,
                            char to[DS_PLACE_BYTES]);
/* pure: "config.ini:12: [section] key", which begins a message about it */
#define DS_KEY_BYTES (DS_PLACE_BYTES + 128)
const char *ds_config_key(const struct ds_config *config, const char *section, const char *key,
                          char to[DS_KEY_BYTES]);
/* pure: number `index` of offload.directories, without blanks around it; 0: there are fewer */
int ds_config_directory(const struct ds_config *config, uint32_t index, char to[DS_TEXT_MAX]);
/* How a configuration is refused for what one of its keys asks. */
#define ds_config_refuse(config, section, key, format, ...) \
    ds_fail(DS_ERR_CONFIG, "%s " format,                    \
            ds_config_key((config), section, key, (char[DS_KEY_BYTES]){0}), __VA_ARGS__)
/* How checkpoint.mirror is refused, by what lies in what: DS_CONFIG_LIES of it, of pure ds_config_lies (NULL: they are
 * apart) and of checkpoint.dir. */
#define DS_CONFIG_LIES "= %s %s [checkpoint] dir = %s; name a directory beside it, on another disk"
const char *ds_config_lies(int is_inside, int is_around);
/* pure: fill in what follows from other keys and from the number of ranks (0: not known) */
void ds_config_resolve(struct ds_config *config, uint64_t rank_count);
/* pure: what was left to others, to ranks, to other keys or to the plan, is left to them again */
void ds_config_unresolve(struct ds_config *config);
/* pure: texts that a tokenizer turns into tokens, and whether those are bytes */
int ds_config_has_text(const struct ds_config *config);
int ds_config_has_byte_text(const struct ds_config *config);
/* pure: there is something to evaluate on */
int ds_config_has_eval(const struct ds_config *config);
int ds_config_was_auto(const struct ds_config *config, const char *section, const char *key);
/* local: the text of config.ini as resolved, malloc'ed */
DS_CHECKED ds_status ds_config_print(const struct ds_config *config, char **text);
/* local: XXH3 of that text: equal configurations, equal hashes, on every machine */
DS_CHECKED ds_status ds_config_hash(const struct ds_config *config, uint64_t *hash);

/* ---- rules between keys (config_rules.c) */
enum ds_config_use { DS_CONFIG_TRAIN, DS_CONFIG_EVAL, DS_CONFIG_PREPARE };
/* local: on a resolved configuration; rank_count 0: not known, rules about ranks are left out */
DS_CHECKED ds_status ds_config_validate(const struct ds_config *config, enum ds_config_use use,
                                        uint64_t rank_count);
/* local: the rules between layout and model, once more: now that a folder has said what the model is */
DS_CHECKED ds_status ds_config_validate_model(const struct ds_config *config,
                                              enum ds_config_use use, uint64_t rank_count,
                                              const struct ds_model_config *model);
/* pure, says nothing: would a resolved configuration pass after some of its values were changed? `model`: that
 * of a folder, or NULL: not known, or of keys */
int ds_config_is_possible(const struct ds_config *config, enum ds_config_use use,
                          uint64_t rank_count, const struct ds_model_config *model);

/* ---- from disk to every rank (config_load.c) */
struct ds_config_source {
    struct ds_fs *fs;
    const char *path;
    const char *const *overrides;
    size_t override_count;
    enum ds_config_use use;
    int ranks_are_known; /* 0: a single process that does not train (`check` without mpirun) */
};
/* collective: rank 0 reads, parses and validates; the verdict is agreed, the bytes are broadcast, every
 * rank parses the same bytes, hashes are compared. */
DS_CHECKED ds_status ds_config_load(struct ds_comm *world, const struct ds_config_source *source,
                                    struct ds_config *out);

#endif
