/* packing.c - documents into samples: each goes to the fullest of the open samples that has room for it. */
#include "packing.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { OPEN_MAX = 64 };

struct making {
    const struct shard_file *shard;
    const struct packing_options *options;
    struct packing *packing;
    uint64_t *sample_of; /* [capacity], of each piece in the order of the file */
    uint64_t *pieces;    /* [capacity] */
    uint64_t capacity;
    struct {
        uint64_t sample, left;
    } open[OPEN_MAX];
    size_t open_count;
};

/* ---- pieces to samples */

static ds_status reserve(struct making *m)
{
    const uint64_t capacity = 2 * m->capacity + 1024;
    uint64_t *more;

    if (m->packing->piece_count < m->capacity)
        return DS_OK;
    more = realloc(m->pieces, capacity * sizeof *more);
    m->pieces = more ? more : m->pieces;
    uint64_t *samples = more ? realloc(m->sample_of, capacity * sizeof *samples) : NULL;
    if (!samples)
        return ds_fail(DS_ERR_NO_MEMORY, "%llu documents", (unsigned long long)capacity);
    m->sample_of = samples;
    m->capacity = capacity;
    return DS_OK;
}

/* The open sample that a piece fills best; a new one where there is no room, in place of the fullest where as many are
 * open as may be. */
static size_t find_open(struct making *m, uint64_t places)
{
    size_t best = OPEN_MAX, fullest = 0;

    for (size_t i = 0; i < m->open_count; i++) {
        if (m->open[i].left >= places && (best == OPEN_MAX || m->open[i].left < m->open[best].left))
            best = i;
        if (m->open[i].left < m->open[fullest].left)
            fullest = i;
    }
    if (best < OPEN_MAX)
        return best;
    best = m->open_count < OPEN_MAX ? m->open_count++ : fullest;
    m->open[best].sample = m->packing->sample_count++;
    m->open[best].left = m->options->seq_length;
    return best;
}

static ds_status add_piece(struct making *m, uint64_t begin, uint64_t places)
{
    struct packing *p = m->packing;
    uint64_t sample;

    DS_TRY(reserve(m));
    if (m->options->packs) {
        const size_t open = find_open(m, places);
        m->open[open].left -= places;
        sample = m->open[open].sample;
    } else {
        sample = p->sample_count++;
    }
    m->pieces[p->piece_count] = begin;
    m->sample_of[p->piece_count++] = sample;
    p->places += places;
    return DS_OK;
}

/* ---- documents to pieces */

/* Is any target of the tokens behind `begin` learned, or all of them? */
static int is_any_learned(const struct shard_file *shard, uint64_t begin, uint64_t end)
{
    return begin + 1 < end && memchr(shard->learned + begin + 1, 1, (size_t)(end - begin - 1));
}

static int is_all_learned(const struct shard_file *shard, uint64_t begin, uint64_t end)
{
    return begin + 1 >= end || !memchr(shard->learned + begin + 1, 0, (size_t)(end - begin - 1));
}

static ds_status add_if_learned(struct making *m, uint64_t begin, uint64_t end, uint64_t *added)
{
    if (!is_any_learned(m->shard, begin, end))
        return DS_OK;
    ++*added;
    return add_piece(m, begin, end - begin - 1);
}

static ds_status add_long(struct making *m, uint64_t document, uint64_t begin, uint64_t end)
{
    const uint64_t places = m->options->seq_length;
    enum ds_overlong way = m->options->overlong;
    struct packing *p = m->packing;
    uint64_t added = 0;

    if (p->long_count++ == 0)
        p->first_long = document;
    p->longest = end - begin > p->longest ? end - begin : p->longest;
    if (way == DS_OVERLONG_AUTO)
        way = is_all_learned(m->shard, begin, end) ? DS_OVERLONG_SPLIT : DS_OVERLONG_ERROR;
    if (way == DS_OVERLONG_ERROR && !p->is_refused)
        p->first_long = document;
    p->is_refused |= way == DS_OVERLONG_ERROR;
    p->dropped_count += way == DS_OVERLONG_DROP;
    if (way == DS_OVERLONG_ERROR || way == DS_OVERLONG_DROP)
        return DS_OK;
    /* neighbours share a token: what is the target of one is where the next begins */
    for (uint64_t at = begin; at + 1 < end; at += places) {
        DS_TRY(add_if_learned(m, at, end - at < places + 1 ? end : at + places + 1, &added));
        if (way == DS_OVERLONG_CUT)
            break;
    }
    p->unlearned_count += added == 0;
    return DS_OK;
}

/* The same text lies on the same side, wherever it stands and however often. */
static int is_on_side(const struct making *m, uint64_t begin, uint64_t end)
{
    const struct shard_file *shard = m->shard;
    const size_t count = (size_t)(end - begin);
    uint64_t hash;

    if (m->options->side == DS_SIDE_ALL)
        return 1;
    hash = shard->tokens
               ? XXH3_64bits_withSeed(shard->tokens + begin, count * sizeof *shard->tokens,
                                      m->options->seed)
               : XXH3_64bits_withSeed(shard->wide_tokens + begin,
                                      count * sizeof *shard->wide_tokens, m->options->seed);
    const int is_eval = (double)(hash >> 11) * 0x1p-53 < m->options->eval_share;
    return is_eval == (m->options->side == DS_SIDE_EVAL);
}

static ds_status add_documents(struct making *m)
{
    const struct shard_file *shard = m->shard;

    for (uint64_t i = 0; i < shard->document_count; i++) {
        const uint64_t begin = shard->documents[i], end = shard->documents[i + 1];

        if (end - begin < 2 || !is_on_side(m, begin, end))
            continue;
        m->packing->document_count++;
        DS_TRY(end - begin > m->options->seq_length + 1 ? add_long(m, i, begin, end)
                                                        : add_piece(m, begin, end - begin - 1));
    }
    return DS_OK;
}

/* ---- samples in order */

static ds_status order_pieces(struct making *m)
{
    struct packing *p = m->packing;

    p->pieces = malloc((p->piece_count + 1) * sizeof *p->pieces);
    p->samples = calloc(p->sample_count + 2, sizeof *p->samples);
    if (!p->pieces || !p->samples)
        return ds_fail(DS_ERR_NO_MEMORY, "%llu samples", (unsigned long long)p->sample_count);
    for (uint64_t i = 0; i < p->piece_count; i++)
        p->samples[m->sample_of[i] + 2]++;
    for (uint64_t s = 0; s < p->sample_count; s++)
        p->samples[s + 2] += p->samples[s + 1];
    for (uint64_t i = 0; i < p->piece_count; i++)
        p->pieces[p->samples[m->sample_of[i] + 1]++] = m->pieces[i];
    return DS_OK;
}

ds_status packing_make(const struct shard_file *shard, const struct packing_options *options,
                       struct packing *out)
{
    struct making m = {.shard = shard, .options = options, .packing = out};
    ds_status st;

    *out = (struct packing){0};
    st = add_documents(&m);
    if (st == DS_OK)
        st = order_pieces(&m);
    free(m.pieces);
    free(m.sample_of);
    if (st != DS_OK)
        packing_fini(out);
    return st;
}

void packing_fini(struct packing *packing)
{
    free(packing->pieces);
    free(packing->samples);
    *packing = (struct packing){0};
}

/* The last that begins at or before it. */
uint64_t packing_document(const struct shard_file *shard, uint64_t at)
{
    uint64_t low = 0, high = shard->document_count;

    while (high - low > 1) {
        const uint64_t middle = low + (high - low) / 2;
        if (shard->documents[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}
