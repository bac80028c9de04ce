/* ended_product.cuh - a product whose tiles go through an end of one's own before they leave the multiprocessor:
 * what would be kernels that read it again reads it from shared memory, beside the next tile's arithmetic.
 *
 * c = a b^T of 16-bit elements, 128 x 256 of it at a time. A block is three warp groups: two multiply, 64 rows each, in
 * registers, and leave their sums, rounded, in shared memory. Of the third one warp asks the copy engine for operands, 64
 * of the inner dimension at a time, TILE_STAGES ahead; the other three are the end, which finds a tile's sums there while
 * those two are on their way again. The two blocks of a cluster make tiles below each other and share b: each fetches
 * half of it for both. Blocks stay and take the next tile that no cluster has taken: where something else has a part of
 * the GPU, those that find no place leave nothing undone. Who makes a tile changes no bit of it: every sum is made in
 * one order. */
#ifndef KERNELS_CUDA_ENDED_PRODUCT_CUH
#define KERNELS_CUDA_ENDED_PRODUCT_CUH

#include "cluster.cuh"
#include "hopper.cuh"

#define TILE_ROWS     128
#define TILE_COLUMNS  256
#define TILE_INNER    64
#define TILE_HALF     128 /* of its columns: fetched by one block of the two */
#define TILE_STAGES   3
#define STAGED_PITCH  (TILE_COLUMNS + 8) /* elements of a row: no two of 8 rows in one bank */
#define TILES_TOLD    16                 /* of a block's list of tiles, the last ones */
#define TILES_AHEAD   3                  /* tiles that are known before the end has come to them */
#define ENDED_THREADS 384
#define END_THREADS   96 /* of them, the end's */
/* Registers of a thread of the end's group, which loads ahead, and of the two that multiply. */
#define END_REGISTERS      152
#define MULTIPLY_REGISTERS 176
/* A block has no more than it begins with: who asks for more waits for ever. */
static_assert(128 * END_REGISTERS + 256 * MULTIPLY_REGISTERS <=
                  ENDED_THREADS * (65536 / ENDED_THREADS / 8 * 8),
              "registers of a block");

/* How a product is cut: tile (pair, strip) has rows (2 * pair + rank) * 128 .. and, as its halves, the columns
 * strip * strip_columns .. and, other_half behind these, as many. */
struct ended_cut {
    uint32_t pairs, strips, steps; /* steps: of the inner dimension */
    uint32_t group;                /* pairs that go through all strips before the next ones begin */
    uint32_t strip_columns, other_half;
    uint32_t *taken; /* tiles that some cluster has; 0 at first */
};

struct ended_place {
    uint32_t pair, strip;
};
__device__ __forceinline__ ended_place ended_place_of(const ended_cut &cut, uint32_t tile)
{
    const uint32_t of_group = cut.group * cut.strips, group = tile / of_group;
    const uint32_t in = tile - group * of_group, first = group * cut.group;
    const uint32_t pairs = min(cut.group, cut.pairs - first);

    return {first + in % pairs, in / pairs};
}

template <typename T> struct alignas(1024) ended_room {
    T a[TILE_STAGES][TILE_ROWS * TILE_INNER];
    T b[TILE_STAGES][TILE_COLUMNS * TILE_INNER];
    T staged[TILE_ROWS * STAGED_PITCH];
    uint64_t full[TILE_STAGES], empty[TILE_STAGES];
    uint64_t staged_full, staged_empty;
    uint64_t told[TILES_TOLD];
    struct letter tile[TILES_TOLD]; /* the n-th of the cluster at n % TILES_TOLD */
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* Which stage is next, and how often all have been gone through. */
struct ended_turn {
    uint32_t stage, parity;
};
__device__ __forceinline__ void ended_next(ended_turn *turn)
{
    if (++turn->stage == TILE_STAGES) {
        turn->stage = 0;
        turn->parity ^= 1;
    }
}

/* ---- which tiles a cluster makes: the first block's end takes them and tells both. TILES_TOLD are more than any of a
 * cluster's threads can be behind another. */

template <typename T>
__device__ __forceinline__ void tile_take(ended_room<T> &room, const ended_cut &cut, uint32_t n)
{
    const struct letter letter = {{atomicAdd(cut.taken, 1), 0, 0, 0}};

    for (uint32_t rank = 0; rank < 2; rank++)
        box_send(&room.tile[n % TILES_TOLD], &room.told[n % TILES_TOLD], rank, letter);
}

/* One thread of each block expects what is told next. */
template <typename T> __device__ __forceinline__ void tile_expect(ended_room<T> &room, uint32_t n)
{
    barrier_expect(&room.told[n % TILES_TOLD], sizeof(struct letter));
}

/* The n-th tile; past the last one: none. */
template <typename T>
__device__ __forceinline__ bool tile_is(ended_room<T> &room, const ended_cut &cut, uint32_t n,
                                        ended_place *place)
{
    uint32_t tile;

    barrier_wait_far(&room.told[n % TILES_TOLD], n / TILES_TOLD % 2);
    tile = *(volatile uint32_t *)room.tile[n % TILES_TOLD].word;
    if (tile >= cut.pairs * cut.strips)
        return false;
    *place = ended_place_of(cut, tile);
    return true;
}

/* ---- the three roles */

/* One thread: fetches every tile's operands. */
template <typename T, int B_TURNED>
__device__ __forceinline__ void ended_fetch(ended_room<T> &room, const CUtensorMap *a_map,
                                            const CUtensorMap *b_map, const ended_cut &cut)
{
    constexpr uint32_t bytes = (TILE_ROWS + TILE_COLUMNS) * TILE_INNER * sizeof(T);
    const uint32_t rank = cluster_rank();
    ended_turn turn = {0, 1};
    ended_place place;

    uint32_t n = 0;

    for (; tile_expect(room, n), tile_is(room, cut, n, &place); n++) {
        const uint32_t row = (2 * place.pair + rank) * TILE_ROWS;
        const uint32_t column = place.strip * cut.strip_columns + rank * cut.other_half;

        for (uint32_t step = 0; step < cut.steps; step++, ended_next(&turn)) {
            const uint32_t inner = step * TILE_INNER;
            uint64_t *full = &room.full[turn.stage];
            T *b = room.b[turn.stage] + rank * TILE_HALF * TILE_INNER;

            barrier_wait(&room.empty[turn.stage], turn.parity);
            barrier_expect(full, bytes);
            box_load(room.a[turn.stage], a_map, inner, row, full);
            if (B_TURNED) {
                box_load_both(b, b_map, column, inner, full);
                box_load_both(b + 64 * TILE_INNER, b_map, column + 64, inner, full);
            } else {
                box_load_both(b, b_map, inner, column, full);
            }
        }
    }
    for (uint32_t i = 1; i < TILES_AHEAD;
         i++) { /* what was told ahead is not to come when this block is gone */
        tile_expect(room, n + i);
        tile_is(room, cut, n + i, &place);
    }
}

/* A warp group tells both blocks that it has read a stage. */
template <typename T>
__device__ __forceinline__ void ended_release(ended_room<T> &room, uint32_t stage)
{
    const uint32_t thread = threadIdx.x % 128;

    if (thread % 32 == 0 && thread < 64)
        barrier_arrive_at(&room.empty[stage], thread / 32);
}

/* 64 rows of sums, rounded, to their place. */
template <typename T> __device__ __forceinline__ void ended_stage(T *staged, const float (&c)[128])
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
    T *to = staged + (warp * 16 + lane % 16) * STAGED_PITCH + lane / 16 * 8;

#pragma unroll
    for (int i = 0; i < 16; i++) {
        const uint32_t pairs[4] = {
            pair_of<T>(c[8 * i], c[8 * i + 1]), pair_of<T>(c[8 * i + 2], c[8 * i + 3]),
            pair_of<T>(c[8 * i + 4], c[8 * i + 5]), pair_of<T>(c[8 * i + 6], c[8 * i + 7])};

        store_matrices(to + i * 16, pairs);
    }
}

/* A warp group's half of every tile. */
template <typename T, int B_TURNED>
__device__ __forceinline__ void ended_multiply(ended_room<T> &room, const ended_cut &cut,
                                               uint32_t half)
{
    constexpr uint32_t b_lead = B_TURNED ? 64 * TILE_INNER * sizeof(T) : 16;
    constexpr uint32_t b_step = (B_TURNED ? 16 * 128 : 32) >> 4; /* 16 of the inner dimension */
    ended_turn turn = {0, 0};
    ended_place place;
    float c[128];

    for (uint32_t n = 0; tile_is(room, cut, n, &place); n++) {
        uint32_t last = 0;

        for (uint32_t step = 0; step < cut.steps; step++, ended_next(&turn)) {
            barrier_wait(&room.full[turn.stage], turn.parity);
            const uint64_t a = operand_at(room.a[turn.stage] + half * 64 * TILE_INNER, 16, 8 * 128);
            const uint64_t b = operand_at(room.b[turn.stage], b_lead, 8 * 128);

            product_fence();
#pragma unroll
            for (int i = 0; i < TILE_INNER / 16; i++)
                product_begin<B_TURNED>(T(), c, a + i * 2, b + i * b_step, step > 0 || i > 0);
            product_commit();
            if (step > 0) {
                product_wait<1>();
                ended_release(room, last);
            }
            last = turn.stage;
        }
        product_wait<0>();
        ended_release(room, last);
#pragma unroll
        for (int i = 0; i < 128; i++)
            asm volatile("" : "+f"(c[i])::"memory");
        barrier_wait(&room.staged_empty, (n + 1) % 2);
        ended_stage(room.staged + half * 64 * STAGED_PITCH, c);
        barrier_arrive(&room.staged_full);
    }
}

template <typename T, typename END>
__device__ __forceinline__ void ended_end(ended_room<T> &room, const ended_cut &cut, const END &end)
{
    const uint32_t rank = cluster_rank(), thread = threadIdx.x - 32;
    const bool takes = rank == 0 && thread == 0;
    ended_place place;

    for (uint32_t n = 0; takes && n < TILES_AHEAD; n++)
        tile_take(room, cut, n);
    for (uint32_t n = 0; tile_is(room, cut, n, &place); n++) {
        const uint32_t row = (2 * place.pair + rank) * TILE_ROWS;
        typename END::held held;

        if (takes)
            tile_take(room, cut, n + TILES_AHEAD);
        end.before(held, row, place.strip, thread);
        barrier_wait(&room.staged_full, n % 2);
        end.tile(held, room.staged, row, place.strip, thread);
        barrier_arrive(&room.staged_empty);
    }
}

template <typename T> __device__ __forceinline__ void ended_open(ended_room<T> &room)
{
    if (threadIdx.x == 0) {
        for (int i = 0; i < TILE_STAGES; i++) {
            barrier_init(&room.full[i], 1);
            barrier_init(&room.empty[i], 4); /* two groups of two blocks */
        }
        for (int i = 0; i < TILES_TOLD; i++)
            barrier_init(&room.told[i], 1);
        barrier_init(&room.staged_full, 256);
        barrier_init(&room.staged_empty, END_THREADS);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_meet();
}

#endif

/* END: what END_THREADS threads do about a tile: `before` its sums are there, into what they hold until then, and with
 * them, in `tile`. */
template <typename T, int B_TURNED, typename END>
__global__ void __launch_bounds__(ENDED_THREADS, 1)
    ended_product(const __grid_constant__ CUtensorMap a_map,
                  const __grid_constant__ CUtensorMap b_map, const __grid_constant__ ended_cut cut,
                  const __grid_constant__ END end)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ uint8_t raw[];
    ended_room<T> &room = *(ended_room<T> *)(((uintptr_t)raw + 1023) / 1024 * 1024);
    const uint32_t group = threadIdx.x / 128;

    ended_open(room);
    if (group == 0) {
        registers_less<END_REGISTERS>();
        if (threadIdx.x >= 32)
            ended_end(room, cut, end);
        else if (threadIdx.x == 0)
            ended_fetch<T, B_TURNED>(room, &a_map, &b_map, cut);
        __syncwarp();
    } else {
        registers_more<MULTIPLY_REGISTERS>();
        ended_multiply<T, B_TURNED>(room, cut, group - 1);
    }
    cluster_meet(); /* nobody ends before the other has what it sent */
#endif
}

#endif
