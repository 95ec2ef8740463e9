"""The native part: everything else about the build is in pyproject.toml."""

from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, LinkError

NATIVE = Extension(
    "data_tools.native._native",  # a plain shared library, opened by ctypes: it needs no Python header
    py_limited_api=True,  # so one wheel serves every Python
    sources=["data_tools/native/api.cpp"],
    depends=[str(header) for header in sorted(Path("data_tools/native").glob("*.h"))],
    libraries=["jpeg"],
    extra_compile_args=[
        *("-std=c++17", "-O3", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"),
        "-ffp-contract=fast",  # fused multiply-add; what it would round differently is exact here
    ],
    extra_link_args=["-pthread"],
    language="c++",
)

HELP = """
The native image code did not build. It needs a C++17 compiler and libjpeg-turbo with its headers:
    Debian, Ubuntu:  apt-get install g++ libjpeg-dev
    conda-forge:     conda install cxx-compiler libjpeg-turbo
The compiler's own message is above.
"""


class BuildNative(build_ext):
    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except (CCompilerError, CompileError, LinkError) as error:
            raise SystemExit(f"{error}\n{HELP}") from error

    def get_export_symbols(self, ext: Any) -> list[str]:
        return []  # no PyInit__native: this is not a Python module


setup(
    ext_modules=[NATIVE],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
