/* config_rules.h (private to this folder) - what a rule between keys sees and how it ends badly. */
#ifndef DSTRAIN_LAUNCH_CONFIG_RULES_H
#define DSTRAIN_LAUNCH_CONFIG_RULES_H

#include "config.h"

#include <inttypes.h>

struct ds_rule_check {
    const struct ds_config *config;
    const struct ds_places *places; /* NULL: nobody wrote it, and a refusal says nothing */
    enum ds_config_use use;
    uint64_t rank_count; /* 0: not known */
};

/* "config.ini:12", "command line", or the file alone where nobody wrote the key */
const char *ds_rule_place(const struct ds_rule_check *check, const char *section, const char *key,
                          char to[DS_PLACE_BYTES]);

/* The one way a rule ends badly: the place of the key, "[section] key", then the rest. */
#define REFUSE(check, section, key, format, ...)                                   \
    do {                                                                           \
        char place_[DS_PLACE_BYTES];                                               \
        if (!(check)->places)                                                      \
            return DS_ERR_CONFIG;                                                  \
        return ds_fail(DS_ERR_CONFIG, "%s: [" section "] " key " " format,         \
                       ds_rule_place((check), section, key, place_), __VA_ARGS__); \
    } while (0)

/* ---- config_rules_layout.c: how ranks, batches, layers, heads and bytes divide */
ds_status ds_rule_ranks(const struct ds_rule_check *check);
ds_status ds_rule_stages(const struct ds_rule_check *check);
ds_status ds_rule_tensor(const struct ds_rule_check *check);
ds_status ds_rule_batches(const struct ds_rule_check *check);
ds_status ds_rule_precision(const struct ds_rule_check *check);
ds_status ds_rule_zero(const struct ds_rule_check *check);

#endif
