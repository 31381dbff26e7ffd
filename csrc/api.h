/* api.h: cdef.h and cdef_actions.h for C. */
#ifndef PYK_API_H
#define PYK_API_H

#include <stdint.h>

#include "cdef.h"
#include "cdef_actions.h"

#endif
