// link: storage device kernels base
/* The reference cases through the command line: losses and gradient norms of metrics.jsonl, parameters of
 * the export, against what transformers, peft and torch.optim.AdamW computed; of all parameters and, where the case
 * has an adapter, of its factors alone. Every case in tests/golden, and
 * in the folder DSTRAIN_GOLDEN names; on 1 rank, on 2 that share data (stage 0 and 3), matrices or layers, and
 * on 8 that do all of it. With DSTRAIN_TEST_DEVICE=cuda on GPUs, which four ranks may share: to ten times the
 * tolerance, and but for one case on the simplest layout and one of everything alone, since NCCL takes seconds
 * to start. */
#include "test.h"

#include "dstrain/json.h"
#include "dstrain/plugin.h"
#include "dstrain/safetensors.h"

#include <dirent.h>
#include <math.h>
#include <unistd.h>

enum { STEPS = 20, PATH = 1024 };

struct layout {
    int ranks, stage, tensor, pipeline;
};
static const struct layout cpu_layouts[] = {{1, 3, 1, 1}, {2, 0, 1, 1}, {2, 3, 1, 1},
                                            {2, 3, 2, 1}, {2, 3, 1, 2}, {8, 3, 2, 2}};
static const struct layout gpu_layouts[] = {
    {1, 3, 1, 1}, {4, 3, 2, 2}, {2, 0, 1, 1},
    {2, 3, 1, 1}, {4, 3, 2, 1}, {4, 3, 1, 2}}; /* two samples: data 2 at most */
static const size_t gpu_layouts_of_most = 2;

static struct {
    const char *name;
    const struct layout *layouts;
    size_t layout_count;
    double tolerance; /* times that of the cpu */
} device = {"cpu", cpu_layouts, sizeof cpu_layouts / sizeof *cpu_layouts, 1};

struct expected {
    double loss[STEPS], norm[STEPS];
};

/* What is trained, under the names that the cases have for it. */
static const struct recipe {
    const char *name;
    const char *learning_rate, *weight_decay;
    double loss, norm, params; /* tolerances, relative; of all parameters together */
    const char *final, *final_prefix, *exported;
} recipes[] = {
    {"adamw", "1e-3", "0.1", 2e-6, 2e-5, 2e-5, "adamw_final.safetensors", "final.",
     "model.safetensors"},
    {"lora", "5e-3", "0", 5e-6, 5e-5, 1e-4, "adapter_final/adapter_model.safetensors", "",
     "adapter_model.safetensors"},
};

static void read_expected(const char *folder, const struct recipe *recipe, struct expected *out)
{
    char path[PATH], *text;
    size_t bytes;
    json_t *json;

    snprintf(path, sizeof path, "%s/expected.json", folder);
    assert_ok(ds_fs_read_file(ds_fs_posix(), path, 1 << 20, &text, &bytes));
    assert_ok(ds_json_parse(path, text, bytes, &json));
    json_t *given = json_object_get(json, recipe->name);
    for (size_t i = 0; i < STEPS; i++) {
        out->loss[i] = json_number_value(json_array_get(json_object_get(given, "losses"), i));
        out->norm[i] = json_number_value(json_array_get(json_object_get(given, "grad_norms"), i));
    }
    json_decref(json);
    free(text);
}

static void run_case(const char *folder, const struct recipe *recipe, const char *dir,
                     struct layout layout, uint64_t seq)
{
    const char *share = strcmp(device.name, "cuda") == 0 ? "share_device = true\n" : "";
    const int is_lora = strcmp(recipe->name, "lora") == 0;
    char command[5 * PATH], keys[PATH + 64] = "";

    if (is_lora)
        snprintf(keys, sizeof keys, "[lora]\nadapter = %s/adapter_init\n", folder);
    snprintf(command, sizeof command,
             "cat > %s.ini <<'E'\n[run]\ndir = %s\ndevice = %s\n%s[model]\npath = %s\n%s[data]\n"
             "format = safetensors\ntrain = %s/expected.safetensors\nshuffle = false\n[train]\n"
             "steps = %d\nglobal_batch_size = 2\nmicro_batch_size = 1\nseq_length = %llu\n"
             "grad_clip = 1.0\n[optimizer]\nlearning_rate = %s\nbeta1 = 0.9\nbeta2 = 0.95\n"
             "eps = 1e-5\nweight_decay = %s\nweight_decay_on = all\n[schedule]\nkind = constant\n"
             "warmup_steps = 0\n[parallel]\ntensor = %d\npipeline = %d\n[zero]\nstage = "
             "%d\nE\nmpirun -n %d %s %s.ini >%s.log 2>&1 || "
             "{ cat %s.log >&2; exit 1; }",
             dir, dir, device.name, share, folder, keys, folder, STEPS, (unsigned long long)seq,
             recipe->learning_rate, recipe->weight_decay, layout.tensor, layout.pipeline,
             layout.stage, layout.ranks, DS_BINARY_DIR "/dstrain", dir, dir, dir);
    assert_int_equal(system(command), 0);
}

static void check_metrics(const char *dir, const struct recipe *recipe,
                          const struct expected *expected)
{
    char path[PATH], line[4096];
    int steps = 0;

    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        json_t *json;
        assert_ok(ds_json_parse(path, line, strlen(line), &json));
        const int i = (int)json_integer_value(json_object_get(json, "step")) - 1;
        assert_int_equal(i, steps++);
        const double loss = json_number_value(json_object_get(json, "loss"));
        const double norm = json_number_value(json_object_get(json, "grad_norm"));
        if (!(fabs(loss - expected->loss[i]) <=
              device.tolerance * recipe->loss * fabs(expected->loss[i])))
            fail_msg("%s: step %d: loss %.9g, expected %.9g", dir, i + 1, loss, expected->loss[i]);
        if (!(fabs(norm - expected->norm[i]) <=
              device.tolerance * recipe->norm * fabs(expected->norm[i])))
            fail_msg("%s: step %d: norm %.9g, expected %.9g", dir, i + 1, norm, expected->norm[i]);
        json_decref(json);
    }
    fclose(file);
    assert_int_equal(steps, STEPS);
}

/* squares of the difference and of the expected values */
static void compare_tensor(const struct ds_safetensors *want_file,
                           const struct ds_safetensors *file,
                           const struct ds_safetensors_entry *want, const struct recipe *recipe,
                           double *difference, double *size)
{
    const char *name = want->name + strlen(recipe->final_prefix);
    const struct ds_safetensors_entry *have = ds_safetensors_find(file, name);
    float *a = malloc(want->elems * sizeof *a), *b = malloc(want->elems * sizeof *b);
    double d = 0, s = 0;

    if (!have)
        fail_msg("the export lacks %s", name);
    assert_int_equal(have->elems, want->elems);
    assert_ok(ds_safetensors_read_f32(want_file, want, 0, want->elems, a));
    assert_ok(ds_safetensors_read_f32(file, have, 0, want->elems, b));
    for (uint64_t i = 0; i < want->elems; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)a[i] * a[i];
    }
    if (!(sqrt(d) <= device.tolerance * 1e-3 * sqrt(s)))
        fail_msg("%s is off by %.3g of its norm", name, sqrt(d / s));
    *difference += d;
    *size += s;
    free(a);
    free(b);
}

static void check_export(const char *folder, const struct recipe *recipe, const char *dir)
{
    struct ds_safetensors *want, *have;
    double difference = 0, size = 0;
    char path[PATH];

    snprintf(path, sizeof path, "%s/%s", folder, recipe->final);
    assert_ok(ds_safetensors_open(ds_fs_posix(), path, &want));
    snprintf(path, sizeof path, "%s/export/%s", dir, recipe->exported);
    assert_ok(ds_safetensors_open(ds_fs_posix(), path, &have));
    assert_int_equal(ds_safetensors_count(want), ds_safetensors_count(have));
    for (size_t i = 0; i < ds_safetensors_count(want); i++)
        compare_tensor(want, have, ds_safetensors_at(want, i), recipe, &difference, &size);
    if (!(sqrt(difference) <= device.tolerance * recipe->params * sqrt(size)))
        fail_msg("%s: parameters are off by %.3g of their norm", dir, sqrt(difference / size));
    ds_safetensors_close(want);
    ds_safetensors_close(have);
}

static uint64_t seq_length(const char *folder)
{
    struct ds_safetensors *file;
    char path[PATH];

    snprintf(path, sizeof path, "%s/expected.safetensors", folder);
    assert_ok(ds_safetensors_open(ds_fs_posix(), path, &file));
    uint64_t seq = ds_safetensors_find(file, "input_ids")->shape[2];
    ds_safetensors_close(file);
    return seq;
}

static void check_recipe(const char *folder, const struct recipe *recipe)
{
    const int has_all = device.layouts == cpu_layouts || strstr(folder, "tied") != NULL;
    const size_t count = has_all ? device.layout_count : gpu_layouts_of_most;
    struct expected expected;

    read_expected(folder, recipe, &expected);
    for (size_t i = 0; i < count; i++) {
        char base[] = "/tmp/dstrain-cli-XXXXXX", dir[PATH];
        assert_non_null(mkdtemp(base));
        snprintf(dir, sizeof dir, "%s/run", base);
        run_case(folder, recipe, dir, device.layouts[i], seq_length(folder));
        check_metrics(dir, recipe, &expected);
        check_export(folder, recipe, dir);
        assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), base), 0);
    }
}

/* All that the case has. */
static void check_case(const char *folder)
{
    char path[PATH + 64];

    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, recipes[i].final);
        if (access(path, R_OK) == 0)
            check_recipe(folder, &recipes[i]);
    }
}

/* a dense case with its AdamW trajectory; returns how many there are */
static int check_folder(const char *root)
{
    static const char *const known[] = {"llama", "qwen"};
    DIR *directory = opendir(root);
    struct dirent *entry;
    int count = 0;

    assert_non_null(directory);
    while ((entry = readdir(directory)) != NULL) {
        char folder[PATH], path[PATH + 32];
        snprintf(folder, sizeof folder, "%s/%s", root, entry->d_name);
        snprintf(path, sizeof path, "%s/adamw_final.safetensors", folder);
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (strncmp(entry->d_name, known[i], strlen(known[i])) == 0 &&
                access(path, R_OK) == 0) {
                check_case(folder);
                count++;
            }
    }
    closedir(directory);
    return count;
}

static void training_through_the_command_line_meets_the_reference(void **state)
{
    const char *more = getenv("DSTRAIN_GOLDEN");

    (void)state;
    assert_true(check_folder(DS_SOURCE_DIR "/tests/golden") >= 2);
    if (more)
        assert_true(check_folder(more) >= 1);
}

/* 0: there is none */
static int choose_gpu(void)
{
    const struct ds_plugin *plugin;

    if (ds_plugin_load(DS_BINARY_DIR "/libdstrain_cuda.so", &plugin) != DS_OK)
        exit(1);
    device.name = "cuda";
    device.layouts = gpu_layouts;
    device.layout_count = sizeof gpu_layouts / sizeof *gpu_layouts;
    device.tolerance = 10;
    return plugin->device->count() > 0;
}

int main(void)
{
    const char *asked = getenv("DSTRAIN_TEST_DEVICE");
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_through_the_command_line_meets_the_reference),
    };

    if (asked && strcmp(asked, "cuda") == 0 && !choose_gpu()) {
        printf("skipped: there is no GPU\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
