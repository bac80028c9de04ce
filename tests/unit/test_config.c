/* test_config.c - the table of keys, its parser and its rules: every row is sound, every class of error
 * has its exact line, and what is printed reads back. */
// link: launch
// private: launch
#include "config/inject_text.h"
#include "config_case.h"
#include "test.h"

#include "dstrain/random.h"

#include <math.h>

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
            if (strcmp(ds_config_fields[i].key, "path") != 0 && ds_random_below(random, i, 2))
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

static void resolving_fills_in_what_follows(void **state)
{
    struct load l = {.text = GOOD, .rank_count = 4};
    struct load other = {.text = GOOD, .rank_count = 4};

    (void)state;
    other.overrides[0] = "model.family=qwen3";
    other.overrides[1] = "parallel.shard=2";
    other.overrides[2] = "run.dir=r/";
    assert_ok(load(&l));
    assert_int_equal(l.config.parallel.data, 4);
    assert_int_equal(l.config.parallel.shard, 4);
    assert_int_equal(l.config.model.num_key_value_heads, 4);
    assert_int_equal(l.config.model.head_dim, 16);
    assert_int_equal(l.config.model.vocab_size, 259);
    assert_int_equal(l.config.model.max_position_embeddings, 32);
    assert_string_equal(l.config.data.cache, "r/data");
    assert_ok(load(&other));
    assert_int_equal(other.config.model.head_dim, 128);
    assert_int_equal(other.config.parallel.shard, 2);
    assert_string_equal(other.config.data.cache, "r/data");
}

static void counts_are_whole_numbers_in_any_spelling(void **state)
{
    static const struct {
        const char *text;
        uint64_t value;
    } rows[] = {{"1", 1},        {"007", 7},  {"5e8", 500000000},
                {"1.5e3", 1500}, {"2.0", 2},  {"1E2", 100},
                {"100e-2", 1},   {".5e1", 5}, {"9007199254740992", 9007199254740992}};
    static const char *const bad[] = {"",
                                      "0",
                                      "-1",
                                      "1.5",
                                      "1e400",
                                      "1e-1",
                                      "0x10",
                                      "1_000",
                                      "1 0",
                                      "+1",
                                      "1e",
                                      "e1",
                                      ".",
                                      "inf",
                                      "nan",
                                      "1,5",
                                      "auto",
                                      "9007199254740993",
                                      "18446744073709551617",
                                      "1e16",
                                      "--1"};
    const struct ds_field *field = ds_field_find("train", "steps");
    struct capture capture;
    struct ds_config config;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_ok(ds_field_parse(field, "here", rows[i].text, &config));
        assert_int_equal(config.train.steps, rows[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char wanted[256];

        config.train.steps = 77;
        capture_begin(&capture);
        ds_status st = ds_field_parse(field, "here", bad[i], &config);
        const char *said = capture_end(&capture);
        assert_int_equal(st, DS_ERR_CONFIG);
        assert_int_equal(config.train.steps, 77); /* untouched */
        snprintf(wanted, sizeof wanted,
                 "dstrain: error: here: [train] steps = '%s' must be a whole number in "
                 "1..9007199254740992 (updates of the model)",
                 bad[i]);
        assert_string_equal(said, wanted);
    }
}

static void reals_are_read_whole_and_exactly(void **state)
{
    static const char *const bad[] = {"",      "1e",    "0x1p3", "nan", "inf",
                                      "1e999", "1.2.3", "3e-4x", "-.",  "1,5"};
    const struct ds_field *field = ds_field_find("optimizer", "learning_rate");
    struct capture capture;
    struct ds_config config;

    (void)state;
    assert_ok(ds_field_parse(field, "here", "3e-4", &config));
    assert_true(config.optimizer.learning_rate == 3e-4);
    assert_ok(ds_field_parse(field, "here", "0.1", &config));
    assert_true(config.optimizer.learning_rate == 0.1);
    assert_ok(ds_field_parse(field, "here", "-0", &config));
    assert_false(signbit(config.optimizer.learning_rate));
    capture_begin(&capture);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(ds_field_parse(field, "here", bad[i], &config), DS_ERR_CONFIG);
    capture_end(&capture);
}

/* ---- every class of error, to the letter */

#define SAYS(line) "dstrain: error: " line
static const struct {
    const char *text; /* behind GOOD; NULL: `whole` alone */
    const char *whole;
    const char *override;
    const char *said;
    uint64_t rank_count;
    enum ds_config_use use;
} errors[] = {
    /* names */
    {"[zero]\nstge = 3\n", 0, 0,
     SAYS("c.ini:15: unknown key 'stge' in [zero]; did you mean 'stage'?"), 1, 0},
    {0, "[train]\nmicro_batchsize = 3\n", 0,
     SAYS("c.ini:2: unknown key 'micro_batchsize' in [train]; did you mean 'micro_batch_size'?"), 1,
     0},
    {0, "[train]\nlr = 3\n", 0,
     SAYS("c.ini:2: unknown key 'lr' in [train]; did you mean 'learning_rate' in [optimizer]?"), 1,
     0},
    {0, "[optimizer]\nadam_beta2 = 3\n", 0,
     SAYS("c.ini:2: unknown key 'adam_beta2' in [optimizer]; did you mean 'beta2'?"), 1, 0},
    {0, "[train]\nmax-grad-norm = 3\n", 0,
     SAYS("c.ini:2: unknown key 'max-grad-norm' in [train]; did you mean 'grad_clip'?"), 1, 0},
    {0, "[train]\nlearning_rate = 3\n", 0,
     SAYS("c.ini:2: unknown key 'learning_rate' in [train]; did you mean 'learning_rate' in "
          "[optimizer]?"),
     1, 0},
    {0, "[train]\nxyzzyquux = 3\n", 0,
     SAYS("c.ini:2: unknown key 'xyzzyquux' in [train]; 'dstrain help train' lists its keys"), 1,
     0},
    {0, "[trian]\nsteps = 3\n", 0, SAYS("c.ini:1: unknown section [trian]; did you mean [train]?"),
     1, 0},
    {0, "[xyzzy]\n", 0, SAYS("c.ini:1: unknown section [xyzzy]; 'dstrain help' lists the sections"),
     1, 0},
    /* twice */
    {"[train]\n", 0, 0, SAYS("c.ini:14: section [train] again; the first is on line 10"), 1, 0},
    {"steps = 11\n", 0, 0, SAYS("c.ini:14: key 'steps' in [train] again; the first is on line 11"),
     1, 0},
    /* values */
    {"micro_batch_size = two\n", 0, 0,
     SAYS("c.ini:14: [train] micro_batch_size = 'two' must be a whole number in 1..1048576 "
          "(sequences a rank takes "
          "through the model at once)"),
     1, 0},
    {"grad_clip = -1\n", 0, 0,
     SAYS("c.ini:14: [train] grad_clip = '-1' must be a number in 0..1e+30 (largest gradient norm; "
          "0: off)"),
     1, 0},
    {"[zero]\nstage = 4\n", 0, 0,
     SAYS("c.ini:15: [zero] stage = '4' must be a whole number in 0..3 (what shard ranks share "
          "out: 1 optimizer "
          "states, 2 and gradients, 3 and parameters)"),
     1, 0},
    {"[parallel]\ndata = many\n", 0, 0,
     SAYS("c.ini:15: [parallel] data = 'many' must be auto or a whole number in 1..65536 (ranks "
          "that see other "
          "samples; auto: all ranks left)"),
     1, 0},
    {0, "[model]\ntie_word_embeddings = yes\n", 0,
     SAYS("c.ini:2: [model] tie_word_embeddings = 'yes' must be true or false (the head shares the "
          "embedding's weights)"),
     1, 0},
    {0, "[model]\nfamily = gpt2\n", 0,
     SAYS("c.ini:2: [model] family = 'gpt2' must be llama, qwen2 or qwen3 (architecture of a new "
          "model)"),
     1, 0},
    {0, "[run]\ndevice = tpu\n", 0,
     SAYS("c.ini:2: [run] device = 'tpu' must be auto, cpu or cuda (where arithmetic happens; "
          "auto: the fastest that is here)"),
     1, 0},
    {0, "[run]\nseed =\n", 0,
     SAYS("c.ini:2: [run] seed = '' must be a whole number in 0..9007199254740992 (of the first "
          "weights and of the "
          "order of samples)"),
     1, 0},
    /* the command line */
    {"", 0, "train.micro_batchsize=3",
     SAYS("command line: unknown key 'micro_batchsize' in [train]; did you mean "
          "'micro_batch_size'?"),
     1, 0},
    {"", 0, "trian.steps=3", SAYS("command line: unknown section [trian]; did you mean [train]?"),
     1, 0},
    {"", 0, "train.steps=x",
     SAYS("command line: [train] steps = 'x' must be a whole number in 1..9007199254740992 "
          "(updates of the model)"),
     1, 0},
    {"", 0, "steps=5",
     SAYS("command line: 'steps=5' must read section.key=value; did you mean 'train.steps=...'?"),
     1, 0},
    {"", 0, "--train.steps=5", SAYS("command line: '--train.steps=5' must read section.key=value"),
     1, 0},
    {"", 0, "train.steps", SAYS("command line: 'train.steps' must read section.key=value"), 1, 0},
    {"", 0, "data.train=a #b",
     SAYS("command line: the value of [data] train holds a comment sign ('#' or ';') at its start "
          "or behind white space"),
     1, 0},
    {"", 0, "data.train=a\nb", SAYS("command line: an override holds a control character"), 1, 0},
    /* missing */
    {0, "[run]\ndir = r\n", 0,
     SAYS("c.ini: [model] hidden_size is missing, and so is [model] path: width of the model (a "
          "whole number in 1..1048576)"),
     1, 0},
    {"", 0, "data.train=",
     SAYS(
         "c.ini: [data] train is missing: files or folders, comma separated, each with a weight if "
         "wanted: a.txt, b.txt:0.5 (half of its samples an epoch) (text of at most 4095 bytes)"),
     1, 0},
    {0,
     "[model]\npath = m\n[data]\ntrain = a\n[train]\nglobal_batch_size = 1\nseq_length = 1\nsteps "
     "= 1\n",
     0,
     SAYS("c.ini: [run] dir is missing: directory of the run: its configuration, metrics, logs and "
          "the model at the end "
          "(text of at most 4095 bytes)"),
     1, 0},
    {0, "[model]\npath = m\n", 0,
     SAYS("c.ini: [data] eval is missing: what it is evaluated on, written as train is; empty: "
          "nothing (text of at most "
          "4095 bytes)"),
     1, DS_CONFIG_EVAL},
    {0, "[data]\neval = m\n[train]\nseq_length = 4\n", 0,
     SAYS(
         "c.ini: [run] dir and [model] path are missing: one of them says what is to be evaluated"),
     1, DS_CONFIG_EVAL},
    {0, "[run]\ndir = r\n", 0, SAYS("c.ini: [data] train and eval are missing: nothing to prepare"),
     1, DS_CONFIG_PREPARE},
    {0, "[data]\ntrain = r\n", 0,
     SAYS("c.ini: [data] cache and [run] dir are missing: one of them says where token shards go"),
     1, DS_CONFIG_PREPARE},
    {0, "[data]\ntrain = r\nformat = safetensors\n", 0,
     SAYS("c.ini:3: [data] format = safetensors needs no preparation, only text does"), 1,
     DS_CONFIG_PREPARE},
    /* combinations */
    {"", 0, "model.path=m",
     SAYS("c.ini:4: [model] hidden_size cannot stand beside [model] path (command line): the "
          "folder's "
          "config.json decides it"),
     1, 0},
    {"", 0, "model.num_key_value_heads=3",
     SAYS("command line: [model] num_key_value_heads = 3 must divide num_attention_heads = 4; "
          "nearest: 2"),
     1, 0},
    {"", 0, "model.hidden_size=66",
     SAYS("command line: [model] hidden_size = 66 must be a multiple of num_attention_heads = 4; "
          "nearest: 64"),
     1, 0},
    {"", 0, "model.hidden_size=60",
     SAYS("command line: [model] hidden_size = 60 makes head_dim = 60 / 4 = 15, which must be even "
          "(rotary positions turn pairs) and in 2..256; nearest: 56"),
     1, 0},
    {"", 0, "model.hidden_size=6",
     SAYS("command line: [model] hidden_size = 6 must be a multiple of num_attention_heads = 4; "
          "nearest: 8"),
     1, 0},
    {"", 0, "model.head_dim=258",
     SAYS("command line: [model] head_dim = '258' must be auto or a whole number in 2..256 (width "
          "of a "
          "head; auto: 128 for qwen3, else hidden_size / num_attention_heads)"),
     1, 0},
    {"[parallel]\n", 0, "model.head_dim=15",
     SAYS("command line: [model] head_dim = 15 must be even: rotary positions turn pairs; nearest: "
          "14"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cpu\ndeterministic = false\n[model]\npath = m\n[data]\ntrain = a\n"
     "[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 1\n",
     0,
     SAYS("c.ini:4: [run] deterministic = false has no meaning with device = cpu, which always "
          "is deterministic; nearest: auto"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cpu\n[model]\npath = m\n[data]\ntrain = a\n"
     "[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 1\n[parallel]\ntransport = nccl\n",
     0, SAYS("c.ini:13: [parallel] transport = nccl is between GPUs, device is cpu; nearest: auto"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cuda\n[model]\npath = m\n[data]\ntrain = a\n"
     "[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 1\n[parallel]\ntransport = mpi\n",
     0,
     SAYS("c.ini:13: [parallel] transport = mpi is between the memories of cpu ranks, device is "
          "cuda; nearest: auto"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cpu\n[model]\npath = m\n[data]\ntrain = a\n"
     "[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 1\n[parallel]\ngather = "
     "copy_engine\n",
     0,
     SAYS("c.ini:13: [parallel] gather = copy_engine is between GPUs, device is cpu; nearest: "
          "kernel"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cpu\nshare_device = true\n[model]\npath = m\n[data]\ntrain = a\n"
     "[train]\nsteps = 1\nglobal_batch_size = 1\nseq_length = 1\n",
     0,
     SAYS("c.ini:4: [run] share_device = true is about GPUs, device is cpu, which ranks share "
          "anyway; nearest: false"),
     1, 0},
    {"", 0, "model.hidden_size=4100",
     SAYS(
         "command line: [model] hidden_size = 4100 makes head_dim = 4100 / 4 = 1025, which must be "
         "even (rotary positions turn pairs) and in 2..256; nearest: 1024"),
     1, 0},
    {"", 0, "model.vocab_size=100",
     SAYS("command line: [model] vocab_size = 100 is smaller than the tokenizer's 259 ([data] "
          "tokenizer = bytes); nearest: 259"),
     1, 0},
    {"", 0, "data.format=safetensors",
     SAYS("command line: [data] format = safetensors needs a number in [model] vocab_size: no "
          "tokenizer decides it"),
     1, 0},
    {"", 0, "model.max_position_embeddings=16",
     SAYS("c.ini:13: [train] seq_length = 32 is longer than [model] max_position_embeddings = 16; "
          "nearest: 16"),
     1, 0},
    {"[parallel]\ndata = 4\n", 0, 0,
     SAYS("c.ini:15: [parallel] data = 4 wants 4 ranks (tensor = 1, pipeline = 1), this launch "
          "has 2; "
          "nearest: data = 2, or run under mpirun -n 4"),
     2, 0},
    {"[parallel]\ndata = 2\ntensor = 2\npipeline = 3\n", 0, 0,
     SAYS(
         "c.ini:15: [parallel] data = 2 wants 12 ranks (tensor = 2, pipeline = 3), this launch has "
         "6; nearest: data = 1, or run under mpirun -n 12"),
     6, 0},
    {"", 0, "parallel.shard=3",
     SAYS("command line: [parallel] shard = 3 must divide data = 4; nearest: 2"), 4, 0},
    {"[parallel]\npipeline = 2\n", 0, "parallel.tensor=3",
     SAYS("command line: [parallel] tensor = 3 times pipeline = 2 must divide the 4 ranks of this "
          "launch; nearest: tensor = 2"),
     4, 0},
    {"[parallel]\ndata = 3\ntensor = 4\n", 0, 0,
     SAYS("c.ini:16: [parallel] tensor = 4 times pipeline = 1 must divide the 6 ranks of this "
          "launch; nearest: tensor = 2 and [train] global_batch_size = 9"),
     6, 0},
    {"[parallel]\npipeline = 4\n", 0, 0,
     SAYS("c.ini:15: [parallel] pipeline = 4 must divide the 6 ranks of this launch; nearest: "
          "pipeline = 3, or run under mpirun -n 4"),
     6, 0},
    {"[parallel]\npipeline = 2\nchunks = 2\n", 0, 0,
     SAYS("c.ini:16: [parallel] chunks = 2 needs schedule = interleaved and pipeline > 1 (pipeline "
          "= "
          "2); nearest: 1"),
     2, 0},
    {"[parallel]\npipeline = 2\nschedule = interleaved\n", 0, 0,
     SAYS("c.ini:16: [parallel] schedule = interleaved needs chunks > 1: with 1 it is 1f1b; "
          "nearest: "
          "chunks = 2"),
     2, 0},
    {"[parallel]\npipeline = 8\n", 0, 0,
     SAYS("c.ini:15: [parallel] pipeline = 8 times chunks = 1 is more than the 4 blocks of the "
          "model (2 layers, embedding, head); nearest: 4"),
     8, 0},
    {"[parallel]\ntensor = 3\n", 0, 0,
     SAYS("c.ini:15: [parallel] tensor = 3 cannot share 4 query heads and 4 kv heads: it must "
          "divide the first, and divide the second or be a multiple of it; nearest: tensor = 1 and "
          "[train] global_batch_size = 9"),
     3, 0},
    {"[parallel]\ntensor = 2\nsequence_parallel = true\n", 0, "train.seq_length=31",
     SAYS("c.ini:16: [parallel] sequence_parallel = true needs micro_batch_size * seq_length = 1 * "
          "31 "
          "to be a multiple of tensor = 2; nearest: tensor = 1"),
     2, 0},
    {"[precision]\nmaster = none\n", 0, 0,
     SAYS("c.ini:15: [precision] master = none is for compute = bf16, but compute = fp32; nearest: "
          "fp32"),
     1, 0},
    {"[precision]\ncompute = fp16\nreduce = bf16\n", 0, 0,
     SAYS("c.ini:16: [precision] reduce = bf16 does not go with compute = fp16, whose gradients "
          "have "
          "3 bits more and a loss scale for their range; nearest: fp32"),
     1, 0},
    {"[zero]\nstage = 2\nwindow = 4\n", 0, 0,
     SAYS("c.ini:16: [zero] window = 4 is for stage = 3, which gathers parameters; stage = 2 keeps "
          "them; nearest: 1"),
     1, 0},
    {"[parallel]\npipeline = 8\n", 0, "model.num_hidden_layers=3",
     SAYS("c.ini:15: [parallel] pipeline = 8 times chunks = 1 is more than the 5 blocks of the "
          "model (3 layers, embedding, head); nearest: 4"),
     8, 0},
    {"[parallel]\npipeline = 4\nschedule = interleaved\nchunks = 10\n", 0, 0,
     SAYS("c.ini:15: [parallel] pipeline = 4 times chunks = 10 is more than the 4 blocks of the "
          "model (2 layers, embedding, head); nearest: chunks = 1 and schedule = 1f1b"),
     4, 0},
    {"[parallel]\npipeline = 3\nschedule = interleaved\nchunks = 2\n", 0, 0,
     SAYS("c.ini:15: [parallel] pipeline = 3 times chunks = 2 is more than the 4 blocks of the "
          "model (2 layers, embedding, head); nearest: chunks = 1 and schedule = 1f1b"),
     3, 0},
    {"[parallel]\ntensor = 4\nsequence_parallel = true\n", 0, "train.seq_length=30",
     SAYS("c.ini:16: [parallel] sequence_parallel = true needs micro_batch_size * seq_length = 1 * "
          "30 to be a multiple of tensor = 4; nearest: tensor = 2"), /* not 3, nor 5 */
     4, 0},
    {"[parallel]\ntensor = 65536\npipeline = 65536\n", 0, 0,
     SAYS("c.ini:15: [parallel] tensor = 65536 times pipeline = 65536 must divide the 4 ranks of "
          "this launch; nearest: tensor = 4 and pipeline = 1"),
     4, 0},
    {"", 0, "train.global_batch_size=15",
     SAYS("command line: [train] global_batch_size = 15 must be a multiple of micro_batch_size * "
          "data = 1 * 8 = 8; nearest: 16"),
     8, 0},
    {"", 0, "zero.window=9",
     SAYS("command line: [zero] window = 9 is more than the 8 micro-batches of a rank in a step; "
          "nearest: 8"),
     1, 0},
    {"[log]\ntrace = 3..2\n", 0, 0,
     SAYS("c.ini:15: [log] trace = '3..2' must be first..last with 1 <= first <= last"), 1, 0},
    {"[log]\ntrace = 11..12\n", 0, 0,
     SAYS("c.ini:15: [log] trace = '11..12' begins after the last step, train.steps = 10; nearest: "
          "10..10"),
     1, 0},
    {"micro_batch_size = 4\n", 0, 0,
     SAYS("c.ini:12: [train] global_batch_size = 8 must be a multiple of micro_batch_size * data = "
          "4 * 4 = 16; nearest: 16"),
     4, 0},
    {"", 0, "train.micro_batch_size=3",
     SAYS("c.ini:12: [train] global_batch_size = 8 must be a multiple of micro_batch_size * data = "
          "3 * 1 = 3; nearest: 9"),
     0, 0},
    {"[schedule]\nwarmup_steps = 11\n", 0, 0,
     SAYS("c.ini:15: [schedule] warmup_steps = 11 is more than [train] steps = 10; nearest: 10"), 1,
     0},
    {"[schedule]\nkind = wsd\n", 0, 0,
     SAYS("c.ini:15: [schedule] kind = wsd needs decay_steps: how many of the last steps decay; "
          "nearest: decay_steps = 1"),
     1, 0},
    {"[schedule]\nkind = wsd\nwarmup_steps = 10\ndecay_steps = 2\n", 0, 0,
     SAYS("c.ini:17: [schedule] decay_steps = 2 does not fit behind warmup_steps: 10 + 2 > [train] "
          "steps = 10; nearest: warmup_steps = 8"),
     1, 0},
    {"[schedule]\nkind = wsd\nwarmup_steps = 4\ndecay_steps = 7\n", 0, 0,
     SAYS("c.ini:17: [schedule] decay_steps = 7 does not fit behind warmup_steps: 4 + 7 > [train] "
          "steps = 10; nearest: 6"),
     1, 0},
    {"[schedule]\nkind = constant\nwarmup_steps = 4\ndecay_steps = 3\n", 0, 0,
     SAYS("c.ini:17: [schedule] decay_steps = 3 has no meaning with kind = constant; nearest: 0"),
     1, 0},
    {"[schedule]\nkind = constant\nmin_learning_rate = 1e-4\n", 0, 0,
     SAYS("c.ini:16: [schedule] min_learning_rate = 0.0001 has no meaning with kind = constant; "
          "nearest: 0"),
     1, 0},
    {"", 0, "optimizer.beta2=0.9999999",
     SAYS("command line: [optimizer] beta2 = '0.9999999' must be a number in 0..0.999999 (AdamW: "
          "memory of its square)"),
     1, 0},
    {"", 0, "schedule.min_learning_rate=1",
     SAYS("command line: [schedule] min_learning_rate = 1 is larger than [optimizer] learning_rate "
          "= 0.0003; nearest: 0.0003"),
     1, 0},
    {"eval_interval = 5\n", 0, 0,
     SAYS("c.ini:14: [train] eval_interval = 5 needs data to evaluate on: [data] eval; nearest: 0"),
     1, 0},
    {0,
     "[run]\ndir = r\ndevice = cuda\ncpu_streams = deferred\n[model]\npath = m\n[data]\ntrain = "
     "a\n[train]\n"
     "global_batch_size = 1\nseq_length = 1\nsteps = 1\n",
     0,
     SAYS("c.ini:4: [run] cpu_streams = deferred is a mode of the cpu, device is cuda; nearest: "
          "inline"),
     1, 0},
    {"", 0, "data.train=a,,b",
     SAYS("command line: [data] train: an empty path; paths are separated by single commas"), 1, 0},
    {"", 0, "data.eval=a:0",
     SAYS("command line: [data] eval: the weight in 'a:0' must be a number above 0, at most 1e6"),
     1, 0},
    {"[debug]\ninject = melt:0:1\n", 0, 0,
     SAYS("c.ini:15: [debug] inject = 'melt:0:1' must be KIND:RANK:STEP with KIND hang, fail, kill "
          "or nan, or KIND:all:FIRST-LAST with KIND labels or rate"),
     1, 0},
    {"[debug]\ninject = hang:0\n", 0, 0,
     SAYS("c.ini:15: [debug] inject = 'hang:0' must be KIND:RANK:STEP with KIND hang, fail, kill "
          "or nan, or KIND:all:FIRST-LAST with KIND labels or rate"),
     1, 0},
    {"[debug]\ninject = hang:2:5\n", 0, 0,
     SAYS("c.ini:15: [debug] inject = 'hang:2:5' names rank 2 of 2; nearest: hang:1:5"), 2, 0},
    /* several: what cannot be advised about is named */
    {"[log]\ntrace = 3..2\n", 0, "parallel.tensor=3",
     SAYS("command line: [parallel] tensor = 3 times pipeline = 1 must divide the 4 ranks of this "
          "launch; nearest: tensor = 2, and [log] trace must change, too"),
     4, 0},
    {"[debug]\ninject = nan:0:0\n", 0, 0,
     SAYS("c.ini:15: [debug] inject = 'nan:0:0': nothing is computed before step 1; nearest: "
          "nan:0:1"),
     1, 0},
};

static void errors_name_place_key_and_remedy(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        char text[4096];
        struct load l = {.text = text, .use = errors[i].use, .rank_count = errors[i].rank_count};
        ds_status st;

        snprintf(text, sizeof text, "%s%s", errors[i].whole ? errors[i].whole : GOOD,
                 errors[i].text ? errors[i].text : "");
        l.overrides[0] = errors[i].override;
        st = load(&l);
        assert_string_equal(l.said, errors[i].said);
        assert_int_equal(st, DS_ERR_CONFIG);
    }
}

static void advice_that_is_taken_ends_in_a_good_configuration(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        char text[4096];
        struct load l = {.text = text, .use = errors[i].use, .rank_count = errors[i].rank_count};

        if (!strstr(errors[i].said, "nearest: "))
            continue;
        snprintf(text, sizeof text, "%s%s", errors[i].whole ? errors[i].whole : GOOD,
                 errors[i].text ? errors[i].text : "");
        l.overrides[0] = errors[i].override;
        assert_int_equal(load(&l), DS_ERR_CONFIG);
        assert_advice_holds(&l);
    }
}

static void long_values_are_cut_in_messages_and_too_long_ones_refused(void **state)
{
    static char text[2 * DS_TEXT_MAX + 64];
    struct load l = {.text = GOOD};
    int length = snprintf(text, sizeof text, "data.train=");

    (void)state;
    memset(text + length, 'x', DS_TEXT_MAX - 1);
    l.overrides[0] = text;
    assert_ok(load(&l));
    assert_int_equal(strlen(l.config.data.train), DS_TEXT_MAX - 1);
    memset(text + length, 'x', DS_TEXT_MAX);
    assert_int_equal(load(&l), DS_ERR_CONFIG);
    assert_non_null(strstr(l.said, "xx...' must be text of at most 4095 bytes"));
    assert_true(strlen(l.said) < 400);
}

static void the_command_line_overrides_the_file_once(void **state)
{
    struct load l = {.text = GOOD, .overrides = {"train.steps=5", "data.train=b=c.txt"}};

    (void)state;
    assert_ok(load(&l));
    assert_int_equal(l.config.train.steps, 5);
    assert_string_equal(l.config.data.train, "b=c.txt");
    l.overrides[2] = "train.steps=6";
    assert_int_equal(load(&l), DS_ERR_CONFIG);
    assert_string_equal(l.said, SAYS("command line: train.steps is given twice"));
}

static void a_fault_reads_whole_or_not_at_all(void **state)
{
    static const char *const bad[] = {
        "",         "nan",     "nan:",     "nan:1",    "nan:1:",
        "nan:1:2:", "nan:1:x", "na:1:2",   "nann:1:2", ":1:2",
        "nan:-1:2", "nan::2",  "nan:1: 2", "NAN:1:2",  "nan:1:1234567890123456"};
    static const char *const bad_alike[] = {
        "labels:1:2",      "labels:all:2", "labels:all:2-", "labels:all:3-2", "labels:all:0-2",
        "labels:all:2-3:", "labels:0:2-3", "nan:all:2-3",   "rate:all:2-3 ",  "rate:all:-2-3"};
    static const char *const kinds[] = {"hang", "fail", "kill", "nan"}, *const alike[] = {"labels",
                                                                                          "rate"};
    struct ds_inject inject;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(ds_inject_parse(bad[i], &inject));
    for (size_t i = 0; i < sizeof bad_alike / sizeof bad_alike[0]; i++)
        assert_false(ds_inject_parse(bad_alike[i], &inject));
    assert_int_equal(DS_INJECT_KIND_COUNT, 6);
    for (int i = 0; i < 2; i++) {
        char text[64];

        snprintf(text, sizeof text, "%s:all:7-123456789012345", alike[i]);
        assert_true(ds_inject_parse(text, &inject));
        assert_int_equal(inject.kind, 4 + i);
        assert_true(inject.rank == DS_INJECT_ALL && inject.step == 7);
        assert_true(inject.last == 123456789012345u);
    }
    for (int kind = 0; kind < 4; kind++) {
        char text[64];

        snprintf(text, sizeof text, "%s:12:123456789012345", kinds[kind]);
        assert_true(ds_inject_parse(text, &inject));
        assert_int_equal(inject.kind, kind);
        assert_int_equal(inject.rank, 12);
        assert_true(inject.step == 123456789012345u);
    }
}

static void good_configurations_say_nothing(void **state)
{
    static const char *const overrides[] = {
        "train.steps=10",           "schedule.kind=constant",
        "model.family=qwen2",       "parallel.shard=2",
        "debug.inject=nan:3:7",     "debug.inject=rate:all:3-4",
        "train.micro_batch_size=2", "zero.stage=0",
        "run.deterministic=false",  "model.num_key_value_heads=2",
        "schedule.warmup_steps=10"};

    (void)state;
    for (size_t i = 0; i < sizeof overrides / sizeof overrides[0]; i++) {
        struct load l = {.text = GOOD, .overrides = {overrides[i]}, .rank_count = 4};

        assert_ok(load(&l));
        assert_string_equal(l.said, "");
    }
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_sound),
        cmocka_unit_test(sizes_of_a_model_have_the_limits_of_the_model),
        cmocka_unit_test(rows_do_not_overlap),
        cmocka_unit_test(sections_are_in_the_order_of_the_rows),
        cmocka_unit_test(a_legal_value_of_every_row_round_trips),
        cmocka_unit_test(what_is_printed_parses_to_an_equal_struct),
        cmocka_unit_test(a_model_folder_prints_without_a_shape),
        cmocka_unit_test(resolving_fills_in_what_follows),
        cmocka_unit_test(counts_are_whole_numbers_in_any_spelling),
        cmocka_unit_test(reals_are_read_whole_and_exactly),
        cmocka_unit_test(errors_name_place_key_and_remedy),
        cmocka_unit_test(advice_that_is_taken_ends_in_a_good_configuration),
        cmocka_unit_test(long_values_are_cut_in_messages_and_too_long_ones_refused),
        cmocka_unit_test(the_command_line_overrides_the_file_once),
        cmocka_unit_test(a_fault_reads_whole_or_not_at_all),
        cmocka_unit_test(good_configurations_say_nothing),
        cmocka_unit_test(names_of_peers_are_not_our_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
