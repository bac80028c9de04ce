// link: comm device kernels base
// private: runtime/comm
// ranks: 2 3
/* mp_comm_cuts.c - what is cut into hundreds of pieces gives the same as what is not. */
#include "comm_cases.h"
#include "comm_cuts.h"
#include "mp.h"

#define DEADLINE_NS 120000000000u

static void expect_cases(struct ds_comm *data)
{
    const uint64_t seed = mp_seed("cuts");

    mp_assert(comm_cases_run(data, COMM_BLOCKING, seed) == 0);
    mp_assert(comm_cases_run(data, COMM_DEFERRED, seed) == 0);
    ds_comm_close(data);
}

static void shared_memory_in_pieces_gives_the_same(void **state)
{
    struct ds_comm *data = NULL;

    (void)state;
    mp_assert(ds_comm_open_data(world, "data", &data) == DS_OK);
    mp_assert(strcmp(data->ops->name, "shm") == 0 && cut_shared(data) == DS_OK);
    expect_cases(data);
}

static void expect_messages(uint32_t direct_ranks_max)
{
    struct ds_comm *data = NULL;

    mp_assert(ds_comm_mpi_open_data(world, "data", direct_ranks_max, &data) == DS_OK);
    cut_messages(data);
    expect_cases(data);
}

static void messages_in_pieces_give_the_same(void **state)
{
    (void)state;
    expect_messages(DS_COMM_MPI_DIRECT_RANKS);
}

static void trees_of_pieces_give_the_same(void **state)
{
    (void)state;
    expect_messages(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_memory_in_pieces_gives_the_same),
        cmocka_unit_test(messages_in_pieces_give_the_same),
        cmocka_unit_test(trees_of_pieces_give_the_same),
    };

    return mp_run(tests, DEADLINE_NS);
}
