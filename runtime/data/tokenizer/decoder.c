/* decoder.c - tokens back to text: the steps of the file's "decoder", over a list of pieces that begins as the
 * tokens and ends as one text. */
#include "model.h"

#include <stdlib.h>
#include <string.h>

/* ---- from the file */

static ds_status load_replace(const char *name, const json_t *json, struct tok_decode_step *step)
{
    struct tok_text content;

    DS_TRY(tok_part_pattern(name, json, &step->pattern));
    DS_TRY(tok_part_text(name, json, "content", &content));
    return tok_buffer_add(&step->content, content);
}

static ds_status load_strip(const char *name, const json_t *json, struct tok_decode_step *step)
{
    uint64_t start = 0, stop = 0;

    step->code = ' ';
    DS_TRY(tok_part_char(name, json, "content", &step->code));
    DS_TRY(ds_json_u64(name, json, "start", 0, UINT32_MAX, &start));
    DS_TRY(ds_json_u64(name, json, "stop", 0, UINT32_MAX, &stop));
    step->start = (uint32_t)start;
    step->stop = (uint32_t)stop;
    return DS_OK;
}

static ds_status load_metaspace(const char *name, const json_t *json, struct tok_decode_step *step)
{
    const char *scheme = NULL;
    int is_added = 1;

    step->code = 0x2581;
    DS_TRY(tok_part_char(name, json, "replacement", &step->code));
    DS_TRY(ds_json_text(name, json, "prepend_scheme", &scheme));
    DS_TRY(ds_json_bool(name, json, "add_prefix_space", &is_added));
    step->drops_first = scheme ? strcmp(scheme, "never") != 0 : is_added;
    return DS_OK;
}

static const struct {
    const char *type;
    enum tok_decode_kind kind;
    ds_status (*load)(const char *name, const json_t *json, struct tok_decode_step *step);
} kinds[] = {
    {"ByteLevel", TOK_DECODE_BYTE_LEVEL, NULL},
    {"Replace", TOK_DECODE_REPLACE, load_replace},
    {"ByteFallback", TOK_DECODE_BYTE_FALLBACK, NULL},
    {"Fuse", TOK_DECODE_FUSE, NULL},
    {"Strip", TOK_DECODE_STRIP, load_strip},
    {"Metaspace", TOK_DECODE_METASPACE, load_metaspace},
};

static ds_status load_step(const char *name, const json_t *json, void *user)
{
    struct tok_decoder *out = user;
    struct tok_decode_step *step = &out->steps[out->count];
    const char *type = "";

    DS_TRY(tok_part_type(name, json, "decoder", &type));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(type, kinds[i].type) != 0)
            continue;
        if (out->count == TOK_DECODE_STEPS_MAX)
            return ds_fail(DS_ERR_DATA, "%s: decoder: more than %d steps", name,
                           TOK_DECODE_STEPS_MAX);
        out->count++;
        *step = (struct tok_decode_step){.kind = kinds[i].kind};
        return kinds[i].load ? kinds[i].load(name, json, step) : DS_OK;
    }
    return tok_part_unknown(name, "decoder", type,
                            "ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, Sequence");
}

ds_status tok_decoder_load(const char *name, const json_t *json, struct tok_decoder *out)
{
    out->is_there = json && !json_is_null(json);
    return tok_part_each(name, json, "decoder", "decoders", load_step, out);
}

void tok_decoder_fini(struct tok_decoder *decoder)
{
    for (size_t i = 0; i < decoder->count; i++) {
        tok_pattern_fini(&decoder->steps[i].pattern);
        tok_buffer_fini(&decoder->steps[i].content);
    }
    decoder->count = 0;
}

/* ---- the list of pieces: their bytes one behind the other, and where each ends */

struct pieces {
    struct tok_buffer bytes;
    size_t *ends;
    size_t count, capacity;
};

struct decoding {
    const struct ds_tokenizer *tokenizer;
    uint32_t flags;
    struct tok_matcher matcher;
    struct pieces lists[2];
};

static ds_status end_piece(struct pieces *pieces)
{
    if (pieces->count == pieces->capacity) {
        const size_t capacity = pieces->capacity ? pieces->capacity * 2 : 64;
        size_t *more = realloc(pieces->ends, capacity * sizeof *more);
        if (!more)
            return ds_fail(DS_ERR_NO_MEMORY, "to decode %zu tokens", capacity);
        pieces->ends = more;
        pieces->capacity = capacity;
    }
    pieces->ends[pieces->count++] = pieces->bytes.count;
    return DS_OK;
}

static struct tok_text piece_at(const struct pieces *pieces, size_t index)
{
    const size_t start = index ? pieces->ends[index - 1] : 0;

    return (struct tok_text){pieces->bytes.at + start, pieces->ends[index] - start};
}

static ds_status add_code(struct tok_buffer *to, uint32_t code)
{
    uint8_t text[4];

    return tok_buffer_add(to, (struct tok_text){text, tok_utf8_put(code, text)});
}

/* ---- the steps. Each makes one piece of a piece, but for FUSE. */

/* A token with a character that stands for no byte is text as it is. */
static ds_status bytes_of(struct tok_text piece, struct tok_buffer *to)
{
    const size_t before = to->count;

    DS_TRY(tok_buffer_reserve(to, piece.bytes));
    for (size_t at = 0; at < piece.bytes;) {
        const int byte = tok_char_byte(tok_utf8_next(piece, &at));

        if (byte < 0) {
            to->count = before;
            return tok_buffer_add(to, piece);
        }
        to->at[to->count++] = (uint8_t)byte;
    }
    return DS_OK;
}

static ds_status replaced(struct decoding *d, const struct tok_decode_step *step,
                          struct tok_text piece, struct tok_buffer *to)
{
    struct tok_match match;
    size_t done = 0;

    while (done < piece.bytes) {
        DS_TRY(tok_match(&d->matcher, &step->pattern, piece, done, &match));
        if (!match.is_found)
            break;
        if (match.start == match.end)
            return ds_fail(DS_ERR_DATA, "decoder: Replace matches no text at all");
        DS_TRY(tok_buffer_add(to, (struct tok_text){piece.at + done, match.start - done}));
        DS_TRY(tok_buffer_add(to, (struct tok_text){step->content.at, step->content.count}));
        done = match.end;
    }
    return tok_buffer_add(to, (struct tok_text){piece.at + done, piece.bytes - done});
}

static ds_status stripped(const struct tok_decode_step *step, struct tok_text piece,
                          struct tok_buffer *to)
{
    uint8_t text[4];
    const size_t bytes = tok_utf8_put(step->code, text);

    for (uint32_t i = 0; i < step->start && piece.bytes >= bytes; i++) {
        if (memcmp(piece.at, text, bytes) != 0)
            break;
        piece = (struct tok_text){piece.at + bytes, piece.bytes - bytes};
    }
    for (uint32_t i = 0; i < step->stop && piece.bytes >= bytes; i++) {
        if (memcmp(piece.at + piece.bytes - bytes, text, bytes) != 0)
            break;
        piece.bytes -= bytes;
    }
    return tok_buffer_add(to, piece);
}

static ds_status spaced(const struct tok_decode_step *step, struct tok_text piece, int is_first,
                        struct tok_buffer *to)
{
    for (size_t at = 0; at < piece.bytes;) {
        const uint32_t code = tok_utf8_next(piece, &at);

        if (code != step->code)
            DS_TRY(add_code(to, code));
        else if (!is_first || !step->drops_first)
            DS_TRY(add_code(to, ' '));
    }
    return DS_OK;
}

/* "<0xHH>": the byte; -1: another token */
static int byte_token(struct tok_text piece)
{
    char text[3] = {0}, *end;

    if (piece.bytes != 6 || memcmp(piece.at, "<0x", 3) != 0 || piece.at[5] != '>')
        return -1;
    memcpy(text, piece.at + 3, 2);
    const long byte = strtol(text, &end, 16);
    return end == text + 2 && text[0] != '+' && text[0] != '-' && text[0] != ' ' ? (int)byte : -1;
}

/* Bytes that together are not UTF-8 become a U+FFFD each where they may not stay. */
static ds_status end_bytes(const struct decoding *d, struct tok_buffer *bytes, struct pieces *to)
{
    const struct tok_text run = {bytes->at, bytes->count};

    if (bytes->count == 0)
        return DS_OK;
    if (!(d->flags & DS_DECODE_REPLACE) || tok_utf8_check(run) == run.bytes) {
        DS_TRY(tok_buffer_add(&to->bytes, run));
    } else {
        for (size_t i = 0; i < run.bytes; i++)
            DS_TRY(add_code(&to->bytes, 0xfffd));
    }
    bytes->count = 0;
    return end_piece(to);
}

static ds_status fall_back(const struct decoding *d, const struct pieces *from,
                           struct tok_buffer *bytes, struct pieces *to)
{
    for (size_t i = 0; i < from->count; i++) {
        const struct tok_text piece = piece_at(from, i);
        const int byte = byte_token(piece);
        const uint8_t one = (uint8_t)byte;

        if (byte >= 0) {
            DS_TRY(tok_buffer_add(bytes, (struct tok_text){&one, 1}));
            continue;
        }
        DS_TRY(end_bytes(d, bytes, to));
        DS_TRY(tok_buffer_add(&to->bytes, piece));
        DS_TRY(end_piece(to));
    }
    return end_bytes(d, bytes, to);
}

static ds_status step_piece(struct decoding *d, const struct tok_decode_step *step,
                            struct tok_text piece, int is_first, struct tok_buffer *to)
{
    switch (step->kind) {
    case TOK_DECODE_BYTE_LEVEL:
        return bytes_of(piece, to);
    case TOK_DECODE_REPLACE:
        return replaced(d, step, piece, to);
    case TOK_DECODE_STRIP:
        return stripped(step, piece, to);
    default:
        return spaced(step, piece, is_first, to);
    }
}

static ds_status run_step(struct decoding *d, const struct tok_decode_step *step,
                          const struct pieces *from, struct pieces *to)
{
    struct tok_buffer bytes = {0};

    to->count = to->bytes.count = 0;
    if (step->kind == TOK_DECODE_FUSE) {
        DS_TRY(tok_buffer_add(&to->bytes, (struct tok_text){from->bytes.at, from->bytes.count}));
        return end_piece(to);
    }
    if (step->kind == TOK_DECODE_BYTE_FALLBACK) {
        const ds_status st = fall_back(d, from, &bytes, to);
        tok_buffer_fini(&bytes);
        return st;
    }
    for (size_t i = 0; i < from->count; i++) {
        DS_TRY(step_piece(d, step, piece_at(from, i), i == 0, &to->bytes));
        DS_TRY(end_piece(to));
    }
    return DS_OK;
}

/* ---- */

static ds_status take_tokens(struct decoding *d, const uint32_t *ids, size_t count)
{
    const struct ds_tokenizer *tokenizer = d->tokenizer;
    struct pieces *to = &d->lists[0];

    for (size_t i = 0; i < count; i++) {
        const struct tok_text text = tok_vocabulary_text(&tokenizer->vocabulary, ids[i]);

        if (text.bytes == 0)
            return ds_fail(DS_ERR_DATA, "token id %u is not one of the tokenizer's", ids[i]);
        if ((d->flags & DS_DECODE_SKIP_SPECIAL) && ds_tokenizer_is_special(tokenizer, ids[i]))
            continue;
        if (tokenizer->is_bytes && ids[i] < 256) { /* without the detour */
            const uint8_t byte = (uint8_t)ids[i];
            DS_TRY(tok_buffer_add(&to->bytes, (struct tok_text){&byte, 1}));
        } else {
            if (!tokenizer->decoder.is_there && to->count > 0)
                DS_TRY(tok_buffer_add(&to->bytes, (struct tok_text){(const uint8_t *)" ", 1}));
            DS_TRY(tok_buffer_add(&to->bytes, text));
        }
        DS_TRY(end_piece(to));
    }
    return DS_OK;
}

static ds_status run_steps(struct decoding *d, struct tok_text *out)
{
    const struct tok_decoder *decoder = &d->tokenizer->decoder;
    size_t which = 0;

    for (size_t i = 0; i < decoder->count; i++) {
        DS_TRY(run_step(d, &decoder->steps[i], &d->lists[which], &d->lists[1 - which]));
        which = 1 - which;
    }
    *out = (struct tok_text){d->lists[which].bytes.at, d->lists[which].bytes.count};
    if (!(d->flags & DS_DECODE_REPLACE) || tok_utf8_check(*out) == out->bytes)
        return DS_OK;
    d->lists[1 - which].bytes.count = 0;
    DS_TRY(tok_utf8_repair(*out, &d->lists[1 - which].bytes));
    *out = (struct tok_text){d->lists[1 - which].bytes.at, d->lists[1 - which].bytes.count};
    return DS_OK;
}

static ds_status copy_out(struct tok_text result, char **text, size_t *bytes)
{
    char *copy = malloc(result.bytes + 1);

    if (!copy)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu bytes of text", result.bytes);
    if (result.bytes)
        memcpy(copy, result.at, result.bytes);
    copy[result.bytes] = '\0';
    *text = copy;
    *bytes = result.bytes;
    return DS_OK;
}

ds_status ds_tokenizer_decode(const struct ds_tokenizer *tokenizer, const uint32_t *ids,
                              size_t count, uint32_t flags, char **text, size_t *bytes)
{
    struct decoding d = {.tokenizer = tokenizer, .flags = flags};
    struct tok_text result;
    ds_status st;

    DS_TRY_GOTO(st, tok_matcher_init(&d.matcher), done);
    DS_TRY_GOTO(st, take_tokens(&d, ids, count), done);
    DS_TRY_GOTO(st, run_steps(&d, &result), done);
    st = copy_out(result, text, bytes);
done:
    tok_matcher_fini(&d.matcher);
    for (size_t i = 0; i < 2; i++) {
        tok_buffer_fini(&d.lists[i].bytes);
        free(d.lists[i].ends);
    }
    return st;
}
