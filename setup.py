"""Build of the compiled module; everything else stands in pyproject.toml.

PYK_DEBUG=1 builds without optimisation and with asserts, PYK_SANITIZE=1 with
AddressSanitizer and UBSan, PYK_COVERAGE=1 for gcov (csrc/build_ffi.py reads them).
"""

from setuptools import setup

setup(cffi_modules=["csrc/build_ffi.py:ffi"], options={"bdist_wheel": {"py_limited_api": "cp311"}})
