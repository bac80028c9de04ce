/* normal_form.c - utf8proc's tables take characters apart and put them together; the order of marks between is made
 * here, in a time that does not grow with the square of their number, as hostile text would have it. */
#include "normal_form.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { PARTS_MAX = 32, FEW = 16 }; /* a character has 18 parts at most */

void tok_form_scratch_fini(struct tok_form_scratch *scratch)
{
    free(scratch->codes);
    free(scratch->sorted);
    *scratch = (struct tok_form_scratch){0};
}

static ds_status reserve(int32_t **list, size_t *capacity, size_t wanted)
{
    int32_t *more;

    if (wanted <= *capacity)
        return DS_OK;
    wanted += wanted / 2;
    more = realloc(*list, wanted * sizeof *more);
    if (!more)
        return ds_fail(DS_ERR_NO_MEMORY, "to normalise %zu characters", wanted);
    *list = more;
    *capacity = wanted;
    return DS_OK;
}

/* The parts of all characters, one behind the other. */
static ds_status take_apart(int options, struct tok_form_scratch *scratch, struct tok_text text,
                            size_t *out)
{
    size_t count = 0;
    int boundary = 0;

    for (size_t at = 0; at < text.bytes;) {
        const uint32_t code = tok_utf8_next(text, &at);
        utf8proc_ssize_t parts;

        DS_TRY(reserve(&scratch->codes, &scratch->capacity, count + PARTS_MAX + 1));
        parts = utf8proc_decompose_char((utf8proc_int32_t)code, scratch->codes + count, PARTS_MAX,
                                        (utf8proc_option_t)options, &boundary);
        if (parts < 0 || parts > PARTS_MAX)
            return ds_fail(DS_ERR_DATA, "normalising U+%04X: %s", code, utf8proc_errmsg(parts));
        count += (size_t)parts;
    }
    *out = count;
    return DS_OK;
}

static unsigned class_of(int32_t code)
{
    return (unsigned)utf8proc_get_property(code)->combining_class & 255;
}

static void sort_few(int32_t *codes, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        const int32_t code = codes[i];
        size_t at = i;

        for (; at > 0 && class_of(codes[at - 1]) > class_of(code); at--)
            codes[at] = codes[at - 1];
        codes[at] = code;
    }
}

/* By class, those of one class in the order in which they are. */
static ds_status sort_many(struct tok_form_scratch *scratch, int32_t *codes, size_t count)
{
    size_t starts[257] = {0};

    DS_TRY(reserve(&scratch->sorted, &scratch->sorted_capacity, count));
    for (size_t i = 0; i < count; i++)
        starts[class_of(codes[i]) + 1]++;
    for (size_t i = 0; i < 256; i++)
        starts[i + 1] += starts[i];
    for (size_t i = 0; i < count; i++)
        scratch->sorted[starts[class_of(codes[i])]++] = codes[i];
    memcpy(codes, scratch->sorted, count * sizeof *codes);
    return DS_OK;
}

/* Marks behind a character go in the order of their classes; what has none stays where it is. */
static ds_status order_marks(struct tok_form_scratch *scratch, size_t count)
{
    for (size_t at = 0, end; at < count; at = end + 1) {
        for (end = at; end < count && class_of(scratch->codes[end]) != 0; end++) {
        }
        if (end - at > FEW)
            DS_TRY(sort_many(scratch, scratch->codes + at, end - at));
        else
            sort_few(scratch->codes + at, end - at);
    }
    return DS_OK;
}

/* utf8proc writes the text over the characters, for which there is one place more. */
ds_status tok_normal_form(int options, struct tok_form_scratch *scratch, struct tok_text text,
                          struct tok_buffer *to)
{
    utf8proc_ssize_t bytes;
    size_t count = 0;

    DS_TRY(take_apart(options, scratch, text, &count));
    DS_TRY(order_marks(scratch, count));
    bytes = utf8proc_reencode(scratch->codes, (utf8proc_ssize_t)count, (utf8proc_option_t)options);
    if (bytes < 0)
        return ds_fail(DS_ERR_DATA, "normalising text: %s", utf8proc_errmsg(bytes));
    return tok_buffer_add(to, (struct tok_text){(const uint8_t *)scratch->codes, (size_t)bytes});
}
