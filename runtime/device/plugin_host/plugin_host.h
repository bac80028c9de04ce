/* plugin_host.h - the host as a plugin sees it. */
#ifndef DEVICE_PLUGIN_HOST_H
#define DEVICE_PLUGIN_HOST_H

#include "dstrain/plugin.h"

/* local: once, in ds_plugin_get, before anything else of the plugin runs */
void plugin_host_set(const struct ds_host *host);
const struct ds_clock *plugin_host_clock(void);

#endif
