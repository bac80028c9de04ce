/* inspect_print.c - how `dstrain inspect` prints what it finds. Names come from files nobody vouches for: what a terminal
 * would obey is not printed. */
#include "inspect.h"

#include <stdio.h>

void inspect_print_plain(const char *text, size_t width)
{
    size_t used = 0;

    for (; *text != '\0'; text++, used++)
        putchar((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text);
    for (; used < width; used++)
        putchar(' ');
}

void inspect_print_shape(enum ds_dtype dtype, uint32_t dim_count, const uint64_t *dims)
{
    char shape[192];
    size_t used = 0;

    shape[0] = '\0';
    for (uint32_t d = 0; d < dim_count; d++)
        used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%llu", d ? ", " : "",
                                 (unsigned long long)dims[d]);
    printf(" %-5s [%s]", ds_dtype_name(dtype), shape);
}

void inspect_print_model(const struct ds_model_config *config)
{
    printf("%s, %llu layers, hidden %llu, intermediate %llu, heads %llu, kv heads %llu, "
           "head_dim %llu, vocabulary %llu%s\n",
           ds_family_name(config->family), (unsigned long long)config->num_hidden_layers,
           (unsigned long long)config->hidden_size, (unsigned long long)config->intermediate_size,
           (unsigned long long)config->num_attention_heads,
           (unsigned long long)config->num_key_value_heads, (unsigned long long)config->head_dim,
           (unsigned long long)config->vocab_size, config->tie_word_embeddings ? ", tied" : "");
}
