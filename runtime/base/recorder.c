/* recorder.c - a rank's page: opened once, written by the main thread with a few stores an event,
 * read by anyone on the host. The file is a fresh inode under its name, so a page of an earlier life
 * of the same rank stays whole for whoever has it mapped. */
#include "recorder_page.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void page_name(char to[PAGE_NAME_BYTES], const char *run_id, uint32_t rank)
{
    snprintf(to, PAGE_NAME_BYTES, "%s-%u.page", run_id, rank);
}

static ds_status check_run_id(const char *run_id)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    const size_t length = strlen(run_id);

    if (length > 0 && length < PAGE_TEXT_BYTES && strspn(run_id, allowed) == length)
        return DS_OK;
    return ds_fail(DS_ERR_CONFIG, "run id '%s' must be 1 to %d characters of A-Z a-z 0-9 . _ -",
                   run_id, PAGE_TEXT_BYTES - 1);
}

static void hide(struct ds_recorder *recorder, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The page stays in the process: no failure, since a run does not need what only neighbours read. */
static void hide(struct ds_recorder *recorder, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(recorder->why_hidden, sizeof recorder->why_hidden, format, args);
    va_end(args);
}

/* Others on the host may write where the directory lies (/dev/shm, /tmp): it has to be ours alone. */
static void open_directory(struct ds_recorder *recorder, const char *path)
{
    struct stat about;
    int file;

    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        hide(recorder, "make '%s': %s", path, strerror(errno));
        return;
    }
    file = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0) {
        hide(recorder, "open '%s': %s", path, strerror(errno));
        return;
    }
    if (fstat(file, &about) != 0 || about.st_uid != geteuid() || (about.st_mode & 0777) != 0700) {
        close(file);
        hide(recorder,
             "'%s' must belong to user %u with mode 0700: it belongs to user %u with mode 0%03o",
             path, (unsigned)geteuid(), (unsigned)about.st_uid, (unsigned)about.st_mode & 0777);
        return;
    }
    recorder->directory = file;
}

static void close_page_file(struct ds_recorder *recorder)
{
    if (recorder->file >= 0)
        close(recorder->file);
    recorder->file = -1;
}

static void open_page_file(struct ds_recorder *recorder, const char *run_id)
{
    char *name = recorder->name;
    int code;

    page_name(name, run_id, recorder->rank);
    if (unlinkat(recorder->directory, name, 0) != 0 && errno != ENOENT) {
        hide(recorder, "remove old page '%s': %s", name, strerror(errno));
        return;
    }
    recorder->file =
        openat(recorder->directory, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (recorder->file < 0) {
        hide(recorder, "create page '%s': %s", name, strerror(errno));
        return;
    }
    page_hold(recorder->file);
    code =
        posix_fallocate(recorder->file, 0, DS_RECORDER_PAGE_BYTES); /* or a full disk is a SIGBUS */
    if (code == 0)
        return;
    hide(recorder, "no room for page '%s': %s", name, strerror(code));
    (void)unlinkat(recorder->directory, name, 0);
    close_page_file(recorder);
}

static ds_status map_page(struct ds_recorder *recorder)
{
    const int flags = recorder->file >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void *at = mmap(NULL, DS_RECORDER_PAGE_BYTES, PROT_READ | PROT_WRITE, flags, recorder->file, 0);

    if (at == MAP_FAILED)
        return ds_fail(DS_ERR_NO_MEMORY, "map the recorder's page: %s", strerror(errno));
    recorder->page = at;
    return DS_OK;
}

static void fill_page(struct ds_recorder *recorder, const char *run_id)
{
    struct recorder_page *page = recorder->page;

    snprintf(page->run_id, sizeof page->run_id, "%s", run_id);
    if (gethostname(page->host, sizeof page->host - 1) != 0)
        snprintf(page->host, sizeof page->host, "unknown");
    page->rank = recorder->rank;
    page->rank_count = recorder->rank_count;
    page->pid = (uint32_t)getpid();
    page->beat_ns = page->section_begin_ns = page->wtick_ns = ds_clock_mono_ns(recorder->clock);
    memcpy(page->section_name, "start", sizeof "start");
    page->leave_code = PAGE_NOT_LEFT;
    PAGE_STORE(&page->magic, PAGE_MAGIC);
}

/* Removes the page's name if it is still this page that has it. */
static void remove_page_file(struct ds_recorder *recorder)
{
    struct stat ours, named;

    if (fstat(recorder->file, &ours) == 0 &&
        fstatat(recorder->directory, recorder->name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
        ours.st_ino == named.st_ino)
        unlinkat(recorder->directory, recorder->name, 0);
}

static void recorder_free(struct ds_recorder *recorder)
{
    if (recorder->page)
        munmap(recorder->page, DS_RECORDER_PAGE_BYTES);
    if (recorder->file >= 0)
        remove_page_file(recorder);
    close_page_file(recorder);
    if (recorder->directory >= 0)
        close(recorder->directory);
    free(recorder->incidents);
    free(recorder);
}

ds_status ds_recorder_open(const struct ds_recorder_options *options, struct ds_recorder **out)
{
    const char *run_id = options->run_id ? options->run_id : "run";
    struct ds_recorder *recorder;
    ds_status st;

    DS_TRY(check_run_id(run_id));
    recorder = malloc(sizeof *recorder);
    if (!recorder)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the recorder");
    *recorder = (struct ds_recorder){.directory = -1,
                                     .file = -1,
                                     .clock = options->clock ? options->clock : ds_clock_system(),
                                     .kind_names = options->kind_names,
                                     .kind_count = options->kind_count,
                                     .rank = options->rank,
                                     .rank_count = options->rank_count};
    if (options->incidents && !(recorder->incidents = strdup(options->incidents)))
        DS_TRY_GOTO(st, ds_fail(DS_ERR_NO_MEMORY, "no memory for the recorder"), fail);
    if (options->directory)
        open_directory(recorder, options->directory);
    if (recorder->directory >= 0) {
        page_sweep(recorder->clock, recorder->directory);
        open_page_file(recorder, run_id);
    }
    DS_TRY_GOTO(st, map_page(recorder), fail);
    fill_page(recorder, run_id);
    *out = recorder;
    return DS_OK;

fail:
    recorder_free(recorder);
    return st;
}

const char *ds_recorder_why_hidden(const struct ds_recorder *recorder)
{
    return recorder->why_hidden;
}

void page_leave(struct ds_recorder *recorder, int code)
{
    PAGE_STORE(&recorder->page->leave_ns, ds_clock_mono_ns(recorder->clock));
    PAGE_STORE(&recorder->page->leave_code, (uint64_t)(uint32_t)code);
}

void ds_recorder_close(struct ds_recorder *recorder, int exit_code)
{
    if (!recorder)
        return;
    ds_watchdog_stop(recorder);
    page_leave(recorder, exit_code);
    recorder_free(recorder);
}

void ds_recorder_section(struct ds_recorder *recorder, const char *name, uint64_t deadline_ns)
{
    struct recorder_page *page = recorder->page;
    const uint64_t sequence = page->section_sequence;
    const uint64_t now = ds_clock_mono_ns(recorder->clock);
    uint64_t words[PAGE_SECTION_WORDS] = {0};

    memcpy(words, name, strnlen(name, PAGE_SECTION_BYTES - 1));
    PAGE_STORE(&page->section_sequence, sequence + 1);
    PAGE_STORE(&page->beat_ns, now);
    for (int i = 0; i < PAGE_SECTION_WORDS; i++)
        PAGE_STORE(&page->section_name[i], words[i]);
    PAGE_STORE(&page->section_begin_ns, now);
    PAGE_STORE(&page->section_deadline_ns, deadline_ns);
    PAGE_STORE(&page->section_sequence, sequence + 2);
}

int page_section_load(const struct recorder_page *page, struct page_section *to)
{
    const uint64_t sequence = PAGE_LOAD(&page->section_sequence);
    uint64_t words[PAGE_SECTION_WORDS];

    for (int i = 0; i < PAGE_SECTION_WORDS; i++)
        words[i] = PAGE_LOAD(&page->section_name[i]);
    memcpy(to->name, words, sizeof words);
    to->name[PAGE_SECTION_BYTES - 1] = '\0';
    to->begin_ns = PAGE_LOAD(&page->section_begin_ns);
    to->deadline_ns = PAGE_LOAD(&page->section_deadline_ns);
    return sequence % 2 == 0 && sequence == PAGE_LOAD(&page->section_sequence);
}

void ds_recorder_beat(struct ds_recorder *recorder)
{
    PAGE_STORE(&recorder->page->beat_ns, ds_clock_mono_ns(recorder->clock));
}

void ds_recorder_step(struct ds_recorder *recorder, uint64_t step)
{
    PAGE_STORE(&recorder->page->step, step);
}

struct ds_record *ds_record_begin(struct ds_recorder *recorder, uint32_t action, uint32_t kind,
                                  uint32_t micro, uint32_t unit, uint32_t block)
{
    struct recorder_page *page = recorder->page;
    const uint64_t sequence = page->event_count + 1;
    struct ds_record *record = &page->events[(sequence - 1) % DS_RECORDER_EVENTS];
    const uint64_t now = ds_clock_mono_ns(recorder->clock);

    PAGE_STORE(&record->sequence, 0);
    PAGE_STORE(&record->begin_ns, now);
    PAGE_STORE(&page->beat_ns, now);
    PAGE_STORE(&record->end_ns, 0);
    PAGE_STORE(&record->step, page->step);
    PAGE_STORE(&record->action, action);
    PAGE_STORE(&record->kind, kind);
    PAGE_STORE(&record->micro, micro);
    PAGE_STORE(&record->unit, unit);
    PAGE_STORE(&record->block, block);
    PAGE_STORE(&record->sequence, sequence);
    PAGE_STORE(&page->event_count, sequence);
    return record;
}

void ds_record_end(struct ds_recorder *recorder, struct ds_record *record)
{
    PAGE_STORE(&record->end_ns, ds_clock_mono_ns(recorder->clock));
}

static int event_load(const struct ds_record *from, uint64_t sequence, struct ds_record *to)
{
    to->sequence = PAGE_LOAD(&from->sequence);
    to->begin_ns = PAGE_LOAD(&from->begin_ns);
    to->end_ns = PAGE_LOAD(&from->end_ns);
    to->step = PAGE_LOAD(&from->step);
    to->action = PAGE_LOAD(&from->action);
    to->kind = PAGE_LOAD(&from->kind);
    to->micro = PAGE_LOAD(&from->micro);
    to->unit = PAGE_LOAD(&from->unit);
    to->block = PAGE_LOAD(&from->block);
    to->pad = 0;
    return to->sequence == sequence && PAGE_LOAD(&from->sequence) == sequence;
}

size_t page_events_load(const struct recorder_page *page, struct ds_record *to, size_t count)
{
    const uint64_t last = PAGE_LOAD(&page->event_count);
    size_t kept = 0;

    if (count > DS_RECORDER_EVENTS)
        count = DS_RECORDER_EVENTS;
    if (count > last)
        count = last;
    for (uint64_t sequence = last - count + 1; sequence <= last; sequence++)
        kept += (size_t)event_load(&page->events[(sequence - 1) % DS_RECORDER_EVENTS], sequence,
                                   &to[kept]);
    return kept;
}

size_t ds_recorder_last(const struct ds_recorder *recorder, struct ds_record *to, size_t count)
{
    return page_events_load(recorder->page, to, count);
}

/* Writable, for the one word that neighbours share; everything else in it is only read. */
struct recorder_page *page_map(const struct ds_recorder *recorder, uint32_t rank)
{
    struct recorder_page *page = NULL;
    char name[PAGE_NAME_BYTES];
    struct stat about;
    int file;

    page_name(name, recorder->page->run_id, rank);
    file = openat(recorder->directory, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (file < 0)
        return NULL;
    if (fstat(file, &about) == 0 && S_ISREG(about.st_mode) &&
        about.st_size == DS_RECORDER_PAGE_BYTES)
        page = mmap(NULL, DS_RECORDER_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (!page || page == MAP_FAILED)
        return NULL;
    if (PAGE_LOAD(&page->magic) == PAGE_MAGIC &&
        strncmp(page->run_id, recorder->page->run_id, sizeof page->run_id) == 0)
        return page;
    page_unmap(page);
    return NULL;
}

void page_unmap(struct recorder_page *page)
{
    munmap(page, DS_RECORDER_PAGE_BYTES);
}
