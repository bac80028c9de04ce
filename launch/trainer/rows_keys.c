/* rows_keys.c - the keys of jsonl as options; a chat template that is left to the model is looked for in its folder. */
#include "rows_keys.h"
#include "text_tokenizer.h"

#include <stdio.h>

static ds_status find_template(const struct ds_config *config, struct ds_fs *fs,
                               char why[DS_CHAT_WHY_BYTES], struct ds_rows_options *out)
{
    struct ds_text_tokenizer tokenizer;

    DS_TRY(ds_text_tokenizer_find(config, fs, &tokenizer));
    if (tokenizer.folder[0])
        return ds_chat_recognise(fs, tokenizer.folder, &out->chat, why);
    snprintf(why, DS_CHAT_WHY_BYTES,
             "the byte tokenizer has none; set data.chat_template to plain or custom");
    return DS_OK;
}

ds_status ds_rows_keys_read(const struct ds_config *config, struct ds_fs *fs,
                            char why[DS_CHAT_WHY_BYTES], struct ds_rows_options *out)
{
    why[0] = '\0';
    *out = (struct ds_rows_options){
        .kind = (enum ds_row_kind)config->data.rows,
        .chat = (enum ds_chat_kind)config->data.chat_template,
        .chat_why = why,
        .texts = {config->data.chat_start, config->data.chat_system, config->data.chat_user,
                  config->data.chat_assistant, config->data.chat_tool, config->data.chat_end},
        .train_on = (enum ds_train_on)config->data.train_on,
        .skips_malformed = config->data.malformed,
        .line_bytes_max = config->data.line_limit,
    };
    return out->chat == DS_CHAT_AUTO ? find_template(config, fs, why, out) : DS_OK;
}
