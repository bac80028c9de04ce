/* narrow.h - 16-bit floats to fp32 and back, to nearest even, as loops that run as fast as memory. Pure. */
#ifndef DSTRAIN_NARROW_H
#define DSTRAIN_NARROW_H

#include <stddef.h>
#include <stdint.h>

void ds_bf16_widen(float *to, const uint16_t *from, size_t count);
void ds_bf16_narrow(uint16_t *to, const float *from, size_t count);
void ds_f16_widen(float *to, const uint16_t *from, size_t count);
void ds_f16_narrow(uint16_t *to, const float *from, size_t count);

#endif
