/* plan_homes.c - homes that are left to the plan: as much as it has room for on the device, the rest on the host, and in
 * files what that has no room for either; where the host may update what it has, the way that takes less time.
 *
 * What leaves first is what costs the link least for each byte of the device: states of the optimizer, a byte each way in a
 * step, and all kinds of them in equal shares, so that a strip is either near and does not travel or away; then what layers keep,
 * and gradients, a byte each way for every micro-batch; then parameters, which come twice for each window of micro-batches. Into files goes
 * first what passes them least often, and last what layers keep. Shares are found by asking the plan; nothing is estimated but time. */
#include "console.h"
#include "plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Shares are so many parts of a whole: finer than strips, of which a model of 40 billion parameters has as many. */
enum { SHARES = 10000 };

/* Kinds of states, and beside them what layers keep. */
enum { KEPT = DS_ZERO_KIND_COUNT, KINDS };

static const char *const kind_keys[KINDS] = {
    [KEPT] = "activations",        [DS_ZERO_PARAM] = "params",          [DS_ZERO_MASTER] = "master",
    [DS_ZERO_EXP_AVG] = "exp_avg", [DS_ZERO_EXP_AVG_SQ] = "exp_avg_sq", [DS_ZERO_GRAD] = "grads"};

static struct ds_home_key *home_at(struct ds_config *config, int kind)
{
    struct ds_home_key *const keys[KINDS] = {[KEPT] = &config->offload.activations,
                                             [DS_ZERO_PARAM] = &config->offload.params,
                                             [DS_ZERO_MASTER] = &config->offload.master,
                                             [DS_ZERO_EXP_AVG] = &config->offload.exp_avg,
                                             [DS_ZERO_EXP_AVG_SQ] = &config->offload.exp_avg_sq,
                                             [DS_ZERO_GRAD] = &config->offload.grads};

    return keys[kind];
}

/* Kinds that leave together, as bits. */
enum { STATES, ACTIVATIONS, GRADS, PARAMS, GROUPS };
static const uint32_t group_kinds[GROUPS] = {
    [STATES] = 1u << DS_ZERO_MASTER | 1u << DS_ZERO_EXP_AVG | 1u << DS_ZERO_EXP_AVG_SQ,
    [ACTIVATIONS] = 1u << KEPT,
    [GRADS] = 1u << DS_ZERO_GRAD,
    [PARAMS] = 1u << DS_ZERO_PARAM};

/* In which order kinds go into files. What layers keep goes last: its slots take host memory of their own, of a model with few
 * layers as much as it leaves. */
static const int file_order[KINDS] = {DS_ZERO_EXP_AVG_SQ, DS_ZERO_EXP_AVG, DS_ZERO_MASTER,
                                      DS_ZERO_GRAD,       DS_ZERO_PARAM,   KEPT};

struct search {
    struct ds_plan_question question; /* of `config`, which is tried */
    struct ds_config *config;         /* its limits are those that there are, whoever said so */
    struct ds_speeds speeds;
    uint32_t open;     /* bits of kinds that are left to the plan and may be away */
    int order[GROUPS]; /* the first leaves first */
    uint32_t filed;    /* bits of kinds that leave for files; the others for the host */
    uint32_t shares[GROUPS];
};

int ds_plan_leaves_homes(const struct ds_config *config)
{
    const struct ds_home_key *const keys[] = {
        &config->offload.params,     &config->offload.master, &config->offload.exp_avg,
        &config->offload.exp_avg_sq, &config->offload.grads,  &config->offload.activations};
    int is_open = config->offload.optimizer_compute.home == DS_OPTIMIZER_AUTO;

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        is_open |= keys[i]->home == DS_HOME_AUTO;
    return is_open;
}

/* ---- one configuration that is tried */

static void put_homes(struct search *s)
{
    for (int group = 0; group < GROUPS; group++)
        for (int kind = 0; kind < KINDS; kind++) {
            const int home = s->filed >> kind & 1 ? DS_HOME_NVME : DS_HOME_HOST;
            if (!(s->open & group_kinds[group] & 1u << kind))
                continue;
            *home_at(s->config, kind) =
                s->shares[group] == 0
                    ? (struct ds_home_key){DS_HOME_DEVICE, 0}
                    : (struct ds_home_key){home, (double)s->shares[group] / SHARES};
        }
}

static ds_status measure(struct search *s, struct ds_plan *plan)
{
    uint32_t role;

    put_homes(s);
    return ds_plan_worst(&s->question, plan, &role);
}

/* By how much the device's limit is passed; negative: by how much it is not. */
static double excess(const struct search *s, const struct ds_plan *plan)
{
    const uint64_t limit = s->config->memory.device_limit, room = s->question.room.device_bytes;
    const double device = (double)ds_plan_process_bytes(plan);
    const double over = limit == DS_AUTO ? -1 : device - (double)limit;
    const double over_both = device + (double)ds_plan_host_bytes(plan) - (double)room;

    return s->question.room.is_one && over_both > over ? over_both : over;
}

static int fits(const struct search *s, const struct ds_plan *plan)
{
    return ds_plan_fits(s->config, plan) && excess(s, plan) <= 0;
}

/* The host updates what it has all of: some of all states, be it next to nothing. */
static uint32_t smallest_share(const struct search *s, int group)
{
    return group == STATES && s->config->offload.optimizer_compute.home == DS_OPTIMIZER_CPU;
}

/* Memory goes nearly by shares: the limit lies where a line between two plans meets it, or close by. So every other
 * guess is that, and the rest halve. */
static ds_status find_share(struct search *s, int group, double low_excess, struct ds_plan *plan)
{
    uint32_t low = s->shares[group], high = SHARES;
    double high_excess = excess(s, plan);

    for (int turn = 0; high - low > 1; turn++) {
        const double part = turn % 2 == 0 ? low_excess / (low_excess - high_excess) : 0.5;
        const uint32_t guess = low + (uint32_t)(part * (high - low));
        struct ds_plan here;

        s->shares[group] = guess <= low ? low + 1 : guess >= high ? high - 1 : guess;
        DS_TRY(measure(s, &here));
        if (excess(s, &here) > 0) {
            low = s->shares[group];
            low_excess = excess(s, &here);
            continue;
        }
        high = s->shares[group];
        high_excess = excess(s, &here);
        *plan = here;
    }
    s->shares[group] = high;
    put_homes(s);
    return DS_OK;
}

/* A group leaves: as much of it as must, all where that is not enough, nothing where its slots take what it leaves. */
static ds_status move_group(struct search *s, int group, struct ds_plan *plan)
{
    const uint32_t before = s->shares[group];
    const struct ds_plan stays = *plan;
    const double low_excess = excess(s, plan);

    s->shares[group] = SHARES;
    DS_TRY(measure(s, plan));
    if (excess(s, plan) > 0 && excess(s, plan) < low_excess)
        return DS_OK;
    s->shares[group] = before;
    if (excess(s, plan) <= 0)
        return find_share(s, group, low_excess, plan);
    *plan = stays;
    put_homes(s);
    return DS_OK;
}

static ds_status fill_device(struct search *s, struct ds_plan *plan)
{
    for (int group = 0; group < GROUPS; group++)
        s->shares[group] = smallest_share(s, group);
    DS_TRY(measure(s, plan));
    for (int i = 0; i < GROUPS && excess(s, plan) > 0; i++)
        if (s->open & group_kinds[s->order[i]])
            DS_TRY(move_group(s, s->order[i], plan));
    return DS_OK;
}

/* ---- what may leave, and in which order */

static const struct ds_home_key by_gpu = {DS_OPTIMIZER_GPU, 0}, by_cpu = {DS_OPTIMIZER_CPU, 1};

static int is_possible(const struct search *s)
{
    return ds_config_is_possible(s->config, s->question.use, s->question.size, NULL);
}

/* The rules say which kinds may be away at all. An evaluation has parameters alone. What may not be away stays. */
static void open_kinds(struct search *s)
{
    const struct ds_home_key compute = s->config->offload.optimizer_compute;
    uint32_t left = 0;

    for (int kind = 0; kind < KINDS; kind++)
        if (home_at(s->config, kind)->home == DS_HOME_AUTO) {
            left |= 1u << kind;
            *home_at(s->config, kind) = (struct ds_home_key){DS_HOME_DEVICE, 0};
        }
    s->config->offload.optimizer_compute = by_gpu;
    for (int kind = 0; kind < KINDS; kind++) {
        const struct ds_home_key before = *home_at(s->config, kind);
        if (!(left >> kind & 1) || (s->question.use != DS_CONFIG_TRAIN && kind != DS_ZERO_PARAM))
            continue;
        *home_at(s->config, kind) = (struct ds_home_key){DS_HOME_HOST, 1};
        s->open |= (uint32_t)is_possible(s) << kind;
        *home_at(s->config, kind) = before;
    }
    s->config->offload.optimizer_compute = compute;
}

/* Bytes over the link for one of the device's, the dearer way, in a step. */
static void order_groups(struct search *s)
{
    const struct ds_config *c = s->config;
    const uint64_t micros =
        c->train.global_batch_size / (c->train.micro_batch_size * c->parallel.data);
    const uint64_t window = c->zero.window > 1 ? c->zero.window : 1;
    const uint64_t gathers = 2 * ((micros + window - 1) / window);

    const int gathers_first = gathers < micros;

    s->order[0] = STATES;
    s->order[1] = gathers_first ? PARAMS : ACTIVATIONS;
    s->order[2] = gathers_first ? ACTIVATIONS : GRADS;
    s->order[3] = gathers_first ? GRADS : PARAMS;
}

/* ---- the choices there are */

static void choice_text(struct ds_config *config, uint32_t open, char *to, size_t bytes)
{
    size_t used = 0;
    char value[32];

    to[0] = '\0';
    for (int kind = 0; kind < KINDS; kind++) {
        ds_field_print(ds_field_find("offload", kind_keys[kind]), config, value, sizeof value);
        if (open >> kind & 1 && strcmp(value, "device") != 0)
            used += (size_t)snprintf(to + used, bytes - used, "%s%s = %s", used ? ", " : "",
                                     kind_keys[kind], value);
    }
    if (used == 0)
        used = (size_t)snprintf(to, bytes, "all on the device");
    ds_field_print(ds_field_find("offload", "optimizer_compute"), config, value, sizeof value);
    if (strcmp(value, "gpu") != 0)
        snprintf(to + used, bytes - used, ", optimizer_compute = %s", value);
}

static uint64_t filed_bytes(const struct ds_plan *plan)
{
    uint64_t bytes = plan->filed_kept_bytes;

    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++)
        bytes += plan->filed_bytes[kind];
    return bytes;
}

static void show_choice(const struct search *s, const struct ds_plan *plan, double step_s)
{
    char choice[256], seconds[32] = "-";

    if (!s->question.is_answer)
        return;
    choice_text(s->config, s->open, choice, sizeof choice);
    if (s->speeds.flops_per_s > 0 && step_s > 0)
        snprintf(seconds, sizeof seconds, "%.3f", step_s);
    ds_plan_say(&s->question, "  %13llu %13llu %13llu %8s  %s%s",
                (unsigned long long)ds_plan_process_bytes(plan),
                (unsigned long long)ds_plan_host_bytes(plan), (unsigned long long)filed_bytes(plan),
                seconds, choice, fits(s, plan) ? "" : " (does not fit)");
}

struct best {
    struct ds_config *config; /* with the homes that are best so far */
    struct ds_plan plan;
    int has_any, fits;
    double step_s;
};

/* Of those that do not fit the last: it has the most in files, and is what a refusal shows. */
static void compare(const struct search *s, const struct ds_plan *plan, struct best *best)
{
    const int is_fit = fits(s, plan);
    const double step_s = ds_plan_step_s(plan->work, &s->speeds);

    show_choice(s, plan, step_s);
    if (best->has_any && (best->fits > is_fit || (best->fits && step_s >= best->step_s)))
        return;
    best->config->offload = s->config->offload;
    best->plan = *plan;
    best->has_any = 1;
    best->fits = is_fit;
    best->step_s = step_s;
}

static int has_directories(const struct search *s)
{
    char path[DS_TEXT_MAX];

    return ds_config_directory(s->config, 0, path);
}

/* The next kind that may lie in files; 0: there is none. */
static uint32_t next_filed(const struct search *s)
{
    for (int i = 0; i < KINDS && has_directories(s); i++)
        if ((s->open & ~s->filed) >> file_order[i] & 1)
            return 1u << file_order[i];
    return 0;
}

/* Would files help? */
static int lacks_host(const struct search *s, const struct ds_plan *plan)
{
    const uint64_t limit = s->config->memory.host_limit;

    return s->question.room.is_one ? excess(s, plan) > 0
                                   : limit != DS_AUTO && ds_plan_host_bytes(plan) > limit;
}

/* Updated there or there, with ever more kinds in files until the host has room for the rest. */
static ds_status try_compute(struct search *s, struct ds_home_key compute, struct best *best)
{
    struct ds_plan plan;
    uint32_t next = 0;

    s->config->offload.optimizer_compute = compute;
    s->filed = s->question.room.is_one && has_directories(s) ? s->open : 0;
    do {
        s->filed |= next;
        DS_TRY(fill_device(s, &plan));
        if (!is_possible(s))
            return DS_OK;
        compare(s, &plan, best);
        next = next_filed(s);
    } while (next != 0 && lacks_host(s, &plan));
    return DS_OK;
}

/* Parts of a whole that the host may update: few, for how long its part takes nobody knows to the percent. */
enum { HOST_PARTS = 50 };

static ds_status time_parts(struct search *s, uint32_t parts, double *step_s)
{
    struct ds_plan plan;

    s->config->offload.optimizer_compute =
        (struct ds_home_key){DS_OPTIMIZER_CPU, (double)parts / HOST_PARTS};
    s->filed = 0;
    DS_TRY(fill_device(s, &plan));
    *step_s = ds_plan_step_s(plan.work, &s->speeds);
    return DS_OK;
}

/* Ever more by the host: first the link has less to bring, then the host has too much to do. So a step takes ever less
 * time, and then ever more. */
static ds_status try_parts(struct search *s, struct best *best)
{
    uint32_t low = 1, high = HOST_PARTS;

    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        double here, next;

        DS_TRY(time_parts(s, middle, &here));
        DS_TRY(time_parts(s, middle + 1, &next));
        *(here <= next ? &high : &low) = here <= next ? middle : middle + 1;
    }
    return try_compute(s, (struct ds_home_key){DS_OPTIMIZER_CPU, (double)low / HOST_PARTS}, best);
}

static ds_status try_all(struct search *s, struct best *best)
{
    const struct ds_home_key compute = s->config->offload.optimizer_compute;
    const int is_open = compute.home == DS_OPTIMIZER_AUTO;

    DS_TRY(try_compute(s, is_open ? by_gpu : compute, best));
    if (!is_open || best->config->offload.exp_avg.home != DS_HOME_HOST)
        return DS_OK;
    DS_TRY(try_compute(s, by_cpu, best));
    return best->fits ? try_parts(s, best) : DS_OK;
}

/* ---- what is said of it */

static void limit_text(uint64_t limit, uint64_t room, const char *key, char *to, size_t bytes)
{
    char amount[32];

    ds_console_bytes(limit != DS_AUTO ? limit : room, amount, sizeof amount);
    if (limit != DS_AUTO)
        snprintf(to, bytes, "%s by memory.%s", amount, key);
    else if (room > 0)
        snprintf(to, bytes, "%s free", amount);
    else
        snprintf(to, bytes, "not known, memory.%s is not set", key);
}

static void show_room(const struct ds_plan_question *question, const struct ds_config *config)
{
    char device[96], host[96];

    limit_text(config->memory.device_limit, question->room.device_bytes, "device_limit", device,
               sizeof device);
    limit_text(config->memory.host_limit, question->room.host_bytes, "host_limit", host,
               sizeof host);
    ds_plan_say(question, "homes left to the plan; room of a rank: device %s; host %s", device,
                host);
    if (question->is_answer)
        ds_plan_say(question, "  %13s %13s %13s %8s  %s", "device bytes", "host bytes",
                    "nvme bytes", "s/step", "choice");
}

static void show_chosen(const struct ds_plan_question *question, uint32_t open,
                        const struct best *best, int has_time)
{
    char choice[256], seconds[64] = "";

    choice_text(best->config, open, choice, sizeof choice);
    if (has_time && best->step_s > 0)
        snprintf(seconds, sizeof seconds, "; a step is expected to take %.3f s", best->step_s);
    ds_plan_say(question, "chosen: %s%s", choice, seconds);
}

/* What a limit of the configuration forbids its check refuses, with advice. */
static ds_status check_room(const struct ds_plan_question *question, const struct ds_config *config,
                            const struct best *best)
{
    const uint64_t device = ds_plan_process_bytes(&best->plan),
                   host = ds_plan_host_bytes(&best->plan);

    if (best->fits || !ds_plan_fits(config, &best->plan))
        return DS_OK;
    return ds_fail(
        DS_ERR_CONFIG,
        "[offload] auto: with all away that may be a rank takes %llu bytes of the device "
        "and %llu of the host, which have %llu and %llu free: the run does not fit; set "
        "memory.device_limit and memory.host_limit to see what would help",
        (unsigned long long)device, (unsigned long long)host,
        (unsigned long long)question->room.device_bytes,
        (unsigned long long)question->room.host_bytes);
}

/* ---- all of it */

static struct ds_speeds assumed_speeds(const struct ds_config *config)
{
    return ds_plan_speeds_of(config, 0, &(struct ds_speeds_kept){0}, 1, 0);
}

static void set_limit(uint64_t *limit, uint64_t room)
{
    if (*limit == DS_AUTO)
        *limit = room; /* 0: not known, which is DS_AUTO */
}

static ds_status search_homes(struct search *s, struct best *best)
{
    set_limit(&s->config->memory.device_limit, s->question.room.device_bytes);
    set_limit(&s->config->memory.host_limit, s->question.room.host_bytes);
    open_kinds(s);
    order_groups(s);
    DS_TRY(try_all(s, best));
    return best->has_any ? DS_OK : ds_config_validate(s->config, s->question.use, s->question.size);
}

ds_status ds_plan_choose_homes(const struct ds_plan_question *question, struct ds_config *config)
{
    struct search s = {.question = *question, .config = malloc(sizeof *config)};
    struct best best = {.config = malloc(sizeof *config)};
    ds_status st = s.config && best.config ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "homes to try");

    if (st == DS_OK) {
        *s.config = *best.config = *config;
        s.question.config = s.config;
        s.speeds = question->speeds ? *question->speeds : assumed_speeds(config);
        show_room(question, config);
        st = search_homes(&s, &best);
    }
    if (st == DS_OK)
        st = check_room(question, config, &best);
    if (st == DS_OK) {
        config->offload = best.config->offload;
        show_chosen(question, s.open, &best, s.speeds.flops_per_s > 0);
    }
    free(s.config);
    free(best.config);
    return st;
}
