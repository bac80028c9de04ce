/* config_rules.h (private to this folder) - what a rule between keys sees and how it ends badly. */
#ifndef DSTRAIN_LAUNCH_CONFIG_RULES_H
#define DSTRAIN_LAUNCH_CONFIG_RULES_H

#include "config.h"

#include <inttypes.h>

struct ds_rule_check {
    const struct ds_config *config;
    enum ds_config_use use;
    uint64_t rank_count; /* 0: not known */
    int is_quiet;        /* nobody asked for it: a refusal says nothing */
};

/* The one way a rule ends badly. */
#define REFUSE(check, section, key, format, ...)                                     \
    do {                                                                             \
        if ((check)->is_quiet)                                                       \
            return DS_ERR_CONFIG;                                                    \
        return ds_config_refuse((check)->config, section, key, format, __VA_ARGS__); \
    } while (0)

/* pure: the divisor of `total`, and the multiple of `of` above 0, nearest to `wanted`; of two the smaller */
uint64_t ds_nearest_divisor(uint64_t total, uint64_t wanted);
uint64_t ds_nearest_multiple(uint64_t of, uint64_t wanted);
/* pure: has somebody written the key, or does its preset hold? */
int ds_rule_is_written(const struct ds_rule_check *check, const char *section, const char *key);

/* ---- config_rules_layout.c: how ranks, batches, layers, heads and bytes divide */
ds_status ds_rule_ranks(const struct ds_rule_check *check);
ds_status ds_rule_stages(const struct ds_rule_check *check);
ds_status ds_rule_tensor(const struct ds_rule_check *check);
ds_status ds_rule_batches(const struct ds_rule_check *check);
ds_status ds_rule_precision(const struct ds_rule_check *check);
ds_status ds_rule_zero(const struct ds_rule_check *check);

#endif
