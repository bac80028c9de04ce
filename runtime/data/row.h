/* row.h (private) - one line of JSONL, as its object says. */
#ifndef DSTRAIN_DATA_ROW_H
#define DSTRAIN_DATA_ROW_H

#include "dstrain/json.h"
#include "dstrain/rows.h"

enum row_role { ROW_SYSTEM, ROW_USER, ROW_ASSISTANT, ROW_TOOL, ROW_ROLE_COUNT };
extern const char *const row_role_names[ROW_ROLE_COUNT];

struct row_text { /* borrowed from the object */
    const char *at;
    size_t bytes;
};
struct row_message {
    enum row_role role;
    struct row_text content;
};
struct row {
    enum ds_row_kind kind;
    struct row_text text; /* or the prompt */
    struct row_text completion;
    const struct row_message *messages;
    size_t message_count,
        prompt_count; /* prompt_count: so many messages are a prompt: not learned */
};

struct row_reader { /* {0} to begin with */
    /* owns */
    json_t *root;
    struct row_message *messages;
    size_t capacity;
};
enum { ROW_WHY_BYTES = 400 };
/* local: `out` lives until the next call. `why` says what is wrong with the line, "" where nothing is; that is for the
 * caller to log or to count. The status is of the machine. */
DS_CHECKED ds_status row_read(struct row_reader *reader, enum ds_row_kind kind, const char *line,
                              size_t bytes, struct row *out, char why[ROW_WHY_BYTES]);
void row_reader_fini(struct row_reader *reader);

#endif
