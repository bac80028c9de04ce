/* prove.c - before the first save: all ranks mean the same tensors, and what they will write is each tensor once.
 * Tensors are shared out by number; every rank sends its pieces to who looks at them, one peer after the other. */
#include "dstrain/checkpoint.h"

#include <stdlib.h>
#include <string.h>

struct proof {
    struct ds_comm *control;
    const struct ds_piece *pieces;
    size_t count;
    struct ds_piece *here; /* what this rank looks at */
    size_t here_count;
};

static int is_of(const struct proof *p, const struct ds_piece *piece, uint32_t rank)
{
    return piece->tensor % p->control->size == rank;
}

static uint64_t count_for(const struct proof *p, uint32_t rank)
{
    uint64_t count = 0;

    for (size_t i = 0; i < p->count; i++)
        count += (uint64_t)is_of(p, &p->pieces[i], rank);
    return count;
}

static struct ds_piece *pieces_for(const struct proof *p, uint32_t rank, uint64_t count)
{
    struct ds_piece *chosen = calloc(count + 1, sizeof *chosen);
    size_t at = 0;

    for (size_t i = 0; i < p->count && chosen; i++)
        if (is_of(p, &p->pieces[i], rank))
            chosen[at++] = p->pieces[i];
    return chosen;
}

/* collective: sends `bytes` of `from` to `to_rank` while as many as `*got` come from `from_rank`. */
static ds_status swap(struct ds_comm *control, uint32_t to_rank, void *from, size_t bytes,
                      uint32_t from_rank, void *to, size_t to_bytes)
{
    const struct ds_message messages[] = {{from, bytes, to_rank, 1}, {to, to_bytes, from_rank, 0}};

    return ds_comm_exchange(control, messages, 2, NULL);
}

/* collective: one peer's pieces for us, ours for another. */
static ds_status exchange_with(struct proof *p, uint32_t distance)
{
    struct ds_comm *control = p->control;
    const uint32_t to_rank = (control->rank + distance) % control->size;
    const uint32_t from_rank = (control->rank + control->size - distance) % control->size;
    uint64_t give = count_for(p, to_rank), get = 0;

    DS_TRY(swap(control, to_rank, &give, sizeof give, from_rank, &get, sizeof get));
    struct ds_piece *given = pieces_for(p, to_rank, give);
    struct ds_piece *larger = realloc(p->here, (p->here_count + get + 1) * sizeof *larger);
    if (larger)
        p->here = larger;
    ds_status st = ds_comm_agreed(control, given && larger ? DS_OK : DS_ERR_NO_MEMORY);
    if (st == DS_OK)
        st = swap(control, to_rank, given, give * sizeof *given, from_rank, p->here + p->here_count,
                  get * sizeof *given);
    free(given);
    p->here_count += get;
    return st;
}

static void hash_in(struct ds_digest *digest, const void *bytes, size_t count)
{
    struct ds_digest pair[2] = {*digest, ds_digest_of(bytes, count)};

    *digest = ds_digest_of(pair, sizeof pair);
}

/* collective */
static ds_status compare_catalogues(struct ds_comm *control, const struct ds_catalogue *catalogue)
{
    struct ds_digest digest = {{0}}, first;
    ds_status st = ds_catalogue_check("a checkpoint", catalogue);

    for (uint32_t i = 0; i < catalogue->count; i++) {
        const struct ds_logical_tensor *tensor = &catalogue->tensors[i];
        uint64_t numbers[3 + DS_LOGICAL_DIMS_MAX] = {tensor->kind, tensor->dtype,
                                                     tensor->dim_count};

        for (uint32_t dim = 0; dim < tensor->dim_count && dim < DS_LOGICAL_DIMS_MAX; dim++)
            numbers[3 + dim] = tensor->shape[dim];
        hash_in(&digest, tensor->name, strnlen(tensor->name, sizeof tensor->name));
        hash_in(&digest, numbers, sizeof numbers);
    }
    first = digest;
    DS_TRY(ds_comm_broadcast(control, &first, sizeof first, 0, NULL));
    if (st == DS_OK && !ds_digest_equal(&first, &digest))
        st = ds_fail(DS_ERR_DATA, "rank %u would write other tensors than rank 0", control->rank);
    return ds_comm_agreed(control, st);
}

static ds_status gather_and_prove(struct proof *p, const struct ds_catalogue *catalogue)
{
    const uint32_t rank = p->control->rank;

    p->here_count = count_for(p, rank);
    p->here = pieces_for(p, rank, p->here_count);
    DS_TRY(ds_comm_agreed(p->control, p->here ? DS_OK : DS_ERR_NO_MEMORY));
    for (uint32_t distance = 1; distance < p->control->size; distance++)
        DS_TRY(exchange_with(p, distance));
    return ds_comm_agreed(
        p->control, ds_tiling_prove(catalogue, p->here, p->here_count, rank, p->control->size));
}

ds_status ds_checkpoint_prove(struct ds_comm *control, const struct ds_catalogue *catalogue,
                              const struct ds_piece *pieces, size_t count)
{
    struct proof proof = {.control = control, .pieces = pieces, .count = count};

    DS_TRY(compare_catalogues(control, catalogue));
    ds_status st = gather_and_prove(&proof, catalogue);
    free(proof.here);
    return st;
}
