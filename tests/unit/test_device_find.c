// link: device kernels base
/* test_device_find.c - which table a name means, and which plugins are refused, with what words. */
#include "test.h"

#include "dstrain/device.h"
#include "dstrain/plugin.h"

#include <stdio.h>
#include <unistd.h>

/* ---- what the log said */

static int log_begin(void)
{
    char path[] = "/tmp/dstrain_log_XXXXXX";
    int file = mkstemp(path);

    assert_true(file >= 0);
    unlink(path);
    ds_log.terminal = file;
    return file;
}

static const char *log_end(int file, char *text, size_t bytes)
{
    ssize_t length = pread(file, text, bytes - 1, 0);

    ds_log.terminal = 2;
    close(file);
    assert_true(length >= 0);
    text[length] = '\0';
    return text;
}

static void assert_finds(const char *name, ds_status st, const char *words)
{
    const struct ds_device_ops *ops = NULL;
    int file = log_begin();
    char text[4096];

    assert_int_equal(ds_device_find("device", name, &ops), st);
    log_end(file, text, sizeof text);
    if (st == DS_OK)
        assert_ptr_equal(ops, &ds_device_cpu_ops);
    else
        assert_null(ops);
    if (words == NULL)
        assert_string_equal(text, "");
    else if (strstr(text, words) == NULL)
        fail_msg("'%s' is not in: %s", words, text);
}

static void cpu_is_always_here(void **state)
{
    (void)state;
    assert_finds("cpu", DS_OK, NULL);
}

static void cuda_without_its_plugin_names_what_is_missing(void **state)
{
    (void)state;
    assert_finds("cuda", DS_ERR_UNSUPPORTED, "device = cuda: libdstrain_cuda.so is not in /");
}

static void auto_falls_back_and_says_why(void **state)
{
    (void)state;
    assert_finds("auto", DS_OK, "libdstrain_cuda.so is not in /");
}

static void a_look_says_nothing(void **state)
{
    int file = log_begin();
    char text[4096];

    (void)state;
    assert_ptr_equal(ds_device_look("auto"), &ds_device_cpu_ops);
    assert_ptr_equal(ds_device_look("cpu"), &ds_device_cpu_ops);
    assert_null(ds_device_look("cuda"));
    assert_null(ds_device_look("tpu"));
    assert_string_equal(log_end(file, text, sizeof text), "");
}

static void an_unknown_name_is_told_the_known_ones(void **state)
{
    (void)state;
    assert_finds("tpu", DS_ERR_UNSUPPORTED, "device = tpu: there is cpu, cuda, and auto");
}

/* ---- plugins that do not fit */

static void assert_load_refuses(const char *path, const char *words)
{
    const struct ds_plugin *plugin = NULL;
    int file = log_begin();
    char text[4096];

    assert_int_equal(ds_plugin_load(path, &plugin), DS_ERR_UNSUPPORTED);
    log_end(file, text, sizeof text);
    assert_null(plugin);
    if (strstr(text, words) == NULL)
        fail_msg("'%s' is not in: %s", words, text);
}

static void a_file_that_is_no_plugin_is_refused(void **state)
{
    (void)state;
    assert_load_refuses("/nowhere/libx.so", "cannot load plugin: /nowhere/libx.so");
    assert_load_refuses("libm.so.6", "libm.so.6 is not a dstrain plugin");
}

static const struct ds_plugin *get_other_abi(uint32_t abi, const struct ds_host *host)
{
    (void)abi;
    (void)host;
    return NULL;
}

/* An entry of a plugin whose tables are some bytes longer or shorter than ours. */
#define GET(name, ops, more_device, more_kernel, more_comm)                             \
    static const struct ds_plugin *get_##name(uint32_t abi, const struct ds_host *host) \
    {                                                                                   \
        static const struct ds_plugin plugin = {                                        \
            .device_bytes = sizeof(struct ds_device_ops) + (more_device),               \
            .kernel_bytes = sizeof(struct ds_kernel_ops) + (more_kernel),               \
            .comm_bytes = sizeof(struct ds_comm_ops) + (more_comm),                     \
            .device = (ops),                                                            \
        };                                                                              \
        assert_int_equal(abi, DS_PLUGIN_ABI);                                           \
        assert_true(host->fail && host->log && host->panic);                            \
        assert_true(ds_clock_mono_ns(host->clock) > 0);                                 \
        return &plugin;                                                                 \
    }

static const struct ds_device_ops lame_device = {.name = "lame", .kernels = &ds_kernels_cpu};

GET(good, &ds_device_cpu_ops, 0, 0, 0)
GET(short_device, &ds_device_cpu_ops, -8, 0, 0)
GET(short_kernels, &ds_device_cpu_ops, 0, -8, 0)
GET(long_comm, &ds_device_cpu_ops, 0, 0, 8)
GET(no_device, NULL, 0, 0, 0)
GET(lame, &lame_device, 0, 0, 0)

static void assert_accept_refuses(ds_plugin_get_fn get, const char *words)
{
    const struct ds_plugin *plugin = NULL;
    int file = log_begin();
    char text[4096];

    assert_int_equal(ds_plugin_accept("libx.so", get, &plugin), DS_ERR_UNSUPPORTED);
    log_end(file, text, sizeof text);
    assert_null(plugin);
    assert_non_null(strstr(text, "libx.so"));
    if (strstr(text, words) == NULL)
        fail_msg("'%s' is not in: %s", words, text);
}

static void a_plugin_that_speaks_another_version_is_refused(void **state)
{
    const struct ds_plugin *plugin = NULL;

    (void)state;
    char words[64];

    snprintf(words, sizeof words, "does not know plugin ABI %u,", DS_PLUGIN_ABI);
    assert_accept_refuses(get_other_abi, words);
    assert_accept_refuses(get_short_device, "its device table has");
    assert_accept_refuses(get_short_kernels, "its kernel table has");
    assert_accept_refuses(get_long_comm, "its communicator table has");
    assert_ok(ds_plugin_accept("libx.so", get_good, &plugin));
    assert_ptr_equal(plugin->device, &ds_device_cpu_ops);
}

static void a_plugin_without_a_required_entry_is_refused(void **state)
{
    (void)state;
    assert_accept_refuses(get_no_device, "leaves out an entry");
    assert_accept_refuses(get_lame, "leaves out an entry");
}

static void a_failure_inside_a_plugin_reaches_our_log(void **state)
{
    struct ds_device_options options = {.thread_count = 1, .clock = ds_clock_system()};
    const struct ds_plugin *plugin;
    struct ds_device *device;
    void *at = NULL;
    char text[4096];
    int file;

    (void)state;
    assert_ok(ds_plugin_load(DS_BINARY_DIR "/libdstrain_cpu.so", &plugin));
    assert_ok(plugin->device->open(0, &options, &device));
    file = log_begin();
    assert_int_equal(plugin->device->alloc(device, DS_MEMORY_DEVICE, (size_t)1 << 60, 0, &at),
                     DS_ERR_NO_MEMORY);
    log_end(file, text, sizeof text);
    assert_non_null(strstr(text, "bytes of device memory"));
    assert_non_null(strstr(text, "runtime/device/cpu/memory.c:"));
    assert_null(at);
    plugin->device->close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_is_always_here),
        cmocka_unit_test(cuda_without_its_plugin_names_what_is_missing),
        cmocka_unit_test(auto_falls_back_and_says_why),
        cmocka_unit_test(a_look_says_nothing),
        cmocka_unit_test(an_unknown_name_is_told_the_known_ones),
        cmocka_unit_test(a_file_that_is_no_plugin_is_refused),
        cmocka_unit_test(a_plugin_that_speaks_another_version_is_refused),
        cmocka_unit_test(a_plugin_without_a_required_entry_is_refused),
        cmocka_unit_test(a_failure_inside_a_plugin_reaches_our_log),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
