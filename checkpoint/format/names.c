/* names.c - numbers in names. */
#include "names.h"

#include "document.h"

#include "dstrain/pack.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int take_number(const char **text, uint64_t *out)
{
    uint64_t number = 0;
    int is_good = **text >= '0' && **text <= '9';

    for (; **text >= '0' && **text <= '9' && is_good; (*text)++)
        is_good = !__builtin_mul_overflow(number, 10, &number) &&
                  !__builtin_add_overflow(number, (uint64_t)(**text - '0'), &number) &&
                  number <= DOCUMENT_NUMBER_MAX;
    *out = number;
    return is_good;
}

int names_parse(const char *text, const char *pattern, uint64_t *numbers, size_t count)
{
    size_t found = 0;

    for (; *pattern; pattern++) {
        if (*pattern != '#') {
            if (*text++ != *pattern)
                return 0;
        } else if (found == count || !take_number(&text, &numbers[found++])) {
            return 0;
        }
    }
    return *text == '\0' && found == count;
}

void ds_pack_name(const struct ds_pack_id *id, char *text)
{
    snprintf(text, DS_PACK_NAME_BYTES, "P-%06" PRIu64 "-%012" PRIu64 "-%05u-%u-%u.safetensors",
             id->epoch, id->step, id->rank, id->part, id->attempt);
}

int ds_pack_id_equal(const struct ds_pack_id *a, const struct ds_pack_id *b)
{
    return a->epoch == b->epoch && a->step == b->step && a->rank == b->rank && a->part == b->part &&
           a->attempt == b->attempt;
}

int ds_pack_name_parse(const char *text, struct ds_pack_id *out)
{
    char again[DS_PACK_NAME_BYTES];
    uint64_t numbers[5];

    if (!names_parse(text, "P-#-#-#-#-#.safetensors", numbers, 5))
        return 0;
    const struct ds_pack_id id = {.epoch = numbers[0],
                                  .step = numbers[1],
                                  .rank = (uint32_t)numbers[2],
                                  .part = (uint32_t)numbers[3],
                                  .attempt = (uint32_t)numbers[4]};
    ds_pack_name(&id, again);
    if (strcmp(again, text) != 0)
        return 0;
    *out = id;
    return 1;
}
