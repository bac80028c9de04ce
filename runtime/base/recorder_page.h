/* recorder_page.h - how a recorder's page lies in memory, for the recorder, the watchdog and the
 * incident file. A page is shared between processes without locks: its words are stored by one
 * thread and loaded by any, all through the atomics below. */
#ifndef RECORDER_PAGE_H
#define RECORDER_PAGE_H

#include "dstrain/recorder.h"

#define PAGE_MAGIC         UINT64_C(0x3165676170736400) /* "\0dspage1" */
#define PAGE_TEXT_BYTES    64
#define PAGE_NAME_BYTES    (PAGE_TEXT_BYTES + 24)
#define PAGE_SECTION_WORDS 4 /* a section's name: 31 characters and the end */
#define PAGE_SECTION_BYTES (8 * PAGE_SECTION_WORDS)
#define PAGE_NOT_LEFT      UINT64_MAX

/* STORE also keeps what was stored before it from moving behind it, LOAD the other way round:
 * that makes the sequence locks below right without fences, which TSan does not know. */
#define PAGE_STORE(at, value) __atomic_store_n((at), (value), __ATOMIC_RELEASE)
#define PAGE_LOAD(at)         __atomic_load_n((at), __ATOMIC_ACQUIRE)

struct recorder_page {
    uint64_t magic; /* stored last: a page without it is not ready */
    char run_id[PAGE_TEXT_BYTES], host[PAGE_TEXT_BYTES];
    uint32_t rank, rank_count, pid, pad;
    /* the watchdog's: its last tick, and the last time the process was stopped */
    uint64_t wtick_ns, gap_ns, gap_at_ns;
    /* the main thread's */
    uint64_t beat_ns, step, event_count;
    uint64_t section_sequence; /* odd while a section is being named */
    uint64_t section_name[PAGE_SECTION_WORDS], section_begin_ns, section_deadline_ns;
    /* a rank of this host has told why the run ends, the others need not; decided in the page of the
     * lowest rank, then stored in all */
    uint64_t is_told;
    /* the leave mark, the last act of an orderly end */
    uint64_t leave_ns, leave_code; /* PAGE_NOT_LEFT: still here, or gone without a word */
    /* ring: event n (from 1) lies at (n - 1) % DS_RECORDER_EVENTS; its sequence is 0 while it is
     * being written */
    struct ds_record events[DS_RECORDER_EVENTS];
};
_Static_assert(sizeof(struct recorder_page) <= DS_RECORDER_PAGE_BYTES, "the page has its size");

struct page_section {
    char name[PAGE_SECTION_BYTES];
    uint64_t begin_ns, deadline_ns; /* deadline_ns: how long without a beat; 0: for ever */
};

struct watchdog;

struct ds_recorder {
    /* owns */
    struct recorder_page *page;
    int directory; /* descriptor, or -1 */
    int file;      /* of the page; -1: memory of this process */
    char name[PAGE_NAME_BYTES];
    struct watchdog *watchdog;
    char *incidents;
    char why_hidden[256];
    /* borrows */
    const struct ds_clock *clock;
    const char *const *kind_names;
    uint32_t kind_count;
    uint32_t rank, rank_count;
};

/* recorder.c */
void page_name(char to[PAGE_NAME_BYTES], const char *run_id, uint32_t rank);
int page_section_load(const struct recorder_page *page, struct page_section *to); /* 0: torn */
size_t page_events_load(const struct recorder_page *page, struct ds_record *to, size_t count);
void page_leave(struct ds_recorder *recorder, int code);
/* another rank's page; NULL: no such rank on this host, or not of this run */
struct recorder_page *page_map(const struct ds_recorder *recorder, uint32_t rank);
void page_unmap(struct recorder_page *page);

/* sweep.c */
void page_hold(int file); /* this process has the page */
/* remove old pages that no process has; trouble with it is no failure */
void page_sweep(const struct ds_clock *clock, int directory);

/* incident.c - what the host's pages say now, as words and as a file. Neither allocates: the main
 * thread may hold the allocator's lock for ever. */
#define INCIDENT_EVENTS_MAX 32

struct incident {
    uint64_t now_ns, late_ns; /* since the last beat */
    struct page_section section;
    struct ds_record events[INCIDENT_EVENTS_MAX]; /* scratch */
    char text[8192];
    size_t length;
    int file, failed, code; /* code: what the process will exit with */
};

void incident_log(struct ds_recorder *recorder, struct incident *incident);
/* "action 12 FORWARD (micro 0, block 2) has run for 2.0 s" */
void incident_describe(const struct ds_recorder *recorder, const struct recorder_page *page,
                       struct incident *incident, char *to, size_t bytes);
void incident_write(struct ds_recorder *recorder, struct incident *incident);

#endif
