/* host.h - updates by the host: a thread with helpers does them in the order of the list, each when its gradient is there,
 * all behind the verdict. Private to this folder. */
#ifndef OPTIM_HOST_H
#define OPTIM_HOST_H

#include "dstrain/optim.h"

struct optim_job {
    struct ds_adamw_args args; /* of host memory; the record is optim_host's */
    uint64_t count;
    uint32_t *go, *done;
};

struct optim_host;

/* local: room for so many jobs, which are then added in the order of the list */
DS_CHECKED ds_status optim_host_open(const struct ds_optim_options *options, uint32_t job_count,
                                     struct optim_host **out);
void optim_host_add(struct optim_host *host, const struct optim_job *job);
/* local: the thread begins */
DS_CHECKED ds_status optim_host_start(struct optim_host *host);
/* local: in the list: the record holds the verdict of a step, whose jobs come next */
DS_CHECKED ds_status optim_host_decided(struct optim_host *host, struct ds_stream *compute,
                                        const struct ds_step_record *record);
/* local: nobody waits for it any more */
void optim_host_abandon(struct optim_host *host);
/* local: ends the thread; NULL is allowed */
void optim_host_close(struct optim_host *host);

#endif
