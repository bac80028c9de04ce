/* number.c - see number.h. strtod and printf obey the locale of the thread, so both are given C's. */
#include "number.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *skip_digits(const char *at)
{
    while (*at >= '0' && *at <= '9')
        at++;
    return at;
}

/* -?(digits[.digits] | .digits)([eE][+-]?digits)? */
static int is_decimal(const char *at)
{
    const char *start, *whole;

    at += *at == '-';
    start = at;
    whole = at = skip_digits(at);
    if (*at == '.') {
        at = skip_digits(at + 1);
        if (whole == start && at == whole + 1)
            return 0;
    } else if (whole == start) {
        return 0;
    }
    if (*at == 'e' || *at == 'E') {
        at += at[1] == '-' || at[1] == '+' ? 2 : 1;
        start = at;
        at = skip_digits(at);
        if (at == start)
            return 0;
    }
    return *at == '\0';
}

int ds_number_real(const char *text, double *out)
{
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    double value;

    if (!c || !is_decimal(text)) {
        if (c)
            freelocale(c);
        return 0;
    }
    value = strtod_l(text, NULL, c);
    freelocale(c);
    if (!isfinite(value))
        return 0;
    *out = value;
    return 1;
}

int ds_number_count(const char *text, uint64_t *out)
{
    double value;

    if (*text != '\0' && *skip_digits(text) == '\0') {
        errno = 0;
        uint64_t count = strtoull(text, NULL, 10);
        if (errno != 0)
            return 0;
        *out = count;
        return 1;
    }
    if (!ds_number_real(text, &value) || value < 0 || value > 0x1p53 || value != floor(value))
        return 0;
    *out = (uint64_t)value;
    return 1;
}

static void print_digits(double value, int digits, char *to)
{
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    locale_t before = c ? uselocale(c) : (locale_t)0;

    snprintf(to, DS_NUMBER_BYTES, "%.*g", digits, value);
    if (c) {
        uselocale(before);
        freelocale(c);
    }
}

void ds_number_print(double value, char to[DS_NUMBER_BYTES])
{
    double back;

    for (int digits = 15; digits <= 17; digits++) {
        print_digits(value, digits, to);
        if (ds_number_real(to, &back) && back == value)
            return;
    }
}

void ds_number_json(double value, int digits, char to[DS_NUMBER_BYTES])
{
    if (isfinite(value))
        print_digits(value, digits, to);
    else
        memcpy(to, "null", 5);
}
