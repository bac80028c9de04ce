// link: comm device kernels base
// ranks: 2
/* mp_comm_large.c - more than 2^31 elements, and more than 2^31 bytes, in one call. A long test: each
 * takes up to 9 GB in two ranks together. */
#include "dstrain/device.h"
#include "mp.h"

#include <sys/mman.h>

#define DEADLINE_NS 250000000000u
#define TWO_GI      (UINT64_C(1) << 31)
#define NEED_BYTES  (UINT64_C(10) << 30)

/* Contents repeat after a prime number of elements, so what is cut wrongly is not where it belongs. */
#define PERIOD 1000003u

static uint8_t bytes_of[2][PERIOD];   /* of each rank, below 61 */
static uint16_t halves_of[2][PERIOD]; /* the same as bf16, which holds them and their sums */
static uint16_t sums_of_halves[PERIOD];

static uint16_t half_of(uint32_t value)
{
    const float wide = (float)value;
    uint32_t bits;

    memcpy(&bits, &wide, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static void make_contents(void)
{
    for (uint32_t i = 0; i < PERIOD; i++) {
        for (uint32_t rank = 0; rank < 2; rank++) {
            bytes_of[rank][i] = (uint8_t)((i * 2654435761u >> 16 ^ rank * 40503u) % 61);
            halves_of[rank][i] = half_of(bytes_of[rank][i]);
        }
        sums_of_halves[i] = half_of((uint32_t)bytes_of[0][i] + bytes_of[1][i]);
    }
}

/* Walks over `bytes` of a content from its `start` on; 1: copies it, 0: compares. */
static int walk(uint8_t *at, const void *content, size_t period, size_t start, size_t bytes,
                int is_copy)
{
    int is_equal = 1;

    for (size_t done = 0; done < bytes;) {
        const size_t from = (start + done) % period;
        const size_t left = bytes - done, now = left < period - from ? left : period - from;

        if (is_copy)
            memcpy(at + done, (const uint8_t *)content + from, now);
        else
            is_equal &= memcmp(at + done, (const uint8_t *)content + from, now) == 0;
        done += now;
    }
    return is_equal;
}

static void fill(uint8_t *to, uint32_t rank, size_t bytes)
{
    (void)walk(to, bytes_of[rank], PERIOD, 0, bytes, 1);
}

static int is_of(uint8_t *at, uint32_t rank, size_t bytes)
{
    return walk(at, bytes_of[rank], PERIOD, 0, bytes, 0);
}

static uint8_t *take(size_t bytes)
{
    uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    mp_assert(at != MAP_FAILED);
    return at;
}

static void expect_broadcast(struct ds_comm *comm)
{
    const size_t bytes = TWO_GI + 9;
    uint8_t *data = take(bytes);

    if (comm->rank == 1)
        fill(data, 1, bytes);
    mp_assert(ds_comm_broadcast(comm, data, bytes, 1, NULL) == DS_OK);
    mp_assert(is_of(data, 1, bytes));
    munmap(data, bytes);
}

static void expect_gather(struct ds_comm *comm)
{
    const size_t part = TWO_GI + 5;
    uint8_t *data = take(2 * part), *own = data + comm->rank * part;

    fill(own, comm->rank, part);
    mp_assert(ds_comm_all_gather(comm, own, data, part, DS_U8, NULL) == DS_OK);
    mp_assert(is_of(data, 0, part) && is_of(data + part, 1, part));
    munmap(data, 2 * part);
}

static void expect_exchange(struct ds_comm *comm)
{
    const size_t bytes = TWO_GI + 7;
    const uint32_t peer = 1 - comm->rank;
    uint8_t *send = take(bytes), *recv = take(bytes);
    const struct ds_message messages[] = {{send, bytes, peer, 1}, {recv, bytes, peer, 0}};

    fill(send, comm->rank, bytes);
    mp_assert(ds_comm_exchange(comm, messages, 2, NULL) == DS_OK);
    mp_assert(is_of(recv, peer, bytes));
    munmap(send, bytes);
    munmap(recv, bytes);
}

static void expect_sums(struct ds_comm *comm)
{
    const size_t bytes = 2 * (TWO_GI + 4), half = bytes / 2;
    const uint16_t *content = halves_of[comm->rank];
    uint8_t *data = take(bytes), *own = data + comm->rank * half;

    (void)walk(data, content, 2 * PERIOD, 0, bytes, 1);
    mp_assert(ds_comm_all_reduce(comm, data, bytes / 2, DS_BF16, DS_REDUCE_SUM, NULL) == DS_OK);
    mp_assert(walk(data, sums_of_halves, 2 * PERIOD, 0, bytes, 0));
    (void)walk(data, content, 2 * PERIOD, 0, bytes, 1);
    mp_assert(ds_comm_reduce_scatter(comm, data, own, half / 2, DS_BF16, NULL) == DS_OK);
    mp_assert(walk(own, sums_of_halves, 2 * PERIOD, comm->rank * half, half, 0));
    munmap(data, bytes);
}

static uint64_t available_bytes(void)
{
    FILE *file = fopen("/proc/meminfo", "r");
    unsigned long long kib = 0;
    char line[128];

    while (file && kib == 0 && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu", &kib) != 1) // NOLINT(cert-err34-c)
            kib = 0;
    if (file)
        fclose(file);
    return (uint64_t)kib << 10;
}

static void expect_all(struct ds_comm *data)
{
    expect_broadcast(data);
    expect_gather(data);
    expect_exchange(data);
    expect_sums(data);
    ds_comm_close(data);
}

static void shared_memory_counts_beyond_31_bits(void **state)
{
    struct ds_comm *data = NULL;

    (void)state;
    mp_assert(ds_comm_open_data(world, "data", &data) == DS_OK);
    mp_assert(strcmp(data->ops->name, "shm") == 0);
    expect_all(data);
}

static void messages_count_beyond_31_bits(void **state)
{
    struct ds_comm *data = NULL;

    (void)state;
    mp_assert(ds_comm_mpi_open_data(world, "data", DS_COMM_MPI_DIRECT_RANKS, &data) == DS_OK);
    expect_all(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_memory_counts_beyond_31_bits),
        cmocka_unit_test(messages_count_beyond_31_bits),
    };

    if (!test_is_long()) {
        fprintf(stderr, "skipped: a long test\n");
        return 77;
    }
    if (available_bytes() < NEED_BYTES) {
        fprintf(stderr, "skipped: needs 10 GiB of memory\n");
        return 77;
    }
    make_contents();
    return mp_run(tests, DEADLINE_NS);
}
