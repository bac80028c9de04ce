/* accuse.c - a failure where ranks wait for each other: which of them is behind,
 * in one line from one rank, and an incident file before anybody's process ends. The watchdog does the
 * same for a main thread that does not come back from its wait, unless a rank of its host has spoken: the
 * job is ending then, and a second story about it would only hide the first. */
#include "recorder_page.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>

#define TICK_NS_MAX UINT64_C(1000000000) /* a watchdog that runs has ticked since */

/* ---- one rank speaks for its host */

static int is_first(struct recorder_page *page)
{
    return __atomic_exchange_n(&page->is_told, 1, __ATOMIC_ACQ_REL) == 0;
}

/* Who speaks closes its page soon, and with the lowest one the word would go: it is left in all. */
static void tell_all(struct ds_recorder *recorder)
{
    for (uint32_t rank = 0; rank < recorder->rank_count; rank++) {
        struct recorder_page *page = page_map(recorder, rank);
        if (page) {
            PAGE_STORE(&page->is_told, 1);
            page_unmap(page);
        }
    }
}

/* The word counts in the page of the lowest rank here; without pages every rank is the first. */
static int may_speak(struct ds_recorder *recorder)
{
    struct recorder_page *page = NULL;
    int first;

    if (recorder->directory < 0)
        return is_first(recorder->page);
    for (uint32_t rank = 0; !page && rank < recorder->rank_count; rank++)
        page = page_map(recorder, rank);
    first = is_first(page ? page : recorder->page);
    if (page)
        page_unmap(page);
    if (first)
        tell_all(recorder);
    return first;
}

/* ---- who is behind */

struct suspect {
    uint32_t rank;
    int is_found, is_still; /* still: not even its watchdog moves */
    uint64_t event_count;
};

static void look_at(const struct recorder_page *page, uint64_t now_ns, struct suspect *suspect)
{
    const uint64_t tick_ns = PAGE_LOAD(&page->wtick_ns);
    const int is_still = now_ns > tick_ns && now_ns - tick_ns > TICK_NS_MAX;
    const uint64_t event_count = PAGE_LOAD(&page->event_count);

    if (is_still < suspect->is_still)
        return;
    if (is_still > suspect->is_still || event_count < suspect->event_count)
        *suspect = (struct suspect){page->rank, 1, is_still, event_count};
}

static struct suspect find_suspect(const struct ds_recorder *recorder, uint64_t now_ns)
{
    struct suspect suspect = {.event_count = PAGE_LOAD(&recorder->page->event_count)};

    for (uint32_t rank = 0; rank < recorder->rank_count; rank++) {
        struct recorder_page *page = rank == recorder->rank ? NULL : page_map(recorder, rank);
        if (page) {
            look_at(page, now_ns, &suspect);
            page_unmap(page);
        }
    }
    return suspect;
}

static void name_suspect(const struct ds_recorder *recorder, struct incident *incident,
                         uint32_t missing)
{
    struct suspect suspect = find_suspect(recorder, incident->now_ns);

    if (missing != DS_RECORDER_NOBODY && !suspect.is_still)
        suspect = (struct suspect){.rank = missing, .is_found = 1};
    struct recorder_page *page = suspect.is_found ? page_map(recorder, suspect.rank) : NULL;
    struct page_section section;
    char action[256];

    if (!page)
        return;
    if (!page_section_load(page, &section))
        snprintf(section.name, sizeof section.name, "between two");
    incident_describe(recorder, page, incident, action, sizeof action);
    (void)ds_fail(DS_ERR_DEADLINE,
                  "rank %" PRIu32 " (process %" PRIu32 ") is behind%s: section '%s', step %" PRIu64
                  "; %s",
                  page->rank, page->pid, suspect.is_still ? " and stopped" : "", section.name,
                  PAGE_LOAD(&page->step), action);
    page_unmap(page);
}

int ds_recorder_accuse(struct ds_recorder *recorder, int code, uint32_t missing)
{
    struct incident incident = {.now_ns = ds_clock_mono_ns(recorder->clock), .code = code};
    const uint64_t beat_ns = PAGE_LOAD(&recorder->page->beat_ns);

    if (!may_speak(recorder))
        return 0;
    (void)page_section_load(recorder->page, &incident.section);
    incident.late_ns = incident.now_ns > beat_ns ? incident.now_ns - beat_ns : 0;
    if (code == ds_status_exit_code(DS_ERR_DEADLINE) && recorder->directory >= 0)
        name_suspect(recorder, &incident, missing);
    incident_write(recorder, &incident);
    return 1;
}
