"""
Builds the extension modules; everything else is in pyproject.toml.

``UWS4R_INSTRUMENT`` in the environment builds them for ``./build.sh sanitize`` (its value) or ``fuzz``, which needs
clang; both only run with their runtime library loaded before Python.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

# Python's own flags have -fwrapv, with which an overflow is no error that UBSan could see.
INSTRUMENTED = [
    "-O1", "-g", "-fno-omit-frame-pointer", "-fno-strict-aliasing", "-fno-wrapv", "-fno-sanitize-recover=undefined",
]  # fmt: skip
COMPILE_ARGS, LINK_ARGS = {
    "": (["-O2", "-fno-strict-aliasing"], []),
    "sanitize": ([*INSTRUMENTED, "-fsanitize=address,undefined"], ["-fsanitize=address,undefined"]),
    # Not optimised: a branch that has become arithmetic is not counted. Clang also reports NULL + 0, which Cython's
    # code for arguments does everywhere. Linked with no runtime library: the fuzzer's own has them all.
    "fuzz": (
        [*INSTRUMENTED, "-O0", "-fsanitize=address,undefined,fuzzer-no-link", "-fno-sanitize=pointer-overflow"],
        [],
    ),
}[os.environ.get("UWS4R_INSTRUMENT", "")]

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

MODULES = [
    "_deflate", "_decoder", "_frames", "_connection", "_channel", "_fanout", "_pipeline", "_intake", "_hub", "_outbox",
    "_descriptors",
]  # fmt: skip

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
