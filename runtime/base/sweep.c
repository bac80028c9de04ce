/* sweep.c - pages outlive their processes, so that somebody can read them; not for ever: whoever opens a
 * page removes those that nobody has had open for a day. */
#include "recorder_page.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define KEPT_S (24L * 60 * 60)

void page_hold(int file)
{
    (void)flock(file, LOCK_EX | LOCK_NB); /* gone with the process, however it ends */
}

static int is_page(const char *name)
{
    const size_t length = strlen(name);

    return length > 5 && strcmp(name + length - 5, ".page") == 0;
}

static void sweep_one(int directory, const char *name, time_t now)
{
    int file = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    struct stat about;

    if (file < 0)
        return;
    if (fstat(file, &about) == 0 && S_ISREG(about.st_mode) && now - about.st_mtime > KEPT_S &&
        flock(file, LOCK_EX | LOCK_NB) == 0)
        (void)unlinkat(directory, name, 0);
    close(file);
}

void page_sweep(const struct ds_clock *clock, int directory)
{
    int again = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = again >= 0 ? fdopendir(again) : NULL;
    const time_t now = (time_t)(ds_clock_real_ns(clock) / 1000000000u);
    const struct dirent *entry;

    if (!list) {
        if (again >= 0)
            close(again);
        return;
    }
    while ((entry = readdir(list)) != NULL)
        if (is_page(entry->d_name))
            sweep_one(directory, entry->d_name, now);
    closedir(list);
}
