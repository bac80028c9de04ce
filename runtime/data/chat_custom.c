/* chat_custom.c - a template that a person wrote: a text for each role, with {content} in it. */
#include "chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char content_mark[] = "{content}";

/* What a line of a configuration cannot hold otherwise; anything else behind a backslash stays as it is. */
static char escaped(char name)
{
    static const char names[] = "nts#;\\", means[] = "\n\t #;\\";
    const char *at = name ? strchr(names, name) : NULL;

    return at ? means[at - names] : '\0';
}

static char *unescaped(const char *from, size_t bytes)
{
    char *text = malloc(bytes + 1);
    size_t count = 0;

    for (size_t i = 0; text && i < bytes; i++) {
        const char meant = from[i] == '\\' && i + 1 < bytes ? escaped(from[i + 1]) : '\0';

        text[count++] = meant ? meant : from[i];
        i += meant != '\0';
    }
    if (text)
        text[count] = '\0';
    return text;
}

static ds_status load_text(const char *from, size_t bytes, char **out)
{
    *out = unescaped(from, bytes);
    return *out ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "a chat template");
}

static ds_status load_role(struct chat *chat, enum row_role role, const char *text)
{
    const char *mark = text ? strstr(text, content_mark) : NULL;

    if (!mark && text && text[0])
        return ds_fail(DS_ERR_CONFIG, "data.chat_%s = %s: there is no {content} in it",
                       row_role_names[role], text);
    if (!mark)
        return DS_OK;
    DS_TRY(load_text(text, (size_t)(mark - text), &chat->before[role]));
    mark += sizeof content_mark - 1;
    return load_text(mark, strlen(mark), &chat->behind[role]);
}

ds_status chat_load_custom(struct chat *chat, const struct ds_chat_texts *texts)
{
    const char *const roles[ROW_ROLE_COUNT] = {
        [ROW_SYSTEM] = texts->system,
        [ROW_USER] = texts->user,
        [ROW_ASSISTANT] = texts->assistant,
        [ROW_TOOL] = texts->tool,
    };

    DS_TRY(load_text(texts->start, strlen(texts->start), &chat->start));
    DS_TRY(texts->end[0] ? load_text(texts->end, strlen(texts->end), &chat->end)
                         : load_text("{eos}", 5, &chat->end));
    for (int i = 0; i < ROW_ROLE_COUNT; i++)
        DS_TRY(load_role(chat, (enum row_role)i, roles[i]));
    if (!chat->before[ROW_USER] || !chat->before[ROW_ASSISTANT])
        return ds_fail(DS_ERR_CONFIG, "data.chat_template = custom needs data.chat_user and "
                                      "data.chat_assistant");
    return DS_OK;
}

static ds_status put(const struct chat_writing *c, const char *text)
{
    return sample_template(c->w, text, strlen(text));
}

ds_status chat_write_custom(const struct chat_writing *c)
{
    const struct chat *chat = c->chat;

    DS_TRY(put(c, chat->start));
    for (size_t i = 0; i < c->count; i++) {
        const struct row_message *m = &c->messages[i];
        const int is_learned = m->role == ROW_ASSISTANT && chat_is_learned(c, i);

        if (!chat->before[m->role]) {
            snprintf(c->why, ROW_WHY_BYTES,
                     "messages[%zu] is of role %s, but data.chat_%s is empty", i,
                     row_role_names[m->role], row_role_names[m->role]);
            return DS_OK;
        }
        DS_TRY(put(c, chat->before[m->role]));
        if (m->role == ROW_ASSISTANT) {
            DS_TRY(sample_answer(c->w, m->content, is_learned));
            DS_TRY(sample_end(c->w, chat->end, is_learned));
        } else {
            DS_TRY(sample_text(c->w, m->content));
        }
        DS_TRY(put(c, chat->behind[m->role]));
    }
    return DS_OK;
}
