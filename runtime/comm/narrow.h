/* narrow.h - 16-bit floats to fp32 and back, to nearest even, as loops that run as fast as memory.
 * Pure. The same values as ds_dtype_to_f32 and ds_dtype_from_f32 give, element by element. */
#ifndef DSTRAIN_COMM_NARROW_H
#define DSTRAIN_COMM_NARROW_H

#include <stddef.h>
#include <stdint.h>

void bf16_widen(float *to, const uint16_t *from, size_t count);
void bf16_narrow(uint16_t *to, const float *from, size_t count);
void f16_widen(float *to, const uint16_t *from, size_t count);
void f16_narrow(uint16_t *to, const float *from, size_t count);

#endif
