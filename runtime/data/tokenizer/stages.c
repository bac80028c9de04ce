/* stages.c - cuts text into words. A word of one stage goes through the next at once, so that nothing is
 * kept but where each stage is. */
#include "stages.h"

#include "part.h"

#include <string.h>

/* ---- from the file */

/* What ByteLevel splits with where it is not told otherwise: GPT-2's. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
    "|\\s+(?!\\S)|\\s+";

static ds_status new_stage(const char *name, struct tok_stages *stages, enum tok_stage_kind kind,
                           struct tok_stage **out)
{
    if (stages->count == TOK_STAGES_MAX)
        return ds_fail(DS_ERR_DATA, "%s: pre_tokenizer: more than %d stages", name, TOK_STAGES_MAX);
    *out = &stages->stages[stages->count++];
    **out = (struct tok_stage){.kind = kind, .keeps_matches = 1, .keeps_gaps = 1};
    return DS_OK;
}

static ds_status split_by(const char *name, struct tok_stages *stages, const char *regex)
{
    struct tok_stage *stage = NULL;

    DS_TRY(new_stage(name, stages, TOK_STAGE_SPLIT, &stage));
    return tok_pattern_compile(name, (struct tok_text){(const uint8_t *)regex, strlen(regex)},
                               &stage->pattern);
}

static ds_status load_split(const char *name, const json_t *json, struct tok_stages *stages)
{
    const char *behavior = "";
    struct tok_stage *stage = NULL;
    int is_inverted = 0;

    DS_TRY(new_stage(name, stages, TOK_STAGE_SPLIT, &stage));
    DS_TRY(ds_json_text(name, json, "behavior", &behavior));
    DS_TRY(ds_json_bool(name, json, "invert", &is_inverted));
    if (strcmp(behavior, "Removed") == 0) {
        stage->keeps_matches = is_inverted;
        stage->keeps_gaps = !is_inverted;
    } else if (strcmp(behavior, "Isolated") != 0) {
        return tok_part_unknown(name, "pre_tokenizer Split's behavior", behavior,
                                "Isolated, Removed");
    }
    return tok_part_pattern(name, json, &stage->pattern);
}

static ds_status load_byte_level(const char *name, const json_t *json, struct tok_stages *stages)
{
    int has_prefix = 1, splits = 1;
    struct tok_stage *stage = NULL;

    DS_TRY(ds_json_bool(name, json, "add_prefix_space", &has_prefix));
    DS_TRY(ds_json_bool(name, json, "use_regex", &splits));
    if (has_prefix)
        DS_TRY(new_stage(name, stages, TOK_STAGE_PREFIX_SPACE, &stage));
    if (splits)
        DS_TRY(split_by(name, stages, gpt2_pattern));
    stages->is_byte_level = 1;
    return DS_OK;
}

static ds_status load_digits(const char *name, const json_t *json, struct tok_stages *stages)
{
    int is_individual = 0;

    DS_TRY(ds_json_bool(name, json, "individual_digits", &is_individual));
    return split_by(name, stages, is_individual ? "\\p{N}" : "\\p{N}+");
}

static ds_status load_prepend(const char *name, const json_t *json, struct tok_stage *stage)
{
    static const char *const schemes[] = {"never", "first", "always"};
    const char *scheme = NULL;
    int is_added = 1;

    DS_TRY(ds_json_text(name, json, "prepend_scheme", &scheme));
    DS_TRY(ds_json_bool(name, json, "add_prefix_space", &is_added)); /* of older files */
    stage->prepend = is_added ? TOK_PREPEND_ALWAYS : TOK_PREPEND_NEVER;
    for (size_t i = 0; scheme && i < 3; i++) {
        if (strcmp(scheme, schemes[i]) == 0) {
            stage->prepend = (enum tok_prepend)i;
            return DS_OK;
        }
    }
    return scheme ? tok_part_unknown(name, "Metaspace's prepend_scheme", scheme,
                                     "never, first, always")
                  : DS_OK;
}

static ds_status load_metaspace(const char *name, const json_t *json, struct tok_stages *stages)
{
    uint32_t space = 0x2581;
    struct tok_stage *stage = NULL;

    DS_TRY(new_stage(name, stages, TOK_STAGE_METASPACE, &stage));
    DS_TRY(tok_part_char(name, json, "replacement", &space));
    stage->space_bytes = tok_utf8_put(space, stage->space);
    stage->cuts = 1;
    DS_TRY(ds_json_bool(name, json, "split", &stage->cuts));
    return load_prepend(name, json, stage);
}

static const struct {
    const char *type;
    ds_status (*load)(const char *name, const json_t *json, struct tok_stages *stages);
} kinds[] = {{"Split", load_split},
             {"ByteLevel", load_byte_level},
             {"Digits", load_digits},
             {"Metaspace", load_metaspace}};

static ds_status load_stage(const char *name, const json_t *json, void *user)
{
    struct tok_stages *stages = user;
    const char *type = "";

    DS_TRY(tok_part_type(name, json, "pre_tokenizer", &type));
    if (stages->is_byte_level)
        return ds_fail(DS_ERR_DATA, "%s: pre_tokenizer '%.40s' behind ByteLevel is not supported",
                       name, type);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(type, kinds[i].type) == 0)
            return kinds[i].load(name, json, stages);
    return tok_part_unknown(name, "pre_tokenizer", type,
                            "Split, ByteLevel, Digits, Metaspace, Sequence");
}

ds_status tok_stages_load(const char *name, const json_t *json, struct tok_stages *out)
{
    return tok_part_each(name, json, "pre_tokenizer", "pretokenizers", load_stage, out);
}

void tok_stages_fini(struct tok_stages *stages)
{
    for (size_t i = 0; i < stages->count; i++)
        tok_pattern_fini(&stages->stages[i].pattern);
    stages->count = 0;
}

/* ---- the walk */

static ds_status walk_from(const struct tok_walk *walk, size_t index, struct tok_text piece,
                           int is_start);

static ds_status walk_part(const struct tok_walk *walk, size_t index, struct tok_text piece,
                           size_t start, size_t end, int is_start)
{
    return start == end
               ? DS_OK
               : walk_from(walk, index + 1, (struct tok_text){piece.at + start, end - start},
                           is_start && start == 0);
}

/* A match of nothing ends the gap before it, too; the next one is looked for a character further. */
static ds_status walk_split(const struct tok_walk *walk, size_t index, struct tok_text piece,
                            int is_start)
{
    const struct tok_stage *stage = &walk->stages->stages[index];
    struct tok_match match;
    size_t done = 0, from = 0;

    while (from < piece.bytes) {
        DS_TRY(tok_match(walk->matcher, &stage->pattern, piece, from, &match));
        if (!match.is_found)
            break;
        if (stage->keeps_gaps)
            DS_TRY(walk_part(walk, index, piece, done, match.start, is_start));
        if (stage->keeps_matches)
            DS_TRY(walk_part(walk, index, piece, match.start, match.end, is_start));
        done = from = match.end;
        if (match.start == match.end && from < piece.bytes)
            (void)tok_utf8_next(piece, &from);
    }
    return stage->keeps_gaps ? walk_part(walk, index, piece, done, piece.bytes, is_start) : DS_OK;
}

static ds_status walk_prefix_space(const struct tok_walk *walk, size_t index, struct tok_text piece,
                                   int is_start)
{
    struct tok_buffer *to = &walk->scratch[index];

    if (piece.at[0] == ' ')
        return walk_from(walk, index + 1, piece, is_start);
    to->count = 0;
    DS_TRY(tok_buffer_add(to, (struct tok_text){(const uint8_t *)" ", 1}));
    DS_TRY(tok_buffer_add(to, piece));
    return walk_from(walk, index + 1, (struct tok_text){to->at, to->count}, is_start);
}

static int begins_with_space(const struct tok_stage *stage, struct tok_text piece)
{
    return piece.bytes >= stage->space_bytes &&
           memcmp(piece.at, stage->space, stage->space_bytes) == 0;
}

static ds_status show_spaces(const struct tok_stage *stage, struct tok_text piece, int is_start,
                             struct tok_buffer *to)
{
    const struct tok_text space = {stage->space, stage->space_bytes};
    const int wants_one =
        stage->prepend == TOK_PREPEND_ALWAYS || (stage->prepend == TOK_PREPEND_FIRST && is_start);

    to->count = 0;
    if (wants_one && piece.at[0] != ' ' && !begins_with_space(stage, piece))
        DS_TRY(tok_buffer_add(to, space));
    while (piece.bytes > 0) {
        const uint8_t *found = memchr(piece.at, ' ', piece.bytes);
        const size_t plain = found ? (size_t)(found - piece.at) : piece.bytes;

        DS_TRY(tok_buffer_add(to, (struct tok_text){piece.at, plain}));
        if (found)
            DS_TRY(tok_buffer_add(to, space));
        piece = (struct tok_text){piece.at + plain + (found != NULL),
                                  piece.bytes - plain - (found != NULL)};
    }
    return DS_OK;
}

static ds_status walk_metaspace(const struct tok_walk *walk, size_t index, struct tok_text piece,
                                int is_start)
{
    const struct tok_stage *stage = &walk->stages->stages[index];
    struct tok_buffer *to = &walk->scratch[index];
    size_t start = 0, at = 0;

    DS_TRY(show_spaces(stage, piece, is_start, to));
    const struct tok_text shown = {to->at, to->count};
    if (!stage->cuts)
        return walk_from(walk, index + 1, shown, is_start);
    while (at < shown.bytes) {
        const struct tok_text rest = {shown.at + at, shown.bytes - at};

        if (begins_with_space(stage, rest)) {
            DS_TRY(walk_part(walk, index, shown, start, at, is_start));
            start = at;
        }
        (void)tok_utf8_next(shown, &at);
    }
    return walk_part(walk, index, shown, start, at, is_start);
}

static ds_status walk_from(const struct tok_walk *walk, size_t index, struct tok_text piece,
                           int is_start)
{
    if (index == walk->stages->count)
        return walk->sink(walk->user, piece);
    switch (walk->stages->stages[index].kind) {
    case TOK_STAGE_SPLIT:
        return walk_split(walk, index, piece, is_start);
    case TOK_STAGE_PREFIX_SPACE:
        return walk_prefix_space(walk, index, piece, is_start);
    default:
        return walk_metaspace(walk, index, piece, is_start);
    }
}

ds_status tok_stages_walk(const struct tok_walk *walk, struct tok_text piece, int is_start)
{
    return piece.bytes ? walk_from(walk, 0, piece, is_start) : DS_OK;
}
