// link: launch
// private: launch
/* The table of keys: every row is sound, rows and sections fit together, and names of peers lead to them. */
#include "config_case.h"

static void every_row_is_sound(void **state)
{
    (void)state;
    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];
        struct ds_config config;

        memset(&config, 0, sizeof config);
        assert_true(strlen(field->help) > 10);
        assert_non_null(field->peers);
        assert_non_null(ds_section_find(field->section));
        assert_ptr_equal(ds_field_find(field->section, field->key), field); /* once, thus */
        assert_true(field->min <= field->max);
        if (field->preset)
            assert_ok(ds_field_parse(field, "preset", field->preset, &config));
        else
            assert_true(field->flags & DS_FIELD_TRAIN_NEEDS);
        if (field->kind == DS_FIELD_COUNT || field->kind == DS_FIELD_AUTO)
            assert_int_equal(field->bytes, sizeof(uint64_t));
        if (field->kind == DS_FIELD_REAL)
            assert_int_equal(field->bytes, sizeof(double));
        if (field->kind == DS_FIELD_BOOL || field->kind == DS_FIELD_CHOICE)
            assert_int_equal(field->bytes, sizeof(int));
        if (field->kind == DS_FIELD_HOME)
            assert_int_equal(field->bytes, sizeof(struct ds_home_key));
        if (field->choices && field->kind == DS_FIELD_NAME)
            for (const struct ds_choice *choice = field->choices; choice->name; choice++)
                assert_true(strlen(choice->name) < field->bytes);
    }
}

static int model_refuses(const struct ds_model_config *config, const char *key)
{
    struct capture capture;
    char wanted[128];
    const char *said;

    capture_begin(&capture);
    (void)!ds_model_config_check("m", config);
    said = capture_end(&capture);
    snprintf(wanted, sizeof wanted, "'%s' must be in", key);
    return strstr(said, wanted) != NULL;
}

/* A size that the table lets through and the model refuses would be told too late, and the other way
 * round a folder could hold what no configuration can ask for. */
static void sizes_of_a_model_have_the_limits_of_the_model(void **state)
{
    static const struct {
        const char *key;
        size_t offset;
    } sizes[] = {
#define SIZE(key) {#key, offsetof(struct ds_model_config, key)}
        SIZE(vocab_size),
        SIZE(hidden_size),
        SIZE(intermediate_size),
        SIZE(num_hidden_layers),
        SIZE(num_attention_heads),
        SIZE(num_key_value_heads),
        SIZE(head_dim),
        SIZE(max_position_embeddings),
#undef SIZE
    };

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const struct ds_field *field = ds_field_find("model", sizes[i].key);
        struct ds_model_config config;
        uint64_t *at = (uint64_t *)(void *)((char *)&config + sizes[i].offset);

        ds_model_config_default(DS_FAMILY_LLAMA, &config);
        config.vocab_size = config.hidden_size = config.intermediate_size = 64;
        config.num_hidden_layers = config.num_attention_heads = config.num_key_value_heads = 1;
        config.head_dim = config.max_position_embeddings = 64;
        assert_ok(ds_model_config_check("m", &config));
        *at = (uint64_t)field->max;
        assert_false(model_refuses(&config, sizes[i].key));
        *at = (uint64_t)field->max + 1;
        assert_true(model_refuses(&config, sizes[i].key));
        *at = (uint64_t)field->min;
        assert_false(model_refuses(&config, sizes[i].key));
        if (field->min > 1) { /* 0 is "auto" */
            *at = (uint64_t)field->min - 1;
            assert_true(model_refuses(&config, sizes[i].key));
        }
    }
}

/* a struct is the table's: every byte of it that is not padding belongs to one row */
static void rows_do_not_overlap(void **state)
{
    static uint8_t owner[offsetof(struct ds_config, places)]; /* those are beside the keys */
    size_t owned = 0;

    (void)state;
    for (size_t i = 0; i < ds_config_field_count; i++)
        for (size_t b = 0; b < ds_config_fields[i].bytes; b++) {
            assert_int_equal(owner[ds_config_fields[i].offset + b]++, 0);
            owned++;
        }
    assert_true(owned + 8 * 16 > sizeof owner);
}

static void sections_are_in_the_order_of_the_rows(void **state)
{
    size_t section = 0;

    (void)state;
    for (size_t i = 0; i < ds_config_field_count; i++) {
        if (strcmp(ds_config_fields[i].section, ds_config_sections[section].name) != 0)
            section++;
        assert_true(section < ds_config_section_count);
        assert_string_equal(ds_config_fields[i].section, ds_config_sections[section].name);
    }
    assert_int_equal(section + 1, ds_config_section_count);
}

/* names of peers lead somewhere, and never to a key of the table itself */
static void names_of_peers_are_not_our_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];
        char peers[512], *rest = NULL;

        snprintf(peers, sizeof peers, "%s", field->peers);
        for (char *name = strtok_r(peers, " ", &rest); name; name = strtok_r(NULL, " ", &rest)) {
            char hint[160], wanted[160];

            assert_null(ds_field_find(field->section, name));
            ds_config_hint_key(field->section, name, hint, sizeof hint);
            snprintf(wanted, sizeof wanted, "; did you mean '%s'?", field->key);
            assert_true(strcmp(hint, wanted) == 0 || strstr(hint, "' in ["));
        }
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_sound),
        cmocka_unit_test(sizes_of_a_model_have_the_limits_of_the_model),
        cmocka_unit_test(rows_do_not_overlap),
        cmocka_unit_test(sections_are_in_the_order_of_the_rows),
        cmocka_unit_test(names_of_peers_are_not_our_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
