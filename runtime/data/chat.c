/* chat.c - the templates of released models, each as its own renders a conversation: bos is part of the text, and
 * what the assistant says begins where a model is asked to go on. */
#include "chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEEPSEEK_BOS \
    "<\xef\xbd\x9c"  \
    "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
#define DEEPSEEK_EOS \
    "<\xef\xbd\x9c"  \
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
#define DEEPSEEK_USER "<\xef\xbd\x9cUser\xef\xbd\x9c>"
#define DEEPSEEK_ASSISTANT \
    "<\xef\xbd\x9c"        \
    "Assistant\xef\xbd\x9c>"

#define WRONG(c, ...) ((void)snprintf((c)->why, ROW_WHY_BYTES, __VA_ARGS__))

int chat_is_learned(const struct chat_writing *c, size_t index)
{
    return index >= c->prompt_count &&
           (c->chat->train_on != DS_TRAIN_ON_LAST || index == c->last_answer);
}

/* ---- small things */

static ds_status put(const struct chat_writing *c, const char *text)
{
    return sample_template(c->w, text, strlen(text));
}

/* An answer with what ends it. */
static ds_status put_answer(const struct chat_writing *c, size_t index, struct row_text text,
                            const char *end)
{
    const int is_learned = chat_is_learned(c, index);

    DS_TRY(sample_answer(c->w, text, is_learned));
    return sample_end(c->w, end, is_learned);
}

/* How many bytes a space takes that `text` begins with, or ends with: what Python's strip takes away. */
static size_t space_at(struct row_text text, int is_end)
{
    static const char *const spaces[] = {" ",
                                         "\n",
                                         "\r",
                                         "\t",
                                         "\v",
                                         "\f",
                                         "\x1c",
                                         "\x1d",
                                         "\x1e",
                                         "\x1f",
                                         "\xc2\x85",
                                         "\xc2\xa0",
                                         "\xe1\x9a\x80",
                                         "\xe2\x80\x80",
                                         "\xe2\x80\x81",
                                         "\xe2\x80\x82",
                                         "\xe2\x80\x83",
                                         "\xe2\x80\x84",
                                         "\xe2\x80\x85",
                                         "\xe2\x80\x86",
                                         "\xe2\x80\x87",
                                         "\xe2\x80\x88",
                                         "\xe2\x80\x89",
                                         "\xe2\x80\x8a",
                                         "\xe2\x80\xa8",
                                         "\xe2\x80\xa9",
                                         "\xe2\x80\xaf",
                                         "\xe2\x81\x9f",
                                         "\xe3\x80\x80"};

    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        const size_t length = strlen(spaces[i]);
        const char *at = text.at + (is_end ? text.bytes - length : 0);
        if (length <= text.bytes && memcmp(at, spaces[i], length) == 0)
            return length;
    }
    return 0;
}

static struct row_text trimmed_right(struct row_text text)
{
    for (size_t length; (length = space_at(text, 1)) > 0;)
        text.bytes -= length;
    return text;
}

static struct row_text trimmed(struct row_text text)
{
    for (size_t length; (length = space_at(text, 0)) > 0;) {
        text.at += length;
        text.bytes -= length;
    }
    return trimmed_right(text);
}

/* No template here says what the results of tools look like. */
static int has_tools(const struct chat_writing *c)
{
    for (size_t i = 0; i < c->count; i++)
        if (c->messages[i].role == ROW_TOOL) {
            WRONG(c, "this chat template has no messages of role 'tool'");
            return 1;
        }
    return 0;
}

/* ---- templates */

static ds_status write_plain(const struct chat_writing *c)
{
    for (size_t i = 0; i < c->count; i++) {
        if (c->messages[i].role == ROW_ASSISTANT) {
            DS_TRY(put_answer(c, i, c->messages[i].content, "{eos}"));
            continue;
        }
        DS_TRY(sample_text(c->w, c->messages[i].content));
        DS_TRY(put(c, "\n"));
    }
    return DS_OK;
}

/* 3.1's dates are those of its template: a run of tomorrow has the tokens of today. */
static ds_status put_dates(const struct chat_writing *c)
{
    DS_TRY(put(c, "<|start_header_id|>system<|end_header_id|>\n\n"
                  "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"));
    if (c->messages[0].role == ROW_SYSTEM)
        DS_TRY(sample_text(c->w, trimmed(c->messages[0].content)));
    return put(c, "<|eot_id|>");
}

static ds_status write_llama3(const struct chat_writing *c)
{
    const int has_dates = c->chat->kind == DS_CHAT_LLAMA31;

    DS_TRY(put(c, "<|begin_of_text|>"));
    if (has_dates)
        DS_TRY(put_dates(c));
    for (size_t i = has_dates && c->messages[0].role == ROW_SYSTEM; i < c->count; i++) {
        const struct row_message *m = &c->messages[i];

        DS_TRY(put(c, "<|start_header_id|>"));
        DS_TRY(put(c, row_role_names[m->role]));
        DS_TRY(put(c, "<|end_header_id|>\n\n"));
        if (m->role == ROW_ASSISTANT) {
            DS_TRY(put_answer(c, i, trimmed(m->content), "<|eot_id|>"));
            continue;
        }
        DS_TRY(sample_text(c->w, trimmed(m->content)));
        DS_TRY(put(c, "<|eot_id|>"));
    }
    return DS_OK;
}

/* The first request with what the system says in front of it: contents are trimmed as a whole. */
static ds_status put_request(const struct chat_writing *c, const struct row_message *system,
                             struct row_text request)
{
    DS_TRY(put(c, "<s>[INST] "));
    if (system) {
        DS_TRY(put(c, "<<SYS>>\n"));
        DS_TRY(sample_text(c->w, system->content));
        DS_TRY(put(c, "\n<</SYS>>\n\n"));
    }
    DS_TRY(sample_text(c->w, system ? trimmed_right(request) : trimmed(request)));
    return put(c, " [/INST]");
}

/* What the assistant says begins behind [/INST], with the space. */
static ds_status put_reply(const struct chat_writing *c, size_t index)
{
    static const struct row_text space = {" ", 1};
    const int is_learned = chat_is_learned(c, index);

    DS_TRY(sample_answer(c->w, space, is_learned));
    DS_TRY(sample_answer_more(c->w, trimmed(c->messages[index].content), is_learned));
    DS_TRY(sample_answer_more(c->w, space, is_learned));
    return sample_end(c->w, "</s>", is_learned);
}

static ds_status write_llama2(const struct chat_writing *c)
{
    const size_t first = c->messages[0].role == ROW_SYSTEM;

    for (size_t i = first; i < c->count; i++) {
        const struct row_message *m = &c->messages[i];
        const int is_request = (i - first) % 2 == 0;

        if (m->role != (is_request ? ROW_USER : ROW_ASSISTANT)) {
            WRONG(c,
                  "messages[%zu]: in llama2's chat template roles alternate: user, assistant; "
                  "this one is %s",
                  i, row_role_names[m->role]);
            return DS_OK;
        }
        DS_TRY(is_request ? put_request(c, i == first && first ? &c->messages[0] : NULL, m->content)
                          : put_reply(c, i));
    }
    return DS_OK;
}

/* Behind the last </think>, where there is one. */
static struct row_text without_thoughts(struct row_text text)
{
    static const char mark[] = "</think>";
    const size_t length = sizeof mark - 1;

    for (size_t at = text.bytes; at >= length; at--)
        if (memcmp(text.at + at - length, mark, length) == 0)
            return (struct row_text){text.at + at, text.bytes - at};
    return text;
}

/* A model is asked without the space. */
static ds_status write_deepseek_llm(const struct chat_writing *c)
{
    static const struct row_text space = {" ", 1};

    DS_TRY(put(c, DEEPSEEK_BOS));
    for (size_t i = 0; i < c->count; i++) {
        const struct row_message *m = &c->messages[i];
        const int is_learned = m->role == ROW_ASSISTANT && chat_is_learned(c, i);

        if (m->role == ROW_ASSISTANT) {
            DS_TRY(put(c, "Assistant:"));
            DS_TRY(sample_answer(c->w, space, is_learned));
            DS_TRY(sample_answer_more(c->w, m->content, is_learned));
            DS_TRY(sample_end(c->w, DEEPSEEK_EOS, is_learned));
            continue;
        }
        DS_TRY(put(c, m->role == ROW_USER ? "User: " : ""));
        DS_TRY(sample_text(c->w, m->content));
        DS_TRY(put(c, "\n\n"));
    }
    return DS_OK;
}

/* System messages come together at the beginning. */
static ds_status write_deepseek(const struct chat_writing *c)
{
    const int forgets = c->chat->kind == DS_CHAT_DEEPSEEK_R1;
    int has_system = 0;

    DS_TRY(put(c, DEEPSEEK_BOS));
    for (size_t i = 0; i < c->count; i++) {
        if (c->messages[i].role != ROW_SYSTEM)
            continue;
        DS_TRY(put(c, has_system ? "\n\n" : ""));
        DS_TRY(sample_text(c->w, c->messages[i].content));
        has_system = 1;
    }
    for (size_t i = 0; i < c->count; i++) {
        const struct row_text content = c->messages[i].content;

        if (c->messages[i].role == ROW_USER) {
            DS_TRY(put(c, DEEPSEEK_USER));
            DS_TRY(sample_text(c->w, content));
        } else if (c->messages[i].role == ROW_ASSISTANT) {
            DS_TRY(put(c, DEEPSEEK_ASSISTANT));
            DS_TRY(put_answer(c, i,
                              forgets && i != c->last_answer ? without_thoughts(content) : content,
                              DEEPSEEK_EOS));
        }
    }
    return DS_OK;
}

/* ---- the table of them */

#define NEEDS_MAX 4
static const struct template
{
    const char *name;
    ds_status (*write)(const struct chat_writing *c);
    int has_tools;
    const char *needs[NEEDS_MAX + 1]; /* tokens that the tokenizer must have */
}
templates[] = {
    [DS_CHAT_PLAIN] = {"plain", write_plain, 0, {NULL}},
    [DS_CHAT_CHATML] = {"chatml", chat_write_chatml, 1, {"<|im_start|>", "<|im_end|>"}},
    [DS_CHAT_QWEN] = {"qwen", chat_write_chatml, 1, {"<|im_start|>", "<|im_end|>"}},
    [DS_CHAT_QWEN3] = {"qwen3", chat_write_chatml, 1, {"<|im_start|>", "<|im_end|>"}},
    [DS_CHAT_LLAMA2] = {"llama2", write_llama2, 0, {"<s>", "</s>"}},
    [DS_CHAT_LLAMA3] = {"llama3",
                        write_llama3,
                        1,
                        {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                         "<|eot_id|>"}},
    [DS_CHAT_DEEPSEEK_LLM] = {"deepseek-llm", write_deepseek_llm, 0, {DEEPSEEK_BOS, DEEPSEEK_EOS}},
    [DS_CHAT_DEEPSEEK] = {"deepseek",
                          write_deepseek,
                          0,
                          {DEEPSEEK_BOS, DEEPSEEK_EOS, DEEPSEEK_USER, DEEPSEEK_ASSISTANT}},
    [DS_CHAT_DEEPSEEK_R1] = {"deepseek-r1",
                             write_deepseek,
                             0,
                             {DEEPSEEK_BOS, DEEPSEEK_EOS, DEEPSEEK_USER, DEEPSEEK_ASSISTANT}},
    [DS_CHAT_CUSTOM] = {"custom", chat_write_custom, 1, {NULL}},
    [DS_CHAT_QWEN2] = {"qwen2", chat_write_chatml, 1, {"<|im_start|>", "<|im_end|>"}},
    [DS_CHAT_LLAMA31] = {"llama3.1",
                         write_llama3,
                         0,
                         {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                          "<|eot_id|>"}},
};

/* A token that stands in `text`, if there is one, is the template's own: nobody else writes it. */
static ds_status add_controls(struct chat *chat, const struct ds_tokenizer *tokenizer,
                              const char *text)
{
    const size_t bytes = text ? strlen(text) : 0;

    for (size_t at = 0; at < bytes;) {
        uint32_t id = 0;
        const size_t length = ds_tokenizer_match_added(tokenizer, text + at, bytes - at, &id);

        if (length > 0 && chat->control_count == CHAT_CONTROL_MAX)
            return ds_fail(DS_ERR_CONFIG, "a chat template of more than %d tokens",
                           CHAT_CONTROL_MAX);
        if (length > 0)
            chat->control[chat->control_count++] = id;
        at += length ? length : 1;
    }
    return DS_OK;
}

static ds_status find_controls(struct chat *chat, const struct ds_tokenizer *tokenizer)
{
    const struct template *template = &templates[chat->kind];

    for (size_t i = 0; template->needs[i]; i++) {
        const char *token = template->needs[i];
        uint32_t id;

        if (ds_tokenizer_match_added(tokenizer, token, strlen(token), &id) != strlen(token))
            return ds_fail(DS_ERR_DATA,
                           "data.chat_template = %s writes the token %s, which the tokenizer does "
                           "not have: they do not belong together",
                           template->name, token);
        DS_TRY(add_controls(chat, tokenizer, token));
    }
    for (int i = 0; i < ROW_ROLE_COUNT && chat->kind == DS_CHAT_CUSTOM; i++) {
        DS_TRY(add_controls(chat, tokenizer, chat->before[i]));
        DS_TRY(add_controls(chat, tokenizer, chat->behind[i]));
    }
    if (chat->kind != DS_CHAT_CUSTOM)
        return DS_OK;
    DS_TRY(add_controls(chat, tokenizer, chat->start));
    return add_controls(chat, tokenizer, chat->end);
}

ds_status chat_init(struct chat *chat, const struct ds_rows_options *options,
                    const struct ds_tokenizer *tokenizer)
{
    *chat = (struct chat){
        .kind = options->chat, .train_on = options->train_on, .why_none = options->chat_why};
    if (chat->kind == DS_CHAT_AUTO)
        return DS_OK;
    if (chat->kind == DS_CHAT_CUSTOM)
        DS_TRY(chat_load_custom(chat, &options->texts));
    return find_controls(chat, tokenizer);
}

void chat_fini(struct chat *chat)
{
    for (int i = 0; i < ROW_ROLE_COUNT; i++) {
        free(chat->before[i]);
        free(chat->behind[i]);
    }
    free(chat->start);
    free(chat->end);
    *chat = (struct chat){0};
}

ds_status chat_write(const struct chat *chat, struct sample_writer *w, const struct row *row,
                     char why[ROW_WHY_BYTES])
{
    struct chat_writing c = {
        chat, w, row->messages, row->message_count, row->prompt_count, row->message_count, why};

    if (chat->kind == DS_CHAT_AUTO) {
        WRONG(&c, "it has messages, and no chat template is known: %s",
              chat->why_none ? chat->why_none : "set data.chat_template");
        return DS_OK;
    }
    for (size_t i = 0; i < c.count; i++)
        if (c.messages[i].role == ROW_ASSISTANT)
            c.last_answer = i;
    if (c.last_answer == c.count && chat->train_on != DS_TRAIN_ON_ALL)
        WRONG(&c, "no message is the assistant's: there is nothing to learn from it");
    else if (templates[chat->kind].has_tools || !has_tools(&c))
        DS_TRY(templates[chat->kind].write(&c));
    return DS_OK;
}
