/* config_case.h - a configuration as a person writes it: a file, a command line, a launch; what is said about it,
 * and whether what is advised then holds. */
#ifndef DSTRAIN_TEST_CONFIG_CASE_H
#define DSTRAIN_TEST_CONFIG_CASE_H

#include "advice.h"
#include "capture.h"
#include "config/config.h"
#include "test.h"

/* 13 lines: what is appended begins in line 14 */
#define GOOD                                                                                       \
    "[run]\ndir = r\n[model]\nhidden_size = 64\nintermediate_size = 128\nnum_hidden_layers = 2\n"  \
    "num_attention_heads = 4\n[data]\ntrain = a.txt\n[train]\nsteps = 10\nglobal_batch_size = 8\n" \
    "seq_length = 32\n"

#define SAYS(line) "dstrain: error: " line

enum { OVERRIDES_MAX = 48 };

struct load {
    const char *text;
    const char *overrides[OVERRIDES_MAX + 1];
    enum ds_config_use use;
    uint64_t rank_count;
    struct ds_config config;
    struct capture capture;
    const char *said;
};

static inline ds_status load(struct load *l)
{
    size_t count = 0;
    ds_status st;

    while (l->overrides[count])
        count++;
    capture_begin(&l->capture);
    st = ds_config_parse("c.ini", l->text, strlen(l->text), l->overrides, count, &l->config);
    if (st == DS_OK) {
        ds_config_resolve(&l->config, l->rank_count);
        st = ds_config_validate(&l->config, l->use, l->rank_count);
    }
    l->said = capture_end(&l->capture);
    return st;
}

/* All that a refusal advises, taken as it is said: nothing is left to complain about but what is named. */
static inline void assert_advice_holds(const struct load *refused)
{
    const struct advice advice = advice_read(refused->said);
    struct load l = {.text = refused->text, .use = refused->use, .rank_count = refused->rank_count};
    size_t count = 0;

    if (advice.count + advice.ranks == 0)
        fail_msg("this is no advice: %s", refused->said);
    for (; refused->overrides[count]; count++)
        l.overrides[count] = refused->overrides[count];
    if (advice.ranks > 0) {
        l.rank_count = advice.ranks;
        if (load(&l) != DS_OK)
            fail_msg("%s\nand on so many ranks: %s", refused->said, l.said);
        l.rank_count = refused->rank_count;
    }
    for (size_t i = 0; i < advice.count; i++)
        count = advice_take(l.overrides, count, advice.changes[i]);
    if (advice.also[0]) {
        assert_int_equal(load(&l), DS_ERR_CONFIG);
        if (!strstr(l.said, advice.also))
            fail_msg("%s\nand with that: %s", refused->said, l.said);
    } else if (advice.count > 0 && load(&l) != DS_OK)
        fail_msg("%s\nand with that: %s", refused->said, l.said);
}

#endif
