"""
Builds the extension modules; everything else is in pyproject.toml.

``UWS4R_SANITIZE=1`` in the environment builds them with AddressSanitizer and UBSan.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

COMPILE_ARGS = ["-O2", "-fno-strict-aliasing"]
LINK_ARGS: list[str] = []
if os.environ.get("UWS4R_SANITIZE"):
    COMPILE_ARGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
    LINK_ARGS = ["-fsanitize=address,undefined"]

DIRECTIVES = {
    "language_level": 3,
    # Indexes are computed by us, on C arrays; Python sequences are iterated, not indexed.
    "boundscheck": False,
    "wraparound": False,
    # C's semantics for / and %: all operands are unsigned sizes.
    "cdivision": True,
    # A function's signature and docstring show in help() and in the docs.
    "embedsignature": True,
    # None of the classes can be pickled: they are descriptors and memory.
    "auto_pickle": False,
}

MODULES = ["_deflate", "_frames", "_connection", "_fanout", "_hub"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"uws4r.{name}",
                [f"uws4r/{name}.pyx"],
                extra_compile_args=COMPILE_ARGS,
                extra_link_args=LINK_ARGS,
                libraries=["z"] if name == "_deflate" else [],
            )
            for name in MODULES
        ],
        compiler_directives=DIRECTIVES,
    ),
)
