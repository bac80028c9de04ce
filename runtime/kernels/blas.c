/* blas.c - find, load and try OpenBLAS, once per process.
 *
 * Three traps, each measured. The plain name libopenblas.so.0 gives whatever flavour the system
 * prefers, mostly the one with threads of its own, so the openmp flavour is asked for by its path.
 * OpenBLAS 0.3.21 does not know processors younger than itself and falls back to SSE3 (a fifth of the
 * speed), so the core type is set from cpuid before it is loaded, unless the user has set one. And
 * its kernels have been wrong on some processors, so a few products are compared with a plain loop
 * before it is trusted. */
#include "blas.h"

#include "dstrain/kernels.h"
#include "dstrain/status.h"

#include <dlfcn.h>
#include <glob.h>
#include <math.h>
#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef DS_OPENBLAS_PATH
#define DS_OPENBLAS_PATH ""
#endif

/* The thread sanitizer takes what it cannot see into for a race. */
#ifdef __SANITIZE_THREAD__
#define BLAS_IS_UNSEEN 1
#elif defined(__has_feature)
#define BLAS_IS_UNSEEN __has_feature(thread_sanitizer)
#else
#define BLAS_IS_UNSEEN 0
#endif

/* A library can be loaded once per process, however many ranks it holds. Written under `once`, read
 * only afterwards. */
static struct {
    pthread_once_t once;
    blas_sgemm sgemm;
    char name[160];
} kernel_blas = {.once = PTHREAD_ONCE_INIT};

static void choose_core_type(void)
{
#ifdef __x86_64__
    const char *type = NULL;

    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        type = "SkylakeX";
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        type = "Haswell";
    if (type)
        (void)setenv("OPENBLAS_CORETYPE", type, 0);
#endif
}

static void *open_library(void)
{
    static const char pattern[] = "/usr/lib/*/openblas-openmp/libopenblas.so.0";
    void *library = NULL;
    glob_t found;

    if (DS_OPENBLAS_PATH[0])
        library = dlopen(DS_OPENBLAS_PATH, RTLD_NOW | RTLD_LOCAL);
    if (!library && glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; !library && i < found.gl_pathc; i++)
            library = dlopen(found.gl_pathv[i], RTLD_NOW | RTLD_LOCAL);
        globfree(&found);
    }
    return library ? library : dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
}

/* ISO C has no cast from void * to a function pointer, POSIX promises the bits. */
static int find(void *library, const char *name, void *function_pointer)
{
    void *at = dlsym(library, name);

    memcpy(function_pointer, &at, sizeof at);
    return at != NULL;
}

/* "OpenBLAS 0.3.21 SkylakeX, openmp"; what the library cannot say is left out */
static void describe_library(void *library, char *to, size_t bytes)
{
    char *(*config)(void), *(*core)(void);
    int (*parallel)(void);
    char version[16] = "";
    const char *flavour = "";

    if (find(library, "openblas_get_config", &config))
        (void)sscanf(config(), "OpenBLAS %15[0-9.]", version);
    if (find(library, "openblas_get_parallel", &parallel))
        flavour = parallel() == 2 ? ", openmp" : parallel() == 1 ? ", pthread" : ", serial";
    snprintf(to, bytes, "OpenBLAS %s %.40s%s", version,
             find(library, "openblas_get_corename", &core) ? core() : "", flavour);
}

#define TRY_ELEMS ((size_t)80 * 310)

/* Eighths from -1 to 1: products and sums of this size are exact in fp32, in any order. */
static void fill_eighths(float *x, size_t count, unsigned seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)((int)(seed >> 24) % 17 - 8) / 8.0f;
    }
}

static int product_is_right(blas_sgemm sgemm, float *room, const int shape[3], int variant)
{
    const size_t m = (size_t)shape[0], n = (size_t)shape[1], k = (size_t)shape[2];
    const int trans_a = variant & 1, trans_b = variant >> 1 & 1, add = variant >> 2;
    float *a = room, *b = a + TRY_ELEMS, *c = b + TRY_ELEMS;

    fill_eighths(a, m * k, 1);
    fill_eighths(b, k * n, 2);
    for (size_t i = 0; i < m * n; i++)
        c[i] = add ? 0.5f : NAN; /* what is overwritten is not read */
    sgemm(BLAS_ROW_MAJOR, trans_a ? BLAS_TRANSPOSED : BLAS_PLAIN,
          trans_b ? BLAS_TRANSPOSED : BLAS_PLAIN, shape[0], shape[1], shape[2], 1.0f, a,
          trans_a ? shape[0] : shape[2], b, trans_b ? shape[2] : shape[1], (float)add, c, shape[1]);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            float want = add ? 0.5f : 0.0f;

            for (size_t l = 0; l < k; l++)
                want += a[trans_a ? l * m + i : i * k + l] * b[trans_b ? j * k + l : l * n + j];
            if (c[i * n + j] != want)
                return 0;
        }
    return 1;
}

/* Small, thin, and past the block sizes of its kernels; all transposes, overwriting and adding. */
static int library_multiplies(blas_sgemm sgemm)
{
    static const int shapes[][3] = {{1, 1, 1},    {1, 37, 5},   {33, 1, 17},  {7, 5, 300},
                                    {17, 33, 65}, {80, 48, 31}, {65, 49, 310}};
    float *room = malloc(sizeof(float) * TRY_ELEMS * 3);
    int is_right = room != NULL;

    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int variant = 0; is_right && variant < 8; variant++)
            is_right = product_is_right(sgemm, room, shapes[i], variant);
    free(room);
    return is_right;
}

/* Why the library is not used; NULL if it is. */
static const char *load(void)
{
    void (*set_threads)(int);
    blas_sgemm sgemm;
    void *library;
    int thread_count = omp_get_max_threads();

    if (BLAS_IS_UNSEEN)
        return "the thread sanitizer cannot see into OpenBLAS";
    choose_core_type();
    library = open_library();
    if (!library)
        return "no OpenBLAS found (libopenblas0-openmp)";
    if (!find(library, "cblas_sgemm", &sgemm))
        return "the OpenBLAS found has no cblas_sgemm";
    if (find(library, "openblas_set_num_threads", &set_threads))
        set_threads(1);
    describe_library(library, kernel_blas.name, sizeof kernel_blas.name);
    omp_set_num_threads(1);
    const int is_right = library_multiplies(sgemm);
    omp_set_num_threads(thread_count);
    if (!is_right) {
        ds_warn("%s multiplies wrongly here: not used", kernel_blas.name);
        return "OpenBLAS failed its self-test";
    }
    kernel_blas.sgemm = sgemm;
    return NULL;
}

static void load_once(void)
{
    const char *reason = load();

    if (reason)
        snprintf(kernel_blas.name, sizeof kernel_blas.name, "own blocked kernel: %s", reason);
}

blas_sgemm kernel_blas_sgemm(void)
{
    (void)pthread_once(&kernel_blas.once, load_once);
    return kernel_blas.sgemm;
}

const char *ds_kernels_cpu_gemm_name(void)
{
    (void)kernel_blas_sgemm();
    return kernel_blas.name;
}
