// link: launch checkpoint parallel data optim model zero comm kernels device storage base
// private: launch
/* test_mfu.c - the one formula of MFU, against figures that others have measured and published. */
#include "test.h"

#include "mfu.h"

#include <math.h>

static double peak_of_an_h100(struct ds_device *device)
{
    (void)device;
    return 989.4e12;
}

static double unknown(struct ds_device *device)
{
    (void)device;
    return 0;
}

static struct ds_model *open_model(uint64_t layers, uint64_t hidden, uint64_t ffn, uint64_t heads,
                                   uint64_t kv_heads, uint64_t vocab, int tied,
                                   enum ds_dtype compute)
{
    const struct ds_model_share share = {.tp_size = 1, .compute = compute, .grad = DS_F32};
    struct ds_model_config config;
    struct ds_model *model = NULL;

    ds_model_config_default(DS_FAMILY_LLAMA, &config);
    config.num_hidden_layers = layers;
    config.hidden_size = hidden;
    config.intermediate_size = ffn;
    config.num_attention_heads = heads;
    config.num_key_value_heads = kv_heads;
    config.vocab_size = vocab;
    config.max_position_embeddings = 4096;
    config.tie_word_embeddings = tied;
    assert_ok(ds_model_open(&config, &share, &model));
    return model;
}

static int about(double got, double want)
{
    return fabs(got - want) < 0.0006;
}

/* On one H100 at 4096 positions: PyTorch's 60,522 tokens/s of Llama-3.2-1B are 50.3 %, LLM.Q's 13,540 of
 * Llama-2-7B 58.6 %; of two ranks each does half. */
static void known_figures_come_out(void **state)
{
    const struct ds_device_ops ops = {.name = "h100", .peak_flops = peak_of_an_h100};
    struct ds_device device = {&ops};
    struct ds_model *small = open_model(16, 2048, 8192, 32, 8, 128256, 1, DS_BF16);
    struct ds_model *large = open_model(32, 4096, 11008, 32, 32, 32000, 0, DS_BF16);

    (void)state;
    assert_true(about(ds_mfu(small, 4096, &device, 60522, 1), 0.503));
    assert_true(about(ds_mfu(large, 4096, &device, 13540, 1), 0.586));
    assert_true(about(ds_mfu(large, 4096, &device, 13540, 2), 0.293));
    ds_model_close(small);
    ds_model_close(large);
}

static void a_device_without_a_peak_has_none(void **state)
{
    const struct ds_device_ops silent = {.name = "old", .peak_flops = unknown};
    struct ds_device old = {&silent}, cpu = {&ds_device_cpu_ops};
    struct ds_model *model = open_model(2, 64, 96, 4, 4, 61, 0, DS_BF16);

    (void)state;
    assert_true(isnan(ds_mfu(model, 16, &old, 100, 1)));
    assert_true(isnan(ds_mfu(model, 16, &cpu, 100, 1)));
    ds_model_close(model);
}

/* The peak is that of products in 16 bits. */
static void fp32_has_none(void **state)
{
    const struct ds_device_ops ops = {.name = "h100", .peak_flops = peak_of_an_h100};
    struct ds_device device = {&ops};
    struct ds_model *model = open_model(2, 64, 96, 4, 4, 61, 0, DS_F32);

    (void)state;
    assert_true(isnan(ds_mfu(model, 16, &device, 100, 1)));
    ds_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_figures_come_out),
        cmocka_unit_test(a_device_without_a_peak_has_none),
        cmocka_unit_test(fp32_has_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
