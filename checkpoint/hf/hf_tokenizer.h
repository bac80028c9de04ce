/* hf_tokenizer.h (private) - the byte tokenizer as files that Hugging Face tokenizers load. */
#ifndef DSTRAIN_HF_TOKENIZER_H
#define DSTRAIN_HF_TOKENIZER_H

#include "dstrain/status.h"

/* tokenizer.json and tokenizer_config.json; malloc'ed */
DS_CHECKED ds_status hf_byte_tokenizer(char **tokenizer, char **settings);

#endif
