/* console.c - see console.h. */
#include "console.h"

#include "dstrain/status.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_WIDTH     24
#define REDRAW_NS_MIN 100000000u

void ds_console_count(double value, char *to, size_t bytes)
{
    static const char units[] = " kMGTP";
    size_t unit = 0;

    if (!isfinite(value)) {
        snprintf(to, bytes, "-");
        return;
    }
    while (fabs(value) >= 999.5 && units[unit + 1] != '\0') {
        value /= 1000;
        unit++;
    }
    if (unit == 0)
        snprintf(to, bytes, value == floor(value) ? "%.0f" : "%.1f", value);
    else
        snprintf(to, bytes, "%.*f%c",
                 value < 9.995   ? 2
                 : value < 99.95 ? 1
                                 : 0,
                 value, units[unit]);
}

void ds_console_bytes(uint64_t value, char *to, size_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double scaled = (double)value;
    size_t unit = 0;

    while (scaled >= 1024 && unit + 1 < sizeof units / sizeof units[0]) {
        scaled /= 1024;
        unit++;
    }
    snprintf(to, bytes, unit == 0 || scaled >= 100 ? "%.0f %s" : "%.1f %s", scaled, units[unit]);
}

void ds_console_seconds(double value, char *to, size_t bytes)
{
    unsigned long long whole;

    if (!(value >= 0) || value > 1e9) {
        snprintf(to, bytes, "-");
        return;
    }
    whole = (unsigned long long)(value + 0.5);
    if (whole >= 172800)
        snprintf(to, bytes, "%llud%02lluh", whole / 86400, whole / 3600 % 24);
    else if (whole >= 3600)
        snprintf(to, bytes, "%lluh%02llum", whole / 3600, whole / 60 % 60);
    else if (whole >= 60)
        snprintf(to, bytes, "%llum%02llus", whole / 60, whole % 60);
    else
        snprintf(to, bytes, "%llus", whole);
}

double ds_console_real(double value)
{
    return isnan(value) ? fabs(value) : value;
}

const char *ds_console_plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

int ds_console_is_terminal(int file)
{
    struct winsize size = {0};

    return isatty(file) && ioctl(file, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 &&
           size.ws_col > 0;
}

/* ---- the first lines */

static void banner_model(const struct ds_console_banner *banner)
{
    char params[32], trainable[64] = "";

    if (!banner->model)
        return;
    ds_console_count((double)banner->params, params, sizeof params);
    if (banner->trainable_params != banner->params) {
        char count[32];

        ds_console_count((double)banner->trainable_params, count, sizeof count);
        snprintf(trainable, sizeof trainable, ", %s of them trained", count);
    }
    ds_info("model:   %s, %s parameters%s", banner->model, params, trainable);
}

static void banner_layout(const struct ds_console_banner *banner)
{
    char tensor[48] = "", pipeline[96] = "";

    if (banner->tensor > 1)
        snprintf(tensor, sizeof tensor, ", tensor %llu", (unsigned long long)banner->tensor);
    if (banner->pipeline > 1)
        snprintf(pipeline, sizeof pipeline, ", pipeline %llu (%s)",
                 (unsigned long long)banner->pipeline, banner->schedule);
    ds_info("layout:  data %llu = %llu replica%s x %llu shard%s%s%s, ZeRO stage %llu%s%s",
            (unsigned long long)banner->data, (unsigned long long)(banner->data / banner->shard),
            ds_console_plural(banner->data / banner->shard), (unsigned long long)banner->shard,
            ds_console_plural(banner->shard), tensor, pipeline, (unsigned long long)banner->stage,
            banner->gathered ? ", " : "", banner->gathered ? banner->gathered : "");
    if (banner->precision)
        ds_info("numbers: %s", banner->precision);
}

static void banner_memory(const struct ds_console_banner *banner)
{
    char memory[32], process[32], libraries[64] = "";

    ds_console_bytes(banner->memory_bytes, memory, sizeof memory);
    ds_console_bytes(banner->process_bytes, process, sizeof process);
    if (banner->process_bytes > banner->memory_bytes)
        snprintf(libraries, sizeof libraries, "; %s with the libraries'", process);
    ds_info("memory:  %s%s a rank, all taken before step 1%s",
            banner->tensor * banner->pipeline > 1 ? "up to " : "", memory, libraries);
}

void ds_console_first_lines(const struct ds_console_banner *banner)
{
    char tokens[32], samples[32], epoch[64] = "";

    ds_console_count((double)(banner->global_batch * banner->seq_length), tokens, sizeof tokens);
    if (banner->samples > 0) {
        ds_console_count((double)banner->samples, samples, sizeof samples);
        snprintf(epoch, sizeof epoch, "; an epoch has %s sequence%s", samples,
                 ds_console_plural(banner->samples));
    }
    ds_info("dstrain " DS_VERSION ": %u rank%s, device %s", banner->rank_count,
            ds_console_plural(banner->rank_count), banner->device ? banner->device : "-");
    banner_model(banner);
    banner_layout(banner);
    ds_info(
        "batch:   %llu sequence%s of %llu = %s token%s an update (%llu x %llu x %llu rank%s), %llu "
        "step%s%s",
        (unsigned long long)banner->global_batch, ds_console_plural(banner->global_batch),
        (unsigned long long)banner->seq_length, tokens,
        ds_console_plural(banner->global_batch * banner->seq_length),
        (unsigned long long)banner->micro_count, (unsigned long long)banner->micro_batch,
        (unsigned long long)banner->data, ds_console_plural(banner->data),
        (unsigned long long)banner->steps, ds_console_plural(banner->steps), epoch);
    banner_memory(banner);
    if (banner->dir)
        ds_info("files:   %s", banner->dir);
}

/* ---- while it runs */

void ds_console_init(struct ds_console *console, uint64_t steps, uint64_t interval,
                     const struct ds_clock *clock)
{
    *console = (struct ds_console){.steps = steps, .interval = interval, .clock = clock};
    console->is_terminal = ds_log.is_leader && ds_console_is_terminal(ds_log.terminal);
}

void ds_console_line(const struct ds_console *console, const struct ds_console_row *row,
                     char to[DS_CONSOLE_LINE_MAX])
{
    char speed[32], mfu[16] = "-", memory[32], left[32];
    const uint64_t steps_left = console->steps > row->step ? console->steps - row->step : 0;

    ds_console_count(row->tokens_per_s, speed, sizeof speed);
    ds_console_bytes(row->memory_bytes, memory, sizeof memory);
    ds_console_seconds(console->step_s * (double)steps_left, left, sizeof left);
    if (isfinite(row->mfu))
        snprintf(mfu, sizeof mfu, "%.1f%%", row->mfu * 100);
    snprintf(
        to, DS_CONSOLE_LINE_MAX,
        "step %llu/%llu | loss %.4f | lr %.3g | norm %.3g | %s tokens/s | MFU %s | %s | %s left%s",
        (unsigned long long)row->step, (unsigned long long)console->steps,
        ds_console_real(row->loss), row->lr, ds_console_real(row->grad_norm), speed, mfu, memory,
        left, row->is_skipped ? " | skipped" : "");
}

/* The cursor goes back to the start of the line, so that whatever is logged next overwrites it. */
static void show_progress(struct ds_console *console, const char *text)
{
    char line[DS_CONSOLE_LINE_MAX + 64];
    int length = snprintf(line, sizeof line, "\r%s\x1b[K\r", text);

    if (length > 0 && write(ds_log.terminal, line, (size_t)length) == length)
        console->is_progress_shown = 1;
    console->shown_ns = ds_clock_mono_ns(console->clock);
}

static int is_redraw_due(const struct ds_console *console)
{
    return console->is_terminal &&
           (!console->is_progress_shown ||
            ds_clock_mono_ns(console->clock) - console->shown_ns >= REDRAW_NS_MIN);
}

void ds_console_clear(struct ds_console *console)
{
    if (console->is_progress_shown && write(ds_log.terminal, "\r\x1b[K", 4) != 4)
        console->is_terminal = 0;
    console->is_progress_shown = 0;
}

void ds_console_step(struct ds_console *console, const struct ds_console_row *row)
{
    char line[DS_CONSOLE_LINE_MAX];
    const int is_first = console->step_s == 0;

    console->step_s = is_first ? row->step_s : 0.9 * console->step_s + 0.1 * row->step_s;
    if (row->step % console->interval == 0 || row->step == 1 || row->step == console->steps) {
        ds_console_line(console, row, line);
        ds_console_clear(console);
        ds_info("%s", line);
    } else if (is_redraw_due(console)) {
        ds_console_line(console, row, line);
        show_progress(console, line);
    }
}

void ds_console_progress(struct ds_console *console, const char *what, uint64_t done,
                         uint64_t total)
{
    char bar[BAR_WIDTH + 1], line[DS_CONSOLE_LINE_MAX], count[32], all[32];
    const double share = total > 0 ? (double)done / (double)total : 1.0;
    const int filled = share >= 1 ? BAR_WIDTH : (int)(share * BAR_WIDTH);

    if (!is_redraw_due(console) && !(console->is_terminal && done == total))
        return;
    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', (size_t)filled);
    bar[BAR_WIDTH] = '\0';
    ds_console_bytes(done, count, sizeof count);
    ds_console_bytes(total, all, sizeof all);
    snprintf(line, sizeof line, "%s [%s] %3.0f%% %s of %s", what, bar, share * 100, count, all);
    show_progress(console, line);
}
