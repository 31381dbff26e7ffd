/* api.h: cdef.h, cdef_actions.h and cdef_inject.h for C. */
#ifndef PYK_API_H
#define PYK_API_H

#include <stdint.h>

#include "cdef.h"
#include "cdef_actions.h"
#include "cdef_inject.h"

#endif
