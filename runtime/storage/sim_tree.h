/* sim_tree.h - the names of a simulated disk: directories as programs see them, as they would survive a
 * crash for sure, and the name changes between the two, oldest first. No locks: fs_sim.c has one. */
#ifndef STORAGE_SIM_TREE_H
#define STORAGE_SIM_TREE_H

#include "sim_data.h"

struct sim_name {
    char *text; /* owns */
    struct sim_node *node;
};

struct sim_names {
    struct sim_name *at;
    size_t count, capacity;
};

struct sim_node {
    int is_directory, is_marked;
    uint32_t mode;
    uint64_t mtime_ns;
    struct sim_data data;       /* of a file */
    struct sim_names now, kept; /* of a directory */
    struct sim_node *next;      /* all nodes of the tree */
    struct sim_node *twin;      /* while a tree is copied */
};

/* `from` goes, `to` becomes `node`. Without a from_dir: a new name; without a to_dir: a removed one. */
struct sim_move {
    struct sim_node *from_dir, *to_dir, *node;
    char *from, *to; /* owns */
    struct sim_move *next;
};

struct sim_tree {
    struct sim_node *root, *nodes;
    struct sim_move *first, *last;
};

/* Where a path leads: its directory, its last component and the node there (NULL: none). The root has no
 * directory. */
struct sim_place {
    struct sim_node *dir, *node;
    char name[256];
};

void sim_tree_init(struct sim_tree *tree);
void sim_tree_fini(struct sim_tree *tree);
/* What is seen, what is kept and all that is pending between the two. `to` is not initialised. */
void sim_tree_copy(struct sim_tree *to, struct sim_tree *from);
struct sim_node *sim_tree_node(struct sim_tree *tree, int is_directory, uint32_t mode);
int sim_tree_find(struct sim_tree *tree, const char *path,
                  struct sim_place *place); /* 0 or -errno */
/* Seen at once, kept after a sync of the directory. Either place may be NULL. */
void sim_tree_move(struct sim_tree *tree, const struct sim_place *from, const struct sim_place *to,
                   struct sim_node *node);
void sim_tree_sync(struct sim_tree *tree, struct sim_node *dir);
/* Decides what survives, of names and of data, and frees what no name leads to. */
void sim_tree_crash(struct sim_tree *tree, struct sim_dice *dice);

#endif
