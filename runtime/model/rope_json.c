/* rope_json.c - what a config.json says about rotary positions.
 *
 * Three places may speak: rope_theta at the top and rope_scaling (transformers 4), rope_parameters
 * (transformers 5). A file may use any of them, or all (we write all); where two speak of one thing
 * they must agree, since each version of transformers would believe another. */
#include "family.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    enum ds_rope_kind kind;
} rope_kinds[] = {
    {"default", DS_ROPE_PLAIN},
    {"linear", DS_ROPE_LINEAR},
    {"llama3", DS_ROPE_LLAMA3},
    {"yarn", DS_ROPE_YARN},
};

const char *rope_kind_name(enum ds_rope_kind kind)
{
    return rope_kinds[kind].name;
}

int rope_kind_parse(const char *text, enum ds_rope_kind *out)
{
    for (size_t i = 0; i < sizeof rope_kinds / sizeof *rope_kinds; i++)
        if (strcmp(text, rope_kinds[i].name) == 0) {
            *out = rope_kinds[i].kind;
            return 1;
        }
    return 0;
}

/* One object that speaks of rope. `place` begins messages: "config.json: rope_scaling". */
struct rope_source {
    char place[320];
    const json_t *object; /* NULL: not there */
    struct ds_rope rope;
    int has_theta;
};

static ds_status read_kind(struct rope_source *source)
{
    const char *type = NULL, *legacy = NULL;

    DS_TRY(ds_json_text(source->place, source->object, "rope_type", &type));
    DS_TRY(ds_json_text(source->place, source->object, "type", &legacy));
    if (type && legacy && strcmp(type, legacy) != 0)
        return ds_fail(DS_ERR_DATA, "%s: 'rope_type' is '%.64s' but 'type' is '%.64s'",
                       source->place, type, legacy);
    type = type ? type : legacy;
    if (type && !rope_kind_parse(type, &source->rope.kind))
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "%s: 'rope_type' is '%.64s'; supported: " ROPE_KINDS_TEXT, source->place,
                       type);
    return DS_OK;
}

static ds_status read_numbers(struct rope_source *source)
{
    const struct {
        const char *key;
        double min, max;
        double *out;
    } rows[] = {
        {"rope_theta", 1, DS_MODEL_ROPE_THETA_MAX, &source->rope.theta},
        {"factor", 1, 1e6, &source->rope.factor},
        {"low_freq_factor", 1e-6, 1e6, &source->rope.low_freq_factor},
        {"high_freq_factor", 1e-6, 1e6, &source->rope.high_freq_factor},
        {"beta_fast", 1e-6, 1e6, &source->rope.beta_fast},
        {"beta_slow", 1e-6, 1e6, &source->rope.beta_slow},
        {"attention_factor", 1e-6, 1e6, &source->rope.attention_factor},
        {"mscale", 0, 1e6, &source->rope.mscale},
        {"mscale_all_dim", 0, 1e6, &source->rope.mscale_all_dim},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        DS_TRY(ds_json_real(source->place, source->object, rows[i].key, rows[i].min, rows[i].max,
                            rows[i].out));
    DS_TRY(ds_json_u64(source->place, source->object, "original_max_position_embeddings", 1,
                       INT32_MAX, &source->rope.original_max_position_embeddings));
    return ds_json_bool(source->place, source->object, "truncate", &source->rope.truncate);
}

/* Half of a head turned and half not is another arithmetic; so is one rope for each kind of layer. */
static ds_status refuse_partial(const char *place, const json_t *object)
{
    double part = 1;

    DS_TRY(ds_json_real(place, object, "partial_rotary_factor", 0, 1, &part));
    if (part < 1)
        return ds_fail(DS_ERR_UNSUPPORTED, "%s: 'partial_rotary_factor' is %g; supported: 1", place,
                       part);
    if (json_object_get(object, "full_attention"))
        return ds_fail(DS_ERR_UNSUPPORTED, "%s: one rope for all layers is supported", place);
    return DS_OK;
}

static ds_status read_source(const char *name, const json_t *root, const char *key,
                             const struct ds_rope *preset, struct rope_source *source)
{
    const json_t *object = json_object_get(root, key);

    *source = (struct rope_source){.rope = *preset};
    snprintf(source->place, sizeof source->place, "%.280s: %s", name, key);
    if (!object || json_is_null(object))
        return DS_OK;
    if (!json_is_object(object))
        return ds_fail(DS_ERR_DATA, "%.280s: key '%s' must be an object or null", name, key);
    source->object = object;
    source->has_theta = json_is_number(json_object_get(object, "rope_theta"));
    DS_TRY(read_kind(source));
    DS_TRY(refuse_partial(source->place, object));
    if (source->rope.kind != DS_ROPE_PLAIN && !json_is_number(json_object_get(object, "factor")))
        return ds_fail(DS_ERR_DATA, "%s: rope '%s' needs a number 'factor'", source->place,
                       rope_kind_name(source->rope.kind));
    return read_numbers(source);
}

/* Only what the kind reads: other numbers may be there and mean nothing. */
static int rope_agrees(const struct ds_rope *a, const struct ds_rope *b)
{
    if (a->kind != b->kind)
        return 0;
    if (a->kind != DS_ROPE_PLAIN && a->factor != b->factor)
        return 0;
    if (a->kind == DS_ROPE_LLAMA3)
        return a->low_freq_factor == b->low_freq_factor &&
               a->high_freq_factor == b->high_freq_factor &&
               a->original_max_position_embeddings == b->original_max_position_embeddings;
    if (a->kind == DS_ROPE_YARN)
        return a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow &&
               a->attention_factor == b->attention_factor && a->mscale == b->mscale &&
               a->mscale_all_dim == b->mscale_all_dim && a->truncate == b->truncate &&
               a->original_max_position_embeddings == b->original_max_position_embeddings;
    return 1;
}

static ds_status merge_theta(const char *name, double theta, const char *place, int is_given,
                             double *merged)
{
    if (!is_given)
        return DS_OK;
    if (*merged != 0 && *merged != theta)
        return ds_fail(DS_ERR_DATA, "%s: 'rope_theta' is %g in one place and %g in %s", name,
                       *merged, theta, place);
    *merged = theta;
    return DS_OK;
}

ds_status rope_read(const char *name, const json_t *root, struct ds_rope *rope)
{
    struct rope_source old, new;
    double theta = rope->theta, merged = 0;

    DS_TRY(refuse_partial(name, root));
    DS_TRY(ds_json_real(name, root, "rope_theta", 1, DS_MODEL_ROPE_THETA_MAX, &theta));
    DS_TRY(read_source(name, root, "rope_scaling", rope, &old));
    DS_TRY(read_source(name, root, "rope_parameters", rope, &new));
    if (old.object && new.object && !rope_agrees(&old.rope, &new.rope))
        return ds_fail(DS_ERR_DATA, "%s: 'rope_scaling' and 'rope_parameters' differ", name);
    DS_TRY(merge_theta(name, theta, "rope_theta",
                       json_is_number(json_object_get(root, "rope_theta")), &merged));
    DS_TRY(merge_theta(name, old.rope.theta, "rope_scaling", old.has_theta, &merged));
    DS_TRY(merge_theta(name, new.rope.theta, "rope_parameters", new.has_theta, &merged));
    *rope = old.object ? old.rope : new.rope;
    rope->theta = merged != 0 ? merged : theta;
    return DS_OK;
}

static ds_status check_llama3(const char *name, const struct ds_rope *rope)
{
    if (rope->low_freq_factor <= 0 || rope->high_freq_factor <= rope->low_freq_factor)
        return ds_fail(DS_ERR_DATA,
                       "%s: rope 'llama3' needs 'low_freq_factor' below 'high_freq_factor', "
                       "has %g and %g (0: not given)",
                       name, rope->low_freq_factor, rope->high_freq_factor);
    return DS_OK;
}

static ds_status check_yarn(const char *name, const struct ds_rope *rope)
{
    if (!(rope->theta > 1))
        return ds_fail(DS_ERR_DATA, "%s: rope 'yarn' needs 'rope_theta' above 1, is %g", name,
                       rope->theta);
    if (!(rope->beta_slow > 0 && rope->beta_fast >= rope->beta_slow))
        return ds_fail(DS_ERR_DATA,
                       "%s: rope 'yarn' needs 'beta_fast' (%g) not below 'beta_slow' (%g)", name,
                       rope->beta_fast, rope->beta_slow);
    return DS_OK;
}

ds_status rope_check(const char *name, const struct ds_model_config *config)
{
    const struct ds_rope *rope = &config->rope;

    if (!(rope->theta >= 1 && isfinite(rope->theta)))
        return ds_fail(DS_ERR_DATA, "%s: 'rope_theta' must be 1 or more, is %g", name, rope->theta);
    if (rope->kind != DS_ROPE_PLAIN && !(rope->factor >= 1 && isfinite(rope->factor)))
        return ds_fail(DS_ERR_DATA, "%s: rope '%s' needs a 'factor' of 1 or more, is %g", name,
                       rope_kind_name(rope->kind), rope->factor);
    if (rope->kind == DS_ROPE_LLAMA3)
        return check_llama3(name, rope);
    return rope->kind == DS_ROPE_YARN ? check_yarn(name, rope) : DS_OK;
}
