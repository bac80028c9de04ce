/* config_rules_places.c - where directories lie to each other, as far as names tell. */
#include "config_rules.h"

#include "dstrain/fs.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void put_absolute(const char *path, char to[2 * DS_TEXT_MAX])
{
    char here[DS_TEXT_MAX] = "";

    if (path[0] != '/' && !getcwd(here, sizeof here))
        here[0] = '\0';
    snprintf(to, 2 * DS_TEXT_MAX, "%s/%s", here, path);
}

const char *ds_config_lies(int is_inside, int is_around)
{
    return is_inside && is_around ? "is the same directory as"
           : is_inside            ? "is inside"
           : is_around            ? "has in it"
                                  : NULL;
}

ds_status ds_rule_places(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    char dir[2 * DS_TEXT_MAX], mirror[2 * DS_TEXT_MAX];

    if (c->checkpoint.dir[0] == '\0' || c->checkpoint.mirror[0] == '\0')
        return DS_OK;
    put_absolute(c->checkpoint.dir, dir);
    put_absolute(c->checkpoint.mirror, mirror);
    const char *words =
        ds_config_lies(ds_fs_is_named_within(mirror, dir), ds_fs_is_named_within(dir, mirror));
    if (words)
        REFUSE(check, "checkpoint", "mirror", NULL, DS_CONFIG_LIES, c->checkpoint.mirror, words,
               c->checkpoint.dir);
    return DS_OK;
}
