/* rows_work.c - threads take chunks in order; the caller waits and says how far they are. When a row is wrong no later
 * chunk is begun, and those before it are ended: so the first wrong row of all is the one that is named, whatever the
 * number of threads, and its line is known. */
#include "rows_work.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { THREADS_MAX = 256 };
static const uint64_t default_chunk_bytes = 4 << 20;

struct crew {
    struct rows_work *work;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock */
    size_t next, stop; /* chunks from `stop` on are not begun */
    uint32_t at_work;
    uint64_t done_bytes;
    ds_status status;        /* the first that is not of a row */
    char why[ROW_WHY_BYTES]; /* of the wrong row in chunk `stop` - 1 */
};

/* ---- chunks */

ds_status rows_work_init(struct rows_work *work)
{
    const uint64_t bytes = work->rows->chunk_bytes ? work->rows->chunk_bytes : default_chunk_bytes;
    size_t count = 0;

    for (size_t i = 0; i < work->corpus->count; i++)
        count += (size_t)((work->corpus->files[i].bytes + bytes - 1) / bytes);
    work->chunks = calloc(count + 1, sizeof *work->chunks);
    work->counts = calloc(count + 1, sizeof *work->counts);
    if (!work->chunks || !work->counts)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu chunks", count);
    for (size_t i = 0; i < work->corpus->count; i++) {
        const struct corpus_file *file = &work->corpus->files[i];
        for (uint64_t at = 0; at < file->bytes; at += bytes)
            work->chunks[work->chunk_count++] =
                (struct rows_chunk){file, at, file->bytes - at < bytes ? file->bytes : at + bytes};
    }
    return DS_OK;
}

void rows_work_fini(struct rows_work *work)
{
    free(work->chunks);
    free(work->counts);
    work->chunks = NULL;
    work->counts = NULL;
}

void rows_work_path(const struct rows_work *work, size_t chunk, char to[CORPUS_PATH_BYTES + 32])
{
    snprintf(to, CORPUS_PATH_BYTES + 32, "%s/%06zu", work->folder, chunk);
}

/* Lines of the chunks before it in its file. */
static uint64_t lines_before(const struct rows_work *work, size_t chunk)
{
    uint64_t lines = 0;

    for (size_t i = chunk; i-- > 0 && work->chunks[i].file == work->chunks[chunk].file;)
        lines += work->counts[i].lines;
    return lines;
}

struct rows_counts rows_work_total(const struct rows_work *work, const char **skipped_file)
{
    struct rows_counts total = {0};

    *skipped_file = NULL;
    for (size_t i = 0; i < work->chunk_count; i++) {
        const struct rows_counts *c = &work->counts[i];

        total.lines += c->lines;
        total.rows += c->rows;
        total.tokens += c->tokens;
        total.learned += c->learned;
        total.ends += c->ends;
        if (c->skipped > 0 && !*skipped_file) {
            *skipped_file = work->chunks[i].file->path;
            total.skipped_line = lines_before(work, i) + c->skipped_line;
            memcpy(total.skipped_why, c->skipped_why, sizeof total.skipped_why);
        }
        total.skipped += c->skipped;
    }
    return total;
}

/* ---- a thread */

static void add_progress(void *user, uint64_t bytes)
{
    struct crew *crew = user;

    pthread_mutex_lock(&crew->lock);
    crew->done_bytes += bytes;
    pthread_cond_signal(&crew->changed);
    pthread_mutex_unlock(&crew->lock);
}

static int take(struct crew *crew, size_t *chunk)
{
    pthread_mutex_lock(&crew->lock);
    const int is_there = crew->next < crew->stop;
    *chunk = crew->next;
    crew->next += (size_t)is_there;
    pthread_mutex_unlock(&crew->lock);
    return is_there;
}

/* Of two failures the one in the earlier chunk counts. */
static void stop_at(struct crew *crew, size_t chunk, ds_status st, const char *why)
{
    pthread_mutex_lock(&crew->lock);
    if (st != DS_OK && crew->status == DS_OK)
        crew->status = st;
    if (st != DS_OK) {
        crew->stop = 0;
    } else if (chunk < crew->stop) {
        crew->stop = chunk + 1;
        snprintf(crew->why, sizeof crew->why, "%s", why);
    }
    pthread_mutex_unlock(&crew->lock);
}

/* A part of the same source, read another way, is another part. */
static void part_fingerprint(const struct rows_work *work, size_t chunk, char to[SHARD_SUM_BYTES])
{
    const uint64_t where[3] = {chunk, work->chunks[chunk].begin, work->chunks[chunk].end};

    shard_file_sum_text(
        XXH3_64bits_withSeed(where, sizeof where,
                             XXH3_64bits(work->fingerprint, strlen(work->fingerprint))),
        to);
}

static ds_status make_part(struct crew *crew, struct rows_worker *worker, size_t chunk,
                           char why[ROW_WHY_BYTES])
{
    struct rows_work *work = crew->work;
    char path[CORPUS_PATH_BYTES + 32], fingerprint[SHARD_SUM_BYTES];

    rows_work_path(work, chunk, path);
    part_fingerprint(work, chunk, fingerprint);
    if (rows_part_is_there(work->options->fs, path, fingerprint, &work->counts[chunk])) {
        pthread_mutex_lock(&crew->lock);
        work->reused_count++;
        pthread_mutex_unlock(&crew->lock);
        add_progress(crew, work->chunks[chunk].end - work->chunks[chunk].begin);
        return DS_OK;
    }
    DS_TRY(rows_worker_read(worker, &work->chunks[chunk], &work->counts[chunk], why));
    return why[0] ? DS_OK : rows_worker_write(worker, path, fingerprint, &work->counts[chunk]);
}

static void make_parts(struct crew *crew)
{
    struct rows_worker worker = {.fs = crew->work->options->fs,
                                 .options = crew->work->rows,
                                 .chat = crew->work->chat,
                                 .progress = add_progress,
                                 .user = crew,
                                 .is_wide = crew->work->is_wide};
    ds_status st = rows_worker_init(&worker, crew->work->tokenizer);
    size_t chunk = 0;

    while (st == DS_OK && take(crew, &chunk)) {
        char why[ROW_WHY_BYTES] = "";
        st = make_part(crew, &worker, chunk, why);
        if (st == DS_OK && why[0])
            stop_at(crew, chunk, DS_OK, why);
    }
    if (st != DS_OK)
        stop_at(crew, chunk, st, "");
    rows_worker_fini(&worker);
}

static void *crew_main(void *arg)
{
    struct crew *crew = arg;

    make_parts(crew);
    pthread_mutex_lock(&crew->lock);
    crew->at_work--;
    pthread_cond_signal(&crew->changed);
    pthread_mutex_unlock(&crew->lock);
    return NULL;
}

/* ---- all of them */

static uint32_t thread_count(const struct rows_work *work)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t count = work->options->thread_count;

    if (count == 0)
        count = cores > 0 ? (uint32_t)cores : 1;
    if (count > work->chunk_count)
        count = (uint32_t)work->chunk_count;
    return count < THREADS_MAX ? count : THREADS_MAX;
}

/* Messages come from here alone, on the caller's thread. */
static void watch(struct crew *crew)
{
    const struct ds_prepare_options *options = crew->work->options;
    uint64_t told = UINT64_MAX;

    pthread_mutex_lock(&crew->lock);
    for (;;) {
        const uint64_t done = crew->done_bytes;
        if (done != told && options->progress) {
            pthread_mutex_unlock(&crew->lock);
            options->progress(options->user, done, crew->work->corpus->bytes);
            told = done;
            pthread_mutex_lock(&crew->lock);
            continue;
        }
        if (crew->at_work == 0)
            break;
        pthread_cond_wait(&crew->changed, &crew->lock);
    }
    pthread_mutex_unlock(&crew->lock);
}

static void run_crew(struct crew *crew)
{
    const uint32_t wanted = thread_count(crew->work);
    pthread_t threads[THREADS_MAX];
    uint32_t count = 0;

    crew->at_work = wanted;
    while (count < wanted && pthread_create(&threads[count], NULL, crew_main, crew) == 0)
        count++;
    if (count < wanted) {
        pthread_mutex_lock(&crew->lock);
        crew->at_work -= wanted - count;
        pthread_mutex_unlock(&crew->lock);
    }
    if (count == 0)
        stop_at(crew, 0, ds_fail(DS_ERR_NO_MEMORY, "a thread that reads rows"), "");
    watch(crew);
    for (uint32_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

ds_status rows_work_run(struct rows_work *work)
{
    struct crew crew = {.work = work, .stop = work->chunk_count};

    pthread_mutex_init(&crew.lock, NULL);
    pthread_cond_init(&crew.changed, NULL);
    run_crew(&crew);
    pthread_mutex_destroy(&crew.lock);
    pthread_cond_destroy(&crew.changed);
    if (crew.status != DS_OK || !crew.why[0])
        return crew.status;
    return ds_fail(
        DS_ERR_DATA,
        "%s:%llu: %s; mend the line, or have data.malformed = skip leave out such lines",
        work->chunks[crew.stop - 1].file->path,
        (unsigned long long)(lines_before(work, crew.stop - 1) + work->counts[crew.stop - 1].lines),
        crew.why);
}
