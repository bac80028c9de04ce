/* loader.h - loading a plugin without failing: the registry's "auto" wants the reason as text. */
#ifndef DSTRAIN_DEVICE_LOADER_H
#define DSTRAIN_DEVICE_LOADER_H

#include "dstrain/plugin.h"

#define DS_WHY_MAX 1024

/* local: 1 and *out, or 0 and a sentence in `why` (DS_WHY_MAX bytes). Logs nothing. */
int ds_plugin_try(const char *path, char *why, const struct ds_plugin **out);

#endif
