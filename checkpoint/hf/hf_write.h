/* hf_write.h (private) - an export and where its weights come from: ranks that hold them, or a checkpoint. */
#ifndef DSTRAIN_HF_WRITE_H
#define DSTRAIN_HF_WRITE_H

#include "hf_folder.h"

#include "dstrain/hf.h"

/* Elements start.. of a whole parameter, in fp32; `from` is the source's again when it returns. */
struct hf_sink {
    ds_status (*put)(void *user, uint32_t param, uint64_t start, uint64_t count, const float *from);
    void *user;
};

struct hf_source_ops {
    /* collective over who reads together: what one says all say */
    ds_status (*agree)(void *self, ds_status st);
    /* collective: parameters [first, end) of the model, each element once, in any order, to the sink of the one who
     * writes. All get the same status. */
    ds_status (*read)(void *self, uint32_t first, uint32_t end, const struct hf_sink *sink);
};

struct hf_source {
    const struct hf_source_ops *ops;
    void *self;
    const struct ds_model *model; /* names and whole shapes */
    int is_writer;                /* one of those who read together */
};

/* collective over the source's: see ds_hf_write; options->parts is not looked at */
DS_CHECKED ds_status hf_write_from(const struct ds_hf_write_options *options,
                                   const struct hf_source *source);

/* local: the files beside the weights, into the folder: those of options->companions, or the byte tokenizer's */
DS_CHECKED ds_status hf_write_companions(const struct ds_hf_write_options *options,
                                         const struct hf_folder *folder);

#endif
