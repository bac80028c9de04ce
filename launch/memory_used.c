/* memory_used.c - see memory_used.h. */
#include "memory_used.h"

#include "console.h"

#define APART_MAX 0.02

ds_status ds_memory_used_check(const struct ds_config *config, const struct ds_trainer *trainer)
{
    struct ds_device *device = ds_trainer_device(trainer);
    const uint64_t planned = ds_memory_total(ds_trainer_memory(trainer), DS_MEMORY_DEVICE) +
                             ds_trainer_overhead(trainer, device->ops->overhead);
    char used_text[32], planned_text[32];
    size_t used = 0;

    if (!device->ops->memory_used || config->run.share_device)
        return DS_OK;
    DS_TRY(device->ops->memory_used(device, &used));
    const double apart = ((double)used - (double)planned) / (double)planned;
    ds_console_bytes(used, used_text, sizeof used_text);
    ds_console_bytes(planned, planned_text, sizeof planned_text);
    if (apart <= APART_MAX && apart >= -APART_MAX)
        ds_info("memory: the driver counts %s (%zu bytes), %+.2f %% of what was planned", used_text,
                used, apart * 100);
    else
        ds_warn("memory: the driver counts %s (%zu bytes), %+.1f %% of what was planned: %s (%llu "
                "bytes); does another process compute there?",
                used_text, used, apart * 100, planned_text, (unsigned long long)planned);
    return DS_OK;
}
