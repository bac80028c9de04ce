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

/* The work is that of the model, however many share a matrix out: here as many as there are heads. */
static void tensor_ranks_do_the_work_of_one(void **state)
{
    const unsigned long long heads = world->size, C = 8 * heads, I = 48, V = 61;
    char folder[] = "/tmp/dstrain-mp-bench-XXXXXX", path[128], words[256], text[512];
    struct bench_lines lines;

    (void)state;
    mp_assert(world->rank != 0 || mkdtemp(folder) != NULL);
    mp_assert(ds_comm_broadcast(world, folder, sizeof folder, 0, NULL) == DS_OK);
    snprintf(path, sizeof path, "%s/tiny.ini", folder);
    snprintf(text, sizeof text,
             "[model]\nvocab_size = %llu\nhidden_size = %llu\nintermediate_size = %llu\n"
             "num_hidden_layers = 2\nnum_attention_heads = %llu\n"
             "[train]\nsteps = 1000\nglobal_batch_size = 4\nseq_length = 16\n"
             "[parallel]\ntensor = %llu\n",
             V, C, I, heads, heads);
    mp_assert(world->rank != 0 ||
              ds_fs_write_file(ds_fs_posix(), path, text, strlen(text)) == DS_OK);
    snprintf(words, sizeof words, "step %s run.device=cpu run.threads=1 --quick", path);
    bench_lines_run(world, words, &lines);
    mp_assert(lines.status == DS_OK);
    mp_assert(world->rank != 0 || lines.count == 3);
    mp_assert(world->rank != 0 || bench_number(lines.lines[0], "gemm_flops") ==
                                      6.0 * 64 * (double)(2 * (4 * C * C + 3 * C * I) + V * C));
    bench_lines_fini(&lines);
    mp_assert(world->rank != 0 || ds_fs_remove_tree(ds_fs_posix(), folder) == DS_OK);
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
        cmocka_unit_test(tensor_ranks_do_the_work_of_one),
        cmocka_unit_test(a_wrong_word_ends_all_ranks),
    };

    return mp_run(tests, DEADLINE_NS);
}
