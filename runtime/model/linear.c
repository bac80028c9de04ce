/* linear.c - matrix products and norms with a weight of the block's units: one call of the kernel
 * table each. */
#include "linear.h"

#include "dora.h"

static struct ds_tensor tensor_in(void *unit, enum ds_dtype dtype, const struct ds_param *param)
{
    char *at = (char *)unit + param->offset * ds_dtype_bytes(dtype);

    return ds_tensor1(at, dtype, param->elems);
}

static uint32_t slot_of(const struct ds_block *block, const struct ds_param *param)
{
    uint32_t slot = 0;

    while (slot < block->unit_count && block->units[slot] != param->unit)
        slot++;
    DS_ASSERT(slot < block->unit_count);
    return slot;
}

struct ds_tensor pass_weight(const struct ds_pass *pass, const struct ds_block *block,
                             const struct ds_param *param)
{
    return tensor_in(pass->weights[slot_of(block, param)], block->model->share.compute, param);
}

struct ds_tensor pass_grad(const struct ds_pass *pass, const struct ds_block *block,
                           const struct ds_param *param)
{
    if (!param || !param->is_trainable)
        return (struct ds_tensor){0};
    return tensor_in(pass->grads[slot_of(block, param)], block->model->share.grad, param);
}

int pass_adds(const struct ds_pass *pass, const struct ds_block *block,
              const struct ds_param *param)
{
    return param && param->is_trainable && pass->grads_add[slot_of(block, param)];
}

/* Does it lie behind those that are there, without a gap? */
static int follows(const struct bias_part *last, const struct ds_param *bias)
{
    return last->first->unit == bias->unit && last->first->offset + last->count == bias->offset;
}

void linear_add_bias(struct linear *layer, const struct ds_param *bias)
{
    struct bias_part *last = layer->bias_count > 0 ? &layer->biases[layer->bias_count - 1u] : NULL;

    if (!bias)
        return;
    if (last && follows(last, bias)) {
        last->count += bias->elems;
        return;
    }
    DS_ASSERT(layer->bias_count < BIAS_PARTS_MAX);
    layer->biases[layer->bias_count++] =
        (struct bias_part){bias, last ? last->start + last->count : 0, bias->elems};
}

/* The matrix, or the fused matrices, of a layer: W or dW. */
static struct ds_tensor layer_matrix(const struct linear *layer, struct ds_tensor at)
{
    return ds_tensor2(at.data, at.dtype, layer->out, layer->in);
}

/* Of the columns of y that a part is for. */
static struct ds_bias_args bias_of(const struct linear *layer, const struct bias_part *part,
                                   struct ds_tensor y, struct ds_tensor at)
{
    char *columns = (char *)y.data + part->start * ds_dtype_bytes(y.dtype);

    return (struct ds_bias_args){.y_TN = ds_tensor2(columns, y.dtype, y.shape[0], part->count),
                                 .bias_N = ds_tensor1(at.data, at.dtype, part->count),
                                 .y_stride = layer->out};
}

static struct ds_matmul_args product_of(const struct ds_pass *pass, const struct linear *layer,
                                        struct ds_tensor x, struct ds_tensor y)
{
    const struct ds_tensor weight = pass_weight(pass, layer->block, layer->weight);

    return (struct ds_matmul_args){.a = x, .b = layer_matrix(layer, weight), .c = y, .trans_b = 1};
}

ds_status linear_product(const struct ds_pass *pass, const struct linear *layer, struct ds_tensor x,
                         struct ds_tensor y)
{
    const struct ds_matmul_args product = product_of(pass, layer, x, y);

    if (lora_has_lengths(&layer->lora))
        return dora_product(pass, layer, x, (struct ds_tensor){0}, y);
    DS_TRY(pass->kernels->matmul(pass->stream, &product));
    DS_TRY(lora_project(pass, &layer->lora, x));
    return lora_forward(pass, &layer->lora, y);
}

ds_status linear_product_onto(const struct ds_pass *pass, const struct linear *layer,
                              struct ds_tensor x, struct ds_tensor addend, struct ds_tensor y)
{
    struct ds_matmul_args product = product_of(pass, layer, x, y);

    DS_ASSERT(layer->bias_count == 0);
    if (lora_has_lengths(&layer->lora))
        return dora_product(pass, layer, x, addend, y);
    product.addend = addend;
    DS_TRY(pass->kernels->matmul(pass->stream, &product));
    DS_TRY(lora_project(pass, &layer->lora, x));
    return lora_forward(pass, &layer->lora, y);
}

ds_status linear_bias(const struct ds_pass *pass, const struct linear *layer, struct ds_tensor y)
{
    for (uint32_t i = 0; i < layer->bias_count; i++) {
        const struct bias_part *part = &layer->biases[i];
        const struct ds_bias_args bias =
            bias_of(layer, part, y, pass_weight(pass, layer->block, part->first));

        DS_TRY(pass->kernels->bias_forward(pass->stream, &bias));
    }
    return DS_OK;
}

ds_status linear_forward(const struct ds_pass *pass, const struct linear *layer, struct ds_tensor x,
                         struct ds_tensor y)
{
    DS_TRY(linear_product(pass, layer, x, y));
    return linear_bias(pass, layer, y);
}

/* Nothing comes between the product and what reads it. */
static int is_product_alone(const struct linear *layer)
{
    return layer->lora.ranks == 0 && layer->bias_count == 0;
}

ds_status linear_forward_split(const struct ds_pass *pass, const struct linear *layer,
                               struct ds_tensor x, struct ds_qkv_split_args places)
{
    if (!is_product_alone(layer)) {
        DS_TRY(linear_forward(pass, layer, x, places.qkv_TN));
        return pass->kernels->qkv_split(pass->stream, &places);
    }
    places.x_TC = x;
    places.weight_NC = layer_matrix(layer, pass_weight(pass, layer->block, layer->weight));
    return pass->kernels->qkv_split(pass->stream, &places);
}

ds_status linear_forward_swiglu(const struct ds_pass *pass, const struct linear *layer,
                                struct ds_tensor x, struct ds_tensor y, struct ds_tensor product)
{
    struct ds_swiglu_args swiglu = {.gate_up_TN = y, .y_TI = product};

    if (!is_product_alone(layer)) {
        DS_TRY(linear_forward(pass, layer, x, y));
        return product.data ? pass->kernels->swiglu_forward(pass->stream, &swiglu) : DS_OK;
    }
    swiglu.x_TC = x;
    swiglu.weight_NC = layer_matrix(layer, pass_weight(pass, layer->block, layer->weight));
    return pass->kernels->swiglu_forward(pass->stream, &swiglu);
}

ds_status linear_backward_swiglu(const struct ds_pass *pass, const struct linear *layer,
                                 struct ds_tensor dy, struct ds_swiglu_backward_args places)
{
    if (layer->lora.ranks > 0) {
        DS_TRY(linear_backward_input(pass, layer, dy, places.dy_TI));
        return pass->kernels->swiglu_backward(pass->stream, &places);
    }
    places.dz_TC = dy;
    places.weight_CI = layer_matrix(layer, pass_weight(pass, layer->block, layer->weight));
    return pass->kernels->swiglu_backward(pass->stream, &places);
}

int linear_has_loss(const struct linear *layer)
{
    return is_product_alone(layer);
}

ds_status linear_forward_loss(const struct ds_pass *pass, const struct linear *layer,
                              struct ds_tensor x, struct ds_cross_entropy_args loss)
{
    if (!linear_has_loss(layer)) {
        DS_TRY(linear_forward(pass, layer, x, loss.logits_NV));
        return pass->kernels->cross_entropy(pass->stream, &loss);
    }
    loss.x_NC = loss.scaled_NC = x;
    loss.weight_VC = layer_matrix(layer, pass_weight(pass, layer->block, layer->weight));
    return pass->kernels->cross_entropy(pass->stream, &loss);
}

ds_status linear_backward_input(const struct ds_pass *pass, const struct linear *layer,
                                struct ds_tensor dy, struct ds_tensor dx)
{
    const struct ds_tensor weight = pass_weight(pass, layer->block, layer->weight);
    struct ds_matmul_args product = {.a = dy, .b = layer_matrix(layer, weight), .c = dx};

    if (lora_has_lengths(&layer->lora))
        return dora_backward_input(pass, layer, dy, dx);
    DS_TRY(pass->kernels->matmul(pass->stream, &product));
    DS_TRY(lora_backward(pass, &layer->lora, dy));
    return lora_backward_input(pass, &layer->lora, dx, 0);
}

ds_status linear_backward_no_input(const struct ds_pass *pass, const struct linear *layer,
                                   struct ds_tensor dy)
{
    if (lora_has_lengths(&layer->lora))
        DS_TRY(dora_turn(pass, layer, dy, &dy));
    return lora_backward(pass, &layer->lora, dy);
}

static ds_status backward_weight(const struct ds_pass *pass, const struct linear *layer,
                                 struct ds_tensor x, struct ds_tensor dy, int add)
{
    const struct ds_tensor grad = pass_grad(pass, layer->block, layer->weight);
    struct ds_matmul_args product = {
        .a = dy,
        .b = x,
        .c = layer_matrix(layer, grad),
        .trans_a = 1,
        .add = add,
    };

    return pass->kernels->matmul(pass->stream, &product);
}

ds_status linear_backward_matrix(const struct ds_pass *pass, const struct linear *layer,
                                 struct ds_tensor x, struct ds_tensor dy, int add)
{
    if (layer->weight->is_trainable)
        DS_TRY(backward_weight(pass, layer, x, dy, add));
    DS_TRY(dora_backward_lengths(pass, layer, dy));
    if (lora_has_lengths(&layer->lora))
        DS_TRY(dora_turn(pass, layer, dy, &dy));
    return lora_backward_factors(pass, &layer->lora, x, dy);
}

ds_status linear_backward_bias(const struct ds_pass *pass, const struct linear *layer,
                               struct ds_tensor dy)
{
    for (uint32_t i = 0; i < layer->bias_count; i++) {
        const struct bias_part *part = &layer->biases[i];
        if (!part->first->is_trainable)
            continue;
        struct ds_bias_args bias =
            bias_of(layer, part, dy, pass_grad(pass, layer->block, part->first));

        bias.add = pass_adds(pass, layer->block, part->first);
        DS_TRY(pass->kernels->bias_backward(pass->stream, &bias));
    }
    return DS_OK;
}

ds_status norm_forward(const struct ds_pass *pass, const struct norm *norm,
                       const struct ds_rmsnorm_args *places)
{
    struct ds_rmsnorm_args args = *places;

    args.gain_C = pass_weight(pass, norm->block, norm->gain);
    args.epsilon = norm->epsilon;
    return pass->kernels->rmsnorm_forward(pass->stream, &args);
}

ds_status norm_backward(const struct ds_pass *pass, const struct norm *norm,
                        const struct ds_rmsnorm_backward_args *places)
{
    struct ds_rmsnorm_backward_args args = *places;

    args.gain_C = pass_weight(pass, norm->block, norm->gain);
    return pass->kernels->rmsnorm_backward(pass->stream, &args);
}
