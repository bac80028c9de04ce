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

enum param_dim { DIM_NONE, DIM_C, DIM_D, DIM_HD, DIM_GD, DIM_I, DIM_V };

/* pure: the box of `param`, whose shape is set, that lies here; which of its dims is what decides how it is cut. Of
 * what every rank has whole, `is_partial` says that each sees a part of its gradient. */
void model_share_out(const struct ds_model *model, const enum param_dim dims[2],
                     enum ds_tp_split split, int is_partial, struct ds_param *param);
/* pure: how many parameters the model has without an adapter */
uint32_t model_own_count(const struct ds_model *model);
/* pure: a parameter more at the end of its unit; `joins`: the fuse group of the one before */
void model_place(struct ds_model *model, uint32_t unit, struct ds_param *param, int joins);

/* A linear layer's matrix: what its rows and columns are, how ranks share it. */
struct linear_row {
    const char *name;
    enum param_dim dims[2];
    enum ds_tp_split split;
};
const struct linear_row *model_linear_row(enum ds_linear linear);
uint64_t model_dim_size(const struct ds_model_config *config, enum param_dim dim);

/* A unit is of one kind: some parameters of a block that is not all trained, or not all frozen, lie in its second. */
enum { PARAMS_FROZEN = 1u << 0, PARAMS_TRAINED = 1u << 1 };
/* pure: which of these the block's own parameters are, with the model's adapter */
uint32_t model_params_of(const struct ds_model *model, uint32_t block);
/* pure: those of the block's own parameters that are trained, behind the model's last one, into `unit`, which has none */
void model_add_trained(struct ds_model *model, uint32_t block, uint32_t unit);

/* whole.c. pure: does an adapter train a parameter of the model itself? `name` as HF has it */
int whole_is_trained(const struct ds_model *model, const char *name, int is_bias);

/* adapter.c. local: at most how many factors an adapter has; its settings and matrices, before there are parameters;
 * and all units of its own at the end of the model's */
uint32_t adapter_param_count(const struct ds_model_config *config, const struct ds_lora *lora);
void adapter_take(struct ds_model *model, const struct ds_lora *lora);
void adapter_make(struct ds_model *model);

/* pure: the parameter of `unit` that has this role; NULL: this model has none */
const struct ds_param *model_param(const struct ds_model *model, uint32_t unit,
                                   enum param_role role);

/* The blocks, one file each. */
extern const struct ds_block_ops model_embedding_ops, model_decoder_ops, model_head_ops;

#endif
