/* analyzer.h - included ahead of each source by tidy.sh: what clang's analyzer cannot see from one file,
 * that ds_fail() returns the status it was given, which is not DS_OK. */
#ifndef DSTRAIN_ANALYZER_H
#define DSTRAIN_ANALYZER_H

#include "dstrain/status.h"

#undef ds_fail
#define ds_fail(st, ...) ((void)ds_fail_at((st), __FILE__, __LINE__, __VA_ARGS__), (st))

#endif
