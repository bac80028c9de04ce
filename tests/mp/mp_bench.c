// link: launch checkpoint parallel data optim model zero comm kernels device storage base
// private: launch
// ranks: 2 3
/* mp_bench.c - `dstrain bench comm` under mpirun: rank 0 alone prints, each collective is there beside
 * the library's own. */
#include "bench_lines.h"
#include "mp.h"

#define DEADLINE_NS 60000000000u

static void collectives_are_measured_beside_the_librarys(void **state)
{
    static const char *const calls[] = {"shm all_reduce", "shm reduce_scatter", "shm all_gather",
                                        "shm broadcast"};
    struct bench_lines lines;

    (void)state;
    bench_lines_run(world, "comm --quick", &lines);
    mp_assert(lines.status == DS_OK);
    mp_assert(bench_lines_are_whole(&lines, "comm"));
    mp_assert(world->rank == 0 || lines.count == 0);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        mp_assert(world->rank != 0 || bench_lines_of(&lines, calls[i]) == 2);
    for (size_t i = 0; i < lines.count; i++)
        if (!(bench_number(lines.lines[i], "mpi_over_ours") > 0 &&
              bench_number(lines.lines[i], "ranks") == world->size))
            lines.status = DS_ERR_DATA;
    mp_assert(lines.status == DS_OK);
    bench_lines_fini(&lines);
}

/* What needs one process is done by one, whatever mpirun started. */
static void kernels_are_measured_by_one_rank(void **state)
{
    struct bench_lines lines;

    (void)state;
    bench_lines_run(world, "kernels --quick --device cpu --threads 1", &lines);
    mp_assert(lines.status == DS_OK);
    mp_assert((lines.count > 0) == (world->rank == 0));
    bench_lines_fini(&lines);
}

static void a_wrong_word_ends_all_ranks(void **state)
{
    struct bench_lines lines;
    const int log = ds_log.terminal;

    (void)state;
    ds_log.terminal = -1;
    bench_lines_run(world, "comm everything", &lines);
    ds_log.terminal = log;
    mp_assert(lines.status == DS_ERR_CONFIG);
    mp_assert(lines.count == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(collectives_are_measured_beside_the_librarys),
        cmocka_unit_test(kernels_are_measured_by_one_rank),
        cmocka_unit_test(a_wrong_word_ends_all_ranks),
    };

    return mp_run(tests, DEADLINE_NS);
}
