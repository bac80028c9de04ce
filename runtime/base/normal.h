/* normal.h (private) - pairs of random words as normal numbers. */
#ifndef BASE_NORMAL_H
#define BASE_NORMAL_H

#include <stddef.h>
#include <stdint.h>

/* to[i] of N(0, 1), from words radius[i] and angle[i]; the bits of normal_of_libm, for any words. Pure. */
void normal_of_words(const uint32_t *radius, const uint32_t *angle, size_t count, float *to);
float normal_of_libm(uint32_t radius, uint32_t angle);

#endif
