/* chat.h (private) - conversations as text with the marks of a template, written to a sample. */
#ifndef DSTRAIN_DATA_CHAT_H
#define DSTRAIN_DATA_CHAT_H

#include "sample.h"

enum { CHAT_CONTROL_MAX = 64 };

struct chat {
    enum ds_chat_kind kind;
    enum ds_train_on train_on;
    const char *why_none; /* of AUTO */
    /* of CUSTOM; owned, escapes read: in front of and behind the contents of each role */
    char *before[ROW_ROLE_COUNT], *behind[ROW_ROLE_COUNT], *start, *end;
    /* ids of the template's own tokens */
    uint32_t control[CHAT_CONTROL_MAX];
    size_t control_count;
};

/* local: DS_ERR_DATA: the tokenizer has not a token that the template needs; DS_ERR_CONFIG: a text of CUSTOM cannot be
 * used. `chat` may be finished in any case. */
DS_CHECKED ds_status chat_init(struct chat *chat, const struct ds_rows_options *options,
                               const struct ds_tokenizer *tokenizer);
void chat_fini(struct chat *chat);
/* `why` as row_read says it: this conversation cannot be written so */
DS_CHECKED ds_status chat_write(const struct chat *chat, struct sample_writer *w,
                                const struct row *row, char why[ROW_WHY_BYTES]);

/* ---- private to the files of chat */

/* What a template is written with: one conversation. */
struct chat_writing {
    const struct chat *chat;
    struct sample_writer *w;
    const struct row_message *messages;
    size_t count, prompt_count;
    size_t last_answer; /* the index of the last message of the assistant; count: there is none */
    char *why;
};
/* Is the answer at `index` one that is learned? */
int chat_is_learned(const struct chat_writing *c, size_t index);
DS_CHECKED ds_status chat_write_custom(const struct chat_writing *c);
DS_CHECKED ds_status chat_write_chatml(const struct chat_writing *c);
/* The texts of CUSTOM. */
DS_CHECKED ds_status chat_load_custom(struct chat *chat, const struct ds_chat_texts *texts);

#endif
