/* ini.h - the text of a configuration, line by line. Strict: what cannot be read in exactly one way is
 * an error with file and line. No includes, no expansions, no continuation lines, no quotes.
 *
 *   # a comment, also with ';', at the start of a line or behind white space
 *   [section]
 *   key = value            # the value ends before the comment; it may be empty
 */
#ifndef DSTRAIN_LAUNCH_INI_H
#define DSTRAIN_LAUNCH_INI_H

#include "dstrain/status.h"

#include <stddef.h>
#include <stdint.h>

#define DS_INI_BYTES_MAX (1u << 20)
#define DS_INI_LINE_MAX  (64u << 10)

/* What a line says; the texts live until the callback returns. */
struct ds_ini_item {
    const char *name; /* of the file, for messages */
    uint32_t line;    /* from 1 */
    const char *section;
    const char *key, *value; /* both NULL: the line opens the section */
};

/* A failure ends the parse and comes back from it; the callback has logged it. */
typedef ds_status (*ds_ini_fn)(void *user, const struct ds_ini_item *item);

/* local, pure but for the log: hand every section and every key of `text` to `each`, in order. */
DS_CHECKED ds_status ds_ini_parse(const char *name, const char *text, size_t bytes, ds_ini_fn each,
                                  void *user);

/* pure: why `text` cannot stand in a line (NUL, carriage return, control character, bad UTF-8), or NULL */
const char *ds_ini_text_problem(const char *text, size_t bytes);
/* pure: why `value` would not read back as it is (white space around it, a comment in it, or one of the
 * problems of any text), or NULL */
const char *ds_ini_value_problem(const char *value);
/* pure: how many bytes of `text` to show in a message ("%.*s"): 100 at most, whole characters */
int ds_ini_shown(const char *text);

#endif
