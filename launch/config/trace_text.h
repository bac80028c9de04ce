/* trace_text.h (private to launch) - `log.trace = first..last`, for the rules and for who writes the trace. */
#ifndef DSTRAIN_TRACE_TEXT_H
#define DSTRAIN_TRACE_TEXT_H

#include <stdint.h>

/* pure: 1-based steps, first <= last; 0: the text is not a range ("" is none either) */
int ds_trace_range_parse(const char *text, uint64_t *first, uint64_t *last);

#endif
