/* comm_nccl.c - collectives between GPUs, by NCCL, in the order of a stream.
 *
 * Sums of 16-bit floats are NCCL's own: each pair of parts is rounded on its way around the ring. What
 * must be added in fp32 is given to it in fp32 ([precision] reduce). The order of a sum depends on where an
 * element lies and on NCCL's algorithm, so equal bits hold for equal calls and with a fixed algorithm. Sizes
 * of two ranks that differ are not seen: NCCL does not tell. */
#include "comm_nccl.h"

static const struct nccl_dtype {
    enum ds_dtype dtype;
    ncclDataType_t nccl;
} nccl_dtypes[] = {
    {DS_F32, ncclFloat32}, {DS_BF16, ncclBfloat16}, {DS_F16, ncclFloat16}, {DS_F64, ncclFloat64},
    {DS_I32, ncclInt32},   {DS_I64, ncclInt64},     {DS_U64, ncclUint64},
};
#define DTYPE_COUNT (sizeof nccl_dtypes / sizeof nccl_dtypes[0])

static ncclDataType_t type_of(enum ds_dtype dtype)
{
    size_t i = 0;

    while (i < DTYPE_COUNT && nccl_dtypes[i].dtype != dtype)
        i++;
    DS_ASSERT(i < DTYPE_COUNT); /* the wrappers let nothing else through */
    return nccl_dtypes[i].nccl;
}

static ncclRedOp_t op_of(enum ds_reduce op)
{
    return op == DS_REDUCE_SUM ? ncclSum : op == DS_REDUCE_MAX ? ncclMax : ncclMin;
}

static ds_status nccl_all_reduce(struct ds_comm *base, void *data, size_t count,
                                 enum ds_dtype dtype, enum ds_reduce op, struct ds_stream *stream)
{
    static const char call[] = "all_reduce";
    struct nccl_comm *comm = (struct nccl_comm *)base;

    DS_TRY(nccl_begin(comm, call, stream));
    return nccl_end(comm, call, stream,
                    ncclAllReduce(data, data, count, type_of(dtype), op_of(op), comm->comm,
                                  cuda_stream_of(stream)));
}

static ds_status nccl_all_gather(struct ds_comm *base, const void *send, void *recv, size_t count,
                                 enum ds_dtype dtype, struct ds_stream *stream)
{
    static const char call[] = "all_gather";
    struct nccl_comm *comm = (struct nccl_comm *)base;

    DS_TRY(nccl_begin(comm, call, stream));
    return nccl_end(comm, call, stream,
                    ncclAllGather(send, recv, count * ds_dtype_bytes(dtype), ncclUint8, comm->comm,
                                  cuda_stream_of(stream)));
}

static ds_status nccl_reduce_scatter(struct ds_comm *base, const void *send, void *recv,
                                     size_t count, enum ds_dtype dtype, struct ds_stream *stream)
{
    static const char call[] = "reduce_scatter";
    struct nccl_comm *comm = (struct nccl_comm *)base;

    DS_TRY(nccl_begin(comm, call, stream));
    return nccl_end(comm, call, stream,
                    ncclReduceScatter(send, recv, count, type_of(dtype), ncclSum, comm->comm,
                                      cuda_stream_of(stream)));
}

static ds_status nccl_broadcast(struct ds_comm *base, void *data, size_t bytes, uint32_t root,
                                struct ds_stream *stream)
{
    static const char call[] = "broadcast";
    struct nccl_comm *comm = (struct nccl_comm *)base;

    DS_TRY(nccl_begin(comm, call, stream));
    return nccl_end(
        comm, call, stream,
        ncclBroadcast(data, data, bytes, ncclUint8, (int)root, comm->comm, cuda_stream_of(stream)));
}

/* On a stream of its own: whoever comes has nothing else to wait for. */
static ds_status nccl_barrier(struct ds_comm *base)
{
    struct nccl_comm *comm = (struct nccl_comm *)base;

    if (comm->has_failed)
        return DS_ERR_COMM;
    DS_TRY(nccl_settle(
        comm, "barrier",
        ncclAllReduce(comm->word, comm->word, 1, ncclInt32, ncclSum, comm->comm, comm->stream)));
    return nccl_drain(comm, "barrier", comm->stream);
}

/* All messages as one group: NCCL lets them progress together. Of one peer and direction they are matched
 * in the order of the array; an empty one is a message all the same. */
static ncclResult_t send_and_receive(const struct nccl_comm *comm,
                                     const struct ds_message *messages, uint32_t count,
                                     cudaStream_t stream)
{
    ncclResult_t result = ncclGroupStart(), end;

    for (uint32_t i = 0; i < count && (result == ncclSuccess || result == ncclInProgress); i++) {
        const struct ds_message *m = &messages[i];

        if (m->is_send)
            result = ncclSend(m->data, m->bytes, ncclUint8, (int)m->peer, comm->comm, stream);
        else
            result = ncclRecv(m->data, m->bytes, ncclUint8, (int)m->peer, comm->comm, stream);
    }
    end = ncclGroupEnd(); /* also behind a failure, or the next call would still be in the group */
    return result == ncclSuccess || result == ncclInProgress ? end : result;
}

static ds_status nccl_exchange(struct ds_comm *base, const struct ds_message *messages,
                               uint32_t count, struct ds_stream *stream)
{
    static const char call[] = "exchange";
    struct nccl_comm *comm = (struct nccl_comm *)base;

    DS_TRY(nccl_begin(comm, call, stream));
    return nccl_end(comm, call, stream,
                    send_and_receive(comm, messages, count, cuda_stream_of(stream)));
}

const struct ds_comm_ops ds_comm_nccl_ops = {
    .name = "nccl",
    .caps = 0, /* NCCL is called by the main thread; the GPU drives its streams */
    .all_reduce = nccl_all_reduce,
    .all_gather = nccl_all_gather,
    .reduce_scatter = nccl_reduce_scatter,
    .broadcast = nccl_broadcast,
    .barrier = nccl_barrier,
    .exchange = nccl_exchange,
    .open_data = nccl_open_data,
    .register_memory = nccl_register_memory,
    .poison = nccl_poison,
    .close = nccl_close,
};
