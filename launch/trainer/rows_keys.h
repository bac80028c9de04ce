/* rows_keys.h (private to launch) - what the keys of jsonl say of rows. */
#ifndef DSTRAIN_LAUNCH_ROWS_KEYS_H
#define DSTRAIN_LAUNCH_ROWS_KEYS_H

#include "dstrain/config.h"

/* local: `why` is where the options say why no chat template is known; they borrow it and the configuration's texts */
DS_CHECKED ds_status ds_rows_keys_read(const struct ds_config *config, struct ds_fs *fs,
                                       char why[DS_CHAT_WHY_BYTES], struct ds_rows_options *out);

#endif
