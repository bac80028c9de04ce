/* test_run_dir.c - the directory of a run is there whole or not at all, and belongs to one run. */
// link: launch
// private: launch
#include "capture.h"
#include "run_dir.h"
#include "test.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#define GOOD                                                                                       \
    "[run]\ndir = a/b/r\n[model]\nhidden_size = 64\nintermediate_size = 128\nnum_hidden_layers = " \
    "2\n"                                                                                          \
    "num_attention_heads = 4\n[data]\ntrain = a.txt\n[train]\nsteps = 10\nglobal_batch_size = 8\n" \
    "seq_length = 32\n"

static void make_config(struct ds_config *config, const char *const *overrides, size_t count)
{

    assert_ok(ds_config_parse("c.ini", GOOD, strlen(GOOD), overrides, count, config));
    ds_config_resolve(config, 4);
}

/* equal in every key, as read back from the directory */
static void assert_holds(struct ds_fs *fs, const struct ds_config *config)
{
    struct ds_config there;
    char path[DS_RUN_PATH_BYTES], *text;
    struct ds_fs_stat stat;
    size_t bytes;

    snprintf(path, sizeof path, "%s/config.ini", config->run.dir);
    assert_ok(ds_fs_read_file(fs, path, 1 << 20, &text, &bytes));
    assert_ok(ds_config_parse(path, text, bytes, NULL, 0, &there));
    ds_config_resolve(&there, 4);
    assert_memory_equal(&there, config, offsetof(struct ds_config, places));
    free(text);
    snprintf(path, sizeof path, "%s/log", config->run.dir);
    assert_int_equal(ds_fs_stat(fs, path, &stat), 0);
    assert_true(stat.is_directory);
    snprintf(path, sizeof path, "%s/incidents", config->run.dir);
    assert_int_equal(ds_fs_stat(fs, path, &stat), 0);
}

/* one launch after the other; `loads`: it comes as far as its first step */
static ds_status launch(struct ds_fs *fs, const struct ds_config *config, int loads)
{
    struct ds_run_files files;
    ds_status st = ds_run_dir_prepare(fs, ds_clock_system(), config, &files);

    assert_true((files.lock >= 0) == (st == DS_OK));
    if (st == DS_OK && loads)
        st = ds_run_dir_store(fs, config, config, &files.inputs);
    ds_run_dir_close(fs, config, &files, 0);
    return st;
}

static ds_status prepare(struct ds_fs *fs, const struct ds_config *config)
{
    return launch(fs, config, 1);
}

/* a step has left its numbers */
static void make_step(struct ds_fs *fs, const struct ds_config *config)
{
    char path[DS_RUN_PATH_BYTES];

    snprintf(path, sizeof path, "%s/metrics.jsonl", config->run.dir);
    assert_ok(ds_fs_write_file(fs, path, "{}\n", 3));
}

static size_t entries(struct ds_fs *fs, const char *path)
{
    char **names;
    size_t count = 0;

    assert_int_equal(ds_fs_readdir(fs, path, &names, &count), 0);
    free(names);
    return count;
}

static void a_run_is_made_once_and_gone_on_with(void **state)
{
    static const char *const other[] = {"train.steps=20", "parallel.shard=2", "run.device=cpu",
                                        "log.interval=7"};
    struct ds_config config, first;
    struct ds_fs *fs;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    make_config(&config, NULL, 0);
    assert_ok(prepare(fs, &config));
    assert_holds(fs, &config);
    assert_int_equal(entries(fs, "a/b/r"), 5);
    assert_ok(prepare(fs, &config));
    assert_holds(fs, &config);
    first = config;
    make_config(&config, other, 4); /* keys that may change */
    assert_ok(launch(fs, &config, 0));
    assert_holds(fs, &first);
    assert_ok(prepare(fs, &config));
    assert_holds(fs, &config);
    ds_fs_sim_crash(fs, 1); /* all of it was made durable */
    assert_holds(fs, &config);
    ds_fs_sim_close(fs);
}

/* what the stored configuration makes of parallel.data and shard on so many ranks */
static void stored_layout(struct ds_fs *fs, uint64_t rank_count, uint64_t *data, uint64_t *shard)
{
    struct ds_config there;
    size_t bytes;
    char *text;

    assert_ok(ds_fs_read_file(fs, "a/b/r/config.ini", 1 << 20, &text, &bytes));
    assert_ok(ds_config_parse("stored", text, bytes, NULL, 0, &there));
    ds_config_resolve(&there, rank_count);
    assert_ok(ds_config_validate(&there, DS_CONFIG_TRAIN, rank_count));
    *data = there.parallel.data;
    *shard = there.parallel.shard;
    free(text);
}

static void what_ranks_decide_is_stored_as_it_was_written(void **state)
{
    static const char *const written[] = {"parallel.shard=2"};
    struct ds_config config;
    uint64_t data, shard;
    struct ds_fs *fs;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    make_config(&config, NULL, 0); /* on 4 ranks */
    assert_int_equal(config.parallel.data, 4);
    assert_ok(prepare(fs, &config));
    stored_layout(fs, 2, &data, &shard);
    assert_int_equal(data, 2);
    assert_int_equal(shard, 2);
    make_config(&config, written, 1);
    assert_ok(prepare(fs, &config));
    stored_layout(fs, 8, &data, &shard);
    assert_int_equal(data, 8);
    assert_int_equal(shard, 2);
    ds_fs_sim_close(fs);
}

/* The key stays as it was written, for others may have other room; what it came to stands beside it. */
static void what_the_plan_has_chosen_is_a_remark(void **state)
{
    static const char *const written[] = {"offload.exp_avg=auto", "offload.grads=host"};
    struct ds_config config, settled;
    struct ds_run_files files;
    struct ds_fs *fs;
    size_t bytes;
    char *text;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    make_config(&config, written, 2);
    settled = config;
    settled.offload.exp_avg = (struct ds_home_key){DS_HOME_HOST, 0.25};
    assert_ok(ds_run_dir_prepare(fs, ds_clock_system(), &config, &files));
    assert_ok(ds_run_dir_store(fs, &config, &settled, &files.inputs));
    ds_run_dir_close(fs, &config, &files, 0);
    assert_ok(ds_fs_read_file(fs, "a/b/r/config.ini", 1 << 20, &text, &bytes));
    assert_non_null(strstr(text, "\n# offload.exp_avg = host:0.25\n\n"));
    assert_non_null(strstr(text, "\nexp_avg = auto\n"));
    assert_null(strstr(text, "# offload.grads"));
    free(text);
    assert_ok(prepare(fs, &config)); /* it is still ours, and the same run */
    ds_fs_sim_close(fs);
}

static void another_run_is_refused_with_the_keys_that_differ(void **state)
{
    static const char *const other[] = {"model.hidden_size=128", "run.seed=2", "data.train=b.txt",
                                        "train.steps=5"};
    static const char *const folder[] = {"optimizer.learning_rate=1e-3"};
    struct ds_config config, mine;
    struct capture capture;
    struct ds_fs *fs;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    make_config(&mine, NULL, 0);
    assert_ok(prepare(fs, &mine));
    make_step(fs, &mine);
    make_config(&config, other, 4);
    capture_begin(&capture);
    assert_int_equal(prepare(fs, &config), DS_ERR_CONFIG);
    assert_string_equal(
        capture_end(&capture),
        "dstrain: error: c.ini:2: run.dir: a/b/r: holds another run; it differs in [run] seed = 2 "
        "(command line, there 1), [model] hidden_size = 128 (command line, there 64), [model] "
        "head_dim = 32 (there 16), [data] train = 'b.txt' (command line, there 'a.txt'); take that "
        "back, or name another folder");
    make_config(&config, folder, 1);
    capture_begin(&capture);
    assert_int_equal(prepare(fs, &config), DS_ERR_CONFIG);
    assert_string_equal(
        capture_end(&capture),
        "dstrain: error: c.ini:2: run.dir: a/b/r: holds another run; it differs in [optimizer] "
        "learning_rate = 0.001 (command line, there 0.0003); take that back, or name another "
        "folder");
    assert_holds(fs, &mine);
    ds_fs_sim_close(fs);
}

/* ---- what a run reads */

static void write_text(struct ds_fs *fs, const char *path, const char *text)
{
    assert_ok(ds_fs_write_file(fs, path, text, strlen(text)));
}

/* A run with a step that has read a.txt and a folder, the latter as half of its samples. */
static void make_fed_run(struct ds_fs **fs)
{
    static const char *const fed[] = {"data.train=a.txt, d:0.5", "data.tokenizer=bytes"};
    struct ds_config config;

    assert_ok(ds_fs_sim_open(fs));
    assert_int_equal(ds_fs_mkdir(*fs, "d", 0750), 0);
    assert_int_equal(ds_fs_mkdir(*fs, "moved", 0750), 0);
    write_text(*fs, "a.txt", "some text");
    write_text(*fs, "d/1", "one");
    write_text(*fs, "d/2", "two");
    make_config(&config, fed, 2);
    assert_ok(prepare(*fs, &config));
    make_step(*fs, &config);
}

/* with this value of data.train; the names by which its checkpoints know it, or "" where it is refused */
static const char *go_on_with(struct ds_fs *fs, const char *train, char first[DS_TEXT_MAX],
                              struct capture *capture)
{
    char override[DS_TEXT_MAX];
    const char *const overrides[] = {override, "data.tokenizer=bytes"};
    struct ds_run_files files;
    struct ds_config config, named;

    snprintf(override, sizeof override, "data.train=%s", train);
    make_config(&config, overrides, 2);
    first[0] = '\0';
    capture_begin(capture);
    ds_status st = ds_run_dir_prepare(fs, ds_clock_system(), &config, &files);
    if (st == DS_OK) {
        ds_inputs_name(&files.inputs, &config, &named);
        strcpy(first, named.data.train);
        st = ds_run_dir_store(fs, &config, &config, &files.inputs);
    }
    assert_int_equal(st, first[0] ? DS_OK : DS_ERR_CONFIG);
    ds_run_dir_close(fs, &config, &files, 0);
    return capture_end(capture);
}

static void files_that_are_named_otherwise_or_moved_are_the_same(void **state)
{
    static const char *const same[] = {"./a.txt,d/:0.5", "moved/b.txt, moved/d:0.5",
                                       "moved/b.txt , ./moved/d:0.50", "a.txt, d:0.5"};
    char first[DS_TEXT_MAX];
    struct capture capture;
    struct ds_fs *fs;

    (void)state;
    make_fed_run(&fs);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        if (i == 1 || i == 3) {
            assert_int_equal(ds_fs_rename(fs, i == 1 ? "a.txt" : "moved/b.txt",
                                          i == 1 ? "moved/b.txt" : "a.txt"),
                             0);
            assert_int_equal(ds_fs_rename(fs, i == 1 ? "d" : "moved/d", i == 1 ? "moved/d" : "d"),
                             0);
        }
        assert_string_equal(go_on_with(fs, same[i], first, &capture), "");
        assert_string_equal(first, "a.txt, d:0.5"); /* that of RUN.json */
    }
    ds_fs_sim_close(fs);
}

static void other_content_is_another_run(void **state)
{
    static const struct {
        const char *train, *said;
    } others[] = {
        {"b.txt, d:0.5", "there 'a.txt, d:0.5', which held something else)"},
        {"a.txt, d:0.25", "held something else"}, /* another share of the samples */
        {"d:0.5, a.txt", "held something else"},  /* samples in another order */
        {"a.txt, e:0.5", "held something else"},  /* a border between files lies elsewhere */
        {"a.txt", "held something else"},
        {"none.txt, d:0.5",
         "'none.txt, d:0.5', which is not there (command line, there 'a.txt, d:0.5')"},
    };
    char first[DS_TEXT_MAX];
    struct capture capture;
    struct ds_fs *fs;

    (void)state;
    make_fed_run(&fs);
    write_text(fs, "b.txt", "some tent");
    assert_int_equal(ds_fs_mkdir(fs, "e", 0750), 0);
    write_text(fs, "e/1", "onet");
    write_text(fs, "e/2", "wo");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_non_null(strstr(go_on_with(fs, others[i].train, first, &capture), others[i].said));
    assert_string_equal(go_on_with(fs, "./a.txt, d:0.5", first, &capture), "");
    ds_fs_sim_close(fs);
}

/* Nobody asked for another run, and the samples are others from here on: both are said. */
static void other_content_under_the_same_name_is_said(void **state)
{
    char first[DS_TEXT_MAX];
    struct capture capture;
    struct ds_fs *fs;

    (void)state;
    make_fed_run(&fs);
    write_text(fs, "d/2", "three");
    assert_non_null(
        strstr(go_on_with(fs, "a.txt, d:0.5", first, &capture),
               "command line: [data] train = a.txt, d:0.5: does not hold what it held"));
    assert_string_equal(go_on_with(fs, "a.txt, d:0.5", first, &capture), ""); /* once */
    ds_fs_sim_close(fs);
}

/* As where an older program wrote them. */
static void without_a_record_names_count(void **state)
{
    static const char *const left[] = {"", "{", "{\"data.train\": {\"content\": \"0\"}}"};
    char first[DS_TEXT_MAX];
    struct capture capture;
    struct ds_fs *fs;

    (void)state;
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        make_fed_run(&fs);
        if (left[i][0])
            write_text(fs, "a/b/r/inputs.json", left[i]);
        else
            assert_int_equal(ds_fs_unlink(fs, "a/b/r/inputs.json"), 0);
        assert_non_null(strstr(go_on_with(fs, "./a.txt, d:0.5", first, &capture),
                               "(command line, there 'a.txt, d:0.5');"));
        go_on_with(fs, "a.txt, d:0.5", first, &capture);
        assert_string_equal(first, "a.txt, d:0.5");
        assert_string_equal(go_on_with(fs, "./a.txt, d:0.5", first, &capture), "");
        ds_fs_sim_close(fs);
    }
}

/* How states are stored may change; what rounds every step, on one rank, too, is part of the run. */
static void precision_of_states_may_change_that_of_arithmetic_may_not(void **state)
{
    static const char *const there[] = {"precision.compute=bf16"};
    static const char *const states[] = {"precision.compute=bf16", "precision.master=none",
                                         "precision.exp_avg=bf16", "precision.exp_avg_sq=bf16",
                                         "precision.gradients=bf16"};
    static const char *const reduce[] = {"precision.compute=bf16", "precision.reduce=bf16"};
    struct ds_config config;
    struct capture capture;
    struct ds_fs *fs;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    make_config(&config, there, 1);
    assert_ok(prepare(fs, &config));
    make_step(fs, &config);
    make_config(&config, states, 5);
    assert_ok(prepare(fs, &config));
    make_config(&config, reduce, 2);
    capture_begin(&capture);
    assert_int_equal(prepare(fs, &config), DS_ERR_CONFIG);
    assert_non_null(strstr(capture_end(&capture),
                           "it differs in [precision] reduce = bf16 (command line, there fp32)"));
    make_config(&config, NULL, 0);
    capture_begin(&capture);
    assert_int_equal(prepare(fs, &config), DS_ERR_CONFIG);
    assert_non_null(
        strstr(capture_end(&capture), "it differs in [precision] compute = fp32 (there bf16)"));
    ds_fs_sim_close(fs);
}

/* What a launch that was refused has made goes again, up to the directories; nothing else does. */
static void a_refused_launch_takes_away_what_it_has_made(void **state)
{
    static const char *const dirs[] = {"run.dir=a/b/r", "run.dir=a/b//r/", "run.dir=a/r"};
    struct ds_run_files files;
    struct ds_config config;
    struct ds_fs_stat stat;
    struct ds_fs *fs;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    assert_int_equal(ds_fs_mkdir(fs, "a", 0750), 0);
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        make_config(&config, &dirs[i], 1);
        assert_ok(ds_run_dir_prepare(fs, ds_clock_system(), &config, &files));
        assert_holds(fs, &config);
        assert_int_equal(ds_fs_mkdir(fs, i == 2 ? "a/r/data" : "a/b/r/data", 0750), 0);
        ds_run_dir_close(fs, &config, &files, 1);
        assert_int_equal(entries(fs, "a"), 0);
    }
    assert_int_equal(ds_fs_stat(fs, "a", &stat), 0);
    assert_int_equal(ds_fs_sim_open_files(fs), 0);
    ds_fs_sim_close(fs);
}

/* left: what is there after a refused launch, if `path` was made meanwhile */
static void assert_left(const char *path, const char *const *left, size_t count)
{
    struct ds_run_files files;
    struct ds_config config;
    struct ds_fs_stat stat;
    struct ds_fs *fs;
    char at[96];

    assert_ok(ds_fs_sim_open(&fs));
    make_config(&config, NULL, 0);
    assert_ok(ds_run_dir_prepare(fs, ds_clock_system(), &config, &files));
    assert_int_equal(ds_fs_mkdirs(fs, "a/b/r/data", 0750), 0);
    assert_ok(ds_fs_write_file(fs, path, "{}\n", 3));
    ds_run_dir_close(fs, &config, &files, 1);
    assert_int_equal(entries(fs, "a/b/r"), count);
    for (size_t i = 0; i < count; i++) {
        snprintf(at, sizeof at, "a/b/r/%s", left[i]);
        assert_int_equal(ds_fs_stat(fs, at, &stat), 0);
    }
    ds_fs_sim_close(fs);
}

static void what_is_worth_something_stays_after_a_refused_launch(void **state)
{
    static const char *const data[] = {"data/t.safetensors"}, *const mine[] = {"notes"};
    static const char *const all[] = {"config.ini", "lock", "log",
                                      "incidents",  "data", "metrics.jsonl"};

    (void)state;
    assert_left("a/b/r/data/t.safetensors", data, 1);
    assert_left("a/b/r/notes", mine, 1);
    assert_left("a/b/r/metrics.jsonl", all, 6);
    assert_left("a/b/r/incidents/I-0.json", all, 5);
}

/* It was there before: not this launch's to take. */
static void a_refused_launch_leaves_an_earlier_run(void **state)
{
    struct ds_run_files files;
    struct ds_config config;
    struct ds_fs *fs;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    make_config(&config, NULL, 0);
    assert_ok(prepare(fs, &config));
    assert_ok(ds_run_dir_prepare(fs, ds_clock_system(), &config, &files));
    ds_run_dir_close(fs, &config, &files, 1);
    assert_holds(fs, &config);
    ds_fs_sim_close(fs);
}

static void a_run_without_a_step_claims_nothing(void **state)
{
    static const char *const other[] = {"data.train=b.txt", "run.seed=2"};
    struct ds_config config;
    struct ds_fs *fs;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    make_config(&config, NULL, 0);
    assert_ok(prepare(fs, &config));
    make_config(&config, other, 2);
    assert_ok(prepare(fs, &config));
    assert_holds(fs, &config);
    ds_fs_sim_close(fs);
}

static void a_second_launch_is_refused_while_the_first_is_at_work(void **state)
{
    struct ds_config config;
    struct capture capture;
    struct ds_fs *fs;
    struct ds_run_files first, second;
    struct ds_clock_manual time;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    make_config(&config, NULL, 0);
    assert_ok(ds_run_dir_prepare(fs, ds_clock_system(), &config, &first));
    ds_clock_manual_init(&time);
    capture_begin(&capture);
    assert_int_equal(ds_run_dir_prepare(fs, &time.clock, &config, &second), DS_ERR_FENCED);
    const char *said = capture_end(&capture);
    assert_non_null(strstr(said, "run.dir: a/b/r: another launch is at work there (process "));
    assert_null(strchr(said, '\n'));
    assert_holds(fs, &config);
    ds_run_dir_close(fs, &config, &second, 1); /* not its run to take away */
    assert_holds(fs, &config);
    ds_run_dir_close(fs, &config, &first, 0);
    assert_ok(prepare(fs, &config));
    ds_fs_sim_close(fs);
}

/* The first one ends while the second one waits. */
struct ending {
    struct ds_fs *fs;
    struct ds_config config;
    struct ds_run_files first;
    uint64_t now_ns;
};

static uint64_t now_of(void *self)
{
    return ((struct ending *)self)->now_ns;
}

static void sleep_and_end(void *self, uint64_t ns)
{
    struct ending *e = self;

    e->now_ns += ns;
    if (e->first.lock >= 0 && e->now_ns >= 1000000000u)
        ds_run_dir_close(e->fs, &e->config, &e->first, 0);
}

static void a_launch_that_is_being_ended_is_waited_for(void **state)
{
    struct ending e = {.now_ns = 0};
    const struct ds_clock clock = {now_of, now_of, sleep_and_end, &e};
    struct ds_run_files second;

    (void)state;
    assert_ok(ds_fs_sim_open(&e.fs));
    make_config(&e.config, NULL, 0);
    assert_ok(ds_run_dir_prepare(e.fs, ds_clock_system(), &e.config, &e.first));
    assert_ok(ds_run_dir_prepare(e.fs, &clock, &e.config, &second));
    ds_run_dir_close(e.fs, &e.config, &second, 0);
    ds_fs_sim_close(e.fs);
}

static void a_config_that_a_person_wrote_stays(void **state)
{
    static const char mine[] = "# my notes\n" GOOD;
    struct ds_config config;
    struct ds_fs *fs;
    char *text;
    size_t bytes;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    assert_int_equal(ds_fs_mkdirs(fs, "a/b/r", 0750), 0);
    assert_ok(ds_fs_write_file(fs, "a/b/r/config.ini", mine, sizeof mine - 1));
    make_config(&config, NULL, 0);
    assert_ok(prepare(fs, &config));
    assert_ok(ds_fs_read_file(fs, "a/b/r/config.ini", 1 << 20, &text, &bytes));
    assert_string_equal(text, mine);
    free(text);
    ds_fs_sim_close(fs);
}

/* Fail the 1st, 2nd, 3rd ... call: either a whole run or what was there before. */
static void fail_each_call(int has_parent, int has_dir)
{
    struct ds_config config;
    uint64_t fail_at;
    int hit = 1;

    make_config(&config, NULL, 0);
    for (fail_at = 1; hit; fail_at++) {
        struct ds_fs *disk, *faulty;
        struct ds_fs_stat stat;
        struct capture capture;

        assert_true(fail_at < 100);
        assert_ok(ds_fs_sim_open(&disk));
        if (has_parent || has_dir)
            assert_int_equal(ds_fs_mkdirs(disk, has_dir ? "a/b/r" : "a", 0750), 0);
        assert_ok(ds_fs_fault_open(disk, fail_at, &faulty));
        capture_begin(&capture);
        ds_status st = launch(faulty, &config, 0);
        capture_end(&capture);
        hit = ds_fs_fault_hit(faulty);
        if (st == DS_OK)
            assert_holds(disk, &config);
        else if (has_dir)
            assert_int_equal(entries(disk, "a/b/r"), 0);
        else if (has_parent)
            assert_int_equal(entries(disk, "a"), 0);
        else
            assert_int_equal(ds_fs_stat(disk, "a", &stat), -2);
        assert_true(st == DS_OK || hit);
        assert_int_equal(ds_fs_sim_open_files(disk), 0);
        ds_fs_fault_close(faulty);
        ds_fs_sim_close(disk);
    }
    assert_true(fail_at > 8);
}

static void a_failure_leaves_nothing_half_made(void **state)
{
    (void)state;
    fail_each_call(0, 0);
    fail_each_call(1, 0);
    fail_each_call(0, 1);
}

static void a_failure_leaves_the_run_that_was_there(void **state)
{
    static const char *const other[] = {"log.interval=7"};
    struct ds_config before, after;
    uint64_t fail_at;
    int hit = 1;

    (void)state;
    make_config(&before, NULL, 0);
    make_config(&after, other, 1);
    for (fail_at = 1; hit; fail_at++) {
        struct ds_fs *disk, *faulty;
        struct capture capture;

        assert_true(fail_at < 100);
        assert_ok(ds_fs_sim_open(&disk));
        assert_ok(prepare(disk, &before));
        make_step(disk, &before);
        assert_ok(ds_fs_fault_open(disk, fail_at, &faulty));
        capture_begin(&capture);
        ds_status st = prepare(faulty, &after);
        capture_end(&capture);
        hit = ds_fs_fault_hit(faulty);
        assert_int_equal(entries(disk, "a/b/r"), 6); /* no .tmp */
        struct ds_config there;
        char *text;
        size_t bytes;
        assert_ok(ds_fs_read_file(disk, "a/b/r/config.ini", 1 << 20, &text, &bytes));
        assert_ok(ds_config_parse("there", text, bytes, NULL, 0, &there));
        ds_config_resolve(&there, 4);
        assert_true(memcmp(&there, &before, offsetof(struct ds_config, places)) == 0 ||
                    memcmp(&there, &after, offsetof(struct ds_config, places)) == 0);
        if (st == DS_OK)
            assert_memory_equal(&there, &after, offsetof(struct ds_config, places));
        free(text);
        ds_fs_fault_close(faulty);
        ds_fs_sim_close(disk);
    }
    assert_true(fail_at > 5);
}

/* ---- on the real disk: owner and mode */

static void directories_that_are_not_ours_are_refused(void **state)
{
    char dir[] = "/tmp/dstrain_run_XXXXXX", override[64], said[256], path[64];
    const char *overrides[] = {override};
    struct ds_config config;
    struct capture capture;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(override, sizeof override, "run.dir=%s", dir);
    make_config(&config, overrides, 1);
    assert_int_equal(chmod(dir, 0777), 0);
    capture_begin(&capture);
    assert_int_equal(prepare(ds_fs_posix(), &config), DS_ERR_CONFIG);
    snprintf(said, sizeof said,
             "dstrain: error: command line: run.dir: %s: everybody may write there (mode "
             "0777), so anybody could change what the run writes and reads; chmod o-w",
             dir);
    assert_string_equal(capture_end(&capture), said);
    assert_int_equal(chmod(dir, 0750), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(dir, 12345, (gid_t)-1), 0);
        capture_begin(&capture);
        assert_int_equal(prepare(ds_fs_posix(), &config), DS_ERR_CONFIG);
        snprintf(said, sizeof said,
                 "dstrain: error: command line: run.dir: %s: belongs to user 12345, this is user 0",
                 dir);
        assert_string_equal(capture_end(&capture), said);
        assert_int_equal(chown(dir, 0, (gid_t)-1), 0);
    }
    assert_ok(prepare(ds_fs_posix(), &config));
    snprintf(path, sizeof path, "%s/config.ini", dir);
    snprintf(config.run.dir, sizeof config.run.dir, "%s", path);
    capture_begin(&capture);
    assert_int_equal(prepare(ds_fs_posix(), &config), DS_ERR_CONFIG);
    snprintf(said, sizeof said, "dstrain: error: command line: run.dir: %s: not a directory", path);
    assert_string_equal(capture_end(&capture), said);
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), dir), 0);
}

static void a_place_that_cannot_be_written_is_a_mistake_of_the_configuration(void **state)
{
    static const char *const overrides[] = {"run.dir=/proc/dstrain/run"};
    struct ds_config config;
    struct capture capture;

    (void)state;
    make_config(&config, overrides, 1);
    capture_begin(&capture);
    assert_int_equal(prepare(ds_fs_posix(), &config), DS_ERR_CONFIG);
    assert_string_equal(
        capture_end(&capture),
        "dstrain: error: command line: run.dir: /proc/dstrain/run: No such file or directory");
}

static void ranks_log_into_files_of_their_own(void **state)
{
    char dir[] = "/tmp/dstrain_run_XXXXXX", override[64], path[64];
    const char *overrides[] = {override};
    struct ds_comm *self;
    struct ds_config config;
    char *text;
    size_t bytes;
    struct ds_run_files files;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(override, sizeof override, "run.dir=%s/r", dir);
    make_config(&config, overrides, 1);
    assert_ok(ds_comm_self_open(ds_clock_system(), &self));
    assert_ok(ds_run_dir_open(self, ds_fs_posix(), &config, &files));
    ds_log.is_leader = 0;
    ds_info("into the file alone");
    ds_log.is_leader = 1;
    ds_run_dir_close(ds_fs_posix(), &config, &files, 0);
    assert_int_equal(ds_log.file, -1);
    snprintf(path, sizeof path, "%s/r/log/rank-0000.log", dir);
    assert_ok(ds_fs_read_file(ds_fs_posix(), path, 1000, &text, &bytes));
    assert_string_equal(text, "into the file alone\n");
    free(text);
    ds_comm_close(self);
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_made_once_and_gone_on_with),
        cmocka_unit_test(what_ranks_decide_is_stored_as_it_was_written),
        cmocka_unit_test(what_the_plan_has_chosen_is_a_remark),
        cmocka_unit_test(another_run_is_refused_with_the_keys_that_differ),
        cmocka_unit_test(files_that_are_named_otherwise_or_moved_are_the_same),
        cmocka_unit_test(other_content_is_another_run),
        cmocka_unit_test(other_content_under_the_same_name_is_said),
        cmocka_unit_test(without_a_record_names_count),
        cmocka_unit_test(precision_of_states_may_change_that_of_arithmetic_may_not),
        cmocka_unit_test(a_refused_launch_takes_away_what_it_has_made),
        cmocka_unit_test(what_is_worth_something_stays_after_a_refused_launch),
        cmocka_unit_test(a_refused_launch_leaves_an_earlier_run),
        cmocka_unit_test(a_run_without_a_step_claims_nothing),
        cmocka_unit_test(a_second_launch_is_refused_while_the_first_is_at_work),
        cmocka_unit_test(a_launch_that_is_being_ended_is_waited_for),
        cmocka_unit_test(a_config_that_a_person_wrote_stays),
        cmocka_unit_test(a_failure_leaves_nothing_half_made),
        cmocka_unit_test(a_failure_leaves_the_run_that_was_there),
        cmocka_unit_test(directories_that_are_not_ours_are_refused),
        cmocka_unit_test(a_place_that_cannot_be_written_is_a_mistake_of_the_configuration),
        cmocka_unit_test(ranks_log_into_files_of_their_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
