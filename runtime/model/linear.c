/* linear.c - matrix products and norms with a weight of the block's units: one call of the kernel
 * table each, and two where a bias is added. Everything is queued, nothing waits. */
#include "linear.h"

static struct ds_tensor tensor_in(void *unit, const struct ds_param *param)
{
    return ds_tensor1((float *)unit + param->offset, DS_F32, param->elems);
}

struct ds_tensor pass_weight(const struct ds_pass *pass, uint32_t slot,
                             const struct ds_param *param)
{
    return tensor_in(pass->weights[slot], param);
}

struct ds_tensor pass_grad(const struct ds_pass *pass, uint32_t slot, const struct ds_param *param)
{
    return tensor_in(pass->grads[slot], param);
}

/* The matrix, or the fused matrices, of a layer: W or dW. */
static struct ds_tensor layer_matrix(const struct linear *layer, struct ds_tensor at)
{
    return ds_tensor2(at.data, at.dtype, layer->out, layer->in);
}

static struct ds_tensor layer_bias(const struct linear *layer, struct ds_tensor at)
{
    return ds_tensor1(at.data, at.dtype, layer->out);
}

ds_status linear_forward(const struct ds_pass *pass, const struct linear *layer,
                         uint64_t token_count, const float *x, float *y)
{
    struct ds_tensor y_TN = matrix_of(y, token_count, layer->out);
    struct ds_matmul_args product = {
        .a = matrix_of(x, token_count, layer->in),
        .b = layer_matrix(layer, pass_weight(pass, layer->slot, layer->weight)),
        .c = y_TN,
        .trans_b = 1,
    };

    DS_TRY(pass->kernels->matmul(pass->stream, &product));
    if (!layer->bias)
        return DS_OK;
    struct ds_bias_args bias = {
        .y_TN = y_TN,
        .bias_N = layer_bias(layer, pass_weight(pass, layer->slot, layer->bias)),
    };
    return pass->kernels->bias_forward(pass->stream, &bias);
}

ds_status linear_backward_input(const struct ds_pass *pass, const struct linear *layer,
                                uint64_t token_count, const float *dy, float *dx)
{
    struct ds_matmul_args product = {
        .a = matrix_of(dy, token_count, layer->out),
        .b = layer_matrix(layer, pass_weight(pass, layer->slot, layer->weight)),
        .c = matrix_of(dx, token_count, layer->in),
    };

    return pass->kernels->matmul(pass->stream, &product);
}

ds_status linear_backward_weight(const struct ds_pass *pass, const struct linear *layer,
                                 uint64_t token_count, const float *x, const float *dy, int add)
{
    struct ds_matmul_args product = {
        .a = matrix_of(dy, token_count, layer->out),
        .b = matrix_of(x, token_count, layer->in),
        .c = layer_matrix(layer, pass_grad(pass, layer->slot, layer->weight)),
        .trans_a = 1,
        .add = add,
    };

    DS_TRY(pass->kernels->matmul(pass->stream, &product));
    if (!layer->bias)
        return DS_OK;
    struct ds_bias_args bias = {
        .y_TN = matrix_of(dy, token_count, layer->out),
        .bias_N = layer_bias(layer, pass_grad(pass, layer->slot, layer->bias)),
        .add = add,
    };
    return pass->kernels->bias_backward(pass->stream, &bias);
}

ds_status norm_forward(const struct ds_pass *pass, const struct norm *norm, uint64_t token_count,
                       const float *x, const float *residual, float *sum, float *y, float *rstd)
{
    const uint64_t channels = norm->gain->elems;
    struct ds_rmsnorm_args args = {
        .x_TC = matrix_of(x, token_count, channels),
        .residual_TC = matrix_of(residual, token_count, channels),
        .gain_C = pass_weight(pass, norm->slot, norm->gain),
        .sum_TC = matrix_of(sum, token_count, channels),
        .y_TC = matrix_of(y, token_count, channels),
        .rstd_T = vector_of(rstd, token_count),
        .epsilon = norm->epsilon,
    };

    return pass->kernels->rmsnorm_forward(pass->stream, &args);
}

ds_status norm_backward(const struct ds_pass *pass, const struct norm *norm, uint64_t token_count,
                        uint32_t parts, const float *x, const float *rstd, const float *dy,
                        float *dx, int add)
{
    const uint64_t channels = norm->gain->elems;
    struct ds_rmsnorm_backward_args args = {
        .x_TC = matrix_of(x, token_count, channels),
        .gain_C = pass_weight(pass, norm->slot, norm->gain),
        .rstd_T = vector_of(rstd, token_count),
        .dy_TC = matrix_of(dy, token_count, channels),
        .dx_TC = matrix_of(dx, token_count, channels),
        .dgain_C = vector_of(NULL, channels),
        .add = add,
        .gain_add = pass->grads_add[norm->slot],
    };

    if (parts & DS_BACKWARD_WEIGHT)
        args.dgain_C = pass_grad(pass, norm->slot, norm->gain);
    return pass->kernels->rmsnorm_backward(pass->stream, &args);
}
