// link: checkpoint comm storage base
/* How many checkpoints stay over many launches that save little each: no more than a launch that saves much leaves, and
 * a rollback finds one behind the margin all the same. 40 launches and 6 directories; DSTRAIN_TEST_LONG: 100. */
#include "checkpoint_rig.h"

#include "dstrain/random.h"

#define OTHERS_MAX 7 /* beside `keep_last`; checkpoint.h */

enum { LAUNCHES = 40, SAVES_MAX = 5, SAVES_OF_LONG = 30, STRIDE_MAX = 6, LISTED_MAX = 128 };

struct world {
    struct ds_fs *fs;
    struct ds_random random;
    uint64_t seed, drawn;
    struct ds_checkpoint_retention keep;
    struct launch *launch;
    uint64_t step;         /* the newest checkpoint's */
    uint64_t begin;        /* the newest there was when the run began, or went back */
    uint64_t oldest;       /* of those there were then */
    uint64_t trusted_from; /* what is of that step or newer this launch trusts */
    int saves;             /* of this launch, since it went back */
};

struct listed {
    uint64_t steps[LISTED_MAX]; /* newest first */
    size_t count;
};

static uint64_t draw(struct world *w, uint64_t bound)
{
    return ds_random_below(w->random, w->drawn++, bound);
}

static struct listed read_list(const struct world *w)
{
    struct ds_checkpoint_list list;
    struct listed out = {.count = 0};

    assert_ok(ds_checkpoint_list_make(w->fs, RIG_ROOT, &list));
    assert_true(list.count <= LISTED_MAX);
    for (size_t i = 0; i < list.count; i++)
        if (list.entries[i].standing == DS_CHECKPOINT_GOOD)
            out.steps[out.count++] = list.entries[i].id.step;
    ds_checkpoint_list_fini(&list);
    return out;
}

static int has(const struct listed *l, uint64_t step)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->steps[i] == step)
            return 1;
    return 0;
}

/* The newest from `from` on that a rollback does not find too new; 0: there is none. */
static uint64_t newest_old(const struct world *w, const struct listed *l, uint64_t from)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->steps[i] >= from && l->steps[i] + w->keep.margin <= w->step)
            return l->steps[i];
    return 0;
}

static size_t count_old(const struct world *w, const struct listed *l)
{
    size_t count = 0;

    for (size_t i = 0; i < l->count; i++)
        count += l->steps[i] + w->keep.margin <= w->step;
    return count;
}

static void tell_where(const struct world *w)
{
    print_error("seed %llu, keep %u, margin %llu, step %llu, %d saves of this launch\n",
                (unsigned long long)w->seed, w->keep.keep_last, (unsigned long long)w->keep.margin,
                (unsigned long long)w->step, w->saves);
}

#define CHECK(w, condition, ...)   \
    do {                           \
        if (!(condition)) {        \
            tell_where(w);         \
            fail_msg(__VA_ARGS__); \
        }                          \
    } while (0)

/* ---- what has to hold behind a retention */

static void check_newest(const struct world *w, const struct listed *before,
                         const struct listed *after)
{
    size_t trusted_count = 0, others_count = 0;

    for (size_t i = 0; i < before->count; i++) {
        const int is_trusted = before->steps[i] >= w->trusted_from;
        const int must_stay =
            i < w->keep.keep_last || w->saves == 0 || (is_trusted && trusted_count < 2) ||
            (!is_trusted && trusted_count + others_count < 3 && trusted_count < 2);

        trusted_count += (size_t)is_trusted;
        others_count += (size_t)!is_trusted;
        if (must_stay)
            CHECK(w, has(after, before->steps[i]), "number %zu from the newest on is gone", i);
    }
}

static void check_old(const struct world *w, const struct listed *before,
                      const struct listed *after)
{
    const uint64_t margin = w->keep.margin, old = newest_old(w, after, 0);

    if (margin == 0)
        return;
    if (newest_old(w, before, w->trusted_from) > 0)
        CHECK(w, newest_old(w, after, w->trusted_from) > 0, "none that is old is trusted any more");
    else
        CHECK(w, count_old(w, after) >= 2 || count_old(w, after) == count_old(w, before),
              "of those that are old %zu stay, and none of them is trusted", count_old(w, after));
    if (w->step >= w->oldest + margin)
        CHECK(w, old > 0, "none is old");
    if (w->step >= w->begin + margin)
        CHECK(w, old + 2 * (margin + STRIDE_MAX) >= w->step, "the newest old one is of step %llu",
              (unsigned long long)old);
}

static void retain(struct world *w)
{
    const struct listed before = read_list(w);

    assert_ok(ds_checkpoint_retain(w->launch->dir, &w->keep, w->saves > 0 ? w->step : 0));
    const struct listed after = read_list(w);
    check_newest(w, &before, &after);
    check_old(w, &before, &after);
    if (w->saves > 0)
        CHECK(w, after.count <= w->keep.keep_last + OTHERS_MAX, "%zu stay", after.count);
}

/* ---- launches */

/* `step`: as in launch_start */
static void start(struct world *w, uint64_t step)
{
    assert_ok(launch_start(w->launch, step));
    const struct listed there = read_list(w);

    w->begin = w->step = there.count ? there.steps[0] : 0;
    w->oldest = there.count ? there.steps[there.count - 1] : UINT64_MAX - w->keep.margin;
    w->trusted_from = w->launch->is_base_elsewhere ? w->step + 1 : w->step;
    w->saves = 0;
}

static void save(struct world *w)
{
    int committed = 0;

    w->step += 1 + draw(w, STRIDE_MAX);
    assert_ok(launch_save(w->launch, w->step, &committed));
    assert_true(committed);
    w->saves++;
    if (w->oldest > w->step) /* the first one */
        w->begin = w->oldest = w->step;
}

/* As far as a rollback goes, or not at all where it has only just begun. */
static void roll_back(struct world *w)
{
    if (w->keep.margin == 0 || w->step < w->oldest + w->keep.margin)
        return;
    start(w, w->step - w->keep.margin);
    CHECK(w, w->launch->has_base, "there is nothing to go back to");
}

/* Some are killed between a checkpoint and what goes for it, some before they have saved anything. */
static void launch_once(struct world *w, int is_copy)
{
    struct launch l;
    const int saves = draw(w, 10) == 0 ? SAVES_OF_LONG : (int)draw(w, SAVES_MAX + 1);

    launch_init(&l, w->fs, 0);
    l.is_base_elsewhere = is_copy;
    w->launch = &l;
    start(w, UINT64_MAX);
    if (draw(w, 4) == 0)
        retain(w);
    for (int i = 0; i < saves; i++) {
        save(w);
        if (draw(w, 8) > 0)
            retain(w);
    }
    if (draw(w, 8) == 0)
        roll_back(w);
    launch_fini(&l);
}

static void check_bytes(struct world *w)
{
    static uint8_t buffer[DS_PACK_CHUNK_BYTES];
    struct ds_checkpoint_list list;

    assert_ok(ds_checkpoint_list_make(w->fs, RIG_ROOT, &list));
    for (size_t i = 0; i < list.count; i++) {
        struct ds_manifest manifest;

        assert_ok(ds_checkpoint_read_manifest(w->fs, RIG_ROOT, &list.entries[i].id, &manifest));
        assert_ok(ds_checkpoint_verify(w->fs, RIG_ROOT, &manifest, buffer));
        ds_manifest_fini(&manifest);
    }
    ds_checkpoint_list_fini(&list);
}

static void check_directory(uint64_t seed, int is_copy)
{
    struct world w = {.seed = seed, .random = ds_random_of(seed, DS_RANDOM_TEST, 7)};

    w.keep.keep_last = 1 + (uint32_t)draw(&w, 4);
    w.keep.margin = draw(&w, 4) > 0 ? 1 + draw(&w, 40) : 0;
    assert_ok(ds_fs_sim_open(&w.fs));
    assert_int_equal(ds_fs_mkdir(w.fs, "/run", 0755), 0);
    for (int i = 0; i < LAUNCHES; i++)
        launch_once(&w, is_copy);
    check_bytes(&w);
    assert_int_equal(ds_fs_sim_open_files(w.fs), 0);
    ds_fs_sim_close(w.fs);
}

static void check_directories(int is_copy)
{
    const uint64_t seed = test_seed("test_checkpoint_keep");
    const uint64_t count = test_is_long() ? 100 : 6;

    for (uint64_t i = 0; i < count; i++)
        check_directory(seed + i, is_copy);
}

static void short_launches_leave_no_more_than_long_ones(void **state)
{
    (void)state;
    check_directories(0);
}

/* A mirror: what a launch has loaded lies in the other one, and in this it trusts what it has copied alone. */
static void short_launches_leave_no_more_in_a_mirror(void **state)
{
    (void)state;
    check_directories(1);
}

/* All that stays for the margin at once: the two newest that are old, the newest that is and is trusted, and the
 * oldest that is not yet, trusted or not. */
static void what_stays_for_the_margin(void **state)
{
    static const uint64_t wanted[] = {74, 72, 70, 60, 50, 40, 20};
    struct world w = {.keep = {.keep_last = 1, .margin = 15}};
    struct launch l;
    int committed;

    (void)state;
    assert_ok(ds_fs_sim_open(&w.fs));
    assert_int_equal(ds_fs_mkdir(w.fs, "/run", 0755), 0);
    launch_init(&l, w.fs, 0);
    assert_ok(launch_start(&l, UINT64_MAX));
    for (uint64_t step = 10; step <= 60; step += 10)
        assert_ok(launch_save(&l, step, &committed));
    l.is_base_elsewhere = 1;
    assert_ok(launch_start(&l, UINT64_MAX));
    ds_checkpoint_trust(l.dir, &(struct ds_manifest_id){1, 20}); /* it has been read */
    for (uint64_t step = 70; step <= 74; step += 2)
        assert_ok(launch_save(&l, step, &committed));
    assert_ok(ds_checkpoint_retain(l.dir, &w.keep, 74));
    const struct listed stay = read_list(&w);
    assert_int_equal(stay.count, sizeof wanted / sizeof *wanted);
    assert_memory_equal(stay.steps, wanted, sizeof wanted);
    launch_fini(&l);
    ds_fs_sim_close(w.fs);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(short_launches_leave_no_more_than_long_ones),
    cmocka_unit_test(short_launches_leave_no_more_in_a_mirror),
    cmocka_unit_test(what_stays_for_the_margin),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
