/* test_hf_fill.c - weights into the boxes, stages and shards of any layout: every owned element has the value
 * that its place in the whole model has, from the seed and from files of every float type; a file is read where that is needed and in few calls. Ranks are visited one
 * by one, over a communicator that moves nothing. */
// link: checkpoint
#include "capture.h"
#include "spread.h"

enum { CASES = 40, RANKS_MAX = 24 };

/* ---- the whole model, once */

struct whole {
    struct ds_model *model;
    float *values[SPREAD_PARAMS_MAX];
};

static void open_whole(struct whole *w, const struct ds_model_config *config)
{
    *w = (struct whole){0};
    assert_ok(ds_model_open(config, NULL, &w->model));
    assert_true(w->model->param_count <= SPREAD_PARAMS_MAX);
    for (uint32_t i = 0; i < w->model->param_count; i++) {
        w->values[i] = malloc(ds_param_whole_elems(&w->model->params[i]) * sizeof(float));
        assert_non_null(w->values[i]);
    }
}

static void close_whole(struct whole *w)
{
    for (uint32_t i = 0; i < w->model->param_count; i++)
        free(w->values[i]);
    ds_model_close(w->model);
}

/* Values that differ from element to element, also where the model begins with ones or zeros. */
static void draw_values(struct whole *w, uint64_t seed)
{
    for (uint32_t i = 0; i < w->model->param_count; i++)
        ds_random_normal(ds_random_of(seed, DS_RANDOM_TEST, i), 0,
                         ds_param_whole_elems(&w->model->params[i]), 1, w->values[i]);
}

static void expect_whole(void *user, const struct spread_rank *r, uint32_t param, uint64_t whole,
                         float *value)
{
    const struct whole *w = user;

    if (memcmp(value, &w->values[param][whole], sizeof *value) == 0)
        return;
    spread_print(r->c);
    fail_msg("%s[%llu] is %g and not %g", r->model->params[param].name, (unsigned long long)whole,
             (double)*value, (double)w->values[param][whole]);
}

/* ---- ranks, one by one */

typedef ds_status fill_fn(const struct ds_hf_target *target, void *user);

static void fill_and_check(const struct spread_case *c, uint32_t rank, fill_fn *fill, void *user,
                           struct whole *want)
{
    struct ds_comm *world;
    struct spread_rank r;

    assert_ok(ds_comm_null_open(rank, ds_mesh_rank_count(&c->mesh), ds_clock_system(), &world));
    spread_open(c, world, NULL, &r);
    const struct ds_hf_target target = spread_target(&r);
    assert_ok(fill(&target, user));
    spread_check(&r, expect_whole, want);
    spread_close(&r);
    ds_comm_close(world);
}

static ds_status from_seed(const struct ds_hf_target *target, void *user)
{
    return ds_hf_init(target, *(uint64_t *)user);
}

static ds_status from_folder(const struct ds_hf_target *target, void *user)
{
    DS_TRY(ds_hf_check(user, target->model));
    return ds_hf_load(user, target);
}

static void first_values_are_the_same_on_every_layout(void **state)
{
    uint64_t seed = test_seed("first values");
    struct spread_draw draw = {ds_random_of(seed, DS_RANDOM_TEST, 0), 0};

    (void)state;
    for (int n = 0; n < CASES; n++) {
        struct spread_case c = {0};
        struct whole whole;
        spread_draw_config(&draw, &c.config);
        spread_draw_layout(&draw, &c, RANKS_MAX);
        open_whole(&whole, &c.config);
        for (uint32_t i = 0; i < whole.model->param_count; i++)
            ds_model_init_values(whole.model, &whole.model->params[i], seed, 0,
                                 ds_param_whole_elems(&whole.model->params[i]), whole.values[i]);
        for (uint32_t rank = 0; rank < ds_mesh_rank_count(&c.mesh); rank++)
            fill_and_check(&c, rank, from_seed, &seed, &whole);
        close_whole(&whole);
    }
}

/* ---- a folder */

/* Writes the values and leaves in `w` what a file of this dtype keeps of them. */
static void write_folder(struct whole *w, struct ds_fs *fs, enum ds_dtype dtype)
{
    struct ds_safetensors_item items[SPREAD_PARAMS_MAX] = {0};
    struct ds_safetensors_writer *writer;

    for (uint32_t i = 0; i < w->model->param_count; i++) {
        const struct ds_param *param = &w->model->params[i];
        items[i] = (struct ds_safetensors_item){param->name, dtype, param->dim_count, {0}};
        memcpy(items[i].shape, param->shape, sizeof param->shape);
    }
    assert_ok(ds_safetensors_create(fs, "model.safetensors", items, w->model->param_count, NULL,
                                    &writer));
    for (uint32_t i = 0; i < w->model->param_count; i++) {
        const uint64_t count = ds_param_whole_elems(&w->model->params[i]);
        double *stored = malloc(count * sizeof *stored);
        assert_ok(ds_safetensors_write_f32(writer, i, 0, count, w->values[i]));
        assert_true(ds_dtype_from_f32(stored, dtype, w->values[i], count));
        assert_true(ds_dtype_to_f32(w->values[i], stored, dtype, count));
        free(stored);
    }
    assert_ok(ds_safetensors_commit(writer));
}

static void a_folder_is_read_into_every_layout(void **state)
{
    static const uint32_t dtypes[] = {DS_F32, DS_BF16, DS_F16};
    uint64_t seed = test_seed("a folder");
    struct spread_draw draw = {ds_random_of(seed, DS_RANDOM_TEST, 1), 0};

    (void)state;
    for (int n = 0; n < CASES; n++) {
        struct spread_case c = {0};
        struct whole whole;
        struct ds_fs *fs;
        struct ds_hf *hf;
        spread_draw_config(&draw, &c.config);
        open_whole(&whole, &c.config);
        draw_values(&whole, seed + (uint64_t)n);
        assert_ok(ds_fs_sim_open(&fs));
        write_folder(&whole, fs, (enum ds_dtype)spread_one_of(&draw, dtypes, 3));
        assert_ok(ds_hf_open(fs, ".", &hf));
        spread_draw_layout(&draw, &c, RANKS_MAX);
        for (uint32_t rank = 0; rank < ds_mesh_rank_count(&c.mesh); rank++)
            fill_and_check(&c, rank, from_folder, hf, &whole);
        ds_hf_close(hf);
        ds_fs_sim_close(fs);
        close_whole(&whole);
    }
}

/* ---- a head that config.json ties */

enum { TIED_VOCABULARY = 1050, TIED_WIDTH = 1000 }; /* more than a piece of the comparison */

/* The head is the embedding's copy but for the element `other` (of none: all are alike); is the folder taken
 * for a tied model? */
static ds_status check_tied_head(uint64_t other)
{
    struct ds_model_config config;
    struct ds_model *tied;
    struct whole whole;
    struct ds_fs *fs;
    struct ds_hf *hf;
    ds_status st;

    ds_model_config_default(DS_FAMILY_LLAMA, &config);
    config.num_attention_heads = config.num_key_value_heads = 1;
    config.head_dim = 4;
    config.hidden_size = TIED_WIDTH;
    config.vocab_size = TIED_VOCABULARY;
    config.intermediate_size = 4;
    config.num_hidden_layers = 1;
    config.max_position_embeddings = 32;
    open_whole(&whole, &config);
    draw_values(&whole, 7);
    const struct ds_param *params = whole.model->params;
    float *head = whole.values[ds_model_find(whole.model, "lm_head.weight") - params];
    memcpy(head, whole.values[ds_model_find(whole.model, "model.embed_tokens.weight") - params],
           sizeof(float) * TIED_VOCABULARY * TIED_WIDTH);
    if (other < (uint64_t)TIED_VOCABULARY * TIED_WIDTH)
        head[other] += 1;
    assert_ok(ds_fs_sim_open(&fs));
    write_folder(&whole, fs, DS_BF16);
    assert_ok(ds_hf_open(fs, ".", &hf));
    assert_ok(ds_hf_check_tied(hf, whole.model)); /* is not tied */
    config.tie_word_embeddings = 1;
    assert_ok(ds_model_open(&config, NULL, &tied));
    assert_ok(ds_hf_check(hf, tied));
    st = ds_hf_check_tied(hf, tied);
    ds_model_close(tied);
    ds_hf_close(hf);
    ds_fs_sim_close(fs);
    close_whole(&whole);
    return st;
}

static void a_tied_head_may_be_there_as_a_copy_alone(void **state)
{
    static const uint64_t others[] = {0, 1 << 20, TIED_VOCABULARY * TIED_WIDTH - 1};
    struct capture capture;
    char place[64];

    (void)state;
    assert_ok(check_tied_head(UINT64_MAX));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        capture_begin(&capture);
        assert_int_equal(check_tied_head(others[i]), DS_ERR_DATA);
        const char *said = capture_end(&capture);
        snprintf(place, sizeof place, "at element %llu, but", (unsigned long long)others[i]);
        assert_non_null(strstr(said, "model.safetensors: tensor 'lm_head.weight' differs from"));
        assert_non_null(strstr(said, place));
    }
}

/* ---- how it is read */

static const struct ds_fs_ops *counted_ops;
static _Atomic uint64_t read_calls, read_bytes; /* cores read together */

static int64_t count_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    int64_t got = counted_ops->pread(fs, file, to, bytes, offset);

    read_calls++;
    read_bytes += got > 0 ? (uint64_t)got : 0;
    return got;
}

/* A model of one layer whose down_proj is [hidden, intermediate], cut into `tp` boxes of columns; what its
 * last rank reads of the folder, in calls and bytes. Returns the bytes of all its boxes. */
static uint64_t read_last_rank(uint64_t hidden, uint64_t intermediate, uint32_t tp)
{
    struct spread_case c = {.mesh = {.size = {1, 1, 1, 1, 1, tp}}, .unit_count = 3};
    struct ds_fs_ops ops;
    struct whole whole;
    struct ds_fs *fs;
    struct ds_hf *hf;
    uint64_t box_bytes = 0;

    ds_model_config_default(DS_FAMILY_LLAMA, &c.config);
    c.config.num_attention_heads = c.config.num_key_value_heads = tp;
    c.config.head_dim = 4;
    c.config.hidden_size = hidden;
    c.config.vocab_size = 64;
    c.config.intermediate_size = intermediate;
    c.config.num_hidden_layers = 1;
    c.config.max_position_embeddings = 32;
    open_whole(&whole, &c.config);
    draw_values(&whole, 5);
    assert_ok(ds_fs_sim_open(&fs));
    write_folder(&whole, fs, DS_F32);
    assert_ok(ds_hf_open(fs, ".", &hf));
    ops = *(counted_ops = fs->ops);
    ops.pread = count_pread;
    fs->ops = &ops;
    read_calls = read_bytes = 0;
    fill_and_check(&c, tp - 1, from_folder, hf, &whole);
    fs->ops = counted_ops;

    const struct ds_model_share share = {.tp_rank = tp - 1, .tp_size = tp};
    struct ds_model *part;
    assert_ok(ds_model_open(&c.config, &share, &part));
    for (uint32_t i = 0; i < part->param_count; i++)
        box_bytes += part->params[i].elems * sizeof(float);
    ds_model_close(part);
    ds_hf_close(hf);
    ds_fs_sim_close(fs);
    close_whole(&whole);
    return box_bytes;
}

static void only_small_gaps_are_read(void **state)
{
    (void)state;
    /* 512 KiB of down_proj between the columns of one rank in two rows: not read; o_proj is small */
    uint64_t box_bytes = read_last_rank(10, 262144, 2);
    assert_true(read_bytes < box_bytes + 1000);
    /* rows of 2 KiB, a rank has 64 bytes of each: read with their rows, in calls of 128 KiB */
    box_bytes = read_last_rank(2048, 512, 32);
    assert_true(read_bytes > box_bytes);
    assert_true(read_calls < 80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_values_are_the_same_on_every_layout),
        cmocka_unit_test(a_folder_is_read_into_every_layout),
        cmocka_unit_test(a_tied_head_may_be_there_as_a_copy_alone),
        cmocka_unit_test(only_small_gaps_are_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
