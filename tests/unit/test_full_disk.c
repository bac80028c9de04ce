// link: launch
// timeout: 3600
/* A real disk, a small tmpfs, that is full at some moment of a run, between saves or in the middle of one, and has room
 * again later: training never stops and keeps its bits, what is committed verifies, and what is saved
 * behind that is there. 3 times; DSTRAIN_TEST_LONG: 50 times. Needs the right to mount. */
#include "small_disk.h"

#include "saved_run.h"

#include "dstrain/random.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

enum { STEPS = 60, DISK_BYTES = 3 << 20, BLOCK = 4096 };

static char disk[64];
static struct capture capture;
static uint64_t drawn;
static uint64_t full_at, free_at, room_bytes; /* steps, 0: not known yet; what is left free */
static int is_over;

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(saved.seed, DS_RANDOM_TEST, 14), drawn++, bound);
}

/* ---- the disk gets full, and has room again */

static void ballast_path(char to[128])
{
    snprintf(to, 128, "%s/ballast", disk);
}

/* All that there is, less `room_bytes`; again and again, since old checkpoints go. */
static void fill(void)
{
    static const char block[BLOCK];
    char path[128];

    ballast_path(path);
    const int file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    while (write(file, block, sizeof block) == BLOCK)
        ;
    const off_t bytes = lseek(file, 0, SEEK_END);
    if (ftruncate(file, bytes > (off_t)room_bytes ? bytes - (off_t)room_bytes : 0) != 0)
        abort();
    (void)close(file);
}

static int has_said(const char *words)
{
    static char text[sizeof capture.text];
    const ssize_t bytes = pread(capture.file, text, sizeof text - 1, 0);

    text[bytes > 0 ? bytes : 0] = '\0';
    return strstr(text, words) != NULL;
}

/* Every rank's, at the end of its steps: it has room again two steps after somebody has complained. */
static void on_step(const struct ds_step_report *report)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    char path[128];

    pthread_mutex_lock(&lock);
    if (report->step >= full_at && free_at == 0) {
        fill();
        free_at = has_said("was not written") ? report->step + 2 : 0;
    }
    if (free_at > 0 && report->step >= free_at && !is_over) {
        ballast_path(path);
        is_over = unlink(path) == 0;
    }
    const int is_late = report->step >= full_at && free_at == 0 && report->step > STEPS - 10;
    const int is_waiting = !is_over;
    pthread_mutex_unlock(&lock);
    if (is_waiting) /* saves are written meanwhile; at the end it is waited for */
        usleep(is_late ? 500000 : 5000);
}

/* ---- the test */

static void one_turn(const struct tiny_result *whole)
{
    struct tiny_case c = saved_case();
    struct ds_manifest_id ids[SAVED_MAX];

    full_at = 3 + draw(12);
    room_bytes = draw(4) == 0 ? 0 : draw(96 << 10); /* less than a save */
    free_at = 0;
    is_over = 0;
    c.step = on_step;
    capture_begin(&capture);
    struct tiny_result result = saved_run(c, STEPS, with_checkpoints);
    const char *said = capture_end(&capture);
    if (!is_over || !strstr(said, "No space left on device"))
        fail_msg("full from step %llu on but for %llu bytes: %s", (unsigned long long)full_at,
                 (unsigned long long)room_bytes, said);
    assert_same_run(&result, whole, 0);
    assert_true(saved_verify(saved.root, ids) >= 2);
    assert_int_equal(ids[0].step, STEPS);
    saved_forget(saved.root);
    tiny_result_fini(&result);
}

static void a_full_disk_costs_checkpoints_until_it_has_room(void **state)
{
    struct tiny_result whole = saved_run(saved_case(), STEPS, without_checkpoints);

    (void)state;
    for (int i = 0; i < (test_is_long() ? 50 : 3); i++)
        one_turn(&whole);
    tiny_result_fini(&whole);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_disk_costs_checkpoints_until_it_has_room),
    };

    if (!small_disk_mount(DISK_BYTES, disk, sizeof disk)) {
        fprintf(stderr, "skipped: nothing can be mounted here\n");
        return 77;
    }
    saved_begin("test_full_disk", 64);
    snprintf(saved.root, sizeof saved.root, "%s/checkpoints", disk);
    saved.interval = 1;
    saved.keep = 2;
    saved.decay_steps = STEPS;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    small_disk_unmount(disk);
    return failed;
}
