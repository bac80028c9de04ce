/* test_model_config.c - config.json in, struct out, and back; rotary frequencies against known values. */
// link: model base
#include "test.h"

#include "dstrain/model.h"

#include <math.h>

static ds_status parse(const char *text, struct ds_model_config *out)
{
    return ds_model_config_parse("config.json", text, strlen(text), out);
}

#define SIZES                                                                \
    "\"vocab_size\": 320, \"hidden_size\": 64, \"intermediate_size\": 128, " \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4"
#define LLAMA(more) "{\"model_type\": \"llama\", " SIZES more "}"
#define QWEN2(more) "{\"model_type\": \"qwen2\", " SIZES more "}"
#define QWEN3(more) "{\"model_type\": \"qwen3\", " SIZES more "}"

static void missing_keys_take_the_defaults_of_the_family(void **state)
{
    struct ds_model_config c;

    (void)state;
    assert_ok(parse(LLAMA(""), &c));
    assert_int_equal(c.family, DS_FAMILY_LLAMA);
    assert_int_equal(c.num_key_value_heads, 4);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.max_position_embeddings, 2048);
    assert_true(c.rms_norm_eps == 1e-6 && c.rope.theta == 10000 && c.rope.kind == DS_ROPE_PLAIN);
    assert_int_equal(c.bos_token_id, 1);
    assert_int_equal(c.pad_token_id, -1);
    assert_false(c.has_qkv_bias || c.has_qk_norm || c.tie_word_embeddings);
    assert_ok(parse(QWEN2(""), &c));
    assert_true(c.has_qkv_bias && !c.has_o_bias && !c.has_qk_norm);
    assert_int_equal(c.bos_token_id, -1);
    assert_ok(parse(QWEN3(""), &c));
    assert_true(!c.has_qkv_bias && c.has_qk_norm);
    assert_int_equal(c.head_dim, 128);
}

static void sizes_missing_from_a_file_are_those_of_transformers(void **state)
{
    struct ds_model_config c;

    (void)state;
    assert_ok(parse("{\"model_type\": \"llama\"}", &c));
    assert_int_equal(c.hidden_size, 4096);
    assert_int_equal(c.vocab_size, 32000);
    ds_model_config_default(DS_FAMILY_LLAMA, &c);
    assert_int_equal(c.hidden_size, 0); /* nobody gets a 7B model by leaving keys away */
    assert_int_equal(ds_model_config_check("config.ini", &c), DS_ERR_DATA);
}

static void both_spellings_of_rope_mean_the_same(void **state)
{
    struct ds_model_config old, new;

    (void)state;
    assert_ok(parse(LLAMA(", \"rope_theta\": 500000, \"rope_scaling\": {\"type\": \"llama3\", "
                          "\"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
                          "\"original_max_position_embeddings\": 8192}"),
                    &old));
    assert_ok(parse(LLAMA(", \"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 5e5, "
                          "\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                          "\"original_max_position_embeddings\": 8192}"),
                    &new));
    assert_int_equal(old.rope.kind, DS_ROPE_LLAMA3);
    assert_memory_equal(&old.rope, &new.rope, sizeof old.rope);
    assert_true(new.rope.theta == 5e5 && new.rope.factor == 8);
    assert_int_equal(new.rope.original_max_position_embeddings, 8192);
}

static void a_list_of_end_tokens_counts_by_its_first(void **state)
{
    struct ds_model_config c;

    (void)state;
    assert_ok(parse(LLAMA(", \"eos_token_id\": [7, 8], \"bos_token_id\": null, "
                          "\"pad_token_id\": []"),
                    &c));
    assert_int_equal(c.eos_token_id, 7);
    assert_int_equal(c.bos_token_id, -1);
    assert_int_equal(c.pad_token_id, -1);
}

/* What is good although it looks odd. */
static const char *const good_texts[] = {
    LLAMA(", \"some_key_of_tomorrow\": {\"a\": [1]}, \"pretraining_tp\": 1"),
    LLAMA(", \"rope_scaling\": null, \"rope_theta\": 10000"),
    LLAMA(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}"),
    LLAMA(", \"rope_scaling\": {\"rope_type\": \"yarn\", \"type\": \"yarn\", \"factor\": 40}"),
    LLAMA(", \"rope_parameters\": {\"rope_type\": \"default\"}, \"hidden_act\": \"swish\""),
    LLAMA(", \"head_dim\": 6, \"num_key_value_heads\": 1, \"attention_bias\": true"),
    LLAMA(", \"sliding_window\": 16"),
    QWEN2(", \"use_sliding_window\": false, \"sliding_window\": 4096, \"max_window_layers\": 1"),
    QWEN2(", \"use_sliding_window\": true, \"sliding_window\": 4096, \"max_window_layers\": 2"),
    QWEN2(", \"use_sliding_window\": true, \"sliding_window\": null, \"max_window_layers\": 0"),
    QWEN3(", \"layer_types\": [\"full_attention\", \"full_attention\"]"),
};

static void what_transformers_accepts_is_accepted(void **state)
{
    struct ds_model_config c;

    (void)state;
    for (size_t i = 0; i < sizeof good_texts / sizeof *good_texts; i++)
        if (parse(good_texts[i], &c) != DS_OK)
            fail_msg("refused: %s", good_texts[i]);
}

#define ROPE(fields) ", \"rope_scaling\": {" fields "}"

static const struct {
    ds_status want;
    const char *word; /* stands in the message */
    const char *text;
} bad_texts[] = {
    {DS_ERR_DATA, "config.json", "{"},
    {DS_ERR_DATA, "config.json", "[]"},
    {DS_ERR_DATA, "model_type", "{}"},
    {DS_ERR_DATA, "model_type", "{\"model_type\": 3}"},
    {DS_ERR_UNSUPPORTED, "llama, qwen2, qwen3", "{\"model_type\": \"gpt2\"}"},
    {DS_ERR_DATA, "vocab_size", LLAMA(", \"vocab_size\": 320")}, /* twice */
    {DS_ERR_DATA, "vocab_size", "{\"model_type\": \"llama\", \"vocab_size\": 0}"},
    {DS_ERR_DATA, "vocab_size", "{\"model_type\": \"llama\", \"vocab_size\": 4294967296}"},
    {DS_ERR_DATA, "hidden_size", "{\"model_type\": \"llama\", \"hidden_size\": \"64\"}"},
    {DS_ERR_DATA, "hidden_size", "{\"model_type\": \"llama\", \"hidden_size\": 64.5}"},
    {DS_ERR_DATA, "num_hidden_layers", "{\"model_type\": \"llama\", \"num_hidden_layers\": -1}"},
    {DS_ERR_DATA, "num_key_value_heads", LLAMA(", \"num_key_value_heads\": 3")},
    {DS_ERR_DATA, "head_dim", LLAMA(", \"head_dim\": 7")},
    {DS_ERR_DATA, "head_dim", LLAMA(", \"head_dim\": 258")}, /* no attention is that wide */
    {DS_ERR_DATA, "num_attention_heads",
     "{\"model_type\": \"llama\", \"hidden_size\": 20, \"num_attention_heads\": 7}"},
    {DS_ERR_DATA, "rms_norm_eps", LLAMA(", \"rms_norm_eps\": -1")},
    {DS_ERR_DATA, "initializer_range", LLAMA(", \"initializer_range\": \"0.02\"")},
    {DS_ERR_DATA, "tie_word_embeddings", LLAMA(", \"tie_word_embeddings\": 1")},
    {DS_ERR_DATA, "eos_token_id", LLAMA(", \"eos_token_id\": \"</s>\"")},
    {DS_ERR_DATA, "eos_token_id", LLAMA(", \"eos_token_id\": [1.5]")},
    {DS_ERR_UNSUPPORTED, "silu", LLAMA(", \"hidden_act\": \"gelu\"")},
    {DS_ERR_UNSUPPORTED, "attention_dropout", LLAMA(", \"attention_dropout\": 0.1")},
    {DS_ERR_UNSUPPORTED, "quantization_config", LLAMA(", \"quantization_config\": {}")},
    {DS_ERR_UNSUPPORTED, "partial_rotary_factor", LLAMA(", \"partial_rotary_factor\": 0.5")},
    {DS_ERR_UNSUPPORTED, "sliding",
     QWEN2(", \"use_sliding_window\": true, \"sliding_window\": 16, \"max_window_layers\": 1")},
    {DS_ERR_UNSUPPORTED, "layer_types",
     QWEN3(", \"layer_types\": [\"full_attention\", \"sliding_attention\"]")},
    {DS_ERR_DATA, "layer_types", QWEN3(", \"layer_types\": [1, 2]")},
    {DS_ERR_DATA, "rope_theta", LLAMA(", \"rope_theta\": 0")},
    {DS_ERR_DATA, "rope_scaling", LLAMA(", \"rope_scaling\": \"yarn\"")},
    {DS_ERR_UNSUPPORTED, "default, linear, llama3, yarn",
     LLAMA(ROPE("\"type\": \"dynamic\", \"factor\": 2"))},
    {DS_ERR_DATA, "type", LLAMA(ROPE("\"type\": \"yarn\", \"rope_type\": \"llama3\""))},
    {DS_ERR_DATA, "factor", LLAMA(ROPE("\"type\": \"linear\""))},
    {DS_ERR_DATA, "factor", LLAMA(ROPE("\"type\": \"linear\", \"factor\": 0.5"))},
    {DS_ERR_DATA, "low_freq_factor", LLAMA(ROPE("\"type\": \"llama3\", \"factor\": 8"))},
    {DS_ERR_DATA, "beta_fast",
     LLAMA(ROPE("\"type\": \"yarn\", \"factor\": 4, \"beta_fast\": 1, \"beta_slow\": 32"))},
    {DS_ERR_DATA, "rope_theta",
     LLAMA(", \"rope_theta\": 1" ROPE("\"type\": \"yarn\", \"factor\": 4"))},
    {DS_ERR_DATA, "rope_theta",
     LLAMA(", \"rope_theta\": 10000, \"rope_parameters\": {\"rope_theta\": 1000000}")},
    {DS_ERR_DATA, "rope_parameters",
     LLAMA(
         ROPE("\"type\": \"linear\", \"factor\": 4") ", \"rope_parameters\": "
                                                     "{\"rope_type\": \"linear\", \"factor\": 8}")},
};

/* The message of the last failure, through a pipe in place of the terminal. */
static ds_status parse_captured(const char *text, char *message, size_t bytes)
{
    struct ds_model_config c;
    int terminal = ds_log.terminal;
    FILE *file = tmpfile();

    assert_non_null(file);
    ds_log.terminal = fileno(file);
    ds_status st = parse(text, &c);
    ds_log.terminal = terminal;
    rewind(file);
    message[fread(message, 1, bytes - 1, file)] = '\0';
    fclose(file);
    return st;
}

static void bad_numbers_are_refused_with_one_line_that_names_the_key(void **state)
{
    char message[8192];

    (void)state;
    for (size_t i = 0; i < sizeof bad_texts / sizeof *bad_texts; i++) {
        ds_status st = parse_captured(bad_texts[i].text, message, sizeof message);
        char *error = strstr(message, "error: "); /* warnings may stand before it */

        if (st != bad_texts[i].want || !error || !strstr(error, bad_texts[i].word) ||
            !strstr(error, "config.json") || strchr(error, '\n') != error + strlen(error) - 1)
            fail_msg("%s: %s: %s", bad_texts[i].text, ds_status_name(st), message);
    }
}

static void assert_same_config(const struct ds_model_config *a, const struct ds_model_config *b)
{
    assert_int_equal(a->family, b->family);
    assert_int_equal(a->vocab_size, b->vocab_size);
    assert_int_equal(a->hidden_size, b->hidden_size);
    assert_int_equal(a->intermediate_size, b->intermediate_size);
    assert_int_equal(a->num_hidden_layers, b->num_hidden_layers);
    assert_int_equal(a->num_attention_heads, b->num_attention_heads);
    assert_int_equal(a->num_key_value_heads, b->num_key_value_heads);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->max_position_embeddings, b->max_position_embeddings);
    assert_true(a->rms_norm_eps == b->rms_norm_eps);
    assert_true(a->initializer_range == b->initializer_range);
    assert_int_equal(a->tie_word_embeddings, b->tie_word_embeddings);
    assert_int_equal(a->has_qkv_bias, b->has_qkv_bias);
    assert_int_equal(a->has_o_bias, b->has_o_bias);
    assert_int_equal(a->has_mlp_bias, b->has_mlp_bias);
    assert_int_equal(a->has_qk_norm, b->has_qk_norm);
    assert_memory_equal(&a->rope, &b->rope, sizeof a->rope);
    assert_int_equal(a->bos_token_id, b->bos_token_id);
    assert_int_equal(a->eos_token_id, b->eos_token_id);
    assert_int_equal(a->pad_token_id, b->pad_token_id);
}

static const char *const written_texts[] = {
    LLAMA(", \"attention_bias\": true, \"mlp_bias\": true, \"initializer_range\": "
          "0.1234567890123456"),
    LLAMA(", \"rope_theta\": 123.4567890123456789" ROPE("\"type\": \"linear\", \"factor\": 2.5")),
    LLAMA(ROPE("\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, "
               "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 8192")),
    LLAMA(ROPE("\"type\": \"yarn\", \"factor\": 40, \"mscale\": 0.707, \"mscale_all_dim\": 0.5, "
               "\"beta_fast\": 16, \"truncate\": false, \"attention_factor\": 1.25")),
    QWEN2(", \"tie_word_embeddings\": true, \"num_key_value_heads\": 2, \"rms_norm_eps\": 1e-5"),
    QWEN3(
        ", \"eos_token_id\": [5, 6], \"attention_bias\": true, \"max_position_embeddings\": 40960"),
};

static void a_written_config_reads_back_equal(void **state)
{
    struct ds_model_config first, second;

    (void)state;
    for (size_t i = 0; i < sizeof written_texts / sizeof *written_texts; i++) {
        char *text = NULL;

        memset(&first, 0, sizeof first);
        memset(&second, 0, sizeof second);
        assert_ok(parse(written_texts[i], &first));
        assert_ok(ds_model_config_write(&first, DS_F32, &text));
        assert_ok(parse(text, &second));
        assert_same_config(&first, &second);
        free(text);
    }
}

static void a_written_config_speaks_to_both_versions(void **state)
{
    struct ds_model_config c;
    char *text = NULL;

    (void)state;
    assert_ok(parse(written_texts[3], &c));
    assert_ok(ds_model_config_write(&c, DS_F32, &text));
    json_t *root = json_loads(text, 0, NULL);
    json_t *old = json_object_get(root, "rope_scaling");
    json_t *new = json_object_get(root, "rope_parameters");

    assert_string_equal(json_string_value(json_object_get(root, "torch_dtype")), "float32");
    assert_string_equal(json_string_value(json_object_get(root, "dtype")), "float32");
    assert_string_equal(
        json_string_value(json_array_get(json_object_get(root, "architectures"), 0)),
        "LlamaForCausalLM");
    assert_true(json_is_real(json_object_get(root, "rope_theta")));
    assert_null(json_object_get(old, "rope_theta"));
    assert_string_equal(json_string_value(json_object_get(old, "rope_type")), "yarn");
    assert_string_equal(json_string_value(json_object_get(new, "rope_type")), "yarn");
    assert_true(json_real_value(json_object_get(new, "rope_theta")) == 10000);
    assert_non_null(strstr(text, "1e-6,")); /* no more digits than it takes */
    json_decref(root);
    free(text);
}

/* ---- rope: the check values of models.md 1.5 */

struct frequency {
    uint32_t pair;
    double value;
};

static void check_frequencies(const struct ds_model_config *config, const struct frequency *want,
                              size_t count, double want_factor)
{
    float inverse[512];
    double factor = 0;

    ds_rope_frequencies(config, inverse, &factor);
    assert_true(fabs(factor - want_factor) < 1e-9);
    for (size_t i = 0; i < count; i++)
        if (fabs((double)inverse[want[i].pair] - want[i].value) > 1e-7 * want[i].value)
            fail_msg("pair %u: %.10g, want %.10g", want[i].pair, (double)inverse[want[i].pair],
                     want[i].value);
}

#define CHECK_FREQUENCIES(config, want, factor) \
    check_frequencies(config, want, sizeof want / sizeof *want, factor)

static void llama3_frequencies_are_those_of_the_reference(void **state)
{
    static const struct frequency big[] = {{0, 1},
                                           {28, 0.00321144611},
                                           {29, 0.00216657076},
                                           {34, 1.78507813e-4},
                                           {35, 9.55621235e-5},
                                           {63, 3.06892599e-7}};
    static const struct frequency small[] = {
        {15, 0.00129054793}, {17, 9.70828781e-5}, {18, 1.94616382e-5}};
    struct ds_model_config c;

    (void)state;
    ds_model_config_default(DS_FAMILY_LLAMA, &c);
    c.head_dim = 128;
    c.rope = (struct ds_rope){.kind = DS_ROPE_LLAMA3,
                              .theta = 5e5,
                              .factor = 8,
                              .low_freq_factor = 1,
                              .high_freq_factor = 4,
                              .original_max_position_embeddings = 8192};
    CHECK_FREQUENCIES(&c, big, 1);
    c.head_dim = 64;
    c.rope.factor = 32;
    CHECK_FREQUENCIES(&c, small, 1);
}

static void yarn_frequencies_are_those_of_the_reference(void **state)
{
    static const struct frequency want[] = {{0, 1},
                                            {10, 0.0562341325},
                                            {11, 0.0390069266},
                                            {16, 0.0055},
                                            {22, 1.77827941e-4},
                                            {23, 3.3338035804e-5},
                                            {31, 3.33380358e-6}};
    struct ds_model_config c;

    (void)state;
    ds_model_config_default(DS_FAMILY_LLAMA, &c);
    c.head_dim = 64;
    c.rope = (struct ds_rope){.kind = DS_ROPE_YARN,
                              .theta = 1e4,
                              .factor = 40,
                              .beta_fast = 32,
                              .beta_slow = 1,
                              .mscale = 1,
                              .mscale_all_dim = 1,
                              .truncate = 1,
                              .original_max_position_embeddings = 4096};
    CHECK_FREQUENCIES(&c, want, 1);
    c.rope.mscale = 0; /* the temperature goes onto cos and sin when it is not in the scale */
    CHECK_FREQUENCIES(&c, want, 0.1 * log(40) + 1);
    c.rope.attention_factor = 1.5;
    CHECK_FREQUENCIES(&c, want, 1.5);
    c.rope.original_max_position_embeddings = 0;
    c.max_position_embeddings = 4096; /* stands in where the original length is not given */
    CHECK_FREQUENCIES(&c, want, 1.5);
}

static void plain_and_linear_frequencies_are_powers(void **state)
{
    static const struct frequency plain[] = {{0, 1}, {1, 0.1}, {2, 0.01}, {3, 0.001}};
    static const struct frequency linear[] = {{0, 0.25}, {3, 0.00025}};
    struct ds_model_config c;

    (void)state;
    ds_model_config_default(DS_FAMILY_LLAMA, &c);
    c.head_dim = 8;
    CHECK_FREQUENCIES(&c, plain, 1);
    c.rope.kind = DS_ROPE_LINEAR;
    c.rope.factor = 4;
    CHECK_FREQUENCIES(&c, linear, 1);
}

static void a_rotary_row_holds_cosines_then_sines_of_fp32_angles(void **state)
{
    struct ds_model_config c;
    float table[70000];
    const uint64_t position = 8191;

    (void)state;
    ds_model_config_default(DS_FAMILY_LLAMA, &c);
    c.head_dim = 8;
    ds_rope_table(&c, position + 1, table);
    for (int i = 0; i < 8; i++)
        assert_true(table[i] == (i < 4 ? 1.0f : 0.0f));
    float angle = 8191.0f * 0.1f; /* rounded, not 819.1 */
    assert_true(table[position * 8 + 1] == (float)cos((double)angle));
    assert_true(table[position * 8 + 5] == (float)sin((double)angle));
    c.rope.kind = DS_ROPE_YARN;
    c.rope.attention_factor = 1.5; /* on cosines and sines alike */
    c.rope.factor = 1;
    ds_rope_table(&c, 2, table);
    assert_true(table[0] == 1.5f && table[8 + 4] == (float)(1.5 * sin(1)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_keys_take_the_defaults_of_the_family),
        cmocka_unit_test(sizes_missing_from_a_file_are_those_of_transformers),
        cmocka_unit_test(both_spellings_of_rope_mean_the_same),
        cmocka_unit_test(a_list_of_end_tokens_counts_by_its_first),
        cmocka_unit_test(what_transformers_accepts_is_accepted),
        cmocka_unit_test(bad_numbers_are_refused_with_one_line_that_names_the_key),
        cmocka_unit_test(a_written_config_reads_back_equal),
        cmocka_unit_test(a_written_config_speaks_to_both_versions),
        cmocka_unit_test(llama3_frequencies_are_those_of_the_reference),
        cmocka_unit_test(yarn_frequencies_are_those_of_the_reference),
        cmocka_unit_test(plain_and_linear_frequencies_are_powers),
        cmocka_unit_test(a_rotary_row_holds_cosines_then_sines_of_fp32_angles),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
