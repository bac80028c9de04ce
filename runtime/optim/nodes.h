/* nodes.h - on which processors of the host a thread runs that works for a device. Private to this folder. */
#ifndef OPTIM_NODES_H
#define OPTIM_NODES_H

/* local: the calling thread and those that it will start run on this node of the host, as far as they may; where it is not
 * known (-1), or none of it is theirs, as before. */
void nodes_stay_on(int node);

#endif
