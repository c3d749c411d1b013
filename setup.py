"""Compiles csrc/ into a plain shared library, each file with the instructions it may use. Without a compiler the package
installs all the same, and the reference backend serves."""

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma"]
# For each file the flags it would like, and what it takes from an older compiler; without any it compiles to nothing.
MORE = {
    "path_avx2.cpp": [["-mavx2", "-mfma"]],
    "products_avx2.cpp": [["-mavx2", "-mfma"]],
    "path_avx512.cpp": [AVX512],
    "nibbles_avx512.cpp": [AVX512],
    "products_avx512.cpp": [[*AVX512, "-mavx512vnni", "-mavx512bf16"], [*AVX512, "-mavx512vnni"]],
    "products_amx.cpp": [[*AVX512, "-mamx-tile", "-mamx-bf16", "-mamx-int8"]],
    "peak_avx2.cpp": [["-mavx2", "-mfma"]],
    "peak_avx512.cpp": [AVX512],
    "peak_products.cpp": [[*AVX512, "-mavx512vnni", "-mavx512bf16"], [*AVX512, "-mavx512vnni"]],
    "peak_amx.cpp": [["-mamx-tile", "-mamx-bf16", "-mamx-int8"]],
}
COMMON = ["-O3", "-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-pthread"]
COMMON += ["-Wall", "-Wextra", "-Wno-maybe-uninitialized"]
# BRIGADE_SANITIZE=address,undefined: a build that watches itself, for `make sanitize`.
SANITIZE = [f"-fsanitize={os.environ['BRIGADE_SANITIZE']}"] if os.environ.get("BRIGADE_SANITIZE") else []
COMMON += [*SANITIZE, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g", "-Wno-uninitialized"] if SANITIZE else []
SOURCES = ["isa", "pool", "read", "hold", "pack", "fill", "checksum", "sums", "matmul", "attention", "layer", "stack"]
SOURCES += ["sample", "exchange"]
SOURCES += ["path_portable", "path_avx2", "path_avx512", "products_avx2", "nibbles_avx512", "products_avx512", "products_amx"]
SOURCES += ["peak", "peak_portable", "peak_avx2", "peak_avx512", "peak_products", "peak_amx"]

HEADERS = ["brigade.h", "path.h", "kernels.h", "fill.h", "pool.h", "vec.h", "turn.h", "peak.h"]
HEADERS += ["path.inc", "rows.inc", "tiles.inc", "nibbles.inc", "product.inc", "attention.inc", "sums.inc", "peak.inc"]


class BuildKernels(build_ext):
    """One compiler call a file; a flag that the compiler does not know leaves that path out."""

    def build_extension(self, ext):
        try:
            first, *others = ext.sources
            objects = [self._compile(first)]  # alone: it makes the folder
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects += pool.map(self._compile, others)
            self.compiler.link_shared_object(
                objects, self.get_ext_fullpath(ext.name), extra_postargs=["-pthread", *SANITIZE], target_lang="c++",
                build_temp=self.build_temp,
            )  # fmt: skip
        except Exception as error:  # whatever the compiler's trouble is, the package works without
            print(f"brigade: the C++ kernels could not be built ({error}); the reference backend will be used", file=sys.stderr)

    def _compile(self, source):
        x86 = platform.machine() in ("x86_64", "AMD64")
        wishes = MORE.get(source.rsplit("/", 1)[-1], []) if x86 else []
        for extra in wishes:
            try:
                return self.compiler.compile([source], self.build_temp, extra_postargs=[*COMMON, *extra])[0]
            except Exception as error:
                print(f"brigade: {source} without {extra[-1]}: {error}", file=sys.stderr)
        return self.compiler.compile([source], self.build_temp, extra_postargs=COMMON)[0]

    def copy_extensions_to_source(self):
        try:
            super().copy_extensions_to_source()
        except Exception as error:
            print(f"brigade: no kernels were built ({error})", file=sys.stderr)

    def get_outputs(self):
        from os.path import exists

        return [path for path in super().get_outputs() if exists(path)]


setup(
    ext_modules=[
        Extension(
            "brigade.backends.cpu._kernels",
            [f"csrc/{name}.cpp" for name in SOURCES],
            depends=[f"csrc/{name}" for name in HEADERS],
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)  # fmt: skip
