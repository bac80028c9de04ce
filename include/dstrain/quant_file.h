/* quant_file.h - quantised matrices in safetensors, as bitsandbytes writes and reads them. A matrix called X.weight is
 *
 *   NF4   X.weight U8 [bytes, 1], X.weight.absmax, X.weight.quant_map, where absmax are nested X.weight.nested_absmax
 *         and X.weight.nested_quant_map, and X.weight.quant_state.bitsandbytes__nf4: a JSON text as U8
 *   INT8  X.weight I8 [rows, columns], X.SCB: the absmax of rows, X.weight_format: U8 0, row-major
 *
 * Sums and sizes in a file are not trusted: DS_ERR_DATA, or DS_ERR_UNSUPPORTED for what bitsandbytes has and this has
 * not (fp4, other blocks), in one line with file and tensor. local: everything here. */
#ifndef DSTRAIN_QUANT_FILE_H
#define DSTRAIN_QUANT_FILE_H

#include "dstrain/quant.h"
#include "dstrain/safetensors.h"

/* Where tensors are looked for: the parts of a matrix may lie in several files of a folder. 0: it is not there. */
struct ds_quant_files {
    int (*find)(void *user, const char *name, const struct ds_safetensors **file,
                const struct ds_safetensors_entry **entry);
    void *user;
};
struct ds_quant_files ds_quant_one_file(struct ds_safetensors *file);

struct ds_quant_form {
    enum ds_quant_kind kind;
    enum ds_dtype dtype; /* of NF4, what it was and is rounded to: F32, BF16 or F16 */
    uint64_t rows, columns;
    int is_nested; /* of NF4 */
};

struct ds_quant_matrix;

/* Open the matrix `name` ("X.weight") and keep what lies beside its codes. *out NULL: there is no such tensor, or it
 * is not quantised. */
DS_CHECKED ds_status ds_quant_open(const struct ds_quant_files *files, const char *name,
                                   struct ds_quant_matrix **out);
void ds_quant_close(struct ds_quant_matrix *matrix); /* NULL is allowed */
struct ds_quant_form ds_quant_form_of(const struct ds_quant_matrix *matrix);
/* all that a file holds of it */
uint64_t ds_quant_bytes(const struct ds_quant_form *form);
/* numbers start .. start + count, dequantised and rounded to its dtype, as fp32 */
DS_CHECKED ds_status ds_quant_read(const struct ds_quant_matrix *matrix, uint64_t start,
                                   uint64_t count, float *to);
/* the codes of the same as they are stored; of NF4 `start` is where a block begins */
DS_CHECKED ds_status ds_quant_read_codes(const struct ds_quant_matrix *matrix, uint64_t start,
                                         uint64_t count, void *to);
/* what lies beside them, of the whole matrix; the matrix's own */
struct ds_quantised ds_quant_beside(const struct ds_quant_matrix *matrix);

/* ---- writing */

#define DS_QUANT_ITEMS_MAX  6
#define DS_QUANT_NAME_BYTES 512

/* The tensors that a matrix becomes, for ds_safetensors_create; names point into the struct. */
struct ds_quant_items {
    struct ds_quant_form form;
    size_t count;
    struct ds_safetensors_item items[DS_QUANT_ITEMS_MAX];
    char names[DS_QUANT_ITEMS_MAX][DS_QUANT_NAME_BYTES];
};
/* DS_ERR_DATA: the name is too long, or does not end with .weight */
DS_CHECKED ds_status ds_quant_describe(const struct ds_quant_form *form, const char *name,
                                       struct ds_quant_items *out);

/* Quantises a matrix that is brought from its start to its end, in pieces of whole blocks (NF4, but for the last) or
 * rows (INT8), into a file whose items `first` .. are those of `items`. Keeps 4 bytes a block, or a row. */
struct ds_quant_writer;
DS_CHECKED ds_status ds_quant_write_begin(const struct ds_quant_items *items,
                                          struct ds_safetensors_writer *file, size_t first,
                                          struct ds_quant_writer **out);
/* DS_ERR_DATA: a number is not finite */
DS_CHECKED ds_status ds_quant_write(struct ds_quant_writer *writer, const float *x, uint64_t count);
/* The rest, when all has been brought. Frees the writer, whatever happens. */
DS_CHECKED ds_status ds_quant_write_end(struct ds_quant_writer *writer);
void ds_quant_write_abandon(struct ds_quant_writer *writer); /* NULL is allowed */

#endif
