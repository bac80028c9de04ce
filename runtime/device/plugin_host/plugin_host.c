/* plugin_host.c - linked into every plugin: the calls that its code makes of us, forwarded to the host that
 * loaded it. */
#include "plugin_host.h"

#include <stdarg.h>
#include <stddef.h>

static const struct ds_host *plugin_host; /* the one global: set before anything else is called */

ds_status ds_fail_at(ds_status st, const char *file, int line, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    st = plugin_host->fail(st, file, line, format, args);
    va_end(args);
    return st;
}

void ds_log_write(enum ds_log_level level, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    plugin_host->log(level, format, args);
    va_end(args);
}

void ds_panic(const char *condition, const char *file, int line)
{
    plugin_host->panic(condition, file, line);
    __builtin_unreachable(); /* the host's ends the process */
}

void plugin_host_set(const struct ds_host *host)
{
    plugin_host = host;
}

const struct ds_clock *plugin_host_clock(void)
{
    return plugin_host->clock;
}
