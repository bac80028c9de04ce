// link: comm device kernels base
/* test_comm_mpi.c - MPI's own waits end, too. The test starts mpirun on itself; in a rank, the first
 * argument says what is to go wrong: rank 1 then never does its part. */
#include "dstrain/comm.h"
#include "test.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEADLINE_NS 4000000000u
#define NEVER_NS    100000000000u /* mpirun kills whoever is still there */

extern char **environ;
static const char *self;

/* ---- a rank */

static void stay_away(const struct ds_comm *world)
{
    if (world == NULL || world->rank == 1)
        ds_clock_sleep_ns(ds_clock_system(), NEVER_NS);
}

static int play(const char *mode)
{
    struct ds_comm *world = NULL, *group = NULL;

    ds_comm_mpi_environment();
    if (strcmp(mode, "init") == 0 && strcmp(getenv("OMPI_COMM_WORLD_RANK"), "1") == 0)
        stay_away(NULL);
    const int is_init = strcmp(mode, "init") == 0; /* others may take their time to start */
    if (ds_comm_mpi_open(ds_clock_system(), is_init ? DEADLINE_NS : NEVER_NS, &world) != DS_OK)
        return 1;
    world->deadline_ns = DEADLINE_NS;
    if (strcmp(mode, "split") == 0) {
        if (world->rank == 1 && ds_comm_barrier(world) != DS_OK) /* the one ahead of MPI's call */
            return 1;
        stay_away(world);
    }
    if (ds_comm_split(world, 0, 0, "half", &group) != DS_OK)
        return 1;
    if (strcmp(mode, "finalize") == 0)
        stay_away(world);
    if (strcmp(mode, "work") == 0) /* longer than any wait may be, and nobody waits */
        ds_clock_sleep_ns(ds_clock_system(), DEADLINE_NS + DEADLINE_NS / 2);
    ds_comm_mpi_close(world, 0);
    return 0;
}

/* ---- the test */

static void redirect(posix_spawn_file_actions_t *actions, const char *path)
{
    posix_spawn_file_actions_init(actions);
    posix_spawn_file_actions_addopen(actions, 1, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(actions, 1, 2);
}

static void read_text(const char *path, char *to, size_t bytes)
{
    FILE *file = fopen(path, "r");

    to[file ? fread(to, 1, bytes - 1, file) : 0] = '\0';
    if (file)
        fclose(file);
    unlink(path);
}

/* mpirun's exit code and what it and its ranks said */
static int run_ranks(const char *mode, char *text, size_t text_bytes)
{
    char *arguments[] = {
        (char *)"mpirun",        (char *)"-n", (char *)"3", (char *)(uintptr_t)self,
        (char *)(uintptr_t)mode, NULL};
    char path[] = "/tmp/dstrain-test-XXXXXX";
    posix_spawn_file_actions_t actions;
    int file = mkstemp(path), code = 0;
    pid_t child;

    assert_true(file >= 0);
    close(file);
    redirect(&actions, path);
    if (posix_spawnp(&child, "mpirun", &actions, NULL, arguments, environ) != 0) {
        unlink(path);
        fprintf(stderr, "skipped: no mpirun\n");
        skip();
    }
    waitpid(child, &code, 0);
    posix_spawn_file_actions_destroy(&actions);
    read_text(path, text, text_bytes);
    return WIFEXITED(code) ? WEXITSTATUS(code) : -1;
}

static void expect_end(const char *mode, const char *section)
{
    char text[65536], want[64];
    const uint64_t begin_ns = ds_clock_mono_ns(ds_clock_system());
    const int code = run_ranks(mode, text, sizeof text);

    snprintf(want, sizeof want, "hangs in section '%s'", section);
    if (code != 71 || strstr(text, want) == NULL)
        fprintf(stderr, "%s: exit code %d, said:\n%s\n", mode, code, text);
    assert_int_equal(code, 71);
    assert_non_null(strstr(text, want));
    assert_true(ds_clock_mono_ns(ds_clock_system()) - begin_ns < NEVER_NS / 2);
}

static void a_rank_that_never_starts_ends_the_job(void **state)
{
    (void)state;
    expect_end("init", "MPI_Init");
}

static void a_rank_that_stays_out_of_a_split_ends_the_job(void **state)
{
    (void)state;
    expect_end("split", "MPI_Comm_split");
}

static void a_rank_that_never_leaves_ends_the_job(void **state)
{
    (void)state;
    expect_end("finalize", "MPI_Finalize");
}

static void who_does_not_wait_has_all_time(void **state)
{
    char text[65536];

    (void)state;
    assert_int_equal(run_ranks("work", text, sizeof text), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_that_never_starts_ends_the_job),
        cmocka_unit_test(a_rank_that_stays_out_of_a_split_ends_the_job),
        cmocka_unit_test(a_rank_that_never_leaves_ends_the_job),
        cmocka_unit_test(who_does_not_wait_has_all_time),
    };

    const char *options = getenv("ASAN_OPTIONS");
    char sanitizer[512];

    if (argc > 1 && getenv("OMPI_COMM_WORLD_SIZE") != NULL)
        return play(argv[1]);
    self = argv[0];
    snprintf(sanitizer, sizeof sanitizer, "%s:detect_leaks=0", options ? options : "");
    setenv("ASAN_OPTIONS", sanitizer, 1); /* of ranks: MPI leaks */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
