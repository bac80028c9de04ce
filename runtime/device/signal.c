/* signal.c - words between streams and threads of the host, on devices that can queue host code: a work that sets one,
 * and a work that is tried until somebody has set it. */
#include "dstrain/device.h"

struct word_args {
    uint32_t *word;
};

static ds_status signal_work(void *self, int *done)
{
    const struct word_args *args = self;

    ds_word_store(args->word, 1);
    *done = 1;
    return DS_OK;
}

static ds_status await_work(void *self, int *done)
{
    const struct word_args *args = self;

    *done = ds_word_load(args->word) != 0;
    if (*done)
        ds_word_store(args->word, 0);
    return DS_OK;
}

static ds_status queue(struct ds_stream *stream, ds_work_fn work, uint32_t *word)
{
    const struct word_args args = {word};

    DS_ASSERT(stream->device->ops->call);
    return stream->device->ops->call(stream, work, &args, sizeof args);
}

ds_status ds_stream_signal(struct ds_stream *stream, uint32_t *word)
{
    const struct ds_device_ops *ops = stream->device->ops;

    return ops->stream_signal ? ops->stream_signal(stream, word) : queue(stream, signal_work, word);
}

ds_status ds_stream_await(struct ds_stream *stream, uint32_t *word)
{
    const struct ds_device_ops *ops = stream->device->ops;

    return ops->stream_await ? ops->stream_await(stream, word) : queue(stream, await_work, word);
}
