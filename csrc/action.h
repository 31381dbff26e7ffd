/* action.h: what C does at a hit. */
#ifndef PYK_ACTION_H
#define PYK_ACTION_H

#include "machine.h"

/* Run a chain. True: it asks for the run to stop. */
bool action_run(struct machine *m, struct action *a, const struct frame *f);

/* The value of a fetch argument for a frame, sign-extended if it is signed. False: memory not readable. */
bool fetch_value(struct machine *m, const struct fetch *arg, const struct frame *f, u64 *ret);

#endif
