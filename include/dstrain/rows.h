/* rows.h - JSONL: each line a JSON object, each object a sample. What a row may say, how a conversation becomes text,
 * and which of its tokens are learned.
 *
 *   {"text": "..."}
 *   {"prompt": "...", "completion": "..."}       or both as lists of messages
 *   {"messages": [{"role": "system|user|assistant|tool", "content": "..."}, ...]}
 *
 * Tokens that control a model come from templates alone: people's text that spells one is text. */
#ifndef DSTRAIN_ROWS_H
#define DSTRAIN_ROWS_H

#include "dstrain/data.h"

/* What rows are. AUTO: each says it by the fields that it has. */
enum ds_row_kind { DS_ROW_AUTO, DS_ROW_TEXT, DS_ROW_COMPLETION, DS_ROW_MESSAGES };

/* Which of their tokens are learned. Of texts everything always is; ends of answers are answers. */
enum ds_train_on {
    DS_TRAIN_ON_COMPLETIONS, /* completions, and every turn of the assistant */
    DS_TRAIN_ON_LAST,        /* completions, and the last turn of the assistant */
    DS_TRAIN_ON_ALL
};

/* ---- chat templates: as transformers renders those of released models, without tools */
enum ds_chat_kind {
    DS_CHAT_AUTO,  /* of options: none is known, rows of messages cannot be read */
    DS_CHAT_PLAIN, /* contents, a line feed behind all but the assistant's, eos behind those */
    DS_CHAT_CHATML,
    DS_CHAT_QWEN,  /* 2.5: ChatML with a system message of its own where there is none */
    DS_CHAT_QWEN3, /* ChatML with reasoning: of the last answers alone, in think tags */
    DS_CHAT_LLAMA2,
    DS_CHAT_LLAMA3,       /* without the dates that 3.1 puts in front */
    DS_CHAT_DEEPSEEK_LLM, /* and V2: roles are words */
    DS_CHAT_DEEPSEEK,     /* V2.5, V3 */
    DS_CHAT_DEEPSEEK_R1,  /* the same; answers but the last lose what was thought before them */
    DS_CHAT_CUSTOM,
    /* numbers are in the names of prepared shards: later ones stand behind */
    DS_CHAT_QWEN2, /* ChatML with another system message of its own */
    DS_CHAT_LLAMA31 /* 3.1, 3.2, 3.3: in front of what the system says two dates, which are always the same */
};
/* Of CUSTOM: what stands around the contents. A role's text has {content} in it, or is empty: there are no such
 * messages; {bos} and {eos} are the tokenizer's; \n, \t, \s, \#, \; and \\ are a line feed, a tab, a space, #, ; and \.
 * `end` stands behind an answer, and is learned with it; empty: {eos}. */
struct ds_chat_texts {
    const char *start, *system, *user, *assistant, *tool, *end;
};
/* local: which one the model's folder has in chat_template.jinja or tokenizer_config.json. AUTO: none, or none of
 * these: `why` then says so (DS_CHAT_WHY_BYTES). */
#define DS_CHAT_WHY_BYTES 256
DS_CHECKED ds_status ds_chat_recognise(struct ds_fs *fs, const char *folder, enum ds_chat_kind *out,
                                       char why[DS_CHAT_WHY_BYTES]);
/* pure: the same of a template's text */
enum ds_chat_kind ds_chat_of_template(const char *text);

/* ---- preparing */
struct ds_rows_options {
    enum ds_row_kind kind;
    enum ds_chat_kind chat;
    const char *chat_why; /* of AUTO: why none is known */
    struct ds_chat_texts texts;
    enum ds_train_on train_on;
    int skips_malformed; /* a row that cannot be read is left out and counted; else DS_ERR_DATA */
    uint64_t line_bytes_max; /* a longer line is malformed */
    uint64_t chunk_bytes;    /* of a file, that a thread takes; 0: 4 MiB */
};
/* local: like ds_prepare_text; rows become documents of one shard, and which of their tokens are learned stands
 * beside them. Behind the last one that is, no token is kept. The work is cut into parts, which stay when it is
 * ended: the next one goes on from them. DS_ERR_DATA: no token of all rows is learned, or no end of one. */
DS_CHECKED ds_status ds_prepare_rows(const struct ds_prepare_options *options,
                                     const struct ds_rows_options *rows, const char *source,
                                     char **shard, struct ds_prepare_report *report);

/* ---- looking: the first rows of a prepared shard, for a person to see what is learned */
typedef void ds_row_sink(void *user, uint64_t number, const uint32_t *ids, const uint8_t *learned,
                         size_t count);
/* local */
DS_CHECKED ds_status ds_rows_show(struct ds_fs *fs, const char *shard, uint64_t count,
                                  ds_row_sink *sink, void *user);

#endif
