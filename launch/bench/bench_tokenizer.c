/* bench_tokenizer.c - `dstrain bench tokenizer MODEL TEXT`: how fast one thread encodes and decodes a text. Encoders
 * remember short words: `encode` is one that has seen the text, `encode new` one that has seen nothing. */
#include "bench.h"

#include "dstrain/tokenizer.h"

#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES_MAX = 1 << 30, QUICK_BYTES = 1 << 16 };

struct rig {
    const char *path;
    /* owns */
    struct ds_tokenizer *tokenizer;
    struct ds_encoder *encoder;
    struct ds_token_list ids;
    char *text;
    size_t bytes;
};

static ds_status encode(void *user)
{
    struct rig *rig = user;

    rig->ids.count = 0;
    return ds_encoder_encode(rig->encoder, rig->path, rig->text, rig->bytes, DS_ENCODE_REPLACE,
                             &rig->ids);
}

static ds_status encode_new(void *user)
{
    struct rig *rig = user;

    ds_encoder_close(rig->encoder);
    rig->encoder = NULL;
    DS_TRY(ds_encoder_open(rig->tokenizer, &rig->encoder));
    return encode(rig);
}

static ds_status decode(void *user)
{
    struct rig *rig = user;
    size_t bytes;
    char *text;

    DS_TRY(ds_tokenizer_decode(rig->tokenizer, rig->ids.ids, rig->ids.count, 0, &text, &bytes));
    free(text);
    return DS_OK;
}

/* The same ids whether words are remembered or new: else nothing of this means anything. */
static ds_status check(struct rig *rig)
{
    struct ds_token_list first;
    int is_same;

    DS_TRY(encode_new(rig));
    first = rig->ids;
    rig->ids = (struct ds_token_list){0};
    ds_status st = encode(rig);
    is_same = st == DS_OK && first.count == rig->ids.count && first.count > 0 &&
              memcmp(first.ids, rig->ids.ids, first.count * sizeof *first.ids) == 0;
    ds_token_list_fini(&first);
    DS_TRY(st);
    return is_same ? DS_OK
                   : ds_fail(DS_ERR_DATA, "%s: two encodings of the same text differ, or are empty",
                             rig->path);
}

static ds_status measure(struct bench *bench, struct rig *rig)
{
    static const struct {
        const char *name;
        ds_status (*run)(void *user);
    } cases[] = {{"encode", encode}, {"encode new", encode_new}, {"decode", decode}};
    struct bench_spread spread;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct bench_work work = {.run = cases[i].run, .user = rig, .calls = 1};
        DS_TRY(bench_time(bench, &work, 1, &spread));
        const struct bench_figure figures[] = {
            {"mb_per_s", (double)rig->bytes / spread.median * 1e-6},
            {"bytes", (double)rig->bytes},
            {"tokens", (double)rig->ids.count}};
        DS_TRY(bench_print(bench, cases[i].name, "s", &spread, figures, 3));
    }
    return DS_OK;
}

ds_status ds_bench_tokenizer(struct bench *bench)
{
    struct ds_fs *fs = bench->command->fs;
    struct rig rig = {0};
    ds_status st;

    DS_TRY(bench_arguments_end(bench, 2));
    if (bench->argc < 2)
        return ds_fail(DS_ERR_CONFIG, "bench tokenizer: needs a tokenizer.json, or a folder that "
                                      "has one, and a text");
    rig.path = bench->argv[1];
    DS_TRY_GOTO(st, ds_tokenizer_open(fs, bench->argv[0], &rig.tokenizer), done);
    DS_TRY_GOTO(st, ds_fs_read_file(fs, rig.path, TEXT_BYTES_MAX, &rig.text, &rig.bytes), done);
    if (bench->is_quick && rig.bytes > QUICK_BYTES)
        rig.bytes = QUICK_BYTES;
    DS_TRY_GOTO(st, check(&rig), done);
    st = measure(bench, &rig);
done:
    ds_encoder_close(rig.encoder);
    ds_tokenizer_close(rig.tokenizer);
    ds_token_list_fini(&rig.ids);
    free(rig.text);
    return st;
}
