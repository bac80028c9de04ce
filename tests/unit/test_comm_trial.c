// private: runtime/comm
/* test_comm_trial.c - of two ways the faster one is found, whatever the time slices of others add to some of
 * the rounds. */
#include "test.h"
#include "trial.h"

/* A trial as a call makes it; each second round this way is interrupted for longer than the rounds take. */
static struct trial tried(const uint64_t part_ns[TRIAL_WAYS][TRIAL_PARTS])
{
    struct trial trial = {0};

    for (uint64_t round = 0; round < TRIAL_ROUNDS; round++)
        for (unsigned part = 0; part < TRIAL_PARTS; part++) {
            const uint64_t slice_ns = round / TRIAL_WAYS % 2 == part % 2 ? 4000000 : 0;

            trial_note(&trial, round, part, part_ns[trial_way(round)][part] + slice_ns);
        }
    return trial;
}

static unsigned best_of(const struct trial *trial)
{
    const uint64_t way_ns[TRIAL_WAYS] = {trial_ns(trial, 0), trial_ns(trial, 1)};

    return trial_best(way_ns);
}

static void each_way_gets_half_of_the_rounds(void **state)
{
    unsigned rounds[TRIAL_WAYS] = {0};

    (void)state;
    for (uint64_t round = 0; round < TRIAL_ROUNDS; round++)
        rounds[trial_way(round)]++;
    assert_int_equal(rounds[0], TRIAL_ROUNDS / 2);
    assert_int_equal(rounds[1], TRIAL_ROUNDS / 2);
}

/* The cheaper store is the dearer way where the others pay more to read it. */
static void the_way_whose_whole_round_is_shorter_is_the_best(void **state)
{
    const uint64_t shared[TRIAL_WAYS][TRIAL_PARTS] = {{5000, 9000, 7000}, {8000, 8000, 8000}};
    const uint64_t apart[TRIAL_WAYS][TRIAL_PARTS] = {{5000, 20000, 7000}, {8000, 9000, 8000}};
    struct trial trial = tried(shared);

    (void)state;
    assert_int_equal(trial_ns(&trial, 0), 21000);
    assert_int_equal(trial_ns(&trial, 1), 24000);
    assert_int_equal(best_of(&trial), 0);
    trial = tried(apart);
    assert_int_equal(best_of(&trial), 1);
}

static void where_nothing_is_known_it_is_the_first(void **state)
{
    const struct trial trial = {0};

    (void)state;
    assert_int_equal(best_of(&trial), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_way_gets_half_of_the_rounds),
        cmocka_unit_test(the_way_whose_whole_round_is_shorter_is_the_best),
        cmocka_unit_test(where_nothing_is_known_it_is_the_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
