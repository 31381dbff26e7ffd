/* api.h: cdef.h for C. */
#ifndef PYK_API_H
#define PYK_API_H

#include <stdint.h>

#include "cdef.h"

#endif
