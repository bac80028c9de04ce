/* text_tokenizer.h (private to launch) - which tokenizer `data.tokenizer` names. */
#ifndef DSTRAIN_LAUNCH_TEXT_TOKENIZER_H
#define DSTRAIN_LAUNCH_TEXT_TOKENIZER_H

#include "dstrain/config.h"
#include "dstrain/fs.h"
#include "dstrain/tokenizer.h"

struct ds_text_tokenizer {
    int is_bytes;             /* the byte tokenizer */
    int is_nobodys;           /* because the folder of a model has none and no key names one */
    char folder[DS_TEXT_MAX]; /* of another one: has a tokenizer.json; "": none, or bytes */
};
/* local: neither where the data is no text. DS_ERR_CONFIG or DS_ERR_UNSUPPORTED with the key: it is not there, or
 * the folder of model.path has another one than the key says, or one in a form that nothing here reads. */
DS_CHECKED ds_status ds_text_tokenizer_find(const struct ds_config *config, struct ds_fs *fs,
                                            struct ds_text_tokenizer *out);
/* local: one line where that is */
void ds_text_tokenizer_warn(const struct ds_config *config, const struct ds_text_tokenizer *found);
/* local: what it names, NULL for bytes and for none; the caller closes it */
DS_CHECKED ds_status ds_text_tokenizer_open(const struct ds_config *config, struct ds_fs *fs,
                                            struct ds_tokenizer **out);

#endif
