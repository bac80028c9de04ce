/* hf_ranks.c - a run's own weights as the source of an export: rank 0 collects one parameter after the other. All
 * agree after each: whoever failed, all stop there, and no more than one is under way. */
#include "hf_write.h"

#include <stdlib.h>

struct ranks {
    struct ds_comm *world;
    const struct ds_model *model;
    /* owns */
    struct ds_hf_gather *gather;
    float *host; /* rank 0's: one whole parameter, the largest */
};

static ds_status ranks_agree(void *self, ds_status st)
{
    struct ranks *r = self;

    return ds_comm_agreed(r->world, st);
}

static ds_status ranks_read(void *self, uint32_t first, uint32_t end, const struct hf_sink *sink)
{
    struct ranks *r = self;

    for (uint32_t i = first; i < end; i++) {
        ds_status st = ds_hf_gather_param(r->gather, i, r->host);
        if (st == DS_OK && r->world->rank == 0)
            st = sink->put(sink->user, i, 0, ds_param_whole_elems(&r->model->params[i]), r->host);
        DS_TRY(ds_comm_agreed(r->world, st));
    }
    return DS_OK;
}

static const struct hf_source_ops ranks_ops = {.agree = ranks_agree, .read = ranks_read};

static ds_status take_host(struct ranks *r)
{
    uint64_t most = 1;

    for (uint32_t i = 0; i < r->model->param_count; i++) {
        const uint64_t elems = ds_param_whole_elems(&r->model->params[i]);
        most = elems > most ? elems : most;
    }
    r->host = malloc((size_t)most * sizeof *r->host);
    return r->host ? DS_OK
                   : ds_fail(DS_ERR_NO_MEMORY, "export: %zu bytes for one tensor",
                             (size_t)most * sizeof *r->host);
}

ds_status ds_hf_write(const struct ds_hf_write_options *options)
{
    const struct ds_hf_parts *parts = &options->parts;
    struct ranks r = {.world = parts->world, .model = parts->model};
    const struct hf_source source = {
        .ops = &ranks_ops, .self = &r, .model = parts->model, .is_writer = parts->world->rank == 0};
    ds_status st = ds_hf_gather_open(parts, &r.gather);

    if (st == DS_OK)
        st = ds_comm_agreed(parts->world, source.is_writer ? take_host(&r) : DS_OK);
    if (st == DS_OK)
        st = hf_write_from(options, &source);
    ds_hf_gather_close(r.gather);
    free(r.host);
    return st;
}
