/* linear.c - matrix products and norms with a weight of the block's units: one call of the kernel
 * table each. */
#include "linear.h"

static struct ds_tensor tensor_in(void *unit, enum ds_dtype dtype, const struct ds_param *param)
{
    char *at = (char *)unit + param->offset * ds_dtype_bytes(dtype);

    return ds_tensor1(at, dtype, param->elems);
}

struct ds_tensor pass_weight(const struct ds_pass *pass, const struct ds_model *model,
                             uint32_t slot, const struct ds_param *param)
{
    return tensor_in(pass->weights[slot], model->share.compute, param);
}

struct ds_tensor pass_grad(const struct ds_pass *pass, const struct ds_model *model, uint32_t slot,
                           const struct ds_param *param)
{
    return tensor_in(pass->grads[slot], model->share.grad, param);
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

static struct ds_matmul_args product_of(const struct ds_pass *pass, const struct linear *layer,
                                        struct ds_tensor x, struct ds_tensor y)
{
    const struct ds_tensor weight = pass_weight(pass, layer->model, layer->slot, layer->weight);

    return (struct ds_matmul_args){.a = x, .b = layer_matrix(layer, weight), .c = y, .trans_b = 1};
}

ds_status linear_product(const struct ds_pass *pass, const struct linear *layer, struct ds_tensor x,
                         struct ds_tensor y)
{
    const struct ds_matmul_args product = product_of(pass, layer, x, y);

    return pass->kernels->matmul(pass->stream, &product);
}

ds_status linear_product_onto(const struct ds_pass *pass, const struct linear *layer,
                              struct ds_tensor x, struct ds_tensor addend, struct ds_tensor y)
{
    struct ds_matmul_args product = product_of(pass, layer, x, y);

    DS_ASSERT(!layer->bias);
    product.addend = addend;
    return pass->kernels->matmul(pass->stream, &product);
}

ds_status linear_bias(const struct ds_pass *pass, const struct linear *layer, struct ds_tensor y)
{
    if (!layer->bias)
        return DS_OK;
    const struct ds_tensor weight = pass_weight(pass, layer->model, layer->slot, layer->bias);
    struct ds_bias_args bias = {.y_TN = y, .bias_N = layer_bias(layer, weight)};

    return pass->kernels->bias_forward(pass->stream, &bias);
}

ds_status linear_forward(const struct ds_pass *pass, const struct linear *layer, struct ds_tensor x,
                         struct ds_tensor y)
{
    DS_TRY(linear_product(pass, layer, x, y));
    return linear_bias(pass, layer, y);
}

ds_status linear_backward_input(const struct ds_pass *pass, const struct linear *layer,
                                struct ds_tensor dy, struct ds_tensor dx)
{
    const struct ds_tensor weight = pass_weight(pass, layer->model, layer->slot, layer->weight);
    struct ds_matmul_args product = {.a = dy, .b = layer_matrix(layer, weight), .c = dx};

    return pass->kernels->matmul(pass->stream, &product);
}

ds_status linear_backward_matrix(const struct ds_pass *pass, const struct linear *layer,
                                 struct ds_tensor x, struct ds_tensor dy, int add)
{
    const struct ds_tensor grad = pass_grad(pass, layer->model, layer->slot, layer->weight);
    struct ds_matmul_args product = {
        .a = dy,
        .b = x,
        .c = layer_matrix(layer, grad),
        .trans_a = 1,
        .add = add,
    };

    return pass->kernels->matmul(pass->stream, &product);
}

ds_status linear_backward_bias(const struct ds_pass *pass, const struct linear *layer,
                               struct ds_tensor dy, int add)
{
    if (!layer->bias)
        return DS_OK;
    const struct ds_tensor grad = pass_grad(pass, layer->model, layer->slot, layer->bias);
    struct ds_bias_args bias = {.y_TN = dy, .bias_N = layer_bias(layer, grad), .add = add};

    return pass->kernels->bias_backward(pass->stream, &bias);
}

ds_status norm_forward(const struct ds_pass *pass, const struct norm *norm,
                       const struct ds_rmsnorm_args *places)
{
    struct ds_rmsnorm_args args = *places;

    args.gain_C = pass_weight(pass, norm->model, norm->slot, norm->gain);
    args.epsilon = norm->epsilon;
    return pass->kernels->rmsnorm_forward(pass->stream, &args);
}

ds_status norm_backward(const struct ds_pass *pass, const struct norm *norm,
                        const struct ds_rmsnorm_backward_args *places)
{
    struct ds_rmsnorm_backward_args args = *places;

    args.gain_C = pass_weight(pass, norm->model, norm->slot, norm->gain);
    return pass->kernels->rmsnorm_backward(pass->stream, &args);
}
