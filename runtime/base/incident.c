/* incident.c - what a passed deadline leaves behind: one line for people, and a file with the pages
 * of this host's ranks, taken before anybody exits. Runs on the watchdog's second thread, which may
 * block; it allocates nothing, since the main thread may hold the allocator's lock for ever. */
#include "recorder_page.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define EVENTS_OF_OURS       INCIDENT_EVENTS_MAX
#define EVENTS_OF_NEIGHBOURS 8
#define SECONDS_BYTES        32

/* Nanoseconds as "12.345", in any locale. */
static const char *seconds(char to[SECONDS_BYTES], uint64_t ns)
{
    snprintf(to, SECONDS_BYTES, "%" PRIu64 ".%03" PRIu64, ns / 1000000000u, ns / 1000000u % 1000u);
    return to;
}

static uint64_t age_ns(const struct incident *incident, uint64_t then_ns)
{
    return incident->now_ns > then_ns ? incident->now_ns - then_ns : 0;
}

static const char *kind_name(const struct ds_recorder *recorder, uint32_t kind)
{
    return recorder->kind_names && kind < recorder->kind_count ? recorder->kind_names[kind]
                                                               : "unknown";
}

/* ---- the line ---- */

/* " (micro 2, unit 5)"; UINT32_MAX: that number means nothing to this kind. */
static void where_in_step(const struct ds_record *event, char *to, size_t bytes)
{
    const uint32_t numbers[] = {event->micro, event->block, event->unit};
    static const char *const names[] = {"micro", "block", "unit"};
    const char *gap = " (";
    size_t length = 0;

    to[0] = '\0';
    for (int i = 0; i < 3; i++)
        if (numbers[i] != UINT32_MAX) {
            length += (size_t)snprintf(to + length, bytes - length, "%s%s %" PRIu32, gap, names[i],
                                       numbers[i]);
            gap = ", ";
        }
    if (length > 0)
        snprintf(to + length, bytes - length, ")");
}

/* The newest action that still runs, or else the newest. */
static const struct ds_record *latest_event(const struct ds_record *events, size_t count)
{
    for (size_t i = count; i > 0; i--)
        if (events[i - 1].end_ns == 0)
            return &events[i - 1];
    return count > 0 ? &events[count - 1] : NULL;
}

void incident_describe(const struct ds_recorder *recorder, const struct recorder_page *page,
                       struct incident *incident, char *to, size_t bytes)
{
    const size_t count = page_events_load(page, incident->events, INCIDENT_EVENTS_MAX);
    const struct ds_record *event = latest_event(incident->events, count);
    char where[96], ago[SECONDS_BYTES];

    if (!event) {
        snprintf(to, bytes, "no action yet");
        return;
    }
    where_in_step(event, where, sizeof where);
    if (event->end_ns == 0)
        snprintf(to, bytes, "action %" PRIu32 " %s%s has run for %s s", event->action,
                 kind_name(recorder, event->kind), where,
                 seconds(ago, age_ns(incident, event->begin_ns)));
    else
        snprintf(to, bytes, "last action %" PRIu32 " %s%s ended %s s ago", event->action,
                 kind_name(recorder, event->kind), where,
                 seconds(ago, age_ns(incident, event->end_ns)));
}

void incident_log(struct ds_recorder *recorder, struct incident *incident)
{
    char action[256], late[SECONDS_BYTES], deadline[SECONDS_BYTES];

    incident_describe(recorder, recorder->page, incident, action, sizeof action);
    (void)ds_fail(DS_ERR_DEADLINE,
                  "rank %" PRIu32 " hangs in section '%s', step %" PRIu64
                  ": no beat for %s s, the deadline is %s s; %s",
                  recorder->rank, incident->section.name, PAGE_LOAD(&recorder->page->step),
                  seconds(late, incident->late_ns),
                  seconds(deadline, incident->section.deadline_ns), action);
}

/* ---- the file ---- */

static void flush(struct incident *incident)
{
    size_t at = 0;

    while (at < incident->length && !incident->failed) {
        ssize_t done = write(incident->file, incident->text + at, incident->length - at);

        if (done > 0)
            at += (size_t)done;
        else if (done == 0 || errno != EINTR)
            incident->failed = 1;
    }
    incident->length = 0;
}

/* One piece of text of less than 1024 bytes. */
static void put(struct incident *incident, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void put(struct incident *incident, const char *format, ...)
{
    va_list args;
    int length;

    if (sizeof incident->text - incident->length < 1024)
        flush(incident);
    va_start(args, format);
    length = vsnprintf(incident->text + incident->length, 1024, format, args);
    va_end(args);
    incident->length += length < 0 ? 0 : length < 1024 ? (size_t)length : 1023;
}

static void put_text(struct incident *incident, const char *key, const char *text)
{
    put(incident, "\"%s\": \"", key);
    for (; *text; text++) {
        const int is_plain = (unsigned char)*text >= 0x20 && *text != 0x7f;

        put(incident, *text == '"' || *text == '\\' ? "\\%c" : "%c", is_plain ? *text : '?');
    }
    put(incident, "\"");
}

static void put_seconds(struct incident *incident, const char *key, uint64_t ns)
{
    char text[SECONDS_BYTES];

    put(incident, "\"%s\": %s", key, seconds(text, ns));
}

static void put_event(const struct ds_recorder *recorder, struct incident *incident,
                      const struct ds_record *event)
{
    put(incident, "{\"sequence\": %" PRIu64 ", \"step\": %" PRIu64 ", \"action\": %" PRIu32 ", ",
        event->sequence, event->step, event->action);
    put_text(incident, "kind", kind_name(recorder, event->kind));
    put(incident, ", \"micro\": %" PRId32 ", \"unit\": %" PRId32 ", \"block\": %" PRId32 ", ",
        (int32_t)event->micro, (int32_t)event->unit, (int32_t)event->block);
    put_seconds(incident, "begin_age_s", age_ns(incident, event->begin_ns));
    if (event->end_ns == 0)
        put(incident, ", \"end_age_s\": null}");
    else {
        put(incident, ", ");
        put_seconds(incident, "end_age_s", age_ns(incident, event->end_ns));
        put(incident, "}");
    }
}

static void put_marks(struct incident *incident, const struct recorder_page *page)
{
    const uint64_t gap_at_ns = PAGE_LOAD(&page->gap_at_ns);
    const uint64_t leave_code = PAGE_LOAD(&page->leave_code);

    put(incident, "\"gap_s\": ");
    if (gap_at_ns == 0)
        put(incident, "null, \"gap_age_s\": null");
    else {
        char gap[SECONDS_BYTES], age[SECONDS_BYTES];

        put(incident, "%s, \"gap_age_s\": %s", seconds(gap, PAGE_LOAD(&page->gap_ns)),
            seconds(age, age_ns(incident, gap_at_ns)));
    }
    if (leave_code == PAGE_NOT_LEFT)
        put(incident, ", \"leave_code\": null");
    else
        put(incident, ", \"leave_code\": %" PRId32, (int32_t)leave_code);
}

static void put_page(const struct ds_recorder *recorder, struct incident *incident,
                     const struct recorder_page *page, size_t event_count)
{
    struct page_section section;
    size_t count;

    if (!page_section_load(page, &section))
        snprintf(section.name, sizeof section.name, "between two");
    put(incident, "  {\"rank\": %" PRIu32 ", \"pid\": %" PRIu32 ", ", page->rank, page->pid);
    put_text(incident, "section", section.name);
    put(incident, ", \"step\": %" PRIu64 ", ", PAGE_LOAD(&page->step));
    put_seconds(incident, "section_age_s", age_ns(incident, section.begin_ns));
    put(incident, ", ");
    put_seconds(incident, "deadline_s", section.deadline_ns);
    put(incident, ", ");
    put_seconds(incident, "beat_age_s", age_ns(incident, PAGE_LOAD(&page->beat_ns)));
    put(incident, ",\n   ");
    put_seconds(incident, "wtick_age_s", age_ns(incident, PAGE_LOAD(&page->wtick_ns)));
    put(incident, ", ");
    put_marks(incident, page);
    put(incident, ", \"events\": [");
    count = page_events_load(page, incident->events, event_count);
    for (size_t i = 0; i < count; i++) {
        put(incident, i == 0 ? "\n    " : ",\n    ");
        put_event(recorder, incident, &incident->events[i]);
    }
    put(incident, "]}");
}

static void put_neighbours(const struct ds_recorder *recorder, struct incident *incident)
{
    if (recorder->directory < 0)
        return;
    for (uint32_t rank = 0; rank < recorder->rank_count; rank++) {
        struct recorder_page *page = rank == recorder->rank ? NULL : page_map(recorder, rank);

        if (page) {
            put(incident, ",\n");
            put_page(recorder, incident, page, EVENTS_OF_NEIGHBOURS);
            page_unmap(page);
        }
    }
}

static void put_incident(const struct ds_recorder *recorder, struct incident *incident)
{
    put(incident, "{\"format\": \"dstrain-incident-1\", \"code\": %d, ", incident->code);
    put_text(incident, "run", recorder->page->run_id);
    put(incident, ", \"rank\": %" PRIu32 ", \"rank_count\": %" PRIu32 ", ", recorder->rank,
        recorder->rank_count);
    put_text(incident, "host", recorder->page->host);
    put(incident, ",\n ");
    put_text(incident, "section", incident->section.name);
    put(incident, ", \"step\": %" PRIu64 ", ", PAGE_LOAD(&recorder->page->step));
    put_seconds(incident, "late_s", incident->late_ns);
    put(incident, ", ");
    put_seconds(incident, "deadline_s", incident->section.deadline_ns);
    put(incident, ", ");
    put_seconds(incident, "time", ds_clock_real_ns(recorder->clock));
    put(incident, ",\n \"pages\": [\n");
    put_page(recorder, incident, recorder->page, EVENTS_OF_OURS);
    put_neighbours(recorder, incident);
    put(incident, "\n ]}\n");
    flush(incident);
}

/* Under another name first: a reader finds a whole file or none. */
void incident_write(struct ds_recorder *recorder, struct incident *incident)
{
    char path[2][4096];

    if (!recorder->incidents)
        return;
    for (int i = 0; i < 2; i++)
        if ((size_t)snprintf(path[i], sizeof path[i], "%s/I-%" PRIu32 ".json%s",
                             recorder->incidents, recorder->rank,
                             i == 0 ? ".part" : "") >= sizeof path[i])
            return;
    mkdir(recorder->incidents, 0777);
    incident->file = open(path[0], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    incident->failed = incident->file < 0;
    if (!incident->failed) {
        put_incident(recorder, incident);
        incident->failed |= close(incident->file) != 0 || rename(path[0], path[1]) != 0;
    }
    if (incident->failed)
        ds_warn("incident file '%s' could not be written: %s", path[1], strerror(errno));
}
