/* driver.c - runs a fuzz target where there is no libFuzzer: LLVMFuzzerTestOneInput gets every file of
 * a corpus, then files changed at random for some seconds. The seed and a trial's number say what an
 * input is, so a finding is made again from two numbers. Trials run in a child process: when one
 * crashes, or takes longer than ten seconds, the parent names it, lets it speak and keeps its input.
 *
 *   fuzz_X [--seconds N] CORPUS                a session; 30 times as long with DSTRAIN_TEST_LONG
 *   fuzz_X --seed S --trial N CORPUS           one trial again
 *   fuzz_X FILE                                one input */
#include "test.h"

#include "dstrain/random.h"

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SEED_FILES_MAX 256
#define INPUT_BYTES    (64u << 10)
#define CHANGES_MAX    8
#define TRIAL_SECONDS  10

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct bytes {
    uint8_t *at;
    size_t count;
};

struct corpus {
    struct bytes items[SEED_FILES_MAX];
    size_t count;
};

/* One trial: an input that grows, and where it is in its random numbers. */
struct trial {
    struct ds_random random;
    uint64_t drawn;
    uint8_t input[INPUT_BYTES];
    size_t count;
};

/* Pieces of the languages that the targets read, and numbers at the edges of types. */
static const struct bytes tokens[] = {
#define TOKEN(text)                         \
    {                                       \
        (uint8_t *)(text), sizeof(text) - 1 \
    }
    TOKEN("{"),
    TOKEN("}"),
    TOKEN("["),
    TOKEN("]"),
    TOKEN(":"),
    TOKEN(","),
    TOKEN("\""),
    TOKEN("\\"),
    TOKEN("\n"),
    TOKEN("\r\n"),
    TOKEN(" = "),
    TOKEN("#"),
    TOKEN("\0"),
    TOKEN("\xef\xbb\xbf"),
    TOKEN("\xff"),
    TOKEN("\xc3"),
    TOKEN("\xed\xa0\x80"),
    TOKEN("\\u0000"),
    TOKEN("\\ud800"),
    TOKEN("0"),
    TOKEN("-1"),
    TOKEN("1e999"),
    TOKEN("0x10"),
    TOKEN("1.5"),
    TOKEN("nan"),
    TOKEN("2147483648"),
    TOKEN("4294967296"),
    TOKEN("9223372036854775807"),
    TOKEN("18446744073709551615"),
    TOKEN("18446744073709551616"),
    TOKEN("true"),
    TOKEN("null"),
    TOKEN("[]"),
    TOKEN("{}"),
    TOKEN("[[[[[[[["),
    TOKEN("\"dtype\":\"BF16\""),
    TOKEN("\"shape\":[0]"),
    TOKEN("\"shape\":[4294967296,4294967296]"),
    TOKEN("\"data_offsets\":[0,0]"),
    TOKEN("\"__metadata__\":{}"),
    TOKEN("\"rope_scaling\":{"),
    TOKEN("\"rope_type\":\"yarn\""),
    TOKEN("\"head_dim\":"),
    TOKEN("\"num_key_value_heads\":"),
    TOKEN("[model]\n"),
    TOKEN("[train]\n"),
    TOKEN("auto"),
    TOKEN("steps = "),
    TOKEN("family = llama\n"),
    TOKEN("\"type\":\"Sequence\""),
    TOKEN("\"type\":\"Metaspace\""),
    TOKEN("{\"Regex\":\""),
    TOKEN("\\\\p{L}"),
    TOKEN("(?!"),
    TOKEN("{\"messages\":["),
    TOKEN("\"role\":\"assistant\""),
    TOKEN("\"content\":\""),
    TOKEN("</think>"),
};

static size_t below(struct trial *trial, size_t bound)
{
    return (size_t)ds_random_below(trial->random, trial->drawn++, bound);
}

static size_t min_of(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* `with`, which is no part of the input, takes the place of `gone` bytes at `at`; what no longer fits
 * is cut. */
static void replace(struct trial *trial, size_t at, size_t gone, struct bytes with)
{
    size_t put = min_of(with.count, INPUT_BYTES - at);
    size_t rest = min_of(trial->count - at - gone, INPUT_BYTES - at - put);

    memmove(trial->input + at + put, trial->input + at + gone, rest);
    memcpy(trial->input + at, with.at, put);
    trial->count = at + put + rest;
}

/* A run of bytes somewhere in `whole`; short ones are more likely. */
static struct bytes piece_of(struct trial *trial, struct bytes whole)
{
    size_t longest = below(trial, 4) ? min_of(whole.count, 32) : whole.count;
    size_t count = below(trial, longest + 1);

    return (struct bytes){whole.at + below(trial, whole.count - count + 1), count};
}

static void change_byte(struct trial *trial, size_t at)
{
    static const uint8_t edges[] = {0, 1, 9, 10, 32, 34, 45, 48, 57, 92, 127, 128, 255};

    if (at == trial->count)
        return;
    switch (below(trial, 3)) {
    case 0:
        trial->input[at] ^= (uint8_t)(1u << below(trial, 8));
        break;
    case 1:
        trial->input[at] = (uint8_t)below(trial, 256);
        break;
    default:
        trial->input[at] = edges[below(trial, sizeof edges)];
    }
}

static void change(struct trial *trial, const struct corpus *corpus)
{
    size_t at = below(trial, trial->count + 1);
    size_t left = trial->count - at;
    size_t gone = below(trial, 2) ? 0 : below(trial, min_of(left, 16) + 1);
    struct bytes other = corpus->items[below(trial, corpus->count)];
    uint8_t copy[INPUT_BYTES];

    switch (below(trial, 8)) {
    case 0:
    case 1:
    case 2:
        change_byte(trial, at);
        break;
    case 3:
    case 4:
        replace(trial, at, gone, tokens[below(trial, sizeof tokens / sizeof *tokens)]);
        break;
    case 5: /* something of another file, or of this one again */
        if (below(trial, 2)) {
            memcpy(copy, trial->input, trial->count);
            other = (struct bytes){copy, trial->count};
        }
        replace(trial, at, gone, piece_of(trial, other));
        break;
    case 6:
        replace(trial, at, below(trial, left + 1), (struct bytes){trial->input, 0});
        break;
    default: /* cut, or continued with another's end */
        trial->count = at;
        if (below(trial, 2))
            replace(trial, at, 0, piece_of(trial, other));
    }
}

/* The first trials are the corpus as it is. */
static void make_input(struct trial *trial, const struct corpus *corpus, uint64_t seed,
                       uint64_t number)
{
    size_t which = number;

    trial->random = ds_random_of(seed, DS_RANDOM_TEST, number);
    trial->drawn = 0;
    if (number >= corpus->count)
        which = below(trial, corpus->count);
    trial->count = min_of(corpus->items[which].count, INPUT_BYTES);
    memcpy(trial->input, corpus->items[which].at, trial->count);
    if (number >= corpus->count)
        for (size_t left = 1 + below(trial, CHANGES_MAX); left > 0; left--)
            change(trial, corpus);
}

/* In a block of its own size: a sanitizer sees the first byte that is read behind its end. */
static void try_input(const struct trial *trial)
{
    uint8_t *exact = malloc(trial->count ? trial->count : 1);

    if (!exact)
        exit(2);
    memcpy(exact, trial->input, trial->count);
    alarm(TRIAL_SECONDS);
    LLVMFuzzerTestOneInput(exact, trial->count);
    alarm(0);
    free(exact);
}

static struct bytes read_whole(const char *path)
{
    struct bytes file = {.at = malloc(INPUT_BYTES)};
    FILE *stream = fopen(path, "rb");

    if (!stream || !file.at) {
        perror(path);
        exit(2);
    }
    file.count = fread(file.at, 1, INPUT_BYTES, stream);
    fclose(stream);
    return file;
}

static int is_shown(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* Sorted by name, or a trial's number would mean something else tomorrow. */
static void read_corpus(struct corpus *corpus, const char *path)
{
    struct dirent **entries;
    int count = scandir(path, &entries, is_shown, alphasort);
    char file[4096];

    if (count <= 0 || count > SEED_FILES_MAX) {
        fprintf(stderr, "%s: %d files; a corpus has 1 to %d\n", path, count, SEED_FILES_MAX);
        exit(2);
    }
    for (int i = 0; i < count; i++) {
        snprintf(file, sizeof file, "%s/%s", path, entries[i]->d_name);
        corpus->items[corpus->count++] = read_whole(file);
        free(entries[i]);
    }
    free(entries);
}

/* In the child: trials until time is up. `reached` is shared with the parent. */
static void run_trials(const struct corpus *corpus, uint64_t seed, int seconds,
                       volatile uint64_t *reached)
{
    static struct trial trial;
    time_t end = time(NULL) + seconds;

    for (uint64_t number = 0; number < corpus->count || time(NULL) < end; number++) {
        *reached = number;
        make_input(&trial, corpus, seed, number);
        try_input(&trial);
    }
}

/* One trial in a process of its own, its messages on stderr; its input is kept under `keep`. */
static int run_one(const struct corpus *corpus, uint64_t seed, uint64_t number, const char *keep)
{
    static struct trial trial;
    FILE *file = keep ? fopen(keep, "wb") : NULL;

    make_input(&trial, corpus, seed, number);
    if (file) {
        fwrite(trial.input, 1, trial.count, file);
        fclose(file);
        fprintf(stderr, "its %zu bytes are in %s\n", trial.count, keep);
    }
    ds_log.file = STDERR_FILENO; /* targets close the terminal, not this */
    try_input(&trial);
    return 0;
}

static int session(const struct corpus *corpus, const char *program, const char *path, int seconds)
{
    const char *name = strrchr(program, '/') ? strrchr(program, '/') + 1 : program;
    uint64_t seed = test_seed(name);
    volatile uint64_t *reached =
        mmap(NULL, sizeof *reached, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char keep[512];
    int status = 0;

    fflush(stdout);
    if (reached == MAP_FAILED)
        return 2;
    pid_t child = fork();
    if (child == 0) {
        run_trials(corpus, seed, seconds, reached);
        exit(0); /* not _exit: a leak is looked for at the end */
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        return 2;
    printf("%s: %llu trials\n", name, (unsigned long long)*reached + 1);
    if (status == 0)
        return 0;
    fprintf(stderr, "%s: %s %d; its last trial again: %s --seed %llu --trial %llu %s\n", name,
            WIFSIGNALED(status) ? "ended by signal" : "exit code",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), program,
            (unsigned long long)seed, (unsigned long long)*reached, path);
    snprintf(keep, sizeof keep, "%s-%llu-%llu", name, (unsigned long long)seed,
             (unsigned long long)*reached);
    if (fork() == 0)
        exit(run_one(corpus, seed, *reached, keep));
    wait(NULL);
    return 1;
}

int main(int argc, char **argv)
{
    static struct corpus corpus;
    const char *seed = NULL, *trial = NULL, *path = NULL;
    int seconds = 2;
    struct stat facts;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc)
            seconds = (int)strtol(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = argv[++i];
        else if (strcmp(argv[i], "--trial") == 0 && i + 1 < argc)
            trial = argv[++i];
        else
            path = argv[i];
    }
    if (!path || stat(path, &facts) != 0 || !seed != !trial) {
        fprintf(stderr, "usage: %s [--seconds N | --seed S --trial N] CORPUS | FILE\n", argv[0]);
        return 2;
    }
    if (S_ISDIR(facts.st_mode)) {
        read_corpus(&corpus, path);
    } else {
        corpus.items[corpus.count++] = read_whole(path);
        seed = trial = "0";
    }
    if (trial)
        return run_one(&corpus, strtoull(seed, NULL, 0), strtoull(trial, NULL, 0), NULL);
    return session(&corpus, argv[0], path, test_is_long() ? 30 * seconds : seconds);
}
