/* row.c - reads one line of JSONL. Nothing that a row says is left out quietly: what cannot be rendered is refused. */
#include "row.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const row_role_names[ROW_ROLE_COUNT] = {"system", "user", "assistant", "tool"};

struct reading {
    struct row_reader *reader;
    struct row *row;
    char *why; /* [ROW_WHY_BYTES] */
};

#define WRONG(r, ...) ((void)snprintf((r)->why, ROW_WHY_BYTES, __VA_ARGS__))

static int is_wrong(const struct reading *r)
{
    return r->why[0] != '\0';
}

static struct row_text text_of(const json_t *string)
{
    return (struct row_text){json_string_value(string), json_string_length(string)};
}

/* ---- messages */

static ds_status reserve(struct row_reader *reader, size_t count)
{
    struct row_message *more;

    if (count <= reader->capacity)
        return DS_OK;
    more = realloc(reader->messages, 2 * count * sizeof *more);
    if (!more)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu messages", count);
    reader->messages = more;
    reader->capacity = 2 * count;
    return DS_OK;
}

static int find_role(const char *name, enum row_role *out)
{
    for (int i = 0; i < ROW_ROLE_COUNT; i++)
        if (strcmp(name, row_role_names[i]) == 0) {
            *out = (enum row_role)i;
            return 1;
        }
    return 0;
}

/* What other programs would render, or leave unlearned, and none here does; of these the name, or NULL. */
static const char *find_unread(const json_t *object)
{
    static const char *const names[] = {"tools",         "functions",         "tool_calls",
                                        "function_call", "reasoning_content", "weight"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const json_t *value = json_object_get(object, names[i]);
        const int is_empty = json_is_array(value) && json_array_size(value) == 0;

        if (value && !json_is_null(value) && !is_empty && json_number_value(value) != 1)
            return names[i];
    }
    return NULL;
}

static void read_message(struct reading *r, const char *key, size_t index, const json_t *json,
                         struct row_message *to)
{
    const char *unread = find_unread(json);
    const json_t *role = json_object_get(json, "role"), *content = json_object_get(json, "content");

    if (!json_is_object(json)) {
        WRONG(r, "%s[%zu] must be an object", key, index);
        return;
    }
    if (unread)
        WRONG(r, "%s[%zu] has '%s', which is not known here", key, index, unread);
    if (!is_wrong(r) && !json_is_string(role))
        WRONG(r, "%s[%zu]: 'role' must be a text", key, index);
    else if (!is_wrong(r) && !find_role(json_string_value(role), &to->role))
        WRONG(r, "%s[%zu]: role '%.40s' is none of system, user, assistant, tool", key, index,
              json_string_value(role));
    else if (!is_wrong(r) && !json_is_string(content))
        WRONG(r, "%s[%zu]: 'content' must be a text", key, index);
    else if (!is_wrong(r))
        to->content = text_of(content);
}

/* Behind those that are there. */
static ds_status read_messages(struct reading *r, const char *key, const json_t *list)
{
    const size_t before = r->row->message_count, count = json_array_size(list);

    if (count == 0)
        WRONG(r, "'%s' is an empty conversation", key);
    DS_TRY(reserve(r->reader, before + count));
    for (size_t i = 0; i < count && !is_wrong(r); i++)
        read_message(r, key, i, json_array_get(list, i), &r->reader->messages[before + i]);
    r->row->messages = r->reader->messages;
    r->row->message_count = before + count;
    return DS_OK;
}

/* ---- kinds of rows */

static const char *first_name(const json_t *root)
{
    return json_object_iter_key(json_object_iter((json_t *)root));
}

/* data.rows says that there is one. */
static void say_what_is_missing(struct reading *r, const json_t *root, const char *field)
{
    const char *name = first_name(root);

    WRONG(r, "it has no %s, which data.rows says rows have; it %s%.40s%s", field,
          name ? "has '" : "is empty", name ? name : "", name ? "'" : "");
}

static ds_status read_text(struct reading *r, const json_t *root)
{
    const json_t *text = json_object_get(root, "text");

    if (!text)
        say_what_is_missing(r, root, "'text'");
    else if (!json_is_string(text))
        WRONG(r, "'text' must be a text");
    else if (json_string_length(text) == 0)
        WRONG(r, "'text' is empty");
    else
        r->row->text = text_of(text);
    return DS_OK;
}

static ds_status read_completion(struct reading *r, const json_t *root)
{
    const json_t *prompt = json_object_get(root, "prompt");
    const json_t *completion = json_object_get(root, "completion");

    if (json_is_array(prompt) && json_is_array(completion)) {
        r->row->kind = DS_ROW_MESSAGES;
        DS_TRY(read_messages(r, "prompt", prompt));
        r->row->prompt_count = r->row->message_count;
        return is_wrong(r) ? DS_OK : read_messages(r, "completion", completion);
    }
    if (!prompt || !completion)
        say_what_is_missing(r, root, prompt ? "'completion'" : "'prompt'");
    else if (!json_is_string(prompt) || !json_is_string(completion))
        WRONG(r, "'prompt' and 'completion' must be texts, or both lists of messages");
    else if (json_string_length(completion) == 0)
        WRONG(r, "'completion' is empty");
    if (is_wrong(r))
        return DS_OK;
    r->row->text = text_of(prompt);
    r->row->completion = text_of(completion);
    return DS_OK;
}

static ds_status read_conversation(struct reading *r, const json_t *root)
{
    const json_t *messages = json_object_get(root, "messages");

    if (find_unread(root))
        WRONG(r, "it has '%s', which is not known here", find_unread(root));
    else if (!messages)
        say_what_is_missing(r, root, "'messages'");
    else if (json_is_array(messages))
        return read_messages(r, "messages", messages);
    else
        WRONG(r, "'messages' must be a list");
    return DS_OK;
}

static void say_what_is_there(struct reading *r, const json_t *root)
{
    const char *name = first_name(root);

    WRONG(r, "a row has 'text', 'prompt' and 'completion', or 'messages'; this one %s%.40s%s",
          name ? "has '" : "is empty", name ? name : "", name ? "'" : "");
}

/* What it is by its fields: exactly one of the three. */
static enum ds_row_kind kind_of(struct reading *r, const json_t *root)
{
    const int has_text = json_object_get(root, "text") != NULL;
    const int has_pair = json_object_get(root, "prompt") && json_object_get(root, "completion");
    const int has_messages = json_object_get(root, "messages") != NULL;

    if (has_text + has_pair + has_messages > 1)
        WRONG(r, "it has fields of several kinds of rows: data.rows says which are meant");
    else if (!has_text && !has_pair && !has_messages)
        say_what_is_there(r, root);
    return has_messages ? DS_ROW_MESSAGES : has_pair ? DS_ROW_COMPLETION : DS_ROW_TEXT;
}

static ds_status read_object(struct reading *r, enum ds_row_kind kind)
{
    static ds_status (*const readers[])(struct reading *,
                                        const json_t *) = {[DS_ROW_TEXT] = read_text,
                                                           [DS_ROW_COMPLETION] = read_completion,
                                                           [DS_ROW_MESSAGES] = read_conversation};
    const json_t *root = r->reader->root;

    if (!json_is_object(root))
        WRONG(r, "it must be a JSON object, {...}");
    else if (kind == DS_ROW_AUTO)
        kind = kind_of(r, root);
    r->row->kind = kind;
    return is_wrong(r) ? DS_OK : readers[kind](r, root);
}

/* What a row says may be shown on a terminal, and stand in a file, wherever it was cut. */
static void make_printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || (unsigned char)*text > 0x7e)
            *text = '?';
}

ds_status row_read(struct row_reader *reader, enum ds_row_kind kind, const char *line, size_t bytes,
                   struct row *out, char why[ROW_WHY_BYTES])
{
    struct row row = {0};
    struct reading r = {reader, &row, why};
    char wrong[DS_JSON_WHY_BYTES];

    why[0] = '\0';
    json_decref(reader->root);
    reader->root = NULL;
    DS_TRY(ds_json_try(line, bytes, &reader->root, wrong));
    if (!reader->root)
        WRONG(&r, "not valid JSON: %s%s", wrong,
              bytes > 0 && line[0] == '[' ? "; a row is an object, {...}, on a line of its own"
                                          : "");
    else
        DS_TRY(read_object(&r, kind));
    make_printable(why);
    if (!is_wrong(&r))
        *out = row;
    return DS_OK;
}

void row_reader_fini(struct row_reader *reader)
{
    json_decref(reader->root);
    free(reader->messages);
    *reader = (struct row_reader){0};
}
