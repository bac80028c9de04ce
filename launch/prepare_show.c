/* prepare_show.c - a row as text, in lines that begin with + where they are learned and with . where they are not; on a
 * terminal in green, too. What could steer a terminal is shown as ?. */
#include "prepare_show.h"
#include "console.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct showing {
    const struct ds_tokenizer *tokenizer;
    const char *name;
    int has_colour;
    ds_status status;
};

static void begin_line(const struct showing *s, int is_learned)
{
    printf("%s  %c ", s->has_colour && is_learned ? "\x1b[32m" : "", is_learned ? '+' : '.');
}

static void end_line(const struct showing *s, int is_learned)
{
    printf("%s\n", s->has_colour && is_learned ? "\x1b[0m" : "");
}

/* A line feed ends a line, and is there to be seen, as tabs are. */
static void show_text(const struct showing *s, const char *text, size_t bytes, int is_learned)
{
    begin_line(s, is_learned);
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char byte = (unsigned char)text[i];

        if (byte == '\n' || byte == '\t')
            fputs(byte == '\n' ? "\\n" : "\\t", stdout);
        else
            putchar(byte < 0x20 || byte == 0x7f ? '?' : byte);
        if (byte == '\n' && i + 1 < bytes) {
            end_line(s, is_learned);
            begin_line(s, is_learned);
        }
    }
    end_line(s, is_learned);
}

/* ds_row_sink */
static void show_row(void *user, uint64_t number, const uint32_t *ids, const uint8_t *learned,
                     size_t count)
{
    struct showing *s = user;
    uint64_t learned_count = 0;

    for (size_t i = 1; i < count; i++)
        learned_count += learned[i];
    printf("%s, row %llu: %zu tokens, %llu of them learned\n", s->name,
           (unsigned long long)number + 1, count, (unsigned long long)learned_count);
    for (size_t begin = 0, end; begin < count && s->status == DS_OK; begin = end) {
        char *text = NULL;
        size_t bytes = 0;

        for (end = begin + 1; end < count && learned[end] == learned[begin]; end++) {
        }
        s->status = ds_tokenizer_decode(s->tokenizer, ids + begin, end - begin, DS_DECODE_REPLACE,
                                        &text, &bytes);
        if (s->status == DS_OK)
            show_text(s, text, bytes, learned[begin]);
        free(text);
    }
}

ds_status ds_prepare_show(struct ds_fs *fs, const struct ds_tokenizer *tokenizer, const char *shard,
                          const char *name, uint64_t count)
{
    struct showing s = {
        .tokenizer = tokenizer, .name = name, .has_colour = ds_console_is_terminal(STDOUT_FILENO)};
    struct ds_tokenizer *bytes = NULL;
    ds_status st;

    if (!tokenizer)
        DS_TRY(ds_tokenizer_open(fs, "bytes", &bytes));
    if (!tokenizer)
        s.tokenizer = bytes;
    printf("lines with + are learned, lines with . are not\n");
    st = ds_rows_show(fs, shard, count, show_row, &s);
    ds_tokenizer_close(bytes);
    return st == DS_OK ? s.status : st;
}
