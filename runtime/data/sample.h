/* sample.h (private) - writes samples as tokens, and beside each token whether it is learned. A sample is made of pieces in
 * order; between two added tokens they are encoded as one text, so that tokens are those of the whole, wherever a
 * learned piece begins between two of them. Where it does not, the text is cut there: that is how a model is asked. */
#ifndef DSTRAIN_DATA_SAMPLE_H
#define DSTRAIN_DATA_SAMPLE_H

#include "row.h"

#include "dstrain/tokenizer.h"

struct sample_writer { /* {0} but for tokenizer, encoder and name to begin with */
    /* borrows */
    const struct ds_tokenizer *tokenizer;
    struct ds_encoder *encoder;
    const char *name;        /* of what is encoded, for messages */
    const uint32_t *control; /* ids that only templates write, [control_count] */
    size_t control_count;
    int learns_all;
    /* owns; of all samples, one behind the other */
    struct ds_token_list ids;
    uint8_t *learned; /* [learned_capacity] */
    size_t learned_capacity;
    /* of the run of text that is not encoded yet */
    char *run;
    size_t run_bytes, run_capacity;
    size_t seam; /* where it begins to be learned; run_bytes or more: nowhere */
    struct ds_token_list scratch;
    /* of the sample */
    size_t begin, text_begin;
    uint64_t end_count; /* ends of answers that are learned */
};

/* `has_bos`: with the tokenizer's bos, if it wants one, and the beginning of the text behind it */
DS_CHECKED ds_status sample_begin(struct sample_writer *w, int has_bos);
/* Text of a template: its added tokens are tokens. {bos} and {eos} in it are the tokenizer's, nothing where it has none. */
DS_CHECKED ds_status sample_template(struct sample_writer *w, const char *text, size_t bytes);
/* Text of people: no added token is looked for. */
DS_CHECKED ds_status sample_text(struct sample_writer *w, struct row_text text);
/* What the model is to say, or has said. Added tokens that neither control nor are special are tokens. */
DS_CHECKED ds_status sample_answer(struct sample_writer *w, struct row_text text, int is_learned);
/* the same answer goes on */
DS_CHECKED ds_status sample_answer_more(struct sample_writer *w, struct row_text text,
                                        int is_learned);
/* What ends it, as of a template; goes on as text that is not learned. */
DS_CHECKED ds_status sample_end(struct sample_writer *w, const char *text, int is_learned);
/* The sample is whole: drops what comes behind its last learned token. Returns how many of its tokens are targets that
 * are learned in `learned_count`; with 0 the sample is gone. */
DS_CHECKED ds_status sample_finish(struct sample_writer *w, uint64_t *learned_count);
/* It is not wanted: gone. */
void sample_drop(struct sample_writer *w);
void sample_writer_fini(struct sample_writer *w);

#endif
