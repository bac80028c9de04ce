/* inspect_checkpoints.c - `dstrain inspect` of a directory of checkpoints or of a manifest in it. Reads manifests, and
 * looks whether the packs that they name are there: what is in those, `dstrain verify` reads. */
#include "inspect.h"

#include "dstrain/export.h"
#include "dstrain/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct inspect {
    struct ds_fs *fs;
    const struct ds_checkpoint_place *place;
    int is_verbose;
    uint32_t usable_count, broken_count;
};

/* ---- one checkpoint */

struct sums {
    uint64_t own_bytes, other_bytes;
    uint32_t own_count, other_count, missing_count;
};

static int is_there(const struct inspect *in, const struct ds_manifest_pack *at)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_fs_stat stat;

    ds_checkpoint_pack_path(in->place->root, at->dir, &at->pack.id, path);
    return ds_fs_stat(in->fs, path, &stat) == 0 && stat.is_regular &&
           stat.bytes == at->pack.file_bytes;
}

static struct sums sums_of(const struct inspect *in, const struct ds_manifest *manifest)
{
    struct sums sums = {0};

    for (uint32_t i = 0; i < manifest->pack_count; i++) {
        const struct ds_manifest_pack *at = &manifest->packs[i];
        const int is_own = ds_checkpoint_owns(manifest, &at->pack.id);

        *(is_own ? &sums.own_bytes : &sums.other_bytes) += at->pack.file_bytes;
        *(is_own ? &sums.own_count : &sums.other_count) += 1;
        sums.missing_count += !is_there(in, at);
    }
    return sums;
}

static void show_layout(const struct ds_manifest_layout *l)
{
    printf("  written by   %llu ranks: data %u (shard %u), tensor %u, pipeline %u\n",
           (unsigned long long)l->replica * l->shard * l->cp * l->pp * l->ep * l->tp,
           l->replica * l->shard, l->shard, l->tp, l->pp);
}

static ds_status show_progress(const struct ds_manifest *manifest)
{
    struct ds_progress p;

    if (!ds_values_get(&manifest->state, "progress.step"))
        return DS_OK;
    DS_TRY(ds_progress_read("the checkpoint", &manifest->state, &p));
    printf("  progress     step %llu, %llu samples, %llu tokens, %llu updates, %llu skipped",
           (unsigned long long)p.step, (unsigned long long)p.samples, (unsigned long long)p.tokens,
           (unsigned long long)p.updates, (unsigned long long)p.skipped);
    if (p.next_loss_scale > 0)
        printf(", loss scale %g", (double)p.next_loss_scale);
    printf("\n");
    return DS_OK;
}

static ds_status show_model(const struct ds_manifest *manifest)
{
    struct ds_export_model *model = NULL;

    if (!ds_values_get(&manifest->state, "model.config"))
        return DS_OK; /* of an older program */
    model = malloc(sizeof *model);
    if (!model)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to look at a checkpoint");
    const ds_status st = ds_export_model_read("the checkpoint", &manifest->state, model);
    if (st == DS_OK) {
        printf("  model        ");
        inspect_print_model(&model->config);
    }
    free(model);
    return st;
}

/* Of a kind the dtype of its first tensor stands for all. */
static void show_states(const struct ds_catalogue *catalogue)
{
    uint64_t elems = 0;
    uint32_t seen = 0;

    for (uint32_t i = 0; i < catalogue->count; i++)
        elems += ds_logical_elems(&catalogue->tensors[i]);
    printf("  states       %u tensors, %llu elements:", catalogue->count,
           (unsigned long long)elems);
    for (uint32_t i = 0; i < catalogue->count; i++) {
        const struct ds_logical_tensor *tensor = &catalogue->tensors[i];

        if (seen & 1u << tensor->kind)
            continue;
        printf("%s %s %s", seen ? "," : "", ds_state_kind_name(tensor->kind),
               ds_dtype_name(tensor->dtype));
        seen |= 1u << tensor->kind;
    }
    printf("\n");
}

static void show_tensors(const struct ds_catalogue *catalogue)
{
    printf("  tensors\n");
    for (uint32_t i = 0; i < catalogue->count; i++) {
        const struct ds_logical_tensor *tensor = &catalogue->tensors[i];

        printf("    %-56s %-10s", tensor->name, ds_state_kind_name(tensor->kind));
        inspect_print_shape(tensor->dtype, tensor->dim_count, tensor->shape);
        printf("\n");
    }
}

static void show_values(const struct ds_values *values)
{
    printf("  values\n");
    for (uint32_t i = 0; i < values->count; i++) {
        printf("    %s = ", values->items[i].name);
        inspect_print_plain(values->items[i].text, 0);
        printf("\n");
    }
}

static ds_status show_all(const struct inspect *in, const struct ds_manifest *m,
                          const struct sums *sums)
{
    if (m->has_parent)
        printf("  goes on from step %llu (epoch %llu)\n", (unsigned long long)m->parent.step,
               (unsigned long long)m->parent.epoch);
    show_layout(&m->layout);
    DS_TRY(show_model(m));
    DS_TRY(show_progress(m));
    show_states(&m->catalogue);
    printf("  packs        %u of its own, %llu bytes", sums->own_count,
           (unsigned long long)sums->own_bytes);
    if (sums->other_count > 0)
        printf("; %u of older ones, %llu bytes", sums->other_count,
               (unsigned long long)sums->other_bytes);
    if (sums->missing_count > 0)
        printf("; %u missing or cut short", sums->missing_count);
    printf("\n");
    if (in->is_verbose) {
        show_tensors(&m->catalogue);
        show_values(&m->state);
    }
    return DS_OK;
}

/* ---- lines */

static const char *const standings[] = {
    [DS_CHECKPOINT_GOOD] = "usable",
    [DS_CHECKPOINT_BURIED] = "marked as bad",
    [DS_CHECKPOINT_OVERRULED] = "left behind: a later launch went on from an older one",
};

static void show_line(const struct ds_manifest_id *id, const struct ds_manifest *manifest,
                      const struct sums *sums, const char *standing)
{
    const char *tokens = manifest ? ds_values_get(&manifest->state, "progress.tokens") : NULL;
    char bytes[32] = "-", count[32] = "-";

    if (manifest)
        snprintf(bytes, sizeof bytes, "%llu", (unsigned long long)sums->own_bytes);
    if (tokens && strlen(tokens) < 20)
        snprintf(count, sizeof count, "%llu", strtoull(tokens, NULL, 10));
    printf("%12llu %6llu %16s %16s  %s\n", (unsigned long long)id->step,
           (unsigned long long)id->epoch, bytes, count, standing);
}

static const char *standing_of(const struct ds_checkpoint_entry *entry, const struct sums *sums)
{
    return entry->standing != DS_CHECKPOINT_GOOD ? standings[entry->standing]
           : sums->missing_count > 0             ? "incomplete: packs are missing or cut short"
                                                 : standings[DS_CHECKPOINT_GOOD];
}

/* What is damaged is a line, too, and the next one is looked at. */
static ds_status show_entry(struct inspect *in, const struct ds_checkpoint_entry *entry)
{
    const int counts = entry->standing == DS_CHECKPOINT_GOOD;
    struct ds_manifest manifest;
    ds_status st = ds_checkpoint_place_read(in->fs, in->place, &entry->id, &manifest);

    if (st == DS_ERR_CORRUPT || st == DS_ERR_IO) {
        in->broken_count += (uint32_t)counts;
        show_line(&entry->id, NULL, NULL,
                  counts ? "damaged: its manifest fails" : standings[entry->standing]);
        return DS_OK;
    }
    DS_TRY(st);
    const struct sums sums = sums_of(in, &manifest);
    in->broken_count += (uint32_t)(counts && sums.missing_count > 0);
    in->usable_count += (uint32_t)(counts && sums.missing_count == 0);
    show_line(&entry->id, &manifest, &sums, standing_of(entry, &sums));
    if (in->is_verbose)
        st = show_all(in, &manifest, &sums);
    ds_manifest_fini(&manifest);
    return st;
}

static ds_status conclude(const struct inspect *in, size_t count)
{
    const char *root = in->place->root;

    if (count == 0)
        return ds_fail(DS_ERR_NO_CHECKPOINT, "%s: there is no checkpoint yet", root);
    if (in->usable_count == 0)
        return ds_fail(DS_ERR_NO_CHECKPOINT, "%s: no checkpoint is usable", root);
    if (in->broken_count > 0)
        return ds_fail(DS_ERR_CORRUPT,
                       "%s: %u of %u checkpoints cannot be used; a launch goes on from another",
                       root, in->broken_count, in->broken_count + in->usable_count);
    return DS_OK;
}

static ds_status show_list(struct inspect *in)
{
    struct ds_checkpoint_list list;
    char hex[DS_DIGEST_TEXT_BYTES];
    struct ds_digest run;
    ds_status st = DS_OK;

    DS_TRY(ds_checkpoint_list_make(in->fs, in->place->root, &list));
    memcpy(run.bytes, in->place->run, sizeof run.bytes);
    ds_digest_text(&run, hex);
    printf("%s: run %s, %zu checkpoint%s\n", in->place->root, hex, list.count,
           list.count == 1 ? "" : "s");
    if (in->place->mirror[0] != '\0')
        printf("its mirror, not looked at: %s\n", in->place->mirror);
    if (list.count > 0)
        printf("%12s %6s %16s %16s\n", "step", "epoch", "bytes", "tokens");
    for (size_t i = 0; i < list.count && st == DS_OK; i++)
        st = show_entry(in, &list.entries[i]);
    if (st == DS_OK)
        st = conclude(in, list.count);
    ds_checkpoint_list_fini(&list);
    return st;
}

static ds_status show_one(struct inspect *in)
{
    const struct ds_manifest_id *id = &in->place->id;
    struct ds_manifest manifest;

    DS_TRY(ds_checkpoint_place_read(in->fs, in->place, id, &manifest));
    const struct sums sums = sums_of(in, &manifest);
    printf("checkpoint of step %llu (epoch %llu)\n", (unsigned long long)id->step,
           (unsigned long long)id->epoch);
    ds_status st = show_all(in, &manifest, &sums);
    ds_manifest_fini(&manifest);
    if (st == DS_OK && sums.missing_count > 0)
        st = ds_fail(DS_ERR_CORRUPT, "%s: %u packs of this checkpoint are missing or cut short",
                     in->place->root, sums.missing_count);
    return st;
}

ds_status inspect_checkpoints(struct ds_fs *fs, const struct ds_checkpoint_place *place,
                              int is_verbose)
{
    struct inspect in = {.fs = fs, .place = place, .is_verbose = is_verbose};

    return ds_checkpoint_place_end(place, place->has_id ? show_one(&in) : show_list(&in));
}
