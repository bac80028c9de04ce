/* params.h - the roles of parameters inside a unit; private to this folder. */
#ifndef MODEL_PARAMS_H
#define MODEL_PARAMS_H

#include "dstrain/model.h"

/* In the order in which they lie in their unit. */
enum param_role {
    ROLE_EMBED,
    ROLE_NORM1,
    ROLE_Q,
    ROLE_K,
    ROLE_V,
    ROLE_Q_BIAS,
    ROLE_K_BIAS,
    ROLE_V_BIAS,
    ROLE_Q_NORM,
    ROLE_K_NORM,
    ROLE_O,
    ROLE_O_BIAS,
    ROLE_NORM2,
    ROLE_GATE,
    ROLE_UP,
    ROLE_GATE_BIAS,
    ROLE_UP_BIAS,
    ROLE_DOWN,
    ROLE_DOWN_BIAS,
    ROLE_FINAL_NORM,
    ROLE_LM_HEAD,
    ROLE_COUNT
};

/* pure: the parameter of `unit` that has this role; NULL: this model has none */
const struct ds_param *model_param(const struct ds_model *model, uint32_t unit,
                                   enum param_role role);

/* The blocks, one file each. */
extern const struct ds_block_ops model_embedding_ops, model_decoder_ops, model_head_ops;

#endif
