/* test_cuda_norm_ring.c - where CUDA's norm keeps what it has read ahead: the arithmetic of norm_ring.h against
 * what it is for. Needs no GPU. */
// link: base
// private: runtime/kernels/cuda
#include "test.h"

#include "norm_ring.h"

/* In elements: 16 bits, 32 bits. */
static const uint32_t widths[] = {2, 4};

struct place {
    uint32_t piece, elem, at;
};

static struct place copied(uint32_t turn, uint32_t lane, uint32_t width)
{
    const struct norm_slot first = norm_slot_of(lane, width);
    const uint32_t pieces = turn * norm_turn_pieces(width);

    return (struct place){first.piece + pieces, first.elem,
                          first.at + pieces * norm_part_bytes(width)};
}

/* Who reads an element finds it where it was copied to; all are copied, none lies on another. */
static void every_slot_of_a_batch_is_copied_to_where_it_is_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        const uint32_t width = widths[i], shares = norm_shares(width), of_slot = 16 / width;
        unsigned char count[NORM_WARP * NORM_BATCH] = {0}, used[1 << 13] = {0};

        for (uint32_t turn = 0; turn < NORM_BATCH; turn++)
            for (uint32_t lane = 0; lane < NORM_WARP; lane++) {
                const struct place slot = copied(turn, lane, width);
                const uint32_t row = slot.elem / NORM_LANES;
                const uint32_t share = slot.elem % NORM_LANES / of_slot;

                assert_int_equal(slot.elem % of_slot, 0);
                assert_true(slot.piece < NORM_WARP / shares && row < NORM_BATCH);
                assert_int_equal(count[(slot.piece * NORM_BATCH + row) * shares + share]++, 0);
                assert_int_equal(slot.at, norm_row_at(slot.piece * shares + share, row, width));
                assert_true(slot.at % 16 == 0 && slot.at + 16 <= norm_batch_bytes(width));
                assert_int_equal(used[slot.at / 16]++, 0);
            }
    }
}

/* Shared memory serves eight threads with 16 bytes each at once, if they meet all 32 banks. */
static void eight_threads_meet_all_banks(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++)
        for (uint32_t eight = 0; eight < NORM_WARP; eight += 8)
            for (uint32_t turn = 0; turn < NORM_BATCH; turn++) {
                uint32_t copies = 0, reads = 0;

                for (uint32_t lane = eight; lane < eight + 8; lane++) {
                    copies |= 1u << copied(turn, lane, widths[i]).at / 16 % 8;
                    reads |= 1u << norm_row_at(lane, turn, widths[i]) / 16 % 8;
                }
                assert_int_equal(copies, 0xff);
                assert_int_equal(reads, 0xff);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_slot_of_a_batch_is_copied_to_where_it_is_read),
        cmocka_unit_test(eight_threads_meet_all_banks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
