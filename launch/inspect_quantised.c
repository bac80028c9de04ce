/* inspect_quantised.c - what of a file's or folder's tensors are quantised matrices, in the form of bitsandbytes: their
 * names, shapes and how much they take. */
#include "inspect.h"

#include "dstrain/quant_file.h"

#include <stdio.h>
#include <string.h>

static int find(void *user, const char *name, const struct ds_safetensors **file,
                const struct ds_safetensors_entry **entry)
{
    const struct inspect_files *files = user;

    for (size_t i = 0; i < files->count; i++) {
        *file = files->files[i];
        *entry = ds_safetensors_find(*file, name);
        if (*entry)
            return 1;
    }
    return 0;
}

struct sum {
    uint64_t matrices, elems, bytes;
};

static void print_matrix(const char *name, const struct ds_quant_form *form)
{
    printf("  ");
    inspect_print_plain(name, 56);
    printf(" %s [%llu, %llu]", ds_quant_name(form->kind), (unsigned long long)form->rows,
           (unsigned long long)form->columns);
    if (form->kind == DS_QUANT_NF4)
        printf(" of %s%s", ds_dtype_name(form->dtype),
               form->is_nested ? ", absmax quantised, too" : "");
    printf("\n");
}

static ds_status look_at(const struct ds_quant_files *files, const char *name, struct sum *sums)
{
    struct ds_quant_matrix *matrix;
    struct ds_quant_form form;

    DS_TRY(ds_quant_open(files, name, &matrix));
    if (!matrix)
        return DS_OK;
    form = ds_quant_form_of(matrix);
    ds_quant_close(matrix);
    if (sums[0].matrices + sums[1].matrices == 0)
        printf("quantised:\n");
    print_matrix(name, &form);
    sums[form.kind].matrices++;
    sums[form.kind].elems += form.rows * form.columns;
    sums[form.kind].bytes += ds_quant_bytes(&form);
    return DS_OK;
}

ds_status inspect_quantised(struct inspect_files *all)
{
    const struct ds_quant_files files = {.find = find, .user = all};
    struct sum sums[2] = {{0, 0, 0}, {0, 0, 0}};

    for (size_t f = 0; f < all->count; f++)
        for (size_t i = 0; i < ds_safetensors_count(all->files[f]); i++)
            DS_TRY(look_at(&files, ds_safetensors_at(all->files[f], i)->name, sums));
    for (int kind = 0; kind < 2; kind++)
        if (sums[kind].matrices > 0)
            printf("%s: %llu matrices, %llu elements, %llu bytes: %.3f bits an element\n",
                   ds_quant_name((enum ds_quant_kind)kind), (unsigned long long)sums[kind].matrices,
                   (unsigned long long)sums[kind].elems, (unsigned long long)sums[kind].bytes,
                   8.0 * (double)sums[kind].bytes / (double)sums[kind].elems);
    return DS_OK;
}
