/* number.h - numbers as text: read whole or not at all, printed so that they read back exactly, in the
 * C locale whatever the process has set. Pure. */
#ifndef DSTRAIN_LAUNCH_NUMBER_H
#define DSTRAIN_LAUNCH_NUMBER_H

#include <stddef.h>
#include <stdint.h>

#define DS_NUMBER_BYTES 40

/* 1 and *out set, or 0. Decimal digits, a fraction, an exponent; no sign but '-', no hex, inf or nan. */
int ds_number_real(const char *text, double *out);
/* A whole number; "5e8" and "1.5e3" are whole, too. */
int ds_number_count(const char *text, uint64_t *out);

/* The shortest text that reads back as `value` among 15, 16 and 17 digits. */
void ds_number_print(double value, char to[DS_NUMBER_BYTES]);
/* `digits` significant digits, or "null" where the value is not finite: a number in JSON. */
void ds_number_json(double value, int digits, char to[DS_NUMBER_BYTES]);

#endif
