/* inject_text.h (private to launch) - a fault on request as text, `debug.inject = KIND:RANK:STEP`: the one
 * place that reads it, for the rules of the configuration and for the trainer that obeys. Step 0 is before
 * the first: when the rank opens its data; the one behind the last: in the export at the end. What all ranks do alike is KIND:all:FIRST-LAST. */
#ifndef DSTRAIN_INJECT_TEXT_H
#define DSTRAIN_INJECT_TEXT_H

#include <stdint.h>

/* clang-format off */
#define DS_INJECT_LIST(X)                                                        \
    X(HANG, "hang", 0)     /* the rank sleeps for ever */                        \
    X(FAIL, "fail", 0)     /* a failure in the middle of the step */             \
    X(KILL, "kill", 0)     /* SIGKILL */                                         \
    X(NAN, "nan", 0)       /* what attention turns by is NaN during this step */ \
    X(LABELS, "labels", 1) /* these batches have labels at random */             \
    X(RATE, "rate", 1)     /* no weight survives the update of these steps */
/* clang-format on */
#define DS_INJECT_ENUM(name, text, is_alike) DS_INJECT_##name,
enum ds_inject_kind { DS_INJECT_LIST(DS_INJECT_ENUM) DS_INJECT_KIND_COUNT };
#undef DS_INJECT_ENUM

#define DS_INJECT_ALL UINT64_MAX

struct ds_inject {
    enum ds_inject_kind kind;
    uint64_t rank;       /* DS_INJECT_ALL: what all do alike */
    uint64_t step, last; /* last: of that; else 0 */
};

/* pure: 0: the text is not one; "" is none, too. Numbers have up to 15 digits. */
int ds_inject_parse(const char *text, struct ds_inject *out);

#endif
