/* check.c - `dstrain check config.ini`: whoever gets here has a good configuration; it is printed as it
 * will be used. Under mpirun for that number of ranks, alone for any. */
#include "command.h"

#include <stdio.h>
#include <stdlib.h>

ds_status ds_check_main(struct ds_command *command)
{
    char *text = NULL;

    if (command->world->rank != 0)
        return DS_OK;
    DS_TRY(ds_config_print(command->config, &text));
    fputs(text, stdout);
    free(text);
    return DS_OK;
}
