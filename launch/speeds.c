/* speeds.c - see speeds.h. */
#include "speeds.h"

#include "cache_file.h"

#include "config/number.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_MAX = 1024, THREADS = DS_SPEED_COUNT, LINES };

#define DS_SPEED_TEXT(name, text) text,
static const char *const names[LINES] = {DS_SPEED_LIST(DS_SPEED_TEXT) "host_threads"};
#undef DS_SPEED_TEXT

static double *value_at(struct ds_speeds_kept *kept, int line)
{
    return line == THREADS ? &kept->host_threads : &kept->per_s[line];
}

static void parse_line(const char *line, size_t length, struct ds_speeds_kept *out)
{
    char name[32], number[64], copy[96];
    double value;

    snprintf(copy, sizeof copy, "%.*s", (int)length, line);
    if (length >= sizeof copy || sscanf(copy, "%31s %63s", name, number) != 2 ||
        !ds_number_real(number, &value) || !(value > 0))
        return;
    for (int i = 0; i < LINES; i++)
        if (strcmp(name, names[i]) == 0)
            *value_at(out, i) = value;
}

void ds_speeds_parse(const char *text, struct ds_speeds_kept *out)
{
    *out = (struct ds_speeds_kept){0};
    while (*text) {
        const size_t length = strcspn(text, "\n");
        parse_line(text, length, out);
        text += length + (text[length] == '\n');
    }
}

static void file_name(char *to, size_t bytes)
{
    char host[64] = "";

    if (gethostname(host, sizeof host - 1) != 0 || strchr(host, '/'))
        host[0] = '\0';
    snprintf(to, bytes, "speeds-%s.txt", host);
}

void ds_speeds_read(struct ds_fs *fs, struct ds_speeds_kept *out)
{
    char name[96], text[TEXT_MAX + 1];

    file_name(name, sizeof name);
    text[ds_cache_read(fs, name, text, TEXT_MAX)] = '\0';
    ds_speeds_parse(text, out);
}

void ds_speeds_keep(struct ds_fs *fs, const struct ds_speeds_kept *measured)
{
    struct ds_speeds_kept kept, given = *measured;
    char name[96], text[TEXT_MAX], number[DS_NUMBER_BYTES];
    size_t used;

    ds_speeds_read(fs, &kept);
    used = (size_t)snprintf(text, sizeof text,
                            "# Measured by dstrain; plans go by it. Bytes a second.\n");
    for (int i = 0; i < LINES; i++) {
        const double value = *value_at(&given, i) > 0 ? *value_at(&given, i) : *value_at(&kept, i);
        if (!(value > 0))
            continue;
        ds_number_json(value, 4, number);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s %s\n", names[i], number);
    }
    file_name(name, sizeof name);
    ds_cache_write(fs, name, text, used, "plans go on with what is known without it");
}
