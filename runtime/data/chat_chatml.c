/* chat_chatml.c - ChatML, and what Qwen makes of it: a system message of its own, results of tools in a turn of the
 * user, reasoning in front of the last answers. */
#include "chat.h"

#include <string.h>

/* What the system says where nobody else speaks for it. */
static const char *system_of(enum ds_chat_kind kind)
{
    return kind == DS_CHAT_QWEN ? "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You "
                                  "are a helpful assistant.<|im_end|>\n"
           : kind == DS_CHAT_QWEN2 ? "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
                                   : "";
}

static ds_status put(const struct chat_writing *c, const char *text)
{
    return sample_template(c->w, text, strlen(text));
}

static int begins_with(struct row_text text, const char *with)
{
    return text.bytes >= strlen(with) && memcmp(text.at, with, strlen(with)) == 0;
}

static int ends_with(struct row_text text, const char *with)
{
    const size_t length = strlen(with);

    return text.bytes >= length && memcmp(text.at + text.bytes - length, with, length) == 0;
}

/* The first place of `mark`, or text.bytes. */
static size_t find(struct row_text text, const char *mark)
{
    const size_t length = strlen(mark);

    for (size_t at = 0; at + length <= text.bytes; at++)
        if (memcmp(text.at + at, mark, length) == 0)
            return at;
    return text.bytes;
}

/* Behind the last `mark`; all of it where there is none. */
static struct row_text behind_last(struct row_text text, const char *mark)
{
    for (size_t at; (at = find(text, mark)) < text.bytes;) {
        text.at += at + strlen(mark);
        text.bytes -= at + strlen(mark);
    }
    return text;
}

static struct row_text without_first_lines(struct row_text text)
{
    while (text.bytes > 0 && text.at[0] == '\n') {
        text.at++;
        text.bytes--;
    }
    return text;
}

static struct row_text without_last_lines(struct row_text text)
{
    while (text.bytes > 0 && text.at[text.bytes - 1] == '\n')
        text.bytes--;
    return text;
}

/* ---- answers with reasoning, as Qwen3 has them */

struct answer {
    struct row_text thoughts, content;
};

static struct answer cut(struct row_text text)
{
    const size_t end = find(text, "</think>");
    struct answer answer = {{text.at, 0}, text};

    if (end == text.bytes)
        return answer;
    answer.content = without_first_lines(behind_last(text, "</think>"));
    answer.thoughts = without_last_lines((struct row_text){text.at, end});
    answer.thoughts = without_first_lines(behind_last(answer.thoughts, "<think>"));
    return answer;
}

/* The last message of a person: what is no result of a tool in disguise. */
static size_t last_question(const struct chat_writing *c)
{
    for (size_t i = c->count; i-- > 0;) {
        const struct row_text text = c->messages[i].content;

        if (c->messages[i].role == ROW_USER &&
            !(begins_with(text, "<tool_response>") && ends_with(text, "</tool_response>")))
            return i;
    }
    return c->count - 1;
}

static ds_status put_thinking(const struct chat_writing *c, struct answer answer, int is_learned)
{
    static const struct row_text begin = {"<think>\n", 8}, end = {"\n</think>\n\n", 11};

    DS_TRY(sample_answer(c->w, begin, is_learned));
    DS_TRY(sample_answer_more(c->w, without_last_lines(answer.thoughts), is_learned));
    DS_TRY(sample_answer_more(c->w, end, is_learned));
    return sample_answer_more(c->w, without_first_lines(answer.content), is_learned);
}

static ds_status put_answer(const struct chat_writing *c, size_t index)
{
    const int is_learned = chat_is_learned(c, index), is_last = index + 1 == c->count;
    struct answer answer = {{"", 0}, c->messages[index].content};

    if (c->chat->kind == DS_CHAT_QWEN3)
        answer = cut(answer.content);
    if (c->chat->kind == DS_CHAT_QWEN3 && index > last_question(c) &&
        (is_last || answer.thoughts.bytes > 0))
        DS_TRY(put_thinking(c, answer, is_learned));
    else
        DS_TRY(sample_answer(c->w, answer.content, is_learned));
    DS_TRY(sample_end(c->w, "<|im_end|>", is_learned));
    return put(c, "\n");
}

/* ---- the rest */

/* Neighbours share a turn. */
static ds_status put_tool_result(const struct chat_writing *c, size_t index)
{
    const int is_first = index == 0 || c->messages[index - 1].role != ROW_TOOL;
    const int is_last = index + 1 == c->count || c->messages[index + 1].role != ROW_TOOL;

    DS_TRY(put(c, is_first ? "<|im_start|>user" : ""));
    DS_TRY(put(c, "\n<tool_response>\n"));
    DS_TRY(sample_text(c->w, c->messages[index].content));
    DS_TRY(put(c, "\n</tool_response>"));
    return put(c, is_last ? "<|im_end|>\n" : "");
}

ds_status chat_write_chatml(const struct chat_writing *c)
{
    const int has_tools = c->chat->kind == DS_CHAT_QWEN || c->chat->kind == DS_CHAT_QWEN3;

    if (c->messages[0].role != ROW_SYSTEM)
        DS_TRY(put(c, system_of(c->chat->kind)));
    for (size_t i = 0; i < c->count; i++) {
        const struct row_message *m = &c->messages[i];

        if (m->role == ROW_TOOL && has_tools) {
            DS_TRY(put_tool_result(c, i));
            continue;
        }
        DS_TRY(put(c, "<|im_start|>"));
        DS_TRY(put(c, row_role_names[m->role]));
        DS_TRY(put(c, "\n"));
        if (m->role == ROW_ASSISTANT) {
            DS_TRY(put_answer(c, i));
            continue;
        }
        DS_TRY(sample_text(c->w, m->content));
        DS_TRY(put(c, "<|im_end|>\n"));
    }
    return DS_OK;
}
