/* ini.c - the strict INI grammar. It works on a copy of the text that it cuts into lines, so that every
 * piece it hands out is a string of its own. It knows no section and no key. */
#include "ini.h"

#include <stdlib.h>
#include <string.h>

#define NAME_BYTES_MAX 128

struct parser {
    const char *name;
    uint32_t line;
    char section[NAME_BYTES_MAX + 1]; /* "": none yet */
    ds_ini_fn each;
    void *user;
};

static int is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Bytes of the UTF-8 sequence at `at`, 0 where there is none: no overlong forms, no surrogates. */
static size_t utf8_bytes(const unsigned char *at, size_t left)
{
    static const uint32_t first_of[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t bytes = at[0] < 0x80       ? 1
                   : at[0] >> 5 == 6  ? 2
                   : at[0] >> 4 == 14 ? 3
                   : at[0] >> 3 == 30 ? 4
                                      : 0;
    uint32_t code;

    if (bytes <= 1)
        return bytes;
    if (bytes > left)
        return 0;
    code = at[0] & (0x7fu >> bytes);
    for (size_t i = 1; i < bytes; i++) {
        if (at[i] >> 6 != 2)
            return 0;
        code = code << 6 | (at[i] & 0x3fu);
    }
    return code < first_of[bytes] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0
                                                                                          : bytes;
}

const char *ds_ini_text_problem(const char *text, size_t bytes)
{
    const unsigned char *at = (const unsigned char *)text;

    for (size_t i = 0, step; i < bytes; i += step) {
        if (at[i] == 0)
            return "a NUL byte";
        if (at[i] == '\r')
            return "a carriage return; lines must end with a line feed alone";
        if ((at[i] < 0x20 && at[i] != '\t') || at[i] == 0x7f)
            return "a control character";
        step = utf8_bytes(at + i, bytes - i);
        if (step == 0)
            return "bytes that are not UTF-8";
    }
    return NULL;
}

/* Where the comment begins in `text`, or its end. At the start of a value '#' is a comment, too. */
static size_t comment_at(const char *text)
{
    for (size_t i = 0; text[i] != '\0'; i++)
        if ((text[i] == '#' || text[i] == ';') && (i == 0 || is_blank(text[i - 1])))
            return i;
    return strlen(text);
}

const char *ds_ini_value_problem(const char *value)
{
    const size_t bytes = strlen(value);
    const char *problem = ds_ini_text_problem(value, bytes);

    if (problem)
        return problem;
    if (comment_at(value) != bytes)
        return "a comment sign ('#' or ';') at its start or behind white space";
    if (bytes > 0 && (is_blank(value[0]) || is_blank(value[bytes - 1])))
        return "white space at its start or end";
    return NULL;
}

int ds_ini_shown(const char *text)
{
    size_t bytes = strlen(text), cut = 100;

    if (bytes <= cut)
        return (int)bytes;
    while (cut > 0 && ((unsigned char)text[cut] & 0xc0) == 0x80)
        cut--;
    return (int)cut;
}

static int is_name(const char *text)
{
    const size_t bytes = strlen(text);

    if (bytes == 0 || bytes > NAME_BYTES_MAX)
        return 0;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        int is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        int is_other = (c >= '0' && c <= '9') || c == '-' || c == '.';

        if (!is_letter && !(is_other && i > 0))
            return 0;
    }
    return 1;
}

/* Cuts white space off both ends, in place. */
static char *trim(char *text)
{
    size_t bytes;

    while (is_blank(*text))
        text++;
    bytes = strlen(text);
    while (bytes > 0 && is_blank(text[bytes - 1]))
        bytes--;
    text[bytes] = '\0';
    return text;
}

static ds_status parse_section(struct parser *p, char *text)
{
    const size_t bytes = strlen(text);
    char *name;

    if (text[bytes - 1] != ']')
        return ds_fail(DS_ERR_CONFIG, "%s:%u: a section must read '[name]'", p->name, p->line);
    text[bytes - 1] = '\0';
    name = trim(text + 1);
    if (!is_name(name))
        return ds_fail(DS_ERR_CONFIG, "%s:%u: '%.*s' is not a name for a section", p->name, p->line,
                       ds_ini_shown(name), name);
    memcpy(p->section, name, strlen(name) + 1);
    return p->each(p->user,
                   &(struct ds_ini_item){.name = p->name, .line = p->line, .section = p->section});
}

static ds_status parse_key(struct parser *p, char *text)
{
    char *equals = strchr(text, '=');
    char *key, *value;

    if (!equals)
        return ds_fail(DS_ERR_CONFIG, "%s:%u: expected '[section]' or 'key = value', found '%.*s'",
                       p->name, p->line, ds_ini_shown(text), text);
    *equals = '\0';
    key = trim(text);
    value = trim(equals + 1);
    if (!is_name(key))
        return ds_fail(DS_ERR_CONFIG, "%s:%u: '%.*s' is not a name for a key", p->name, p->line,
                       ds_ini_shown(key), key);
    if (p->section[0] == '\0')
        return ds_fail(DS_ERR_CONFIG, "%s:%u: key '%s' stands before the first [section]", p->name,
                       p->line, key);
    value[comment_at(value)] = '\0';
    return p->each(p->user, &(struct ds_ini_item){p->name, p->line, p->section, key, trim(value)});
}

static ds_status parse_line(struct parser *p, char *text, size_t bytes)
{
    const char *problem;

    if (bytes > DS_INI_LINE_MAX)
        return ds_fail(DS_ERR_CONFIG, "%s:%u: the line has %zu bytes; at most %u are allowed",
                       p->name, p->line, bytes, DS_INI_LINE_MAX);
    problem = ds_ini_text_problem(text, bytes);
    if (problem)
        return ds_fail(DS_ERR_CONFIG, "%s:%u: the line holds %s", p->name, p->line, problem);
    text = trim(text);
    if (text[0] == '\0' || text[0] == '#' || text[0] == ';')
        return DS_OK;
    if (text[0] != '[')
        return parse_key(p, text);
    text[comment_at(text)] = '\0';
    return parse_section(p, trim(text));
}

static ds_status parse_lines(struct parser *p, char *text, size_t bytes)
{
    char *end = text + bytes;

    if (bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        return ds_fail(DS_ERR_CONFIG,
                       "%s:1: the file begins with a byte order mark; save it as plain UTF-8",
                       p->name);
    while (text < end) {
        char *feed = memchr(text, '\n', (size_t)(end - text));
        char *stop = feed ? feed : end;

        p->line++;
        *stop = '\0';
        DS_TRY(parse_line(p, text, (size_t)(stop - text)));
        text = stop + 1;
    }
    return DS_OK;
}

ds_status ds_ini_parse(const char *name, const char *text, size_t bytes, ds_ini_fn each, void *user)
{
    struct parser p = {.name = name, .each = each, .user = user};
    ds_status st;
    char *copy;

    if (bytes > DS_INI_BYTES_MAX)
        return ds_fail(DS_ERR_CONFIG, "%s:1: the file has %zu bytes; at most %u are allowed", name,
                       bytes, DS_INI_BYTES_MAX);
    copy = malloc(bytes + 1);
    if (!copy)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for %zu bytes", name, bytes);
    if (bytes > 0)
        memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    st = parse_lines(&p, copy, bytes);
    free(copy);
    return st;
}
