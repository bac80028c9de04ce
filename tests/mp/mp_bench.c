// link: launch checkpoint parallel data optim model zero comm kernels device storage base
// private: launch
// ranks: 2 3
/* mp_bench.c - `dstrain bench` under mpirun: rank 0 alone prints, each collective is there beside the
 * library's own, a step has the figures of all its ranks. */
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

struct tiny {
    char folder[64], path[128];
};

/* A model of as many heads as ranks, `more` behind it, where all ranks find it. */
static void tiny_begin(struct tiny *tiny, const char *more)
{
    const unsigned heads = world->size;
    char text[512];

    snprintf(tiny->folder, sizeof tiny->folder, "/tmp/dstrain-mp-bench-XXXXXX");
    mp_assert(world->rank != 0 || mkdtemp(tiny->folder) != NULL);
    mp_assert(ds_comm_broadcast(world, tiny->folder, sizeof tiny->folder, 0, NULL) == DS_OK);
    snprintf(tiny->path, sizeof tiny->path, "%s/tiny.ini", tiny->folder);
    snprintf(text, sizeof text,
             "[model]\nvocab_size = 61\nhidden_size = %u\nintermediate_size = 48\n"
             "num_hidden_layers = 2\nnum_attention_heads = %u\n"
             "[train]\nsteps = 1000\nglobal_batch_size = 4\nseq_length = 16\n%s",
             8 * heads, heads, more);
    mp_assert(world->rank != 0 ||
              ds_fs_write_file(ds_fs_posix(), tiny->path, text, strlen(text)) == DS_OK);
}

static void tiny_end(const struct tiny *tiny)
{
    mp_assert(world->rank != 0 || ds_fs_remove_tree(ds_fs_posix(), tiny->folder) == DS_OK);
}

static void tiny_step(const struct tiny *tiny, struct bench_lines *lines)
{
    char words[256];

    snprintf(words, sizeof words, "step %s run.device=cpu run.threads=1 --quick", tiny->path);
    bench_lines_run(world, words, lines);
    mp_assert(lines->status == DS_OK);
    mp_assert(world->rank != 0 || lines->count == 3);
}

/* The work is that of the model, however many share a matrix out: here as many as there are heads. */
static void tensor_ranks_do_the_work_of_one(void **state)
{
    const unsigned long long C = 8 * world->size, I = 48, V = 61;
    struct bench_lines lines;
    struct tiny tiny;
    char more[64];

    (void)state;
    snprintf(more, sizeof more, "[parallel]\ntensor = %u\n", world->size);
    tiny_begin(&tiny, more);
    tiny_step(&tiny, &lines);
    mp_assert(world->rank != 0 || bench_number(lines.lines[0], "gemm_flops") ==
                                      6.0 * 64 * (double)(2 * (4 * C * C + 3 * C * I) + V * C));
    bench_lines_fini(&lines);
    tiny_end(&tiny);
}

static int is_a_rank(const struct bench_lines *lines, const char *name)
{
    const double rank = bench_number(lines->lines[0], name);

    return rank >= 0 && rank < world->size;
}

/* Measured and played; played, all stages' arithmetic is done before a step is. */
static void a_pipelines_bubble_is_measured_and_played(void **state)
{
    struct bench_lines lines;
    struct tiny tiny;
    char more[64];

    (void)state;
    snprintf(more, sizeof more, "micro_batch_size = 1\n[parallel]\npipeline = %u\n", world->size);
    tiny_begin(&tiny, more);
    tiny_step(&tiny, &lines);
    if (world->rank == 0) {
        const double ideal = (world->size - 1) / 4.0; /* 4 micro-batches */
        lines.status = bench_number(lines.lines[0], "bubble_s") > 0 &&
                               bench_number(lines.lines[0], "bubble") > 0 &&
                               bench_number(lines.lines[0], "bubble_ideal") == ideal &&
                               bench_number(lines.lines[0], "bubble_played") > 0 &&
                               bench_number(lines.lines[0], "bubble_over_played") > 0 &&
                               bench_number(lines.lines[0], "played_s") > 0 &&
                               is_a_rank(&lines, "bubble_rank") &&
                               is_a_rank(&lines, "bubble_played_rank")
                           ? DS_OK
                           : DS_ERR_DATA;
    }
    mp_assert(lines.status == DS_OK);
    bench_lines_fini(&lines);
    tiny_end(&tiny);
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
        cmocka_unit_test(a_pipelines_bubble_is_measured_and_played),
        cmocka_unit_test(a_wrong_word_ends_all_ranks),
    };

    return mp_run(tests, DEADLINE_NS);
}
