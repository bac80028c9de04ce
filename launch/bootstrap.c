/* bootstrap.c - see bootstrap.h.
 *
 * mpirun binds each of one or two ranks to one core; a rank then has the speed of that core, and libgomp,
 * which reads the mask when it is loaded, one thread. So the mask is widened before MPI starts threads and
 * OpenMP a pool, and the number of threads is set. Whoever gave mpirun a --bind-to is obeyed. */
#include "bootstrap.h"
#include "fault.h"

#include <omp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define CORES_MAX 8192

static int env_count(const char *name, int fallback)
{
    const char *text = getenv(name);
    int value = text ? atoi(text) : fallback; // NOLINT(cert-err34-c): mpirun's own number

    return value >= 0 ? value : fallback;
}

/* DSTRAIN_LOG=debug|info|warning|error: the one variable that is ours */
static void init_log(const struct ds_bootstrap *boot)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};
    const char *level = getenv("DSTRAIN_LOG");

    for (int i = 0; level && i < 4; i++)
        if (strcmp(level, names[i]) == 0)
            ds_log.level = (enum ds_log_level)i;
    ds_log.rank = boot->rank;
    ds_log.rank_count = boot->is_mpirun ? boot->rank_count : 0;
    ds_log.is_leader = boot->rank == 0;
}

/* The kernel cuts the mask down to what the cgroup allows. */
static void widen_affinity(struct ds_bootstrap *boot)
{
    const char *policy = getenv("OMPI_MCA_hwloc_base_binding_policy");
    const size_t bytes = CPU_ALLOC_SIZE(CORES_MAX);
    cpu_set_t *cores;

    if (policy && strcmp(policy, "none") != 0) { /* --bind-to was given */
        boot->cores_are_own =
            strncmp(policy, "core", 4) == 0 || strncmp(policy, "hwthread", 8) == 0;
        return;
    }
    cores = CPU_ALLOC(CORES_MAX);
    if (!cores)
        return;
    memset(cores, 0xff, bytes);
    (void)sched_setaffinity(0, bytes, cores);
    CPU_FREE(cores);
}

static int cores_of_mask(void)
{
    const size_t bytes = CPU_ALLOC_SIZE(CORES_MAX);
    cpu_set_t *cores = CPU_ALLOC(CORES_MAX);
    int count = 1;

    if (cores && sched_getaffinity(0, bytes, cores) == 0)
        count = CPU_COUNT_S(bytes, cores);
    if (cores)
        CPU_FREE(cores);
    return count > 0 ? count : 1;
}

int ds_bootstrap_quota(const char *text)
{
    char *end;
    const unsigned long long quota = strtoull(text, &end, 10); /* "max": no digits, no limit */
    const unsigned long long period = end == text ? 0 : strtoull(end, NULL, 10);

    return period == 0 ? 0 : (int)((quota + period - 1) / period);
}

/* A container may have all cores in its mask and time on two of them. */
static int cores_of_cgroup(struct ds_fs *fs)
{
    int file = ds_fs_open(fs, "/sys/fs/cgroup/cpu.max", DS_FS_READ, 0);
    char text[64] = "";

    if (file < 0)
        return 0;
    if (ds_fs_pread(fs, file, text, sizeof text - 1, 0) < 0)
        text[0] = '\0';
    (void)ds_fs_close(fs, file);
    return ds_bootstrap_quota(text);
}

/* A killed mpirun leaves no ranks behind, not even where it is killed right now. */
static void die_with_mpirun(void)
{
    const pid_t parent = getppid();

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        (void)raise(SIGKILL);
}

void ds_bootstrap_init(struct ds_bootstrap *boot)
{
    int quota;

    *boot = (struct ds_bootstrap){.fs = ds_fs_posix(), .clock = ds_clock_system()};
    boot->is_mpirun = getenv("OMPI_COMM_WORLD_SIZE") != NULL;
    boot->rank = env_count("OMPI_COMM_WORLD_RANK", 0);
    boot->rank_count = env_count("OMPI_COMM_WORLD_SIZE", 1);
    boot->local_count = env_count("OMPI_COMM_WORLD_LOCAL_SIZE", 1);
    boot->local_rank = env_count("OMPI_COMM_WORLD_LOCAL_RANK", 0);
    init_log(boot);
    if (boot->is_mpirun) {
        die_with_mpirun();
        /* A wait that leaves its core to another rank naps for microseconds: with the system's slack of 50 us
         * a nap is longer than the copy that is waited for. Threads made later take it over. */
        (void)prctl(PR_SET_TIMERSLACK, 1000ul);
        widen_affinity(boot);
    }
    boot->core_count = cores_of_mask();
    quota = cores_of_cgroup(boot->fs);
    if (quota > 0 && quota < boot->core_count)
        boot->core_count = quota;
}

/* The configuration, and with it run.deadline, is read through the world: until then the preset. */
static uint64_t preset_deadline_ns(void)
{
    struct ds_config preset;

    ds_config_preset(&preset);
    return (uint64_t)(preset.run.deadline * 1e9);
}

ds_status ds_bootstrap_open(struct ds_bootstrap *boot, int with_ranks)
{
    if (!with_ranks) {
        ds_fault_install();
        return ds_comm_self_open(boot->clock, &boot->world);
    }
    uint64_t since_ns = ds_clock_mono_ns(boot->clock);

    ds_comm_mpi_environment();
    DS_TRY(ds_comm_mpi_open(boot->clock, preset_deadline_ns(), &boot->world));
    ds_fault_install();
    ds_clock_tell_start(boot->clock, "MPI", &since_ns);
    return DS_OK;
}

int ds_bootstrap_configure(struct ds_bootstrap *boot, const struct ds_config *config)
{
    int sharers = boot->cores_are_own || boot->local_count < 1 ? 1 : boot->local_count;
    int threads = (int)config->run.threads;

    if (config->run.threads == DS_AUTO)
        threads = boot->core_count / sharers;
    else if (threads > boot->core_count && boot->rank == 0)
        ds_warn(
            "run.threads = %d are more than the %d core%s of a rank here: they will wait for each "
            "other",
            threads, boot->core_count, boot->core_count == 1 ? "" : "s");
    if (threads < 1)
        threads = 1;
    omp_set_dynamic(0);
    omp_set_num_threads(threads);
    boot->world->deadline_ns = (uint64_t)(config->run.deadline * 1e9);
    return threads;
}

static const uint64_t peer_ends_ns = 2000000000u;

/* Can the others still be asked? After these statuses, or inside a step, they are elsewhere. */
static int can_agree(ds_status st, int peers_wait)
{
    return !peers_wait && st != DS_ERR_COMM && st != DS_ERR_DEADLINE;
}

/* The one place that asks whether what was printed has arrived: the disk may be full, the reader gone. */
static ds_status flush_output(ds_status st)
{
    const int is_lost = fflush(stdout) != 0 || ferror(stdout);

    return st == DS_OK && is_lost ? ds_fail(DS_ERR_IO, "standard output cannot be written") : st;
}

int ds_bootstrap_close(struct ds_bootstrap *boot, ds_status st, int peers_wait, int peer_ends)
{
    struct ds_comm *world = boot->world;
    ds_status verdict;

    st = flush_output(st);
    verdict = st;
    if (!world)
        return ds_status_exit_code(st);
    if (world->size > 1) {
        ds_status agreement =
            can_agree(st, peers_wait && st != DS_OK) ? ds_comm_agree(world, st, &verdict) : st;

        if (agreement != DS_OK && (peer_ends || agreement == DS_ERR_COMM))
            ds_clock_sleep_ns(boot->clock, peer_ends_ns); /* mostly it ends here */
        if (agreement != DS_OK)
            ds_comm_mpi_abort(ds_status_exit_code(st != DS_OK ? st : agreement));
    }
    boot->world = NULL;
    ds_comm_mpi_close(world, ds_status_exit_code(verdict));
    return ds_status_exit_code(verdict);
}
