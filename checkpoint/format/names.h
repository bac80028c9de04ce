/* names.h - the names of a checkpoint directory's files, made of numbers alone, so that no path can be steered by
 * what a file says. A name has one spelling: what parses is spelt again and compared. pure. */
#ifndef CHECKPOINT_NAMES_H
#define CHECKPOINT_NAMES_H

#include <stddef.h>
#include <stdint.h>

/* `pattern` with each # a decimal number that a document may have, too, and all else as it stands: as many as `count`, to
 * `numbers`. 0: no. */
int names_parse(const char *text, const char *pattern, uint64_t *numbers, size_t count);

#endif
