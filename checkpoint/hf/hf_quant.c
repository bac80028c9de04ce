/* hf_quant.c - matrices of a folder that bitsandbytes has quantised: they are read as what their codes stand for. */
#include "hf_read.h"

#include <string.h>

static int find(void *user, const char *name, const struct ds_safetensors **file,
                const struct ds_safetensors_entry **entry)
{
    *entry = hf_find(user, name, file);
    return *entry != NULL;
}

ds_status hf_quant_open(const struct ds_hf *hf, const char *name, struct ds_quant_matrix **out)
{
    const struct ds_quant_files files = {.find = find, .user = (void *)hf};

    return ds_quant_open(&files, name, out);
}

static ds_status read_runs(const struct ds_quant_matrix *matrix, const struct ds_param *param,
                           uint64_t start, uint64_t count, float *to)
{
    for (uint64_t done = 0; done < count;) {
        const struct ds_span run = ds_param_run(param, start + done, count - done);

        DS_TRY(ds_quant_read(matrix, run.start, run.count, to + done));
        done += run.count;
    }
    return DS_OK;
}

ds_status hf_quant_read(const struct ds_hf *hf, const struct ds_param *param, uint64_t start,
                        uint64_t count, float *to, int *is_quantised)
{
    struct ds_quant_matrix *matrix;
    ds_status st;

    DS_TRY(hf_quant_open(hf, param->name, &matrix));
    *is_quantised = matrix != NULL;
    if (!matrix)
        return DS_OK;
    st = read_runs(matrix, param, start, count, to);
    ds_quant_close(matrix);
    return st;
}

/* Is it what lies beside the codes of one of the model's matrices: X.weight.absmax, X.SCB? */
int hf_quant_is_beside(const struct ds_model *model, const char *name)
{
    static const char *const ends[] = {"SCB", "weight_format"};
    const char *weight = strstr(name, ".weight.");
    char stem[HF_NAME_BYTES];

    if (strlen(name) + sizeof "weight" > sizeof stem)
        return 0;
    strcpy(stem, name);
    if (weight) {
        stem[weight - name + strlen(".weight")] = '\0';
        return ds_model_find(model, stem) != NULL;
    }
    for (size_t i = 0; i < 2; i++) {
        const size_t length = strlen(name), end = strlen(ends[i]);

        if (length > end && strcmp(name + length - end, ends[i]) == 0) {
            strcpy(stem + length - end, "weight");
            return ds_model_find(model, stem) != NULL;
        }
    }
    return 0;
}
