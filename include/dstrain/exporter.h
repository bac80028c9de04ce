/* exporter.h - some of a run's checkpoints become Hugging Face folders while training goes on: FOLDER/export-STEP, by a
 * thread of low priority that reads what was committed. One at a time: what comes meanwhile is left out, with a line.
 * Its failure costs a folder and a line, never the run. */
#ifndef DSTRAIN_EXPORTER_H
#define DSTRAIN_EXPORTER_H

#include "dstrain/export.h"

struct ds_exporter;

struct ds_exporter_options {
    struct ds_fs *fs;
    const char *root;   /* of the checkpoints; these two are copied */
    const char *folder; /* where exports go; it is there */
    uint64_t every;     /* checkpoints whose step this divides */
    struct ds_model_config config;
    const struct ds_lora *lora; /* as in ds_export_from; borrowed */
    struct ds_hf_base beside;   /* these three as in ds_hf_write_options; borrowed */
    const char *base;
    const char *companions;
    int has_byte_tokens;
};

/* local: memory and the thread; what a killed process has left half-made in `folder` goes */
DS_CHECKED ds_status ds_exporter_open(const struct ds_exporter_options *options,
                                      struct ds_exporter **out);
/* local: should this checkpoint have a folder, and has none? It was cut off, or left out. */
int ds_exporter_lacks(const struct ds_exporter *exporter, const struct ds_manifest_id *id);
/* local: what is under way is abandoned, and nothing of it stays; NULL is allowed */
void ds_exporter_close(struct ds_exporter *exporter);

/* These three may be called from any thread. A checkpoint was committed: it is exported if it should be. */
void ds_exporter_offer(struct ds_exporter *exporter, const struct ds_manifest_id *id);
/* which one is being read, so that it stays; 0: none */
int ds_exporter_reads(struct ds_exporter *exporter, struct ds_manifest_id *out);
int ds_exporter_is_idle(struct ds_exporter *exporter);

#endif
