// link: data storage base
// private: runtime/data
// tsan
/* From JSONL to a shard: what rows become, which are refused and how, that neither threads nor chunks show in it, and
 * that what was done before an end is not done again. */
#include "rows_case.h"
#include "watch_fs.h"

#include <pthread.h>
#include <unistd.h>

/* ---- what rows become */

/* Tokens as text, bos <, eos >; what is learned in capital letters. */
static void document_text(const struct shard_file *shard, uint64_t document, char *to)
{
    for (uint64_t i = shard->documents[document]; i < shard->documents[document + 1]; i++) {
        const uint32_t id = shard_file_token(shard, i);
        const int letter = id == DS_BYTE_BOS ? '<' : id == DS_BYTE_EOS ? '>' : (int)id;
        *to++ = (char)(shard->learned[i] && letter >= 'a' && letter <= 'z' ? letter - 32 : letter);
    }
    *to = '\0';
}

static void rows_become_documents_of_which_answers_are_learned(void **state)
{
    static const char *const wanted[] = {"<TEXT>", "<ask:ANSWER>", "<s\nu\nA>"};
    struct ds_prepare_report report = {0};
    struct shard_file shard;
    char *path = NULL, text[64];

    put_text(*state, "in.jsonl",
             "\xef\xbb\xbf{\"text\":\"text\"}\r\n\n{\"prompt\":\"ask:\",\"completion\":\"answer\", "
             "\"id\":7}\n{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\","
             "\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"a\"}]}");
    assert_ok(prepare_rows(*state, &plain_rows, 2, &path, &report));
    struct ds_safetensors *file = open_rows(*state, path, &shard);
    assert_int_equal(shard.document_count, 3);
    for (uint64_t i = 0; i < 3; i++) {
        document_text(&shard, i, text);
        assert_string_equal(text, wanted[i]);
        assert_true(shard.learned[shard.documents[i + 1] - 1]); /* the end */
    }
    assert_int_equal(report.documents, 3);
    assert_int_equal(report.learned, 5 + 7 + 2);
    ds_safetensors_close(file);
    free(path);
}

static void all_is_learned_on_request(void **state)
{
    struct ds_rows_options rows = plain_rows;
    struct ds_prepare_report report = {0};
    char *path = NULL;

    rows.train_on = DS_TRAIN_ON_ALL;
    put_text(*state, "in.jsonl", "{\"prompt\":\"ask:\",\"completion\":\"answer\"}\n");
    assert_ok(prepare_rows(*state, &rows, 1, &path, &report));
    assert_int_equal(report.tokens, 1 + 10 + 1);
    assert_int_equal(report.learned, 10 + 1); /* the first token is nobody's target */
    free(path);
}

/* ---- what is refused */

#define GOOD "{\"text\":\"good\"}\n"

static const struct {
    const char *line, *said;
} malformed[] = {
    {"{\"text\":\"a\"", "in.jsonl:3: not valid JSON: "},
    {"[1]",
     "in.jsonl:3: it must be a JSON object, {...}; mend the line, or have data.malformed = skip"},
    {"{\"text\":\"a\"} {}", "in.jsonl:3: not valid JSON: end of file expected"},
    {"{\"text\":\"\xff\"}", "in.jsonl:3: not valid JSON: unable to decode byte 0xff"},
    {"{\"text\":1}", "in.jsonl:3: 'text' must be a text"},
    {"{\"text\":\"\"}", "in.jsonl:3: 'text' is empty"},
    {"{\"text\":null}", "in.jsonl:3: 'text' must be a text"},
    {"{}",
     "in.jsonl:3: a row has 'text', 'prompt' and 'completion', or 'messages'; this one is empty"},
    {"{\"instruction\":\"a\"}", "'messages'; this one has 'instruction'"},
    {"{\"text\":\"a\",\"messages\":[]}",
     "in.jsonl:3: it has fields of several kinds of rows: data.rows says"},
    {"{\"prompt\":\"a\",\"completion\":\"\"}", "in.jsonl:3: 'completion' is empty"},
    {"{\"prompt\":\"a\",\"completion\":[]}",
     "'prompt' and 'completion' must be texts, or both lists"},
    {"{\"messages\":[]}", "in.jsonl:3: 'messages' is an empty conversation"},
    {"{\"messages\":{}}", "in.jsonl:3: 'messages' must be a list"},
    {"{\"messages\":[1]}", "in.jsonl:3: messages[0] must be an object"},
    {"{\"messages\":[{\"role\":\"human\",\"content\":\"a\"}]}",
     "in.jsonl:3: messages[0]: role 'human' is none of system, user, assistant, tool"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":null}]}",
     "messages[0]: 'content' must be a text"},
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[{}]}]}",
     "messages[0] has 'tool_calls', which is not known here"},
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\",\"weight\":0}]}",
     "messages[0] has 'weight', which is not known here"},
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}],\"tools\":[{}]}",
     "in.jsonl:3: it has 'tools', which is not known here"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
     "in.jsonl:3: no message is the assistant's"},
    {"{\"\x1b[31m\":1}", "in.jsonl:3: not valid JSON: "},
    {"{\"\\u001b[31m\":1}", "this one has '?[31m'"},
};

static void a_malformed_line_is_named(void **state)
{
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        char text[512];

        snprintf(text, sizeof text, GOOD "\n%s\n" GOOD, malformed[i].line);
        put_text(*state, "in.jsonl", text);
        assert_rows_refused(*state, &plain_rows, 1, malformed[i].said);
    }
}

/* Where data.rows says what rows are, a field that is not there is not one of another type. */
static void a_missing_field_is_named(void **state)
{
    static const struct {
        enum ds_row_kind kind;
        const char *line, *said;
    } rows_of[] = {
        {DS_ROW_TEXT, "{\"txt\":\"a\"}",
         "in.jsonl:1: it has no 'text', which data.rows says rows have; it has 'txt'"},
        {DS_ROW_TEXT, "{}", "it has no 'text', which data.rows says rows have; it is empty"},
        {DS_ROW_COMPLETION, "{\"prompt\":\"a\"}", "it has no 'completion', which data.rows says"},
        {DS_ROW_COMPLETION, "{\"completion\":\"a\"}", "it has no 'prompt', which data.rows says"},
        {DS_ROW_MESSAGES, "{\"text\":\"a\"}", "it has no 'messages', which data.rows says"},
    };

    for (size_t i = 0; i < sizeof rows_of / sizeof *rows_of; i++) {
        struct ds_rows_options rows = plain_rows;

        rows.kind = rows_of[i].kind;
        put_text(*state, "in.jsonl", rows_of[i].line);
        assert_rows_refused(*state, &rows, 1, rows_of[i].said);
    }
}

static void malformed_lines_are_left_out_and_counted_on_request(void **state)
{
    struct ds_rows_options rows = plain_rows;
    const size_t count = sizeof malformed / sizeof *malformed;
    struct ds_prepare_report report = {0};
    struct capture capture;
    char *path = NULL, text[8192] = GOOD, wanted[128];

    rows.skips_malformed = 1;
    for (size_t i = 0; i < count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s\n", malformed[i].line);
    strcat(text, GOOD);
    put_text(*state, "in.jsonl", text);
    snprintf(wanted, sizeof wanted, "%zu of %zu lines are left out", count, count + 2);
    for (int again = 0; again < 2; again++) { /* said of a shard that is there, too */
        capture_begin(&capture);
        assert_ok(prepare_rows(*state, &rows, 3, &path, &report));
        capture_end(&capture);
        assert_non_null(strstr(capture.text, wanted));
        assert_non_null(strstr(capture.text, "the first is line 2: not valid JSON"));
        free(path);
    }
    assert_int_equal(report.documents, 2 * 2);
    assert_int_equal(report.skipped, 2 * count);
    assert_int_equal(report.files_made, 1);
}

static void what_teaches_nothing_is_refused(void **state)
{
    static const char no_eos[] = "{\"added_tokens\":[],\"model\":{\"type\":\"BPE\",\"vocab\":{"
                                 "\"a\":0,\"b\":1},\"merges\":[]}}";
    struct ds_rows_options rows = plain_rows;
    struct ds_prepare_report report = {0};
    struct ds_prepare_options options = {.fs = *state, .cache = "cache"};
    struct ds_tokenizer *tokenizer = NULL;
    struct capture capture;
    char *path = NULL;

    put_text(*state, "in.jsonl", "{\"text\":\"ab\"}\n");
    assert_ok(ds_tokenizer_parse("t", no_eos, strlen(no_eos), &tokenizer));
    options.tokenizer = tokenizer;
    capture_begin(&capture);
    assert_int_equal(ds_prepare_rows(&options, &rows, "in.jsonl", &path, &report), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&capture),
                           "in.jsonl: no token that ends an answer is learned, so a model would "
                           "never stop: the tokenizer names no eos"));
    ds_tokenizer_close(tokenizer);
    put_text(*state, "in.jsonl", "\n \n");
    assert_rows_refused(*state, &rows, 1, "in.jsonl: there is no row to learn from");
    rows.skips_malformed = 1;
    put_text(*state, "in.jsonl", "{}\n");
    assert_rows_refused(*state, &rows, 1, "there is no row to learn from: a row has 'text'");
    rows.chat = DS_CHAT_AUTO;
    rows.skips_malformed = 0;
    rows.chat_why = "the folder has none";
    put_text(*state, "in.jsonl",
             GOOD "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}");
    assert_rows_refused(
        *state, &rows, 1,
        "in.jsonl:2: it has messages, and no chat template is known: the folder has none");
}

static void a_line_is_as_long_as_the_limit_at_most(void **state)
{
    static const size_t limits[] = {16, 300000, 600000}; /* around the pieces in which it is read */

    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        const size_t limit = limits[i];
        struct ds_rows_options rows = plain_rows;
        struct ds_prepare_report report = {0};
        char *line = malloc(limit + 64), *path = NULL, said[128];

        assert_non_null(line);
        rows.line_bytes_max = limit;
        for (size_t more = 0; more < 2; more++) {
            snprintf(line, limit + 64, GOOD "{\"text\":\"%0*d\"}\n" GOOD, (int)(limit - 11 + more),
                     7);
            put_text(*state, "in.jsonl", line);
            if (more == 0)
                assert_ok(prepare_rows(*state, &rows, 1, &path, &report));
        }
        snprintf(said, sizeof said, "in.jsonl:2: it is longer than data.line_limit = %zu bytes",
                 limit);
        assert_rows_refused(*state, &rows, 1, said);
        rows.skips_malformed = 1;
        free(path);
        assert_ok(prepare_rows(*state, &rows, 1, &path, &report));
        assert_int_equal(report.documents, 3 + 2);
        free(path);
        free(line);
    }
}

/* ---- chunks and threads */

static void *read_shard_bytes(struct ds_fs *fs, const char *path, size_t *bytes)
{
    char *text = NULL;

    assert_ok(ds_fs_read_file(fs, path, 1 << 26, &text, bytes));
    return text;
}

static void neither_chunks_nor_threads_show_in_a_shard(void **state)
{
    const struct ds_random random = ds_random_of(test_seed("test_rows"), DS_RANDOM_TEST, 1);
    char *text = draw_rows(random, 300), *wanted = NULL;
    size_t wanted_bytes = 0;

    put_text(*state, "in.jsonl", text);
    for (uint64_t trial = 0; trial < 12; trial++) {
        struct ds_rows_options rows = plain_rows;
        struct ds_prepare_report report = {0};
        char *path = NULL;
        size_t bytes = 0;

        rows.chunk_bytes =
            trial ? 1 + ds_random_below(random, 100000 + trial, trial < 6 ? 300 : 20000) : 0;
        assert_ok(prepare_rows(*state, &rows, 1 + (uint32_t)trial % 5, &path, &report));
        assert_int_equal(report.files_made, 1);
        char *got = read_shard_bytes(*state, path, &bytes);
        if (!wanted) {
            wanted = got;
            wanted_bytes = bytes;
        } else {
            assert_int_equal(bytes, wanted_bytes);
            assert_memory_equal(got, wanted, bytes);
            free(got);
        }
        assert_int_equal(ds_fs_unlink(*state, path), 0);
        free(path);
    }
    free(wanted);
    free(text);
}

/* Whoever reads it, the first wrong line of all is the one that is named. */
static void the_first_wrong_line_is_named_whatever_the_chunks(void **state)
{
    const struct ds_random random = ds_random_of(test_seed("test_rows"), DS_RANDOM_TEST, 2);

    for (uint64_t trial = 0; trial < 20; trial++) {
        const uint64_t first = 1 + ds_random_below(random, 3 * trial, 100);
        struct ds_rows_options rows = plain_rows;
        char text[8192] = "", said[64];

        for (uint64_t line = 1; line <= 120; line++)
            strcat(text, line == first || (line > first && line % 7 == 0) ? "{\"no\":1}\n" : GOOD);
        rows.chunk_bytes = 1 + ds_random_below(random, 3 * trial + 1, 400);
        put_text(*state, "in.jsonl", text);
        snprintf(said, sizeof said, "in.jsonl:%llu: a row has", (unsigned long long)first);
        assert_rows_refused(*state, &rows, 1 + (uint32_t)trial % 4, said);
    }
}

/* Two threads have a wrong row each; which of them finds it first does not matter. */
struct meeting {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int opened;       /* of the two files, by the threads */
    const char *late; /* the file that is read last */
};

static int meet(void *user, const char *what, const char *path)
{
    struct meeting *meeting = user;

    if (strcmp(what, "open") != 0 || !strstr(path, ".jsonl") || strstr(path, "cache"))
        return 0;
    pthread_mutex_lock(&meeting->lock);
    meeting->opened++;
    pthread_cond_broadcast(&meeting->changed);
    while (meeting->opened < 2)
        pthread_cond_wait(&meeting->changed, &meeting->lock);
    pthread_mutex_unlock(&meeting->lock);
    if (strcmp(path, meeting->late) == 0)
        ds_clock_sleep_ns(ds_clock_system(), 50000000);
    return 0;
}

static void of_two_wrong_lines_the_first_is_named_whoever_is_late(void **state)
{
    static const char *const late[] = {"in/a.jsonl", "in/b.jsonl"};

    assert_int_equal(ds_fs_mkdir(*state, "in", 0755), 0);
    put_text(*state, "in/a.jsonl", GOOD "{\"a\":1}\n");
    put_text(*state, "in/b.jsonl", "{\"b\":1}\n");
    for (int i = 0; i < 2; i++) {
        struct meeting meeting = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                  .changed = PTHREAD_COND_INITIALIZER,
                                  .late = late[i]};
        struct watch_fs watch = {
            .fs = {&watch_ops}, .inner = *state, .user = &meeting, .fails = meet};
        const struct ds_prepare_options options = {
            .fs = &watch.fs, .cache = "cache", .thread_count = 2};
        struct ds_prepare_report report = {0};
        struct capture capture;
        char *path = NULL;

        capture_begin(&capture);
        assert_int_equal(ds_prepare_rows(&options, &plain_rows, "in", &path, &report), DS_ERR_DATA);
        assert_non_null(strstr(capture_end(&capture), "in/a.jsonl:2: "));
        assert_int_equal(meeting.opened, 2);
    }
}

struct told {
    uint64_t done, calls, total;
};

static void note_progress(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
    struct told *told = user;

    assert_true(done_bytes >= told->done && done_bytes <= total_bytes);
    *told = (struct told){done_bytes, told->calls + 1, total_bytes};
}

static void progress_never_goes_back_and_ends_at_the_size_of_the_file(void **state)
{
    enum { ROWS = 20000 };
    struct told told = {0};
    const struct ds_prepare_options options = {.fs = *state,
                                               .cache = "cache",
                                               .thread_count = 3,
                                               .progress = note_progress,
                                               .user = &told};
    struct ds_prepare_report report = {0};
    char *text = malloc(ROWS * 128 + 1), *at = text, *path = NULL;

    assert_non_null(text);
    for (int i = 0; i < ROWS; i++)
        at += snprintf(at, 128, "{\"text\":\"%0100d\"}\n", i);
    put_text(*state, "in.jsonl", text); /* more than a piece of a chunk */
    assert_ok(ds_prepare_rows(&options, &plain_rows, "in.jsonl", &path, &report));
    assert_int_equal(told.done, strlen(text));
    assert_int_equal(told.total, strlen(text));
    assert_true(told.calls > 2);
    free(path);
    free(text);
}

/* ---- ended and begun again */

static size_t count_parts(struct ds_fs *fs)
{
    char **names = NULL, path[512];
    size_t count = 0, parts = 0;

    if (ds_fs_readdir(fs, "cache", &names, &count) != 0)
        return 0;
    for (size_t i = 0; i < count; i++) {
        char **inner = NULL;
        size_t inside = 0;
        snprintf(path, sizeof path, "cache/%s", names[i]);
        if (strstr(names[i], ".parts") && ds_fs_readdir(fs, path, &inner, &inside) == 0)
            for (size_t k = 0; k < inside; k++)
                parts += !strstr(inner[k], ".tmp") && strcmp(inner[k], "lock") != 0;
        free(inner);
    }
    free(names);
    return parts;
}

static size_t names_in_cache(struct ds_fs *fs)
{
    char **names = NULL;
    size_t count = 0;

    assert_int_equal(ds_fs_readdir(fs, "cache", &names, &count), 0);
    free(names);
    return count;
}

/* Each call that can fail does once. What was made before it is there when it is begun again, and what comes out is what
 * nobody disturbed. */
static void what_was_done_before_an_end_is_not_done_again(void **state)
{
    const struct ds_random random = ds_random_of(test_seed("test_rows"), DS_RANDOM_TEST, 3);
    char *text = draw_rows(random, 20), *path = NULL, *wanted, said[64];
    struct ds_rows_options rows = plain_rows;
    struct ds_prepare_report report = {0};
    size_t wanted_bytes = 0, reused = 0;
    int hit = 1;

    rows.chunk_bytes = strlen(text) / 3;
    put_text(*state, "in.jsonl", text);
    assert_ok(prepare_rows(*state, &rows, 1, &path, &report));
    wanted = read_shard_bytes(*state, path, &wanted_bytes);
    for (uint64_t fail_at = 1; hit; fail_at++) {
        struct ds_fs *fault = NULL;
        struct capture capture;
        char *shard = NULL;
        size_t bytes = 0;

        assert_int_equal(ds_fs_remove_tree(*state, "cache"), 0);
        assert_ok(ds_fs_fault_open(*state, fail_at, &fault));
        capture_begin(&capture);
        ds_status st = prepare_rows(fault, &rows, 1, &shard, &report);
        capture_end(&capture);
        hit = ds_fs_fault_hit(fault);
        free(shard);
        ds_fs_fault_close(fault);
        shard = NULL;
        const size_t parts = st == DS_OK ? 0 : count_parts(*state);
        capture_begin(&capture);
        assert_ok(prepare_rows(*state, &rows, 2, &shard, &report));
        capture_end(&capture);
        snprintf(said, sizeof said, "in.jsonl: %zu of ", parts);
        assert_true(parts == 0 || strstr(capture.text, said) ||
                    !strstr(capture.text, "parts were there")); /* the shard itself was */
        reused += parts;
        char *got = read_shard_bytes(*state, shard, &bytes);
        assert_int_equal(bytes, wanted_bytes);
        assert_memory_equal(got, wanted, bytes);
        assert_true(names_in_cache(*state) <=
                    2); /* of parts that could not be removed, their folder */
        free(got);
        free(shard);
    }
    assert_true(reused > 10);
    free(wanted);
    free(path);
    free(text);
}

/* A part that is damaged, or of other keys, is no part. */
static void a_damaged_part_is_made_again(void **state)
{
    const struct ds_random random = ds_random_of(test_seed("test_rows"), DS_RANDOM_TEST, 4);
    char *text = draw_rows(random, 60), *line = malloc(strlen(text) + 16), *path = NULL;
    struct ds_rows_options rows = plain_rows;
    struct ds_prepare_report report = {0};
    char **names = NULL, part[512] = "";
    size_t count = 0;

    assert_non_null(line);
    rows.chunk_bytes = strlen(text) / 4;
    snprintf(line, strlen(text) + 16, "%s{}\n",
             text); /* ends in the last chunk, the others are parts */
    put_text(*state, "in.jsonl", line);
    assert_rows_refused(*state, &rows, 1, "in.jsonl:61: a row has");
    assert_int_equal(ds_fs_readdir(*state, "cache", &names, &count), 0);
    for (size_t i = 0; i < count; i++)
        if (strstr(names[i], ".parts"))
            snprintf(part, sizeof part, "cache/%s/000000", names[i]);
    free(names);
    int file = ds_fs_open(*state, part, DS_FS_WRITE, 0);
    assert_true(file >= 0);
    assert_int_equal(ds_fs_write_all(*state, file, "\x55\x55", 2, 600), 0);
    assert_int_equal(ds_fs_close(*state, file), 0);
    rows.skips_malformed = 1; /* other keys: nothing of it counts */
    assert_ok(prepare_rows(*state, &rows, 2, &path, &report));
    assert_int_equal(report.skipped, 1);
    free(path);
    rows.skips_malformed = 0;
    assert_rows_refused(*state, &rows, 1, "in.jsonl:61: a row has"); /* and the same again */
    free(line);
    free(text);
}

/* Parts of other chunks are others, though they have the same names. */
static void parts_of_other_chunks_are_not_taken(void **state)
{
    const struct ds_random random = ds_random_of(test_seed("test_rows"), DS_RANDOM_TEST, 5);
    char *text = draw_rows(random, 60), *line = malloc(strlen(text) + 16);
    struct ds_rows_options rows = plain_rows;
    struct ds_prepare_report report = {0};
    char *shard = NULL, *wanted, *got;
    size_t wanted_bytes = 0, bytes = 0;

    snprintf(line, strlen(text) + 16, "%s{\"text\":1}\n", text);
    put_text(*state, "in.jsonl", text);
    assert_ok(prepare_rows(*state, &rows, 1, &shard, &report));
    put_text(*state, "in.jsonl", line);
    rows.chunk_bytes = strlen(text) / 4;
    assert_rows_refused(*state, &rows, 1, "in.jsonl:61: 'text' must be a text");
    assert_true(count_parts(*state) > 2);
    rows.chunk_bytes = strlen(text) / 3;
    assert_rows_refused(*state, &rows, 1, "in.jsonl:61: 'text' must be a text");
    wanted = read_shard_bytes(*state, shard, &wanted_bytes);
    free(shard);
    rows.chunk_bytes = strlen(text) / 5;
    put_text(*state, "in.jsonl", text);
    assert_ok(prepare_rows(*state, &rows, 1, &shard, &report));
    got = read_shard_bytes(*state, shard, &bytes);
    assert_int_equal(bytes, wanted_bytes); /* but for the fingerprint: the file has another time */
    free(got);
    free(wanted);
    free(shard);
    free(line);
    free(text);
}

/* ---- several launches at once */

enum { LAUNCHES = 4 };

static struct {
    char folder[64], source[96], cache[96];
    uint32_t made[LAUNCHES];
    ds_status status[LAUNCHES];
} launches;

static void *launch(void *arg)
{
    const size_t number = (size_t)(uintptr_t)arg;
    struct ds_rows_options rows = plain_rows;
    const struct ds_prepare_options options = {
        .fs = ds_fs_posix(), .cache = launches.cache, .thread_count = 2};
    struct ds_prepare_report report = {0};
    char *path = NULL;

    rows.chunk_bytes = 4000;
    launches.status[number] = ds_prepare_rows(&options, &rows, launches.source, &path, &report);
    launches.made[number] = report.files_made;
    free(path);
    return NULL;
}

static void of_launches_that_want_the_same_one_makes_it(void **state)
{
    const struct ds_random random = ds_random_of(test_seed("test_rows"), DS_RANDOM_TEST, 6);
    char *text = draw_rows(random, 500), **names = NULL;
    pthread_t threads[LAUNCHES];
    struct capture capture;
    uint32_t made = 0;
    size_t count = 0;

    (void)state;
    strcpy(launches.folder, "/tmp/dstrain-test-XXXXXX");
    assert_non_null(mkdtemp(launches.folder));
    snprintf(launches.source, sizeof launches.source, "%s/in.jsonl", launches.folder);
    snprintf(launches.cache, sizeof launches.cache, "%s/cache", launches.folder);
    put_text(ds_fs_posix(), launches.source, text);
    capture_begin(&capture);
    for (size_t i = 0; i < LAUNCHES; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, launch, (void *)(uintptr_t)i), 0);
    for (size_t i = 0; i < LAUNCHES; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    capture_end(&capture);
    for (size_t i = 0; i < LAUNCHES; i++) {
        assert_int_equal(launches.status[i], DS_OK);
        made += launches.made[i];
    }
    assert_int_equal(made, 1);
    assert_int_equal(ds_fs_readdir(ds_fs_posix(), launches.cache, &names, &count), 0);
    assert_int_equal(count, 1);
    free(names);
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), launches.folder), 0);
    free(text);
}

/* ---- when it is made again */

static uint32_t made(struct ds_fs *fs, const struct ds_rows_options *rows)
{
    struct ds_prepare_report report = {0};
    char *path = NULL;

    assert_ok(prepare_rows(fs, rows, 1, &path, &report));
    free(path);
    return report.files_made;
}

static void what_has_not_changed_is_used_again_and_what_has_is_not(void **state)
{
    struct ds_rows_options rows = plain_rows;

    put_text(*state, "in.jsonl", GOOD);
    assert_int_equal(made(*state, &rows), 1);
    assert_int_equal(made(*state, &rows), 0);
    rows.train_on = DS_TRAIN_ON_ALL;
    assert_int_equal(made(*state, &rows), 1);
    rows.kind = DS_ROW_TEXT;
    assert_int_equal(made(*state, &rows), 1);
    rows.chat = DS_CHAT_CUSTOM;
    rows.texts = (struct ds_chat_texts){"", "", "{content}", "{content}", "", ""};
    assert_int_equal(made(*state, &rows), 1);
    rows.texts.end = "x{eos}";
    assert_int_equal(made(*state, &rows), 1);
    assert_int_equal(made(*state, &rows), 0);
    put_text(*state, "in.jsonl", GOOD);
    assert_int_equal(made(*state, &rows), 1);
}

static void of_a_folder_its_jsonl_files_are_read(void **state)
{
    const struct ds_prepare_options options = {.fs = *state, .cache = "cache"};
    struct ds_prepare_report report = {0};
    struct capture capture;
    char *path = NULL;

    assert_int_equal(ds_fs_mkdir(*state, "in", 0755), 0);
    put_text(*state, "in/README", "no rows");
    capture_begin(&capture);
    assert_int_equal(ds_prepare_rows(&options, &plain_rows, "in", &path, &report), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&capture), "in: no *.jsonl file in this directory"));
    put_text(*state, "in/b.jsonl", GOOD GOOD);
    put_text(*state, "in/a.jsonl", GOOD "{}\n");
    capture_begin(&capture);
    assert_int_equal(ds_prepare_rows(&options, &plain_rows, "in", &path, &report), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&capture), "in/a.jsonl:2: a row has"));
    put_text(*state, "in/a.jsonl", GOOD);
    assert_ok(ds_prepare_rows(&options, &plain_rows, "in", &path, &report));
    assert_int_equal(report.documents, 3);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DISK(rows_become_documents_of_which_answers_are_learned),
        ON_DISK(all_is_learned_on_request),
        ON_DISK(a_malformed_line_is_named),
        ON_DISK(a_missing_field_is_named),
        ON_DISK(malformed_lines_are_left_out_and_counted_on_request),
        ON_DISK(what_teaches_nothing_is_refused),
        ON_DISK(a_line_is_as_long_as_the_limit_at_most),
        ON_DISK(neither_chunks_nor_threads_show_in_a_shard),
        ON_DISK(the_first_wrong_line_is_named_whatever_the_chunks),
        ON_DISK(of_two_wrong_lines_the_first_is_named_whoever_is_late),
        ON_DISK(progress_never_goes_back_and_ends_at_the_size_of_the_file),
        ON_DISK(what_was_done_before_an_end_is_not_done_again),
        ON_DISK(a_damaged_part_is_made_again),
        ON_DISK(parts_of_other_chunks_are_not_taken),
        cmocka_unit_test(of_launches_that_want_the_same_one_makes_it),
        ON_DISK(what_has_not_changed_is_used_again_and_what_has_is_not),
        ON_DISK(of_a_folder_its_jsonl_files_are_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
