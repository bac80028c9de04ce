/* mp_tiny.h - the data of tiny runs under mpirun: made by rank 0, known to all. */
#ifndef DSTRAIN_MP_TINY_H
#define DSTRAIN_MP_TINY_H

#include "mp.h"
#include "tiny_run.h"

struct mp_data {
    char *folder; /* rank 0 */
    char path[512];
    uint64_t seed;
};

/* collective: `name` is of the test that prints the seed */
static inline void mp_data_make(struct mp_data *data, const char *name)
{
    char *path;

    memset(data, 0, sizeof *data);
    ds_log.is_leader = world->rank == 0;
    data->seed = mp_seed(name);
    if (world->rank == 0) {
        data->folder = tiny_folder();
        path = tiny_data(data->folder, data->seed, 64);
        snprintf(data->path, sizeof data->path, "%s", path);
        free(path);
    }
    MPI_Bcast(data->path, sizeof data->path, MPI_BYTE, 0, MPI_COMM_WORLD);
}

static inline void mp_data_remove(struct mp_data *data)
{
    MPI_Barrier(MPI_COMM_WORLD);
    if (world->rank == 0)
        tiny_remove(data->folder);
}

#endif
