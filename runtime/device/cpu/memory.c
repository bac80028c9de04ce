/* memory.c - memory of the cpu device: zeroed pages straight from the system.
 *
 * In deferred mode the blocks of DS_MEMORY_DEVICE are shut (PROT_NONE) while no work runs, so that
 * host code which touches them outside `copy` faults here as it would on a GPU. */
#include "cpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#define PAGE_BYTES      4096u
#define HUGE_PAGE_BYTES (2u << 20)

static const char *const kind_names[DS_MEMORY_KIND_COUNT] = {"device", "pinned", "host"};

static size_t whole_pages(size_t bytes)
{
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

static void protect(const struct cpu_block *block, int is_open)
{
    int code = mprotect(block->at, block->bytes, is_open ? PROT_READ | PROT_WRITE : PROT_NONE);

    DS_ASSERT(code == 0);
}

void ds_cpu_memory_set_open(struct cpu_device *device, int is_open)
{
    if (device->is_shut == !is_open)
        return;
    for (size_t i = 0; i < device->block_count; i++)
        protect(&device->blocks[i], is_open);
    device->is_shut = !is_open;
}

static ds_status add_block(struct cpu_device *device, void *at, size_t bytes)
{
    if (device->block_count == device->block_room) {
        size_t room = device->block_room > 0 ? 2 * device->block_room : 64;
        struct cpu_block *blocks = realloc(device->blocks, room * sizeof *blocks);

        if (blocks == NULL)
            return ds_fail(DS_ERR_NO_MEMORY, "no memory for the list of %zu blocks", room);
        device->blocks = blocks;
        device->block_room = room;
    }
    device->blocks[device->block_count] = (struct cpu_block){at, bytes};
    if (device->is_shut)
        protect(&device->blocks[device->block_count], 0);
    device->block_count++;
    return DS_OK;
}

static void remove_block(struct cpu_device *device, const void *at)
{
    size_t i = 0;

    while (i < device->block_count && device->blocks[i].at != at)
        i++;
    DS_ASSERT(i < device->block_count); /* released twice, or never taken */
    device->blocks[i] = device->blocks[--device->block_count];
}

ds_status ds_cpu_alloc(struct ds_device *base, enum ds_memory_kind kind, size_t bytes,
                       uint32_t flags, void **at)
{
    size_t mapped = whole_pages(bytes);
    void *memory;
    ds_status st;

    (void)flags;
    DS_ASSERT(bytes > 0 && kind < DS_MEMORY_KIND_COUNT);
    memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu bytes of %s memory: %s", bytes, kind_names[kind],
                       strerror(errno));
    if (mapped >= HUGE_PAGE_BYTES)
        (void)madvise(memory, mapped, MADV_HUGEPAGE); /* a wish; small pages work, too */
    if (kind == DS_MEMORY_DEVICE)
        DS_TRY_GOTO(st, add_block((struct cpu_device *)base, memory, mapped), fail);
    *at = memory;
    return DS_OK;

fail:
    munmap(memory, mapped);
    return st;
}

void ds_cpu_release(struct ds_device *base, enum ds_memory_kind kind, void *memory, size_t bytes)
{
    if (kind == DS_MEMORY_DEVICE)
        remove_block((struct cpu_device *)base, memory);
    munmap(memory, whole_pages(bytes));
}

void ds_cpu_memory_fini(struct cpu_device *device)
{
    for (size_t i = 0; i < device->block_count; i++)
        munmap(device->blocks[i].at, device->blocks[i].bytes);
    free(device->blocks);
}

/* What the kernel would give without swapping; page cache counts as free. */
static int read_available(size_t *bytes)
{
    static const char key[] = "MemAvailable:";
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    int is_found = 0;

    if (file == NULL)
        return 0;
    while (!is_found && fgets(line, sizeof line, file) != NULL)
        is_found = strncmp(line, key, sizeof key - 1) == 0;
    fclose(file);
    if (is_found)
        *bytes = (size_t)strtoull(line + sizeof key - 1, NULL, 10) * 1024; /* in kB */
    return is_found;
}

ds_status ds_cpu_memory_left(struct ds_device *base, size_t *bytes)
{
    struct sysinfo info;

    (void)base;
    if (read_available(bytes))
        return DS_OK;
    if (sysinfo(&info) != 0)
        return ds_fail(DS_ERR_DEVICE, "sysinfo: %s", strerror(errno));
    *bytes = (size_t)(info.freeram + info.bufferram) * info.mem_unit;
    return DS_OK;
}
