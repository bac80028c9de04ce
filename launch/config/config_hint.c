/* config_hint.c - what a person may have meant. In this order: the key in another section, a name that
 * other systems use, the nearest spelling in the section, the nearest spelling anywhere. */
#include "config.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define WORD_MAX     48
#define SECTIONS_MAX 32

/* Lower case, '-' as '_': what does not count as a difference. Longer words are cut. */
static size_t fold(const char *word, char to[WORD_MAX + 1])
{
    size_t bytes = 0;

    for (; word[bytes] != '\0' && bytes < WORD_MAX; bytes++)
        to[bytes] = word[bytes] == '-' ? '_' : (char)tolower((unsigned char)word[bytes]);
    to[bytes] = '\0';
    return bytes;
}

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    a = a < b ? a : b;
    return a < c ? a : c;
}

/* How many letters were added, lost, changed or swapped with a neighbour. */
static unsigned distance(const char *left, const char *right)
{
    char a[WORD_MAX + 1], b[WORD_MAX + 1];
    const size_t rows = fold(left, a), columns = fold(right, b);
    unsigned d[WORD_MAX + 1][WORD_MAX + 1];

    for (size_t i = 0; i <= rows; i++)
        d[i][0] = (unsigned)i;
    for (size_t j = 0; j <= columns; j++)
        d[0][j] = (unsigned)j;
    for (size_t i = 1; i <= rows; i++)
        for (size_t j = 1; j <= columns; j++) {
            unsigned change = a[i - 1] != b[j - 1];

            d[i][j] = min3(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + change);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < d[i][j])
                d[i][j] = d[i - 2][j - 2] + 1;
        }
    return d[rows][columns];
}

/* A third of the word may be wrong, but never all of a short one. */
static unsigned distance_max(const char *word)
{
    unsigned third = (unsigned)(strlen(word) + 2) / 3;

    return strlen(word) <= 2 ? 0 : third > 5 ? 5 : third;
}

static int is_peer_name(const struct ds_field *field, const char *key)
{
    char word[WORD_MAX + 1];
    const size_t bytes = fold(key, word);

    for (const char *at = field->peers; *at != '\0';) {
        size_t length = strcspn(at, " ");

        if (length == bytes && memcmp(at, word, bytes) == 0)
            return 1;
        at += length + strspn(at + length, " ");
    }
    return 0;
}

static const struct ds_field *by_peer_name(const char *section, const char *key)
{
    const struct ds_field *found = NULL;

    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];

        if (!is_peer_name(field, key))
            continue;
        if (strcmp(field->section, section) == 0)
            return field;
        found = found ? found : field;
    }
    return found;
}

/* The nearest key; `section` NULL: of all sections. */
static const struct ds_field *by_spelling(const char *section, const char *key)
{
    const struct ds_field *found = NULL;
    unsigned best = distance_max(key) + 1;

    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];
        unsigned here;

        if (section && strcmp(field->section, section) != 0)
            continue;
        here = distance(key, field->key);
        if (here < best) {
            best = here;
            found = field;
        }
    }
    return found;
}

void ds_config_hint_key(const char *section, const char *key, char *to, size_t bytes)
{
    const struct ds_field *field = NULL;

    for (size_t i = 0; i < ds_config_field_count && !field; i++)
        if (strcmp(ds_config_fields[i].key, key) == 0)
            field = &ds_config_fields[i];
    if (!field)
        field = by_peer_name(section, key);
    if (!field)
        field = by_spelling(section, key);
    if (!field)
        field = by_spelling(NULL, key);
    if (!field && section[0] == '\0')
        snprintf(to, bytes, "; 'dstrain help' lists the sections");
    else if (!field)
        snprintf(to, bytes, "; 'dstrain help %s' lists its keys", section);
    else if (strcmp(field->section, section) == 0)
        snprintf(to, bytes, "; did you mean '%s'?", field->key);
    else
        snprintf(to, bytes, "; did you mean '%s' in [%s]?", field->key, field->section);
}

const char *ds_config_hint_word(const char *word, const char *const *known, size_t count)
{
    const char *found = NULL;
    unsigned best = distance_max(word) + 1;

    for (size_t i = 0; i < count; i++) {
        unsigned here = distance(word, known[i]);

        if (here < best) {
            best = here;
            found = known[i];
        }
    }
    return found;
}

void ds_config_hint_section(const char *section, char *to, size_t bytes)
{
    const char *names[SECTIONS_MAX], *found;

    DS_ASSERT(ds_config_section_count <= SECTIONS_MAX);
    for (size_t i = 0; i < ds_config_section_count; i++)
        names[i] = ds_config_sections[i].name;
    found = ds_config_hint_word(section, names, ds_config_section_count);
    if (found)
        snprintf(to, bytes, "; did you mean [%s]?", found);
    else
        snprintf(to, bytes, "; 'dstrain help' lists the sections");
}
