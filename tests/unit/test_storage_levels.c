// link: storage base
/* Which level is taken: what is refused here, and why, is found out once, told once, and the next level is taken; a
 * level that is asked for by name is had or refused. And new files: around the page cache wherever that works. */
#include "capture.h"
#include "storage_row.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define BLOCK ROW_BLOCK

static _Alignas(4096) uint8_t memory_of_test[1u << 20];

static ds_status open_level(struct ds_fs *fs, const char *level, struct ds_storage **out)
{
    const struct ds_storage_memory memory = {memory_of_test, sizeof memory_of_test};

    return ds_storage_open_with(
        fs,
        &(struct ds_storage_options){
            .level = level, .depth = 4, .memory = &memory, .memory_count = 1},
        out);
}

static int is_here(const char *level)
{
    struct ds_storage *storage = NULL;

    ds_log.terminal = -1;
    ds_status st = open_level(ds_fs_posix(), level, &storage);
    ds_log.terminal = 2;
    ds_storage_close(storage);
    return st == DS_OK;
}

static void expect_refused(struct ds_fs *fs, const char *level, const char *why)
{
    struct ds_storage *storage = NULL;
    struct capture capture;

    capture_begin(&capture);
    ds_status st = open_level(fs, level, &storage);
    const char *text = capture_end(&capture);
    assert_int_equal(st, DS_ERR_UNSUPPORTED);
    assert_null(storage);
    assert_non_null(strstr(text, level));
    assert_non_null(strstr(text, why));
    assert_null(strchr(text, '\n'));
}

static void expect_taken(struct ds_fs *fs, const char *level, const char *told)
{
    struct ds_storage *storage = NULL;
    struct capture capture;

    capture_begin(&capture);
    assert_ok(open_level(fs, "auto", &storage));
    const char *text = capture_end(&capture);
    assert_string_equal(ds_storage_name(storage), level);
    assert_non_null(strstr(text, level));
    assert_non_null(strstr(text, told));
    assert_null(strchr(text, '\n')); /* once */
    ds_storage_close(storage);
}

static void the_best_level_is_taken(void **state)
{
    static const char *const levels[] = {"fixed", "plain", "threads"};
    struct ds_storage *storage;
    int best = 0;

    (void)state;
    while (!is_here(levels[best]))
        best++;
    expect_taken(ds_fs_posix(), levels[best], "storage: ");
    assert_ok(ds_storage_open(ds_fs_posix(), "auto", 4, &storage)); /* nothing to register */
    assert_string_equal(ds_storage_name(storage), is_here("plain") ? "plain" : "threads");
    ds_storage_close(storage);
}

static void a_disk_without_kernel_descriptors_has_threads(void **state)
{
    struct ds_fs *sim, *faulty;

    (void)state;
    assert_ok(ds_fs_sim_open(&sim));
    assert_ok(ds_fs_fault_open(ds_fs_posix(), 0, &faulty));
    expect_taken(sim, "threads", "storage: ");
    expect_taken(faulty, "threads", "storage: ");
    if (is_here("plain")) {
        expect_refused(sim, "plain", "no kernel descriptors");
        expect_refused(faulty, "fixed", "no kernel descriptors");
    }
    expect_refused(sim, "spdk", "there are auto, fixed, plain and threads");
    ds_fs_fault_close(faulty);
    ds_fs_sim_close(sim);
}

static void fixed_wants_memory(void **state)
{
    struct ds_storage *storage = NULL;
    struct capture capture;

    (void)state;
    if (!is_here("fixed"))
        skip();
    capture_begin(&capture);
    assert_int_equal(ds_storage_open(ds_fs_posix(), "fixed", 4, &storage), DS_ERR_UNSUPPORTED);
    assert_non_null(strstr(capture_end(&capture), "no memory to register"));
}

/* ---- registered memory is known to the kernel by its pages: it is moved even while the process may not touch it,
 * and that is how one sees that the level is what it is called */

static ds_status write_untouchable(const char *level, uint8_t *data)
{
    const struct ds_storage_memory memory = {data, 4 * BLOCK};
    const struct ds_storage_options options = {
        .level = level, .depth = 1, .memory = &memory, .memory_count = 1};
    struct ds_storage_request request = {.is_write = 1, .data = data, .bytes = 4 * BLOCK};
    FILE *file = tmpfile();
    uint8_t got[4 * BLOCK], wanted[4 * BLOCK];
    struct ds_storage *storage;

    storage_row_fill(data, sizeof got, 3);
    memcpy(wanted, data, sizeof got);
    request.file = fileno(file);
    assert_ok(ds_storage_open_with(ds_fs_posix(), &options, &storage));
    assert_int_equal(mprotect(data, sizeof got, PROT_NONE), 0);
    ds_log.terminal = -1;
    ds_status st = storage_row_one(storage, &request);
    ds_log.terminal = 2;
    if (st == DS_OK) {
        assert_int_equal(pread(request.file, got, sizeof got, 0), sizeof got);
        assert_memory_equal(got, wanted, sizeof got);
    }
    ds_storage_close(storage);
    fclose(file);
    return st;
}

static void only_registered_memory_needs_no_looking_up(void **state)
{
    static const char *const levels[] = {"fixed", "plain", "threads"};

    (void)state;
    for (int i = 0; i < 3; i++) {
        uint8_t *data =
            mmap(NULL, 4 * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        assert_true(data != MAP_FAILED);
        if (is_here(levels[i]))
            assert_int_equal(write_untouchable(levels[i], data), i == 0 ? DS_OK : DS_ERR_IO);
        munmap(data, 4 * BLOCK);
    }
}

/* ---- a child under restrictions; its assertions end it with a code that is not 0 */

static void in_child(void (*run)(int), int argument)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        run(argument);
        fflush(NULL);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void forbid_io_uring(int code)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)code),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        _exit(77);
}

static void run_forbidden(int code)
{
    forbid_io_uring(code);
    expect_taken(ds_fs_posix(), "threads", strerror(code));
    expect_refused(ds_fs_posix(), "plain", strerror(code));
    expect_refused(ds_fs_posix(), "fixed", "seccomp");
}

/* EPERM: a container's profile. ENOSYS: an old kernel, or another profile. */
static void where_io_uring_is_forbidden_there_are_threads(void **state)
{
    (void)state;
    if (!is_here("plain"))
        skip();
    in_child(run_forbidden, EPERM);
    in_child(run_forbidden, ENOSYS);
}

static void run_without_locked_memory(int unused)
{
    const struct rlimit limit = {65536, 65536};

    (void)unused;
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 ||
        (geteuid() == 0 && setresuid(65534, 65534, 65534)))
        _exit(77);
    expect_taken(ds_fs_posix(), "plain", "RLIMIT_MEMLOCK is 65536 bytes");
    expect_refused(ds_fs_posix(), "fixed", strerror(ENOMEM));
}

static void where_memory_may_not_be_locked_it_is_not_registered(void **state)
{
    (void)state;
    if (!is_here("fixed"))
        skip();
    in_child(run_without_locked_memory, 0);
}

/* ---- new files around the page cache: file systems that refuse in different ways */

static struct {
    int refuses_flag, refuses_blocks, align; /* align: 0, nobody can tell */
    int opened_direct, code;
} strange;

static int strange_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    (void)fs;
    const int file = ds_fs_open(ds_fs_posix(), path, flags & ~(uint32_t)DS_FS_DIRECT, mode);

    strange.opened_direct = (flags & DS_FS_DIRECT) != 0;
    if (file < 0 || !strange.refuses_flag || !strange.opened_direct)
        return file;
    ds_fs_close(ds_fs_posix(), file); /* made, and refused */
    return -EINVAL;
}

static int strange_close(struct ds_fs *fs, int file)
{
    (void)fs;
    return ds_fs_close(ds_fs_posix(), file);
}

static int64_t strange_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                              uint64_t offset)
{
    (void)fs;
    if (strange.code)
        return -strange.code;
    return strange.refuses_blocks ? -EINVAL
                                  : ds_fs_pwrite(ds_fs_posix(), file, from, bytes, offset);
}

static int strange_truncate(struct ds_fs *fs, int file, uint64_t bytes)
{
    (void)fs;
    return ds_fs_truncate(ds_fs_posix(), file, bytes);
}

static int strange_unlink(struct ds_fs *fs, const char *path)
{
    (void)fs;
    return ds_fs_unlink(ds_fs_posix(), path);
}

static int strange_direct_align(struct ds_fs *fs, int file)
{
    (void)fs;
    (void)file;
    return strange.align ? strange.align : -ENOTSUP;
}

static const struct ds_fs_ops strange_ops = {
    .name = "strange",
    .open = strange_open,
    .close = strange_close,
    .pwrite = strange_pwrite,
    .truncate = strange_truncate,
    .unlink = strange_unlink,
    .direct_align = strange_direct_align,
};

struct path {
    char folder[512], file[600];
};

static struct path new_path(void)
{
    struct path path;

    strcpy(path.folder, DS_BINARY_DIR "/test_levels.XXXXXX");
    assert_non_null(mkdtemp(path.folder));
    snprintf(path.file, sizeof path.file, "%s/f", path.folder);
    return path;
}

/* The file is new and empty whichever way it was made, and whoever asked knows which. */
static void create_strange(const char *why_wanted)
{
    struct ds_fs fs = {&strange_ops};
    struct path path = new_path();
    struct ds_fs_stat stat;
    const char *why = "never set";
    const int file = ds_fs_create_direct(&fs, path.file, 0640, &why);

    assert_true(file >= 0);
    assert_int_equal(strange.opened_direct, why_wanted == NULL);
    if (why_wanted)
        assert_non_null(strstr(why, why_wanted));
    else
        assert_null(why);
    assert_int_equal(ds_fs_fstat(ds_fs_posix(), file, &stat), 0);
    assert_int_equal(stat.bytes, 0);
    assert_int_equal(stat.mode & 0777, 0640);
    assert_int_equal(ds_fs_create_direct(&fs, path.file, 0640, &why), -EEXIST);
    assert_int_equal(ds_fs_close(&fs, file), 0);
    (void)ds_fs_remove_tree(ds_fs_posix(), path.folder);
}

static void new_files_are_direct_where_that_works(void **state)
{
    (void)state;
    memset(&strange, 0, sizeof strange);
    create_strange(NULL); /* nobody can tell, and a block is taken */
    strange.align = 512;
    create_strange(NULL);
    strange.align = 4096;
    create_strange(NULL);
    strange.align = 65536;
    create_strange("larger blocks");
    strange.align = -EINVAL;
    create_strange("no O_DIRECT");
    strange.align = 0;
    strange.refuses_blocks = 1;
    create_strange("writes with O_DIRECT are refused");
    strange.refuses_flag = 1;
    create_strange("O_DIRECT is refused");
}

/* A disk that fails is not one that knows no O_DIRECT, and keeps no file. */
static void a_failure_is_no_refusal(void **state)
{
    struct ds_fs fs = {&strange_ops};
    struct path path = new_path();
    struct ds_fs_stat stat;
    const char *why;

    (void)state;
    memset(&strange, 0, sizeof strange);
    strange.code = ENOSPC;
    assert_int_equal(ds_fs_create_direct(&fs, path.file, 0640, &why), -ENOSPC);
    assert_int_equal(ds_fs_stat(ds_fs_posix(), path.file, &stat), -ENOENT);
    strange.code = 0;
    strange.align = -EIO;
    assert_int_equal(ds_fs_create_direct(&fs, path.file, 0640, &why), -EIO);
    assert_int_equal(ds_fs_stat(ds_fs_posix(), path.file, &stat), -ENOENT);
    (void)ds_fs_remove_tree(ds_fs_posix(), path.folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_level_is_taken),
        cmocka_unit_test(a_disk_without_kernel_descriptors_has_threads),
        cmocka_unit_test(fixed_wants_memory),
        cmocka_unit_test(only_registered_memory_needs_no_looking_up),
        cmocka_unit_test(where_io_uring_is_forbidden_there_are_threads),
        cmocka_unit_test(where_memory_may_not_be_locked_it_is_not_registered),
        cmocka_unit_test(new_files_are_direct_where_that_works),
        cmocka_unit_test(a_failure_is_no_refusal),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
