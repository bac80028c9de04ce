/* test_tokenizer_released.c - the tokenizers of two released model families, which are too large to be kept here:
 * looked for in $DSTRAIN_TOKENIZERS, or where a checkout beside this one would have them; skipped where they are
 * not. golden_ids.json there says what texts become. */
// link: data storage base
#include "tokenizer_case.h"

#include <unistd.h>

static char source[512];

static int has_files(void)
{
    const char *named = getenv("DSTRAIN_TOKENIZERS");
    char path[600];

    snprintf(source, sizeof source, "%s%s", named ? named : DS_SOURCE_DIR,
             named ? "" : "/../shared/data/tokenizers");
    snprintf(path, sizeof path, "%s/golden_ids.json", source);
    return access(path, R_OK) == 0 && system("xz --version >/dev/null 2>&1") == 0;
}

static void unpack(const char *name, const char *to)
{
    char command[1400];

    snprintf(command, sizeof command, "xz -dc '%s/%s.tokenizer.json.xz' >'%s'", source, name, to);
    assert_int_equal(system(command), 0);
}

static void released_tokenizers_give_the_ids_they_are_known_for(void **state)
{
    static const char *const names[] = {"qwen3", "deepseek_v3"};
    char path[600], packed[] = "/tmp/dstrain-tokenizer-XXXXXX";
    json_t *root;

    (void)state;
    assert_true(close(mkstemp(packed)) == 0);
    snprintf(path, sizeof path, "%s/golden_ids.json", source);
    root = json_load_file(path, JSON_ALLOW_NUL, NULL);
    assert_non_null(root);
    for (size_t n = 0; n < 2; n++) {
        struct tokenizer_case c = {.name = names[n]};
        const json_t *cases = json_object_get(root, "cases");

        unpack(names[n], packed);
        assert_ok(ds_tokenizer_open(ds_fs_posix(), packed, &c.tokenizer));
        assert_ok(ds_encoder_open(c.tokenizer, &c.encoder));
        assert_int_equal(json_array_size(cases), 26);
        for (size_t i = 0; i < json_array_size(cases); i++) {
            const json_t *item = json_array_get(cases, i), *text = json_object_get(item, "text");

            assert_ids(&c, json_string_value(text), json_string_length(text), 0,
                       json_object_get(item, names[n]));
        }
        tokenizer_close(&c);
    }
    json_decref(root);
    unlink(packed);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(released_tokenizers_give_the_ids_they_are_known_for)};

int main(void)
{
    if (!has_files()) {
        printf("skipped: no golden_ids.json in %s, or no xz\n", source);
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
