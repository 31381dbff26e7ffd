"""The cffi recipe of pykprobes._core: all of csrc/*.c behind the declarations of cdef*.h.

setuptools executes this file from the project's root, hence the relative paths.
"""

import os
from pathlib import Path

from cffi import FFI

SOURCE = Path("csrc")
FLAGS = ["-std=c11", "-fno-strict-aliasing", "-fno-semantic-interposition", "-fvisibility=hidden", "-Wall", "-Wextra"]
MODES = {
    "PYK_SANITIZE": ["-O1", "-g", "-UNDEBUG", "-DLOOP_DISPATCH", "-fsanitize=address,undefined"],
    "PYK_COVERAGE": ["-O1", "-g", "-UNDEBUG", "-DLOOP_DISPATCH", "--coverage", "-fprofile-update=atomic"],
    "PYK_DEBUG": ["-O0", "-g", "-UNDEBUG", "-DLOOP_DISPATCH"],
}


def enabled(switch: str) -> bool:
    """Is an environment switch on?

    >>> enabled("PYK_NO_SUCH_SWITCH")
    False
    """
    return os.environ.get(switch, "0") not in ("", "0")


def mode_flags() -> list[str]:
    """The compiler flags of the first mode whose environment switch is on."""
    return next((flags for switch, flags in MODES.items() if enabled(switch)), ["-O2"])


def listed(*patterns: str) -> list[str]:
    """Files of csrc/ by pattern, in a stable order."""
    return [str(path) for pattern in patterns for path in sorted(SOURCE.glob(pattern))]


optimisation = mode_flags()
ffi = FFI()
ffi.cdef((SOURCE / "cdef.h").read_text())
ffi.cdef((SOURCE / "cdef_actions.h").read_text())
ffi.cdef((SOURCE / "cdef_inject.h").read_text())
ffi.cdef('extern "Python" void pykprobes_pre(uint32_t tag, int index);')
ffi.cdef('extern "Python" int pykprobes_callback(uint32_t tag, int kind, int index, uint32_t arg);')
ffi.set_source(
    "pykprobes._core",
    '#include "api.h"\n',
    sources=listed("*.c"),
    depends=listed("*.h", "*.def", "build_ffi.py"),
    # not include_dirs: csrc/limits.h must not hide the system's
    extra_compile_args=[*FLAGS, *optimisation, f'-DBUILD_FLAGS="{" ".join(optimisation)}"', "-iquote", str(SOURCE)],
    extra_link_args=[flag for flag in optimisation if flag.startswith(("-fsanitize", "--coverage"))],
    py_limited_api=True,
)
