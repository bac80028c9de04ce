// link: launch
// private: launch
/* fuzz_ini.c - any bytes as a config.ini: refused with a status, or a configuration that resolves, is
 * judged, and reads back from its own text as what it was. */
#include "config/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const overrides[] = {"train.steps=5e2"};
    struct ds_config config, again;
    struct ds_places places, places_again;
    char *text = NULL;

    ds_log.terminal = -1; /* refusals are not news here */
    if (ds_config_parse("fuzz", (const char *)data, size, overrides, 1, &config, &places) != DS_OK)
        return 0;
    ds_config_resolve(&config, 4);
    ds_status st = ds_config_validate(&config, &places, DS_CONFIG_TRAIN, 4);
    DS_ASSERT(st == DS_OK || st == DS_ERR_CONFIG);
    if (st != DS_OK || ds_config_print(&config, &text) != DS_OK)
        return 0; /* what is refused need not read back: resolving may have left the limits */
    DS_ASSERT(ds_config_parse("again", text, strlen(text), NULL, 0, &again, &places_again) ==
              DS_OK);
    DS_ASSERT(memcmp(&config, &again, sizeof config) == 0);
    free(text);
    return 0;
}
