/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Intrusive doubly linked list. A `List` is both head and link; the owner embeds the link and
 * gets back to itself with `container_of`.
 */

#include <stdbool.h>
#include <stddef.h>

typedef struct List {
    struct List *next, *prev;
} List;

#define container_of(_ptr, _type, _member) \
    ((_type *)(void *)((char *)(_ptr)-offsetof(_type, _member)))

#define LIST_INIT(_l) \
    { .next = &(_l), .prev = &(_l) }

static inline void list_init(List *l) {
    l->next = l->prev = l;
}

static inline bool list_is_empty(const List *head) {
    return head->next == head;
}

static inline void list_push_back(List *head, List *link) {
    link->prev = head->prev;
    link->next = head;
    head->prev->next = link;
    head->prev = link;
}

static inline void list_push_front(List *head, List *link) {
    list_push_back(head->next, link);
}

/* Safe on an already removed link. */
static inline void list_remove(List *link) {
    link->prev->next = link->next;
    link->next->prev = link->prev;
    list_init(link);
}

static inline List *list_pop_front(List *head) {
    List *link = head->next;

    if (link == head)
        return NULL;
    list_remove(link);
    return link;
}

/* Moves everything from `from` to the end of `to`; `from` becomes empty. */
static inline void list_splice(List *to, List *from) {
    if (list_is_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

#define list_for_each(_it, _head) for (List *_it = (_head)->next; _it != (_head); _it = _it->next)

/* The body may remove `_it`. */
#define list_for_each_safe(_it, _head)                                       \
    for (List *_it = (_head)->next, *_it##_next = _it->next; _it != (_head); \
         _it = _it##_next, _it##_next = _it->next)
