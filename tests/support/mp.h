/* mp.h - tests under mpirun: one world for the program, and asserts that all ranks make together.
 *
 * cmocka's asserts longjmp out of the test. A rank that left alone would have its peers wait in the next
 * collective until the timeout, so ranks agree on the verdict and then all assert it. The agreement is
 * MPI's own: it works when what is tested does not. */
#ifndef DSTRAIN_MP_H
#define DSTRAIN_MP_H

#include "test.h"

#include "dstrain/comm.h"

#include <mpi.h>

static struct ds_comm *world;

#define mp_assert(condition) mp_assert_at((condition), #condition, __FILE__, __LINE__)

static inline void mp_assert_at(int holds_here, const char *text, const char *file, int line)
{
    int holds_everywhere = 0;

    if (!holds_here)
        fprintf(stderr, "%s:%d: rank %u: %s does not hold\n", file, line, world->rank, text);
    MPI_Allreduce(&holds_here, &holds_everywhere, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
    _assert_true((unsigned long)holds_everywhere, text, file, line);
}

/* A seed for all ranks: rank 0's. */
static inline uint64_t mp_seed(const char *test)
{
    uint64_t seed = world->rank == 0 ? test_seed(test) : 0;

    MPI_Bcast(&seed, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    return seed;
}

/* The body of main: rank 0 tells how the tests went, and all leave with the same code. */
#define mp_run(tests, deadline_ns) \
    mp_run_named(#tests, tests, sizeof(tests) / sizeof((tests)[0]), deadline_ns)

static inline int mp_run_named(const char *name, const struct CMUnitTest *tests, size_t count,
                               uint64_t deadline_ns)
{
    int failed_count = 0, worst = 0;

    if (getenv("OMPI_COMM_WORLD_SIZE") == NULL) {
        fprintf(stderr, "skipped: to be started by mpirun\n");
        return 77;
    }
    ds_comm_mpi_environment();
    if (ds_comm_mpi_open(ds_clock_system(), deadline_ns, &world) != DS_OK)
        return 1;
    if (world->rank != 0 && freopen("/dev/null", "w", stdout) == NULL)
        failed_count = 1;
    failed_count += _cmocka_run_group_tests(name, tests, count, NULL, NULL);
    MPI_Allreduce(&failed_count, &worst, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    ds_comm_mpi_close(world, 0);
    return worst != 0;
}

#endif
