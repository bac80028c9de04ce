/* test.h - what every test includes; the only file that includes cmocka.h. */
#ifndef DSTRAIN_TEST_H
#define DSTRAIN_TEST_H

/* cmocka 1.1 wants the others before it; the formatter would sort it to the front */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "dstrain/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define assert_ok(call) assert_int_equal((call), DS_OK)

/* The seed of a randomised test: DSTRAIN_TEST_SEED, or the time; always printed. */
static inline uint64_t test_seed(const char *test)
{
    const char *text = getenv("DSTRAIN_TEST_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);

    printf("%s: seed %llu (DSTRAIN_TEST_SEED)\n", test, (unsigned long long)seed);
    return seed;
}

/* --long of tests/run.sh */
static inline int test_is_long(void)
{
    return getenv("DSTRAIN_TEST_LONG") != NULL;
}

/* A sanitizer looks at every access, a hundred times slower: a few draws of each kind show it what many would. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { TEST_IS_SANITIZED = 1 };
#else
enum { TEST_IS_SANITIZED = 0 };
#endif

static inline int test_draws(int usual, int sanitized, int in_long)
{
    return TEST_IS_SANITIZED ? sanitized : test_is_long() ? in_long : usual;
}

/* Is case number `index` of a long mode this process's? All are, unless DSTRAIN_TEST_PART=K/N shares them out over N
 * processes or machines. */
static inline int test_is_mine(uint64_t index)
{
    const char *text = getenv("DSTRAIN_TEST_PART");
    unsigned part = 1, parts = 1;

    if (text && (sscanf(text, "%u/%u", &part, &parts) != 2 || part < 1 || part > parts))
        fail_msg("DSTRAIN_TEST_PART is '%s', not K/N", text);
    return index % parts == part - 1;
}

#endif
