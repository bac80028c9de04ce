/* tokenizer_case.h - the golden tokenizers and texts to give them. Those of tests/golden/tokenizers are small
 * ones of the structure that released models have; expected.json says what the Python package `tokenizers`
 * makes of texts with them. */
#ifndef DSTRAIN_TEST_TOKENIZER_CASE_H
#define DSTRAIN_TEST_TOKENIZER_CASE_H

#include "test.h"

#include "dstrain/random.h"
#include "dstrain/tokenizer.h"

#include <jansson.h>

static const char *const golden_tokenizers[] = {
    "gpt2", "llama3", "qwen3", "deepseek_v3", "deepseek_llm", "llama2", "llama2_metaspace"};
enum { GOLDEN_TOKENIZERS = sizeof golden_tokenizers / sizeof *golden_tokenizers };

struct tokenizer_case {
    const char *name;
    struct ds_tokenizer *tokenizer;
    struct ds_encoder *encoder;
};

static inline void tokenizer_open(struct tokenizer_case *c, const char *name)
{
    char path[512];

    snprintf(path, sizeof path, "%s/tests/golden/tokenizers/%s", DS_SOURCE_DIR, name);
    c->name = name;
    assert_ok(ds_tokenizer_open(ds_fs_posix(), path, &c->tokenizer));
    assert_ok(ds_encoder_open(c->tokenizer, &c->encoder));
}

static inline void tokenizer_close(struct tokenizer_case *c)
{
    ds_encoder_close(c->encoder);
    ds_tokenizer_close(c->tokenizer);
}

static inline void assert_ids(const struct tokenizer_case *c, const char *text, size_t bytes,
                              uint32_t flags, const json_t *wanted)
{
    struct ds_token_list got = {0};

    assert_ok(ds_encoder_encode(c->encoder, c->name, text, bytes, flags, &got));
    for (size_t i = 0; i < got.count && i < json_array_size(wanted); i++)
        if (got.ids[i] != json_integer_value(json_array_get(wanted, i)))
            fail_msg("%s: '%s': token %zu is %u, not %d", c->name, text, i, got.ids[i],
                     (int)json_integer_value(json_array_get(wanted, i)));
    if (got.count != json_array_size(wanted))
        fail_msg("%s: '%s': %zu tokens, not %zu", c->name, text, got.count,
                 json_array_size(wanted));
    ds_token_list_fini(&got);
}

/* Characters from all over Unicode, those that patterns, normal forms and spaces are about more often. */
static inline uint32_t draw_char(struct ds_random random, uint64_t *drawn)
{
    static const struct {
        uint32_t from, to;
    } ranges[] = {{0, 0x7f},        {0x20, 0x7e},     {0x80, 0x24f},      {0x300, 0x36f},
                  {0x370, 0x52f},   {0x590, 0x6ff},   {0x900, 0x11ff},    {0x2000, 0x206f},
                  {0x2100, 0x2bff}, {0x3000, 0x30ff}, {0x4e00, 0x9fff},   {0xac00, 0xd7a3},
                  {0xf900, 0xffff}, {9, 13},          {0x10000, 0x1ffff}, {0xe0000, 0x10ffff}};
    const uint64_t which = ds_random_below(random, (*drawn)++, sizeof ranges / sizeof *ranges);

    return ranges[which].from +
           (uint32_t)ds_random_below(random, (*drawn)++, ranges[which].to - ranges[which].from + 1);
}

#endif
