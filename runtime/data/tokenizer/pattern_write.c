/* pattern_write.c - Oniguruma's regular expressions as PCRE2 has to be told them.
 *
 * Most of a pattern means the same to both and is copied. Where they differ it is written anew: \s is
 * White_Space, which PCRE2's \s is not quite; \w has marks; a script's name means the script and not its
 * extensions; \uHHHH. Where no other form is the same, it is refused: what is let through here is what has
 * been compared. */
#include "pattern_write.h"

#include <stdio.h>
#include <string.h>

struct writing {
    struct tok_text in;
    size_t at;
    struct tok_buffer *to;
    char *why;
    int in_class;
};

static int peek(const struct writing *w, size_t ahead)
{
    return w->at + ahead < w->in.bytes ? w->in.at[w->at + ahead] : -1;
}

static int begins(const struct writing *w, const char *text)
{
    const size_t bytes = strlen(text);

    return w->in.bytes - w->at >= bytes && memcmp(w->in.at + w->at, text, bytes) == 0;
}

static ds_status put(struct writing *w, const char *text)
{
    return tok_buffer_add(w->to, (struct tok_text){(const uint8_t *)text, strlen(text)});
}

/* `bytes` of the pattern as they are */
static ds_status copy(struct writing *w, size_t bytes)
{
    const struct tok_text piece = {w->in.at + w->at, bytes};

    w->at += bytes;
    return tok_buffer_add(w->to, piece);
}

static ds_status refuse(struct writing *w, const char *what)
{
    snprintf(w->why, TOK_PATTERN_WHY_BYTES, "%s at byte %zu is not supported", what, w->at);
    return DS_OK;
}

static int is_hex(int c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static int is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static int is_letter(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* \xHH, \x{H...}, \uHHHH: `w->at` is on the x or u. */
static ds_status write_code(struct writing *w)
{
    char text[16];
    size_t from = 1, count = 0;

    if (peek(w, 0) == 'x' && peek(w, 1) == '{')
        from = 2;
    while (count < 6 && is_hex(peek(w, from + count)))
        count++;
    if (from == 2 ? count == 0 || peek(w, from + count) != '}'
                  : (count < (peek(w, 0) == 'u' ? 4u : 2u)))
        return refuse(w, "this way of writing a character");
    if (from == 1)
        count = peek(w, 0) == 'u' ? 4 : 2;
    if (count == 2 && from == 1 &&
        w->in.at[w->at + 1] > '7') /* a byte to one, U+0080 to the other */
        return refuse(w, "\\x of a byte that is not ASCII");
    snprintf(text, sizeof text, "\\x{%.*s}", (int)count, (const char *)w->in.at + w->at + from);
    w->at += from + count + (from == 2);
    return put(w, text);
}

/* \p{...}: general categories have one or two letters; longer names are scripts. `w->at` is on the p. */
static ds_status write_property(struct writing *w)
{
    const int is_not = (peek(w, 0) == 'P') != (peek(w, 2) == '^');
    size_t start = peek(w, 2) == '^' ? 3 : 2, count = 0;
    char text[64];

    while (is_letter(peek(w, start + count)) || peek(w, start + count) == '_')
        count++;
    if (peek(w, 1) != '{' || peek(w, start + count) != '}' || count == 0 || count > 40)
        return refuse(w, "this property of characters");
    snprintf(text, sizeof text, "\\%c{%s%.*s}", is_not ? 'P' : 'p', count > 2 ? "sc:" : "",
             (int)count, (const char *)w->in.at + w->at + start);
    w->at += start + count + 1;
    return put(w, text);
}

static ds_status write_kind(struct writing *w, const char *text)
{
    w->at++;
    return put(w, text);
}

/* Behind a backslash. */
static ds_status write_escape(struct writing *w)
{
    w->at++;
    switch (peek(w, 0)) {
    case 's':
        return write_kind(w, "\\p{wspace}");
    case 'S':
        return write_kind(w, "\\P{wspace}");
    case 'd':
        return write_kind(w, "\\p{Nd}");
    case 'D':
        return write_kind(w, "\\P{Nd}");
    case 'w':
        return write_kind(w, w->in_class ? "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
                                         : "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]");
    case 'v': /* a vertical tab, no class */
        return write_kind(w, "\\x{0b}");
    case 'p':
    case 'P':
        return write_property(w);
    case 'x':
    case 'u':
        return write_code(w);
    case 'r':
    case 'n':
    case 't':
    case 'f':
    case 'e':
    case 'a':
        DS_TRY(put(w, "\\"));
        return copy(w, 1);
    case 'A':
    case 'z':
        if (w->in_class)
            break;
        DS_TRY(put(w, "\\"));
        return copy(w, 1);
    default:
        if (peek(w, 0) < 0x21 || peek(w, 0) > 0x7e || is_letter(peek(w, 0)) || is_digit(peek(w, 0)))
            break;
        DS_TRY(put(w, "\\"));
        return copy(w, 1);
    }
    return refuse(w, "this escape");
}

static ds_status write_class(struct writing *w)
{
    w->in_class = 1;
    DS_TRY(copy(w, 1));
    if (peek(w, 0) == '^')
        DS_TRY(copy(w, 1));
    if (peek(w, 0) == ']')
        return refuse(w, "']' as the first of a class");
    while (!w->why[0] && w->at < w->in.bytes && peek(w, 0) != ']') {
        if (peek(w, 0) == '\\')
            DS_TRY(write_escape(w));
        else if (peek(w, 0) == '[')
            return refuse(w, "a class inside a class");
        else if (begins(w, "&&"))
            return refuse(w, "an intersection of classes");
        else
            DS_TRY(copy(w, 1));
    }
    if (w->why[0] || w->at == w->in.bytes)
        return w->why[0] ? DS_OK : refuse(w, "a class without an end");
    w->in_class = 0;
    return copy(w, 1);
}

static ds_status write_group(struct writing *w)
{
    static const char *const kinds[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:"};

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (begins(w, kinds[i]))
            return copy(w, strlen(kinds[i]));
    if (w->at == 0 && begins(w, "(?i)")) /* elsewhere alternatives are grouped differently */
        return copy(w, 4);
    if (peek(w, 1) == '?' || peek(w, 1) == '*')
        return refuse(w, "this kind of group");
    return copy(w, 1);
}

/* {n}, {n,}, {n,m} and, where it is no exact count, {...}? */
static ds_status write_interval(struct writing *w)
{
    size_t bytes = 1, commas = 0;

    while (is_digit(peek(w, bytes)) || (peek(w, bytes) == ',' && bytes > 1 && commas == 0)) {
        commas += peek(w, bytes) == ',';
        bytes++;
    }
    if (bytes == 1 || peek(w, bytes) != '}')
        return refuse(w, "'{' that begins no count");
    if (peek(w, bytes + 1) == '+' || (peek(w, bytes + 1) == '?' && commas == 0))
        return refuse(w, "what follows this count");
    return copy(w, bytes + 1);
}

ds_status tok_pattern_write(struct tok_text regex, struct tok_buffer *to,
                            char why[TOK_PATTERN_WHY_BYTES])
{
    struct writing w = {.in = regex, .to = to, .why = why};

    why[0] = '\0';
    while (!why[0] && w.at < regex.bytes) {
        switch (peek(&w, 0)) {
        case '\\':
            DS_TRY(write_escape(&w));
            break;
        case '[':
            DS_TRY(write_class(&w));
            break;
        case '(':
            DS_TRY(write_group(&w));
            break;
        case '{':
            DS_TRY(write_interval(&w));
            break;
        default:
            DS_TRY(copy(&w, 1));
        }
    }
    return DS_OK;
}
