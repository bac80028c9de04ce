/* lora_file.h - what the ways to an adapter's numbers share; private to this folder. */
#ifndef MODEL_LORA_FILE_H
#define MODEL_LORA_FILE_H

#include "dstrain/model.h"

/* pure */
float lora_scale(const struct ds_lora_settings *settings, double rank, double alpha);
/* local: with no matrix chosen yet */
DS_CHECKED ds_status lora_take(const struct ds_model_config *config,
                               const struct ds_lora_settings *settings, struct ds_lora *out);
/* pure: the settings' numbers for every matrix that is chosen */
void lora_fill(const struct ds_model_config *config, const uint8_t *chosen, struct ds_lora *lora);
/* what lora_fill has made, with other ranks and alphas [matrix], where they are not 0 */
DS_CHECKED ds_status lora_apply(const char *what, const struct ds_model_config *config,
                                const double *ranks, const double *alphas, struct ds_lora *lora);
/* pure: the number of those that match and have none yet */
void lora_note(const struct ds_model_config *config, const uint8_t *matches, double number,
               double *numbers);

/* whole.c. local: names of modules into the settings' list. DS_ERR_DATA: one that matches nothing, or a matrix */
DS_CHECKED ds_status whole_take(const char *what, const struct ds_model_config *config,
                                const char *list, char to[DS_LORA_WHOLE_BYTES]);
/* pure: is the embedding, or the head, among them? */
int whole_has_table(const char *list);

/* lora_layers.c. local: of what is chosen, layers that a list of numbers and runs does not name go. DS_ERR_DATA */
DS_CHECKED ds_status layers_keep(const char *what, const struct ds_model_config *config,
                                 const char *list, uint8_t *chosen);
/* local: is there one left? DS_ERR_DATA: none */
DS_CHECKED ds_status layers_check(const char *what, const struct ds_model_config *config,
                                  const uint8_t *chosen);

#endif
