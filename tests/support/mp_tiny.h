/* mp_tiny.h - the data of tiny runs under mpirun: made by rank 0, known to all. */
#ifndef DSTRAIN_MP_TINY_H
#define DSTRAIN_MP_TINY_H

#include "mp.h"
#include "tiny_run.h"

#include <errno.h> /* program_invocation_short_name */

static struct mp_data {
    char *folder; /* rank 0 */
    char path[512];
    uint64_t seed;
} data;

/* collective */
static inline int mp_make_data(void **state)
{
    char *path;

    (void)state;
    memset(&data, 0, sizeof data);
    ds_log.is_leader = world->rank == 0;
    data.seed = mp_seed(program_invocation_short_name);
    if (world->rank == 0) {
        data.folder = tiny_folder();
        path = tiny_data(data.folder, data.seed, 64);
        snprintf(data.path, sizeof data.path, "%s", path);
        free(path);
    }
    MPI_Bcast(data.path, sizeof data.path, MPI_BYTE, 0, MPI_COMM_WORLD);
    return 0;
}

static inline int mp_remove_data(void **state)
{
    (void)state;
    MPI_Barrier(MPI_COMM_WORLD);
    if (world->rank == 0)
        tiny_remove(data.folder);
    return 0;
}

#define ON_DATA(test) cmocka_unit_test_setup_teardown(test, mp_make_data, mp_remove_data)

#endif
