/* executor_graph.c - a step as a graph: captured where there is none of its turn, and launched again. */
#include "executor_private.h"

/* Events between the inside of a graph and the outside mean nothing on either side. All that came before is
 * through, so they are recorded again where the next list begins. */
static ds_status rejoin(struct ds_executor *x)
{
    places_forget(&x->saved);
    places_forget(&x->streams);
    places_forget(&x->kept.homes);
    return ds_zero_rejoin(x->options.zero);
}

ds_status executor_leave_graph(struct ds_executor *x)
{
    if (x->is_behind_graph)
        DS_TRY(rejoin(x));
    x->is_behind_graph = 0;
    return DS_OK;
}

/* What files are asked for goes with it. */
static void record_begin(struct ds_executor *x, uint32_t turn)
{
    ds_zero_record_begin(x->options.zero, turn);
    if (x->kept.swap)
        ds_swap_record_begin(x->kept.swap, turn);
}

static void record_end(struct ds_executor *x)
{
    ds_zero_record_end(x->options.zero);
    if (x->kept.swap)
        ds_swap_record_end(x->kept.swap);
}

static ds_status capture(struct ds_executor *x, const struct ds_executor_step *step,
                         struct ds_graph **out)
{
    const struct ds_device_ops *ops = x->options.device->ops;

    DS_TRY(ops->capture_begin(x->options.compute));
    DS_TRY(rejoin(x));
    record_begin(x, step->turn);
    const ds_status st = executor_obey_marked(x, step);
    record_end(x);
    DS_TRY(st);
    DS_TRY(ds_stream_after(x->options.compute, x->options.comm, x->handover));
    DS_TRY(ds_zero_join(x->options.zero));
    DS_TRY(kept_join(&x->kept));
    return ops->capture_end(x->options.compute, out);
}

/* The graph of the step's turn, with its marks. Others are rare: a few steps are looked at, and then no more. */
static ds_status have_graph(struct ds_executor *x, const struct ds_executor_step *step)
{
    struct ds_graph **graph = &x->graphs[step->turn];

    if (*graph && x->graph_marks[step->turn] == step->marks)
        return DS_OK;
    if (*graph)
        x->options.device->ops->graph_close(*graph);
    *graph = NULL;
    x->graph_marks[step->turn] = step->marks;
    return capture(x, step, graph);
}

/* Before it all that other streams still have, behind it whatever the comm stream gets next. */
ds_status ds_executor_step_graph(struct ds_executor *x, const struct ds_executor_step *step)
{
    struct ds_stream *compute = x->options.compute, *comm = x->options.comm;

    DS_ASSERT(step->turn < 2 && x->options.device->ops->capture_begin);
    DS_ASSERT(!is_late(step->list) || x->pending);
    DS_TRY(ds_stream_after(compute, comm, x->handover));
    DS_TRY(ds_zero_join(x->options.zero));
    DS_TRY(kept_join(&x->kept));
    DS_TRY(have_graph(x, step));
    x->is_behind_graph = 1;
    DS_TRY(ds_zero_record_launch(x->options.zero, step->turn));
    if (x->kept.swap)
        DS_TRY(ds_swap_launch(x->kept.swap, step->turn));
    DS_TRY(x->options.device->ops->graph_launch(compute, x->graphs[step->turn]));
    return ds_stream_after(comm, compute, x->handover);
}

void executor_close_graphs(struct ds_executor *x)
{
    for (int turn = 0; turn < 2; turn++)
        if (x->graphs[turn])
            x->options.device->ops->graph_close(x->graphs[turn]);
}
