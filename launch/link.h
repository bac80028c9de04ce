/* link.h (private to launch) - how fast a device and its host exchange bytes of pinned memory: one way, the other, and both
 * at once, as states travel. local: everything here. */
#ifndef DSTRAIN_LAUNCH_LINK_H
#define DSTRAIN_LAUNCH_LINK_H

#include "dstrain/device.h"

enum ds_link_way { DS_LINK_TO_DEVICE, DS_LINK_TO_HOST, DS_LINK_BOTH };
#define DS_LINK_WAYS 3

struct ds_link {
    size_t bytes; /* of a copy, each way */
    /* owns */
    struct ds_stream *streams[2];
    void *near[2], *far[2]; /* of the device and of the host, by direction */
    /* borrows */
    struct ds_device *device;
};

DS_CHECKED ds_status ds_link_open(struct ds_link *link, struct ds_device *device, size_t bytes);
void ds_link_close(struct ds_link *link); /* of an empty one, too */
/* one copy each way that is wanted; and until it is there */
DS_CHECKED ds_status ds_link_copy(struct ds_link *link, enum ds_link_way way);
/* what was copied last is what was there before */
DS_CHECKED ds_status ds_link_check(struct ds_link *link);
/* bytes a second each way, both at once: the median of a few copies */
DS_CHECKED ds_status ds_link_measure(struct ds_link *link, const struct ds_clock *clock,
                                     double *per_s);

#endif
