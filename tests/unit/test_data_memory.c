// link: data storage base
/* Whoever has a loader open has all the memory that it will ever take. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "allocations.h"
#include "data_case.h"

#include <unistd.h>

static void a_loader_takes_no_memory_after_it_is_open(void **state)
{
    enum { LONG = 20000 };
    char path[64];
    const char *const paths[] = {path};
    static const struct ds_safetensors_item item = {"input_ids", DS_I64, 2, {4, LONG}};
    static int64_t ids[4 * LONG];
    struct ds_dataset_options options = options_of(ds_fs_posix(), paths, 1);
    struct ds_loader_options with = {.clock = ds_clock_system(),
                                     .seq_length = LONG,
                                     .micro_batch_size = 2,
                                     .micro_count = 2,
                                     .share_count = 1};
    struct ds_safetensors_writer *writer = NULL;
    struct ds_dataset *dataset = NULL;
    struct ds_loader *loader = NULL;

    (void)state;
    snprintf(path, sizeof path, "/tmp/test_data_memory-%d.safetensors", (int)getpid());
    assert_ok(ds_safetensors_create(options.fs, paths[0], &item, 1, NULL, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, 4 * LONG, ids));
    assert_ok(ds_safetensors_commit(writer));
    options.seq_length = LONG;
    assert_ok(ds_dataset_open(&options, &dataset));
    with.dataset = dataset;
    assert_ok(ds_loader_open(&with, &loader));
    (void)next(loader, 0);
    allocations_begin();
    for (uint64_t step = 1; step < 6; step++)
        (void)next(loader, step);
    allocations_end();
    ds_loader_close(loader);
    ds_dataset_close(dataset);
    assert_int_equal(ds_fs_unlink(options.fs, paths[0]), 0);
    assert_int_equal(allocations_told("a loader") + atomic_load(&allocations.foreign), 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loader_takes_no_memory_after_it_is_open),
    };

    if (!ALLOCATIONS_ARE_COUNTED) {
        fprintf(stderr, "skipped: the sanitizer has malloc for itself\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
