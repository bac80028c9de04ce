/* test_cuda_attention_documents.c - packed documents as they are listed for cuDNN: the arithmetic of
 * attention_documents.h against what each token says of its document. Needs no GPU. */
// link: base
// private: runtime/kernels/cuda runtime/device/cuda
// needs: cuda
#include "test.h"

#include "attention_documents.h"
#include "kernel_compare.h"

enum { SEQS = 3, LENGTH = 50, TOKENS = SEQS * LENGTH, SLOTS_END = 200 };

/* one_in: a document begins at a token; 1: at every one */
static void make_documents(int32_t document[TOKENS], uint64_t one_in, uint64_t *seed)
{
    for (int32_t t = 0, start = 0; t < TOKENS; t++) {
        if (t % LENGTH == 0 || random_next(seed) % one_in == 0)
            start = t % LENGTH;
        document[t] = start;
    }
}

/* What the kernel's block finds: the first `slots` of them, and how many there are. */
static int32_t find_starts(const int32_t document[TOKENS], int32_t slots, int32_t *starts)
{
    int32_t count = 0;

    for (int32_t t = 0; t < TOKENS; t++)
        if (attention_begins(document[t], (uint32_t)(t % LENGTH))) {
            if (count < slots)
                starts[count] = t;
            count++;
        }
    return count;
}

static struct attention_document slot(const int32_t *starts, int32_t count, int32_t slots,
                                      int32_t i)
{
    return attention_document_of(starts, count, slots, TOKENS, i);
}

/* Each token is in one slot, which begins where the token says that its document starts. */
static void assert_all_listed(const int32_t *document, const int32_t *starts, int32_t count,
                              int32_t slots)
{
    int32_t next = 0;

    for (int32_t i = 0; i <= slots; i++) {
        const struct attention_document d = slot(starts, count, slots, i);

        assert_int_equal(d.begin, next);
        assert_int_equal(d.length > 0, i < count);
        for (; next < d.begin + d.length; next++)
            assert_int_equal(next / LENGTH * LENGTH + document[next], d.begin);
    }
    assert_int_equal(next, TOKENS);
}

/* The first document alone. */
static void assert_first_listed(const int32_t *document, const int32_t *starts, int32_t count,
                                int32_t slots)
{
    const int32_t end = slot(starts, count, slots, 0).length;

    assert_int_equal(slot(starts, count, slots, 0).begin, 0);
    assert_true(end > 0 && end < TOKENS);
    assert_true(end == LENGTH || document[end] == end);
    for (int32_t t = 0; t < end; t++)
        assert_int_equal(document[t], 0);
    for (int32_t i = 1; i <= slots; i++) {
        assert_int_equal(slot(starts, count, slots, i).begin, end);
        assert_int_equal(slot(starts, count, slots, i).length, 0);
    }
}

static void lists_say_what_tokens_say(void **state)
{
    static const uint64_t one_in[] = {1, 2, 7, 30, UINT64_MAX};
    uint64_t seed = test_seed(__func__);
    int32_t document[TOKENS], starts[SLOTS_END];
    int whole = 0, first = 0;

    (void)state;
    for (size_t k = 0; k < sizeof one_in / sizeof one_in[0]; k++) {
        make_documents(document, one_in[k], &seed);
        for (int32_t slots = 2; slots < SLOTS_END; slots++) {
            const int32_t count = find_starts(document, slots, starts);

            if (count <= slots)
                assert_all_listed(document, starts, count, slots);
            else
                assert_first_listed(document, starts, count, slots);
            *(count <= slots ? &whole : &first) += 1;
        }
    }
    assert_true(whole > 100 && first > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_say_what_tokens_say),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
