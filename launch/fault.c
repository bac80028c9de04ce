/* fault.c - see fault.h. All of the handler is what a signal may call: it finds the file in /proc/self/maps by
 * hand, says one line and ends the process, whichever thread it is in. */
#include "fault.h"

#include "dstrain/status.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define LINE_BYTES 4608 /* of a mapping: numbers, then a path */

struct lines {
    int file;
    size_t at, count;
    char bytes[1024];
};

/* The next line, without its end; what does not fit is cut off. 0: there is none. */
static int next_line(struct lines *from, char to[LINE_BYTES])
{
    size_t length = 0;

    for (;;) {
        if (from->at == from->count) {
            const ssize_t got = read(from->file, from->bytes, sizeof from->bytes);
            if (got <= 0)
                return 0;
            from->at = 0;
            from->count = (size_t)got;
        }
        const char c = from->bytes[from->at++];
        to[length] = '\0';
        if (c == '\n')
            return 1;
        if (length + 1 < LINE_BYTES)
            to[length++] = c;
    }
}

static uintptr_t read_hex(const char **at)
{
    static const char digits[] = "0123456789abcdef";
    uintptr_t value = 0;

    for (const char *digit; **at && (digit = strchr(digits, **at)); (*at)++)
        value = value * 16 + (uintptr_t)(digit - digits);
    return value;
}

/* "start-end rights offset device inode path": the path, if the address lies there; or NULL */
static const char *path_of(const char *line, uintptr_t address)
{
    const char *at = line;
    const uintptr_t start = read_hex(&at), end = *at == '-' ? (at++, read_hex(&at)) : 0;

    return start <= address && address < end ? strchr(at, '/') : NULL;
}

static void append(char to[2 * LINE_BYTES], const char *text)
{
    const size_t used = strlen(to), length = strlen(text);

    if (used + length < 2 * LINE_BYTES)
        memcpy(to + used, text, length + 1);
}

static void append_rank(char to[2 * LINE_BYTES])
{
    char digits[16], *at = digits + sizeof digits - 1;
    int rank = ds_log.rank;

    if (ds_log.rank_count == 0)
        return;
    *at = '\0';
    do
        *--at = (char)('0' + rank % 10);
    while ((rank /= 10) > 0);
    append(to, " [rank ");
    append(to, at);
    append(to, "]");
}

static void tell(const char *path)
{
    char line[2 * LINE_BYTES] = "dstrain";
    const int files[] = {ds_log.terminal, ds_log.file};

    append_rank(line);
    append(line, ": error: ");
    append(line, path);
    append(line, ": what is mapped of it is gone: the file was cut short while it was in use, or "
                 "its disk failed or is full\n");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (files[i] >= 0 && write(files[i], line, strlen(line)) < 0)
            return;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    struct lines maps = {.file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
    char line[LINE_BYTES];

    (void)context;
    while (info->si_code == BUS_ADRERR && maps.file >= 0 && next_line(&maps, line)) {
        const char *path = path_of(line, (uintptr_t)info->si_addr);
        if (path) {
            tell(path);
            _exit(ds_status_exit_code(DS_ERR_IO));
        }
    }
    (void)signal(number, SIG_DFL); /* no file's: it comes again, and ends the process as ever */
}

void ds_fault_install(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};

    (void)sigaction(SIGBUS, &action, NULL);
}
