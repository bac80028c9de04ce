/* nodes.c - see nodes.h. Which processors belong to a node says /sys, as "0-3,8,10-11". */
#include "nodes.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

static void add_range(const char *range, const char *end, cpu_set_t *set)
{
    char *behind = NULL;
    const unsigned long first = strtoul(range, &behind, 10);
    const unsigned long last =
        behind < end && *behind == '-' ? strtoul(behind + 1, NULL, 10) : first;

    for (unsigned long cpu = first; cpu <= last && cpu < CPU_SETSIZE; cpu++)
        CPU_SET(cpu, set);
}

static void parse_list(const char *list, cpu_set_t *set)
{
    CPU_ZERO(set);
    for (const char *at = list; *at >= '0' && *at <= '9';) {
        const char *end = at;
        while (*end && *end != ',' && *end != '\n')
            end++;
        add_range(at, end, set);
        at = *end == ',' ? end + 1 : end;
    }
}

/* 0: it cannot be read. */
static int read_node(int node, cpu_set_t *set)
{
    char path[96], list[4096];
    size_t bytes;
    FILE *file;

    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", node);
    file = fopen(path, "re");
    if (!file)
        return 0;
    bytes = fread(list, 1, sizeof list - 1, file);
    fclose(file);
    list[bytes] = '\0';
    parse_list(list, set);
    return 1;
}

void nodes_stay_on(int node)
{
    cpu_set_t allowed, near, both;

    if (node < 0 || !read_node(node, &near) || sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return;
    CPU_AND(&both, &allowed, &near);
    if (CPU_COUNT(&both) > 0)
        (void)sched_setaffinity(0, sizeof both, &both);
}
