/* execute_memory_slow.c: the slow twins of execute_memory.c's handlers, and the table that pairs them. */
#define SLOW_TWINS
#include "execute_memory.c"

const struct twins handler_twins[HANDLER_COUNT] = {
#define PAIR(name) {name, name##_slow},
    MEMORY_HANDLERS(PAIR)
};
