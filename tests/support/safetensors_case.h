/* safetensors_case.h - files of tensors in a folder of its own for every test, and what one that is refused gets. */
#ifndef DSTRAIN_TEST_SAFETENSORS_CASE_H
#define DSTRAIN_TEST_SAFETENSORS_CASE_H

#include "capture.h"
#include "test.h"

#include "dstrain/safetensors.h"

/* The call inside failed with DS_ERR_DATA and said one line that holds `wanted`. */
#define assert_refused(wanted, call)                                               \
    do {                                                                           \
        struct capture capture_;                                                   \
        capture_begin(&capture_);                                                  \
        ds_status st_ = (call);                                                    \
        const char *said_ = capture_end(&capture_);                                \
        if (st_ != DS_ERR_DATA || strchr(said_, '\n') || !strstr(said_, (wanted))) \
            fail_msg("%s: status %d, said: %s", (wanted), (int)st_, said_);        \
    } while (0)

static char folder[64];

static inline int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/test_safetensors.XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state)
{
    (void)state;
    return ds_fs_remove_tree(ds_fs_posix(), folder);
}

static inline const char *in_folder(const char *name)
{
    static char path[128];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

#endif
