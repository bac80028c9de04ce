/* hf_tokenizer.c - the byte tokenizer written as a byte-level BPE without merges: each byte is its own
 * token, under the printable stand-in that GPT-2's byte-level scheme gives it. */
#include "hf_tokenizer.h"

#include "dstrain/data.h"
#include "dstrain/hf.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum { OURS_BYTES_MAX = 1 << 20 };

/* Printable bytes stand for themselves, the others for U+0100, U+0101, ... in order. */
static unsigned stand_in(unsigned byte)
{
    unsigned next = 256;

    for (unsigned b = 0; b < 256; b++) {
        int is_printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        unsigned code = is_printable ? b : next++;
        if (b == byte)
            return code;
    }
    return 0;
}

static void encode_utf8(unsigned code, char to[4])
{
    if (code < 0x80) {
        to[0] = (char)code;
        to[1] = '\0';
    } else {
        to[0] = (char)(0xc0 | code >> 6);
        to[1] = (char)(0x80 | (code & 0x3f));
        to[2] = '\0';
    }
}

static json_t *added_token(int id, const char *text)
{
    return json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", id, "content", text, "single_word", 0,
                     "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
}

static json_t *byte_level(void)
{
    return json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", 0);
}

static json_t *make_tokenizer(void)
{
    json_t *vocab = json_object();

    for (unsigned byte = 0; byte < 256; byte++) {
        char text[4];
        encode_utf8(stand_in(byte), text);
        json_object_set_new(vocab, text, json_integer(byte));
    }
    return json_pack(
        "{s:s,s:n,s:n,s:[o,o,o],s:n,s:o,s:n,s:o,s:{s:s,s:n,s:n,s:n,s:n,s:b,s:b,s:o,s:[]}}",
        "version", "1.0", "truncation", "padding", "added_tokens",
        added_token(DS_BYTE_BOS, "<bos>"), added_token(DS_BYTE_EOS, "<eos>"),
        added_token(DS_BYTE_PAD, "<pad>"), "normalizer", "pre_tokenizer", byte_level(),
        "post_processor", "decoder", byte_level(), "model", "type", "BPE", "dropout", "unk_token",
        "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
        "vocab", vocab, "merges");
}

static json_t *make_settings(void)
{
    return json_pack("{s:s,s:s,s:s,s:s,s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                     "bos_token", "<bos>", "eos_token", "<eos>", "pad_token", "<pad>",
                     "clean_up_tokenization_spaces", 0);
}

static char *dump(json_t *json)
{
    char *text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;

    json_decref(json);
    return text;
}

ds_status hf_byte_tokenizer(char **tokenizer, char **settings)
{
    char *first = dump(make_tokenizer()), *second = dump(make_settings());

    if (!first || !second) {
        free(first);
        free(second);
        return ds_fail(DS_ERR_NO_MEMORY, "the byte tokenizer's files");
    }
    *tokenizer = first;
    *settings = second;
    return DS_OK;
}

/* The same JSON: whoever formats it anew changes nothing. What is no JSON is not ours. */
static ds_status is_ours(const char *text, size_t bytes, enum ds_hf_tokenizer *out)
{
    json_t *ours = make_tokenizer(), *there = json_loadb(text, bytes, 0, NULL);

    if (ours)
        *out = there && json_equal(ours, there) ? DS_HF_TOKENIZER_BYTES : DS_HF_TOKENIZER_OTHER;
    json_decref(there);
    if (!ours)
        return ds_fail(DS_ERR_NO_MEMORY, "the byte tokenizer's files");
    json_decref(ours);
    return DS_OK;
}

/* Of a folder without tokenizer.json: the older forms of the same. */
static enum ds_hf_tokenizer older_tokenizer(struct ds_fs *fs, const char *folder)
{
    static const char *const names[] = {"tokenizer.model", "vocab.json"};
    char path[4352];
    struct ds_fs_stat stat;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (ds_fs_stat(fs, path, &stat) == 0)
            return DS_HF_TOKENIZER_OTHER;
    }
    return DS_HF_TOKENIZER_NONE;
}

ds_status ds_hf_which_tokenizer(struct ds_fs *fs, const char *folder, enum ds_hf_tokenizer *out)
{
    char path[4352], *text = NULL;
    struct ds_fs_stat stat;
    size_t bytes = 0;
    ds_status st;

    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    if (ds_fs_stat(fs, path, &stat) == -ENOENT) {
        *out = older_tokenizer(fs, folder);
        return DS_OK;
    }
    if (stat.bytes > OURS_BYTES_MAX) { /* however it is formatted */
        *out = DS_HF_TOKENIZER_OTHER;
        return DS_OK;
    }
    DS_TRY(ds_fs_read_file(fs, path, OURS_BYTES_MAX, &text, &bytes));
    st = is_ours(text, bytes, out);
    free(text);
    return st;
}
