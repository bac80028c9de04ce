// link: launch
// private: launch
/* fuzz_ini.c - any bytes as a config.ini: refused with a status, or a configuration that resolves, is
 * judged, and can be shown: its text is read again and shown as the same text. A valid one, as a run
 * stores it, also reads back as what it was; in others keys may stand that its text leaves out, since
 * they contradict each other (a model's path and its shape). */
#include "config/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int are_equal(const struct ds_config *a, const struct ds_config *b)
{
    for (size_t i = 0; i < ds_config_field_count; i++)
        if (!ds_field_equal(&ds_config_fields[i], a, b))
            return 0;
    return 1;
}

static void expect_reads_back(const struct ds_config *config, int is_valid)
{
    struct ds_config again;
    char *text = NULL, *shown = NULL;

    if (ds_config_print(config, &text) == DS_OK) {
        DS_ASSERT(ds_config_parse("again", text, strlen(text), NULL, 0, &again) == DS_OK);
        DS_ASSERT(!is_valid || are_equal(config, &again));
        DS_ASSERT(ds_config_print(&again, &shown) != DS_OK || strcmp(text, shown) == 0);
    }
    free(text);
    free(shown);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const overrides[] = {"train.steps=5e2"};
    struct ds_config config;

    ds_log.terminal = -1; /* refusals are not news here */
    if (ds_config_parse("fuzz", (const char *)data, size, overrides, 1, &config) != DS_OK)
        return 0;
    expect_reads_back(&config, 0);
    ds_config_resolve(&config, 4);
    ds_status st = ds_config_validate(&config, DS_CONFIG_TRAIN, 4);
    DS_ASSERT(st == DS_OK || st == DS_ERR_CONFIG);
    /* what is refused is not stored: resolving may have left a key's limits */
    if (st == DS_OK)
        expect_reads_back(&config, 1);
    return 0;
}
