/* quant_state.h (private to storage) - names and the JSON text of bitsandbytes' form. */
#ifndef STORAGE_QUANT_STATE_H
#define STORAGE_QUANT_STATE_H

#include "dstrain/quant_file.h"

#define QUANT_STATE_SUFFIX    ".quant_state.bitsandbytes__nf4"
#define QUANT_STATE_BYTES_MAX 4096u

/* `what` begins the message. Offset: 0 where absmax are not nested. */
DS_CHECKED ds_status quant_state_parse(const char *what, const char *text, size_t bytes,
                                       struct ds_quant_form *form, float *offset);
/* The same number of bytes for every offset that is not negative; 0: they are too few. */
size_t quant_state_print(const struct ds_quant_form *form, float offset, char *to, size_t bytes);

#endif
