/* sim_tree.c - names that are seen at once and kept only after their directory is synced. */
#include "sim_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct sim_node *names_find(const struct sim_names *names, const char *text)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->at[i].text, text) == 0)
            return names->at[i].node;
    return NULL;
}

static void names_remove(struct sim_names *names, const char *text)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->at[i].text, text) == 0) {
            free(names->at[i].text);
            names->at[i] = names->at[--names->count];
            return;
        }
}

static char *text_of(const char *text)
{
    size_t bytes = strlen(text) + 1;

    return memcpy(sim_memory(NULL, bytes), text, bytes);
}

static void names_set(struct sim_names *names, const char *text, struct sim_node *node)
{
    names_remove(names, text);
    if (names->count == names->capacity) {
        names->capacity = names->capacity ? 2 * names->capacity : 8;
        names->at = sim_memory(names->at, names->capacity * sizeof *names->at);
    }
    names->at[names->count++] = (struct sim_name){text_of(text), node};
}

static void names_clear(struct sim_names *names)
{
    while (names->count > 0)
        free(names->at[--names->count].text);
}

static void node_free(struct sim_node *node)
{
    names_clear(&node->now);
    names_clear(&node->kept);
    free(node->now.at);
    free(node->kept.at);
    sim_data_fini(&node->data);
    free(node);
}

static void move_free(struct sim_move *move)
{
    free(move->from);
    free(move->to);
    free(move);
}

struct sim_node *sim_tree_node(struct sim_tree *tree, int is_directory, uint32_t mode)
{
    struct sim_node *node = sim_memory(NULL, sizeof *node);

    *node = (struct sim_node){.is_directory = is_directory, .mode = mode, .next = tree->nodes};
    tree->nodes = node;
    return node;
}

void sim_tree_init(struct sim_tree *tree)
{
    *tree = (struct sim_tree){0};
    tree->root = sim_tree_node(tree, 1, 0755);
}

void sim_tree_fini(struct sim_tree *tree)
{
    while (tree->first) {
        struct sim_move *move = tree->first;

        tree->first = move->next;
        move_free(move);
    }
    while (tree->nodes) {
        struct sim_node *node = tree->nodes;

        tree->nodes = node->next;
        node_free(node);
    }
}

static void names_copy(struct sim_names *to, const struct sim_names *from)
{
    if (from->count == 0)
        return;
    to->at = sim_memory(NULL, from->count * sizeof *to->at);
    to->count = to->capacity = from->count;
    for (size_t i = 0; i < from->count; i++)
        to->at[i] = (struct sim_name){text_of(from->at[i].text), from->at[i].node->twin};
}

static struct sim_move *move_copy(const struct sim_move *from)
{
    struct sim_move *move = sim_memory(NULL, sizeof *move);

    *move = (struct sim_move){
        .from_dir = from->from_dir ? from->from_dir->twin : NULL,
        .to_dir = from->to_dir ? from->to_dir->twin : NULL,
        .node = from->node->twin,
        .from = from->from ? text_of(from->from) : NULL,
        .to = from->to ? text_of(from->to) : NULL,
    };
    return move;
}

/* The newest was first. */
static void turn_round(struct sim_node **nodes)
{
    struct sim_node *turned = NULL;

    while (*nodes) {
        struct sim_node *node = *nodes;

        *nodes = node->next;
        node->next = turned;
        turned = node;
    }
    *nodes = turned;
}

void sim_tree_copy(struct sim_tree *to, struct sim_tree *from)
{
    *to = (struct sim_tree){0};
    for (struct sim_node *node = from->nodes; node; node = node->next) {
        node->twin = sim_tree_node(to, node->is_directory, node->mode);
        node->twin->mtime_ns = node->mtime_ns;
        sim_data_copy(&node->twin->data, &node->data);
    }
    turn_round(&to->nodes); /* a crash asks in this order */
    for (struct sim_node *node = from->nodes; node; node = node->next) {
        names_copy(&node->twin->now, &node->now);
        names_copy(&node->twin->kept, &node->kept);
    }
    for (const struct sim_move *move = from->first; move; move = move->next) {
        struct sim_move *copy = move_copy(move);

        if (to->last)
            to->last->next = copy;
        else
            to->first = copy;
        to->last = copy;
    }
    to->root = from->root->twin;
}

/* One component further; 0 or -errno. */
static int step_into(struct sim_place *place, const char *text, size_t length)
{
    if (length >= sizeof place->name)
        return -ENAMETOOLONG;
    if (!place->node)
        return -ENOENT;
    if (!place->node->is_directory)
        return -ENOTDIR;
    place->dir = place->node;
    memcpy(place->name, text, length);
    place->name[length] = '\0';
    if (strcmp(place->name, "..") == 0)
        return -EINVAL; /* nobody needs it */
    place->node = names_find(&place->dir->now, place->name);
    return 0;
}

int sim_tree_find(struct sim_tree *tree, const char *path, struct sim_place *place)
{
    *place = (struct sim_place){.node = tree->root};
    for (const char *at = path; *at;) {
        size_t length = strcspn(at, "/");

        if (length > 0 && !(length == 1 && at[0] == '.')) {
            int code = step_into(place, at, length);

            if (code != 0)
                return code;
        }
        at += length;
        at += strspn(at, "/");
    }
    return 0;
}

void sim_tree_move(struct sim_tree *tree, const struct sim_place *from, const struct sim_place *to,
                   struct sim_node *node)
{
    struct sim_move *move = sim_memory(NULL, sizeof *move);

    *move = (struct sim_move){.node = node};
    if (from) {
        move->from_dir = from->dir;
        move->from = text_of(from->name);
        names_remove(&from->dir->now, from->name);
    }
    if (to) {
        move->to_dir = to->dir;
        move->to = text_of(to->name);
        names_set(&to->dir->now, to->name, node);
    }
    if (tree->last)
        tree->last->next = move;
    else
        tree->first = move;
    tree->last = move;
}

/* A file may appear under a new name though its first one was lost, as a rename alone can reach the
 * disk. A directory does not: it would end up in two places. */
static void keep(const struct sim_move *move)
{
    if (move->from_dir && move->to_dir && move->node->is_directory &&
        names_find(&move->from_dir->kept, move->from) != move->node)
        return;
    if (move->from_dir)
        names_remove(&move->from_dir->kept, move->from);
    if (move->to_dir)
        names_set(&move->to_dir->kept, move->to, move->node);
}

static int touches(const struct sim_move *move, const struct sim_node *dir)
{
    return move->from_dir == dir || move->to_dir == dir;
}

static int crosses(const struct sim_move *move)
{
    return move->from_dir && move->to_dir && move->from_dir != move->to_dir;
}

/* What touches `dir` becomes durable. A move between directories takes everything before it along, as a
 * journal would: half of it, or it before what it rests on, would be no order at all. */
void sim_tree_sync(struct sim_tree *tree, struct sim_node *dir)
{
    const struct sim_move *last_crossing = NULL;
    struct sim_move **at = &tree->first;

    for (const struct sim_move *move = tree->first; move; move = move->next)
        if (touches(move, dir) && crosses(move))
            last_crossing = move;
    tree->last = NULL;
    while (*at) {
        struct sim_move *move = *at;

        if (last_crossing || touches(move, dir)) {
            if (move == last_crossing)
                last_crossing = NULL;
            keep(move);
            *at = move->next;
            move_free(move);
        } else {
            tree->last = move;
            at = &move->next;
        }
    }
}

static void mark(struct sim_node *node)
{
    if (node->is_marked)
        return;
    node->is_marked = 1;
    for (size_t i = 0; i < node->kept.count; i++)
        mark(node->kept.at[i].node);
}

static void node_after_crash(struct sim_node *node, struct sim_dice *dice)
{
    node->is_marked = 0;
    names_clear(&node->now);
    for (size_t i = 0; i < node->kept.count; i++)
        names_set(&node->now, node->kept.at[i].text, node->kept.at[i].node);
    if (!node->is_directory)
        sim_data_crash(&node->data, dice);
}

void sim_tree_crash(struct sim_tree *tree, struct sim_dice *dice)
{
    while (tree->first) {
        struct sim_move *move = tree->first;

        if (sim_dice_survives(dice))
            keep(move);
        tree->first = move->next;
        move_free(move);
    }
    tree->last = NULL;
    mark(tree->root);
    for (struct sim_node **at = &tree->nodes; *at;) {
        struct sim_node *node = *at;

        if (node->is_marked) {
            node_after_crash(node, dice);
            at = &node->next;
        } else {
            *at = node->next;
            node_free(node);
        }
    }
}
