/* config_rules.h (private to this folder) - what a rule between keys sees, how it ends badly, and how a
 * refusal finds its advice: the rules are asked about other values until all of them pass, so that what is
 * named is possible. */
#ifndef DSTRAIN_LAUNCH_CONFIG_RULES_H
#define DSTRAIN_LAUNCH_CONFIG_RULES_H

#include "config.h"

#include <inttypes.h>
#include <stdio.h>

/* Who refused, for who asks quietly: the key that is at fault, and those whose change may help. */
struct ds_blame {
    size_t rule;
    const char *section, *key;
    const char *keys; /* "section.key section.key", the best first; NULL: nobody can say */
};

struct ds_rule_check {
    const struct ds_config *config;
    enum ds_config_use use;
    uint64_t rank_count;                 /* 0: not known */
    const struct ds_model_config *model; /* of a folder; NULL: not known, or of keys */
    struct ds_blame *blame;              /* nobody asked for it: a refusal says nothing but this */
};

#define DS_WHY_BYTES    384
#define DS_ADVICE_BYTES 512
/* pure: "; nearest: 8", or what else there is to say, behind the reason of a refusal */
const char *ds_rule_advise(const struct ds_rule_check *check, const struct ds_blame *blame,
                           char to[DS_ADVICE_BYTES]);

/* The one way a rule ends badly, `keys` as in ds_blame. */
#define REFUSE(check, section_, key_, keys_, format, ...)                                  \
    do {                                                                                   \
        const struct ds_blame blame_ = {0, section_, key_, keys_};                         \
        char advice_[DS_ADVICE_BYTES];                                                     \
        if ((check)->blame) {                                                              \
            *(check)->blame = blame_;                                                      \
            return DS_ERR_CONFIG;                                                          \
        }                                                                                  \
        return ds_config_refuse((check)->config, section_, key_, format "%s", __VA_ARGS__, \
                                ds_rule_advise(check, &blame_, advice_));                  \
    } while (0)

/* ---- config_rules.c */

/* pure: the first rule that refuses, in check->blame (its `rule`: the order of asking); DS_OK: none. What no
 * other value of a key would cure (what is missing, lists that do not read) is not asked. */
ds_status ds_rules_ask(const struct ds_rule_check *check);
/* pure: has somebody written the key, or does its preset hold? */
int ds_rule_is_written(const struct ds_rule_check *check, const char *section, const char *key);
/* pure: what there is to share out: sizes that are not known are 0. The sizes of keys are those of the
 * configuration that is asked about. */
struct ds_model_config ds_rule_model(const struct ds_rule_check *check);

/* ---- config_candidates.c: the values that a key may have, the nearest first */
struct ds_candidates {
    const struct ds_field *field;
    uint64_t rank_count;
    uint64_t wanted, step, least, most, divides; /* of counts; divides 0: any will do */
    uint64_t below, above;                       /* the next on either side; below is one more */
    char text[64];                               /* of others: what is wanted */
    int given;                                   /* and how many were tried */
};
void ds_candidates_open(const struct ds_rule_check *check, const struct ds_field *field,
                        struct ds_candidates *out);
/* the next is put into `config`; 0: there is none */
int ds_candidates_next(struct ds_candidates *candidates, struct ds_config *config);

/* ---- config_rules_layout.c: how ranks, batches, layers, heads and bytes divide */
ds_status ds_rule_ranks(const struct ds_rule_check *check);
ds_status ds_rule_chunks(const struct ds_rule_check *check);
ds_status ds_rule_stages(const struct ds_rule_check *check);
ds_status ds_rule_tensor(const struct ds_rule_check *check);
ds_status ds_rule_sequence_parallel(const struct ds_rule_check *check);
ds_status ds_rule_batches(const struct ds_rule_check *check);
ds_status ds_rule_precision(const struct ds_rule_check *check);
ds_status ds_rule_zero(const struct ds_rule_check *check);
ds_status ds_rule_homes(const struct ds_rule_check *check);
ds_status ds_rule_directories(const struct ds_rule_check *check);

/* ---- config_rules_data.c: what goes with data.format = jsonl alone; nothing is asked quietly */
ds_status ds_rule_rows(const struct ds_rule_check *check);

/* ---- config_rules_places.c: looks up the working directory, to compare a name that begins there with one that does not */
ds_status ds_rule_places(const struct ds_rule_check *check);

#endif
