// link: launch
// private: launch
/* What is printed reads back: every value of a key, and a whole configuration. */
#include "config_case.h"

#include "dstrain/random.h"

#include <math.h>

static void random_text(const struct ds_field *field, struct ds_random random, char *to)
{
    static const char letters[] = "abcXYZ019_-./,:#;=[] \t\"'\\$%\xc3\xa4";
    const size_t length = (size_t)ds_random_below(random, 0, field->bytes < 64 ? field->bytes : 64);
    size_t used = 0;

    for (size_t i = 0; i < length; i++) {
        char c = letters[ds_random_below(random, i + 1, sizeof letters - 3)];

        if (used == 0 && strchr("#; \t", c))
            continue;
        if ((c == '#' || c == ';') && strchr(" \t", to[used - 1]))
            continue;
        to[used++] = c;
    }
    while (used > 0 && strchr(" \t", to[used - 1]))
        used--;
    to[used] = '\0';
}

/* a legal value of a row, as text */
static void random_value(const struct ds_field *field, struct ds_random random, char *to)
{
    const double range = field->max - field->min;
    size_t count = 0;

    switch (field->kind) {
    case DS_FIELD_AUTO:
        if (ds_random_below(random, 1, 4) == 0) {
            strcpy(to, "auto");
            return;
        } /* fall through */
    case DS_FIELD_COUNT:
        sprintf(to, "%.0f", floor(field->min + range * pow(ds_random_unit(random, 0), 8)));
        return;
    case DS_FIELD_REAL:
        sprintf(to, "%.17g", field->min + range * pow(ds_random_unit(random, 0), 20));
        return;
    case DS_FIELD_BOOL:
        strcpy(to, ds_random_below(random, 0, 2) ? "true" : "false");
        return;
    case DS_FIELD_CHOICE:
    case DS_FIELD_NAME:
        while (field->choices[count].name)
            count++;
        strcpy(to, field->choices[ds_random_below(random, 0, count)].name);
        return;
    case DS_FIELD_TEXT:
        random_text(field, random, to);
        return;
    case DS_FIELD_HOME:
        if (ds_random_below(random, 0, 2))
            strcpy(to, field->choices[ds_random_below(random, 1, 2)].name);
        else
            sprintf(to, "%s:%.17g", field->choices[1].name, ds_random_unit(random, 0));
        return;
    }
}

static void a_legal_value_of_every_row_round_trips(void **state)
{
    const uint64_t seed = test_seed("values");

    (void)state;
    for (size_t i = 0; i < ds_config_field_count; i++)
        for (uint64_t turn = 0; turn < 50; turn++) {
            const struct ds_field *field = &ds_config_fields[i];
            char text[256] = "", printed[DS_TEXT_MAX];
            struct ds_config a, b;

            memset(&a, 0xff, sizeof a);
            memset(&b, 0, sizeof b);
            random_value(field, ds_random_of(seed, DS_RANDOM_TEST, i * 1000 + turn), text);
            assert_ok(ds_field_parse(field, "here", text, &a));
            ds_field_print(field, &a, printed, sizeof printed);
            assert_ok(ds_field_parse(field, "here", printed, &b));
            assert_true(ds_field_equal(field, &a, &b));
            assert_memory_equal((char *)&a + field->offset, (char *)&b + field->offset,
                                field->bytes);
        }
}

/* Text says nothing of what was left to the ranks; every key is equal. */
static void assert_equal(const struct ds_config *a, const struct ds_config *b)
{
    for (size_t i = 0; i < ds_config_field_count; i++)
        assert_true(ds_field_equal(&ds_config_fields[i], a, b));
}

/* Those that bring others with them: a model's folder, an adapter's, and a rank of none. */
static int decides_others(const struct ds_field *field)
{
    return strcmp(field->key, "path") == 0 || strcmp(field->section, "lora") == 0;
}

static void what_is_printed_parses_to_an_equal_struct(void **state)
{
    const uint64_t seed = test_seed("print");

    (void)state;
    for (uint64_t turn = 0; turn < 200; turn++) {
        struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, turn);
        struct load l = {.text = GOOD, .rank_count = 4};
        struct ds_config again;
        uint64_t hash_a, hash_b;
        char *text, *text_again;

        assert_ok(load(&l));
        for (size_t i = 0; i < ds_config_field_count; i++) {
            char value[256];
            random_value(&ds_config_fields[i], ds_random_of(seed, DS_RANDOM_TEST, turn * 997 + i),
                         value);
            if (!decides_others(&ds_config_fields[i]) && ds_random_below(random, i, 2))
                assert_ok(ds_field_parse(&ds_config_fields[i], "here", value, &l.config));
        }
        assert_ok(ds_config_print(&l.config, &text));
        assert_ok(ds_config_parse("again", text, strlen(text), NULL, 0, &again));
        assert_equal(&again, &l.config);
        assert_ok(ds_config_print(&again, &text_again));
        assert_string_equal(text, text_again);
        assert_ok(ds_config_hash(&again, &hash_a));
        assert_ok(ds_config_hash(&l.config, &hash_b));
        assert_int_equal(hash_a, hash_b);
        l.config.train.steps++;
        assert_ok(ds_config_hash(&l.config, &hash_b));
        assert_int_not_equal(hash_a, hash_b);
        free(text);
        free(text_again);
    }
}

static void a_model_folder_prints_without_a_shape(void **state)
{
    struct load l = {.text = "[run]\ndir = r\n[model]\npath = m\n[data]\ntrain = a.txt\n[train]\n"
                             "steps = 10\nglobal_batch_size = 8\nseq_length = 32\n",
                     .rank_count = 2};
    struct load again = {.rank_count = 2};
    char *text;

    (void)state;
    assert_ok(load(&l));
    assert_ok(ds_config_print(&l.config, &text));
    assert_non_null(strstr(text, "[model]\npath = m\n\n[data]"));
    again.text = text;
    assert_ok(load(&again));
    assert_equal(&again.config, &l.config);
    free(text);
}

static void adapters_print_what_is_theirs(void **state)
{
    static const struct {
        const char *text, *printed, *absent;
    } rows[] = {{"r = 4\nalpha = 3\n", "[lora]\nr = 4\nalpha = 3\ndropout = 0\n", "xxx"},
                {"adapter = a\n", "[lora]\nadapter = a\n", "alpha"},
                {"", "[lora]\nr = 0\n", "alpha"}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char given[512], *text;
        struct load l = {.text = given, .rank_count = 2}, again = {.rank_count = 2};

        snprintf(given, sizeof given, "%s[lora]\n%s", GOOD, rows[i].text);
        assert_ok(load(&l));
        assert_ok(ds_config_print(&l.config, &text));
        assert_non_null(strstr(text, rows[i].printed));
        assert_null(strstr(text, rows[i].absent));
        again.text = text;
        assert_ok(load(&again));
        assert_equal(&again.config, &l.config);
        free(text);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_legal_value_of_every_row_round_trips),
        cmocka_unit_test(what_is_printed_parses_to_an_equal_struct),
        cmocka_unit_test(a_model_folder_prints_without_a_shape),
        cmocka_unit_test(adapters_print_what_is_theirs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
