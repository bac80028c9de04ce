/* capture.h - what the log says, as text: ds_log.terminal points to memory while a capture is open. */
#ifndef DSTRAIN_CAPTURE_H
#define DSTRAIN_CAPTURE_H

#include "dstrain/status.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct capture {
    int file, before;
    char text[16384];
};

static inline void capture_begin(struct capture *capture)
{
    capture->file = memfd_create("log", MFD_CLOEXEC);
    assert(capture->file >= 0);
    /* lines of several threads come one behind the other, as in a terminal */
    (void)fcntl(capture->file, F_SETFL, O_APPEND);
    capture->before = ds_log.terminal;
    ds_log.terminal = capture->file;
}

/* the lines since begin, without the last line feed */
static inline const char *capture_end(struct capture *capture)
{
    ssize_t bytes = pread(capture->file, capture->text, sizeof capture->text - 1, 0);

    capture->text[bytes > 0 ? bytes : 0] = '\0';
    if (bytes > 0 && capture->text[bytes - 1] == '\n')
        capture->text[bytes - 1] = '\0';
    close(capture->file);
    ds_log.terminal = capture->before;
    return capture->text;
}

#endif
