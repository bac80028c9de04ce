// link: model base
/* fuzz_config.c - any bytes as a config.json: refused with a status, or a config that a model can be
 * described from and that reads back from its own text. */
#include "dstrain/model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_model_config config, again;
    char *text = NULL;

    ds_log.terminal = -1; /* refusals are not news here */
    if (ds_model_config_parse("fuzz", (const char *)data, size, &config) != DS_OK)
        return 0;
    DS_ASSERT(ds_model_config_check("fuzz", &config) == DS_OK);
    if (config.head_dim <= 128) {
        float table[2 * 128];

        ds_rope_table(&config, 2, table);
    }
    DS_ASSERT(ds_model_config_write(&config, DS_F32, &text) == DS_OK);
    DS_ASSERT(ds_model_config_parse("fuzz again", text, strlen(text), &again) == DS_OK);
    DS_ASSERT(again.hidden_size == config.hidden_size && again.rope.kind == config.rope.kind);
    free(text);
    return 0;
}
