"""Compiling Python to machine code with numba: what is compiled, how, and where it is kept.

`kernel` marks a function that other compiled functions call; `entry` marks one that Python calls.
Entries release the interpreter's lock and are kept on disk, so a machine compiles once per version
of these sources. Strict floating point everywhere: a sum has one order, whatever the batch and the
number of threads, so a conversation's bits do not depend on its neighbours.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numba
from filelock import FileLock
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

_IMPORT = re.compile(r"^from duologue\.runtime\.(\w+) import", re.MULTILINE)
KEPT_VERSIONS = 4
"""Versions of each module's compiled code that stay on disk."""


def _has(*features: str) -> bool:
    host = llvm.get_host_cpu_features()
    return all(host.get(feature, False) for feature in features)


LANES = 16 if _has("avx512f", "avx512bw", "avx512vl") else 8
"""float32 numbers in a vector of this machine (wider ones are split by the compiler)."""


def kernel(function: Function) -> Any:
    """Compile a function that only compiled code calls."""
    return numba.njit(error_model="numpy")(function)


def variant(function: Function, name: str) -> Any:
    """As `kernel`, for one of several functions that a factory makes.

    Each needs a name of its own: compiled code that was kept by different processes is joined by
    names, and two that are called the same would be taken for one another.
    """
    function.__name__ = function.__qualname__ = name
    return kernel(function)


def lean(function: Function) -> Any:
    """As `kernel`, for functions that are handed many arrays: none is counted, none can be made."""
    return numba.njit(error_model="numpy", _nrt=False)(function)


def inlined(function: Function) -> Any:
    """As `kernel`, for small functions within loops that are to become vector code."""
    return numba.njit(error_model="numpy", forceinline=True)(function)


def loose(function: Function) -> Any:
    """As `kernel`, but sums may be reordered: for loops over one slot's own numbers."""
    return numba.njit(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})(function)


def entry(function: Function) -> Any:
    """Compile a function that Python calls."""
    with _kept(function) as kept:
        return _alone(numba.njit(error_model="numpy", nogil=True, cache=kept)(function), kept)


def lean_entry(function: Function) -> Any:
    """As `entry`, under the terms of `lean`."""
    with _kept(function) as kept:
        made = numba.njit(error_model="numpy", nogil=True, cache=kept, _nrt=False)(function)
        return _alone(made, kept)


def address_of(signature: Any, function: Callable[..., Any]) -> int:
    """Compile a function of whole numbers now; where its code is, for `call`.

    Large pieces are compiled so: on their own, once, and only if they are wanted. (numba would
    else optimise them again with every function that they are reached from.)
    """
    with _kept(function) as kept, _turn() if kept else nullcontext():
        return int(numba.cfunc(signature, error_model="numpy", cache=kept)(function).address)


def make_call(arguments: int) -> Any:
    """Compiled-code function that calls code at an address with so many whole numbers."""
    integer = ir.IntType(64)
    shape = ir.FunctionType(ir.VoidType(), [integer] * arguments)

    @intrinsic
    def call(typing, address, *numbers):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            values = cgutils.unpack_tuple(builder, args[1], arguments)
            builder.call(builder.inttoptr(args[0], shape.as_pointer()), values)
            return context.get_dummy_value()

        numbers_type = types.UniTuple(types.int64, arguments)
        return types.void(types.int64, numbers_type), emit

    return call


def _alone(dispatcher: Any, kept: bool) -> Any:
    """Have an entry compile, or read what is kept, only while no other process does."""
    if not kept:
        return dispatcher
    compile_one = dispatcher.compile

    def compile_alone(signature: Any) -> Any:
        with _turn():
            return compile_one(signature)

    dispatcher.compile = compile_alone
    return dispatcher


@functools.cache
def _turn() -> FileLock:
    """One process compiles at a time.

    numba numbers the files of a function's variants by what it finds on disk; two processes that
    compile different variants at once would write the same file, and one would later run the
    other's code.
    """
    return FileLock(_root() / "lock")


@contextmanager
def _kept(function: Callable[..., Any]) -> Iterator[bool]:
    """Have what is compiled inside kept in this module's folder; False if that cannot be."""
    previous = numba.config.CACHE_DIR
    folder = cache_folder(Path(function.__code__.co_filename))
    numba.config.CACHE_DIR = "" if folder is None else str(folder)
    try:
        yield folder is not None
    finally:
        numba.config.CACHE_DIR = previous


def _root() -> Path:
    base = os.environ.get("DUOLOGUE_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "duologue" / "kernels"


@functools.cache
def cache_folder(module: Path) -> Path | None:
    """Where a module's compiled code is kept.

    Named after its sources and those of this room that it imports, directly or not, as numba looks
    at one file only. `None` if nothing can be written there; code is then compiled in each process.
    """
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted(_closure(module)):
        digest.update(source.read_bytes())
    root = _root() / module.stem
    folder = root / digest.hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return None
        folder.touch()
        versions = sorted(root.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in versions[KEPT_VERSIONS:]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        logger.warning("compiled kernels are not kept: %s", error)
        return None
    return folder


def _closure(module: Path) -> set[Path]:
    """A module of this room and all others of it that it needs."""
    found, waiting = set(), [module]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        names = _IMPORT.findall(path.read_text(encoding="utf-8"))
        waiting += [path.parent / f"{name}.py" for name in names]
    return found
