/* bench_comm.c - the data communicator of a run beside the MPI library's own collectives, in turns.
 * Sizes are those of the whole vector: what all_reduce sums, what reduce_scatter sums and divides, what
 * all_gather makes. Started by mpirun. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>

/* A collective of one size: ours over `data`, the library's over the world. */
struct exchange {
    struct bench *bench;
    /* owns */
    struct ds_comm *data;
    float *send, *recv;
    /* of the case */
    enum ds_comm_native call;
    size_t count; /* as the call wants it: of one rank where it divides or joins */
    int is_native;
};

static const char *const call_names[] = {
    [DS_COMM_NATIVE_ALL_REDUCE] = "all_reduce",
    [DS_COMM_NATIVE_REDUCE_SCATTER] = "reduce_scatter",
    [DS_COMM_NATIVE_ALL_GATHER] = "all_gather",
    [DS_COMM_NATIVE_BROADCAST] = "broadcast",
};

static ds_status run_ours(void *user)
{
    const struct exchange *x = user;

    switch (x->call) {
    case DS_COMM_NATIVE_ALL_REDUCE:
        return ds_comm_all_reduce(x->data, x->recv, x->count, DS_F32, DS_REDUCE_SUM, NULL);
    case DS_COMM_NATIVE_REDUCE_SCATTER:
        return ds_comm_reduce_scatter(x->data, x->send, x->recv, x->count, DS_F32, NULL);
    case DS_COMM_NATIVE_ALL_GATHER:
        return ds_comm_all_gather(x->data, x->send, x->recv, x->count, DS_F32, NULL);
    case DS_COMM_NATIVE_BROADCAST:
        return ds_comm_broadcast(x->data, x->recv, x->count * sizeof(float), 0, NULL);
    }
    return DS_ERR_UNSUPPORTED;
}

static ds_status run_native(void *user)
{
    const struct exchange *x = user;

    return ds_comm_mpi_native(x->bench->command->world, x->call, x->send, x->recv, x->count);
}

/* ---- is it right? Small whole numbers, whose sums are exact in any order. */

static float value_at(uint32_t rank, size_t i)
{
    return (float)((i * 7 + (size_t)rank * 13) % 31);
}

static float sum_at(uint32_t rank_count, size_t i)
{
    float sum = 0;

    for (uint32_t rank = 0; rank < rank_count; rank++)
        sum += value_at(rank, i);
    return sum;
}

static size_t divide(const struct exchange *x, size_t whole)
{
    const int is_whole =
        x->call == DS_COMM_NATIVE_ALL_REDUCE || x->call == DS_COMM_NATIVE_BROADCAST;

    return is_whole ? whole : whole / x->data->size;
}

static void fill(const struct exchange *x, size_t whole)
{
    for (size_t i = 0; i < whole; i++) {
        x->send[i] = value_at(x->data->rank, i);
        x->recv[i] = value_at(x->data->rank, i);
    }
}

/* What element i of the result must be. */
static float wanted(const struct exchange *x, size_t i)
{
    const uint32_t size = x->data->size;

    switch (x->call) {
    case DS_COMM_NATIVE_ALL_REDUCE:
        return sum_at(size, i);
    case DS_COMM_NATIVE_REDUCE_SCATTER:
        return sum_at(size, x->data->rank * x->count + i);
    case DS_COMM_NATIVE_ALL_GATHER:
        return value_at((uint32_t)(i / x->count), i % x->count);
    case DS_COMM_NATIVE_BROADCAST:
        return value_at(0, i);
    }
    return 0;
}

static ds_status check(struct exchange *x, size_t whole, const struct bench_work *work,
                       const char *whose)
{
    const size_t results =
        x->call == DS_COMM_NATIVE_ALL_GATHER ? x->count * x->data->size : x->count;
    ds_status st = DS_OK;

    fill(x, whole);
    DS_TRY(work->run(work->user));
    for (size_t i = 0; i < results && st == DS_OK; i++)
        if (x->recv[i] != wanted(x, i))
            st = ds_fail(DS_ERR_UNFIT, "%s %s of %zu bytes: element %zu is %g, must be %g", whose,
                         call_names[x->call], whole * sizeof(float), i, (double)x->recv[i],
                         (double)wanted(x, i));
    return ds_comm_agreed(x->bench->world, st);
}

/* ---- the cases */

static ds_status measure(struct exchange *x, enum ds_comm_native call, size_t bytes)
{
    const size_t whole = bytes / sizeof(float);
    const uint32_t calls = bytes < 65536 ? 20 : bytes < 1048576 ? 4 : 1;
    const struct bench_work works[2] = {{.run = run_ours, .user = x, .calls = calls},
                                        {.run = run_native, .user = x, .calls = calls}};
    struct bench_spread spread[2];
    char what[96];

    x->call = call;
    x->count = divide(x, whole);
    DS_TRY(check(x, whole, &works[0], x->data->ops->name));
    DS_TRY(check(x, whole, &works[1], "the library's"));
    for (size_t i = 0; i < whole; i++)
        x->recv[i] = 0; /* what is summed in place again and again must not grow */
    DS_TRY(bench_time(x->bench, works, 2, spread));
    snprintf(what, sizeof what, "%s %s %zu bytes %u ranks", x->data->ops->name, call_names[call],
             bytes, x->data->size);
    const struct bench_figure figures[] = {
        {"ranks", x->data->size},
        {"bytes", (double)bytes},
        {"gb_per_s", (double)bytes / spread[0].median * 1e-9},
        {"mpi_min", spread[1].min},
        {"mpi_median", spread[1].median},
        {"mpi_p90", spread[1].p90},
        {"mpi_over_ours", spread[1].median / spread[0].median},
    };
    return bench_print(x->bench, what, "s", &spread[0], figures, sizeof figures / sizeof *figures);
}

static ds_status measure_all(struct exchange *x, size_t bytes_max)
{
    for (size_t call = 0; call < sizeof call_names / sizeof *call_names; call++)
        for (size_t bytes = 1024; bytes <= bytes_max; bytes *= 16)
            DS_TRY(measure(x, (enum ds_comm_native)call, bytes));
    return DS_OK;
}

static ds_status take_memory(struct exchange *x, size_t bytes)
{
    x->send = malloc(bytes);
    x->recv = malloc(bytes);
    return x->send && x->recv ? DS_OK
                              : ds_fail(DS_ERR_NO_MEMORY, "two vectors of %zu bytes", bytes);
}

ds_status ds_bench_comm(struct bench *bench)
{
    struct exchange x = {.bench = bench};
    const size_t bytes_max = bench->is_quick ? 16384 : 64u << 20;
    ds_status st;

    DS_TRY(ds_comm_agreed(bench->world, bench_arguments_end(bench, 0)));
    if (bench->world->size < 2)
        return ds_fail(DS_ERR_CONFIG,
                       "bench comm needs ranks that talk: mpirun -n 4 dstrain bench comm");
    DS_TRY(ds_comm_open_data(bench->command->world, "bench", &x.data));
    DS_TRY_GOTO(st, ds_comm_agreed(bench->world, take_memory(&x, bytes_max)), done);
    st = measure_all(&x, bytes_max);
done:
    free(x.send);
    free(x.recv);
    if (st == DS_OK)
        ds_comm_close(x.data); /* else a peer may be inside a collective */
    return st;
}
