/* plan_say.c - a line of a plan: the answer to a command, or one of the log of a run that does not fit. */
#include "plan.h"

#include <stdarg.h>
#include <stdio.h>

/* An error behind it, on another stream, is to be read behind it. */
void ds_plan_say(const struct ds_plan_question *question, const char *format, ...)
{
    char line[512];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (!question->is_answer) {
        ds_info("%s", line);
        return;
    }
    puts(line);
    fflush(stdout);
}
