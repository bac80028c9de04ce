/* nccl_environment.c - what NCCL is told, by the only way that it has for these: variables that it reads at its first
 * call. What the user has set stays.
 *
 * Order: NCCL then starts the calls of all groups of a rank in the order in which they were made, as the
 * action list wants it. Several ranks on one GPU, which NCCL forbids: with names of their own they are hosts
 * to it, joined by sockets, and with few blocks each all their kernels fit on the GPU at once, or they
 * would wait for each other for ever. */
#include "device_cuda.h"

#include <stdio.h>
#include <stdlib.h>

#define CHANNELS        "16" /* as many as NCCL takes between the GPUs of a host */
#define CHANNELS_SHARED "4"
#define POLICY_ZERO     "2" /* NCCL_CTA_POLICY_ZERO: no block where a copy engine will do */

static void prefer(const char *name, const char *value)
{
    (void)setenv(name, value, 0);
}

/* Ranks on one GPU: what a block does must not wait for a place that another rank's block has. */
static void share(uint32_t rank)
{
    char host[32];

    snprintf(host, sizeof host, "rank%u", rank);
    prefer("NCCL_HOSTID", host);
    prefer("NCCL_SOCKET_IFNAME", "lo");
    prefer("NCCL_IB_DISABLE", "1");
    prefer("NCCL_MAX_CTAS", CHANNELS_SHARED);
}

/* The order of a sum is that of one algorithm over as many pieces each time. */
static void fix(int is_shared)
{
    const char *channels = is_shared ? CHANNELS_SHARED : CHANNELS;

    prefer("NCCL_ALGO", "Ring");
    prefer("NCCL_PROTO", "Simple");
    prefer("NCCL_MIN_NCHANNELS", channels);
    prefer("NCCL_MAX_NCHANNELS", channels);
}

void nccl_environment(const struct ds_device_options *options)
{
    const int is_shared = options->sharer_count > 1;

    prefer("NCCL_LAUNCH_ORDER_IMPLICIT", "1");
    if (!options->nvlink_multicast)
        prefer("NCCL_NVLS_ENABLE", "0");
    if (options->copy_engines)
        prefer("NCCL_CTA_POLICY", POLICY_ZERO);
    if (is_shared)
        share(options->rank);
    if (options->deterministic)
        fix(is_shared);
}
