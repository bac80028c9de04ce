/* deferred.c - work runs when somebody waits, in a random order that the recorded waits allow.
 *
 * The awaited place is reached and not much more is done, so a result that was never waited for is
 * really not there. Some waits do only what they need, others whatever comes: between the two lie the
 * orders that a missing wait permits. The blocks of device memory are open while a work runs or stays
 * open (its peers, or MPI, may read them in between), and shut for host code otherwise. */
#include "cpu.h"

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t next_random(struct cpu_device *device)
{
    uint64_t z = device->random += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int is_ready(struct cpu_stream *stream, const struct cpu_item *head)
{
    return head->task.work != NULL || ds_cpu_stream_status(stream) != DS_OK ||
           ds_cpu_stream_reached(head->task.source, head->task.position);
}

/* The stream that the awaited one waits for, directly or through others. */
static struct cpu_stream *pick_needed(struct cpu_stream *awaited)
{
    struct cpu_stream *stream = awaited;
    struct cpu_item *head = ds_cpu_stream_head(stream);

    while (
        !is_ready(stream, head)) { /* what it waits for was queued before it: there is no circle */
        stream = head->task.source;
        head = ds_cpu_stream_head(stream);
    }
    return stream;
}

/* Any stream that can go on, each with the same chance; NULL if there is none. */
static struct cpu_stream *pick_any(struct cpu_device *device)
{
    struct cpu_stream *picked = NULL;
    uint64_t ready_count = 0;

    for (struct cpu_stream *s = device->streams; s != NULL; s = s->next) {
        struct cpu_item *head = ds_cpu_stream_head(s);

        if (head != NULL && is_ready(s, head) && next_random(device) % ++ready_count == 0)
            picked = s;
    }
    return picked;
}

static int has_open_work(const struct cpu_device *device)
{
    for (struct cpu_stream *s = device->streams; s != NULL; s = s->next)
        if (s->queue.head != NULL && s->queue.head->is_started)
            return 1;
    return 0;
}

static const uint32_t needed_percents[] = {0, 50, 90}; /* how often only what is needed is picked */
#define NEEDED_CHOICES   (sizeof needed_percents / sizeof needed_percents[0])
#define STUCK_IN_A_ROUND 8 /* tries that changed nothing before the thread pauses */

/* A head that is stuck waits for another rank, and that rank perhaps for another stream of ours: as
 * long as nothing moves any stream may be picked. */
void ds_cpu_deferred_run(struct cpu_stream *awaited, uint64_t position)
{
    struct cpu_device *device = awaited->device;
    const uint32_t needed_percent = needed_percents[next_random(device) % NEEDED_CHOICES];
    struct cpu_pause pause = {0};
    uint32_t stuck_count = 0;

    if (ds_cpu_stream_reached(awaited, position))
        return;
    ds_cpu_memory_set_open(device, 1);
    while (!ds_cpu_stream_reached(awaited, position)) {
        const int is_needed = stuck_count == 0 && next_random(device) % 100 < needed_percent;
        struct cpu_stream *stream = is_needed ? pick_needed(awaited) : pick_any(device);

        DS_ASSERT(stream != NULL);
        if (ds_cpu_stream_step(stream) == CPU_STEP_MOVED) {
            stuck_count = 0;
            pause.count = 0;
        } else if (++stuck_count % STUCK_IN_A_ROUND == 0) {
            ds_cpu_pause(&pause, device->options.clock);
        }
    }
    ds_cpu_memory_set_open(device, has_open_work(device));
}

/* One try at one stream: who only asks makes a little progress, or a loop of questions never ends. */
void ds_cpu_deferred_nudge(struct cpu_device *device)
{
    struct cpu_stream *stream = pick_any(device);

    if (stream == NULL)
        return;
    ds_cpu_memory_set_open(device, 1);
    (void)ds_cpu_stream_step(stream);
    ds_cpu_memory_set_open(device, has_open_work(device));
}
