/* signals.c - see signals.h. Nothing is kept here: a signal that is held back is kept by the kernel. */
#include "signals.h"

#include "dstrain/status.h"

#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void put(int file, const char *text)
{
    if (file >= 0 && write(file, text, strlen(text)) < 0)
        return;
}

#define ENDS                                                                                    \
    ": the run ends here, at once; what is committed stays, and the same command goes on from " \
    "there (SIGUSR1 writes a checkpoint first)\n"

static void on_end(int number)
{
    put(ds_log.file, number == SIGINT ? "dstrain: SIGINT" ENDS : "dstrain: SIGTERM" ENDS);
    _exit(128 + number);
}

/* On the terminal mpirun says it, and a rank that is ended because another has failed should not. */
static void on_end_alone(int number)
{
    put(STDERR_FILENO, number == SIGINT ? "\ndstrain: SIGINT" ENDS : "\ndstrain: SIGTERM" ENDS);
    on_end(number);
}

static void leave_at(int number, int is_alone)
{
    struct sigaction before, action = {.sa_handler = is_alone ? on_end_alone : on_end};

    if (sigaction(number, NULL, &before) == 0 && before.sa_handler == SIG_IGN)
        return; /* started with nohup, or in the background of a script */
    (void)sigaction(number, &action, NULL);
}

static sigset_t leave_set(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    return set;
}

void ds_signals_hold(int is_alone)
{
    const sigset_t set = leave_set();

    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    leave_at(SIGTERM, is_alone);
    leave_at(SIGINT, is_alone);
    (void)signal(SIGXFSZ, SIG_IGN); /* the call that writes too much says so */
}

int ds_signals_leave(void)
{
    const struct timespec at_once = {0, 0};
    const sigset_t set = leave_set();

    return sigtimedwait(&set, NULL, &at_once) == SIGUSR1;
}
