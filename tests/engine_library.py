"""The engine as a library: the functions of ggml that the Python package exports."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest


class _Params(ctypes.Structure):
    """struct gguf_init_params of ggml/include/gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def engine_library() -> ctypes.CDLL:
    """The ggml that the engine was built with; the test is skipped where it is not at hand."""
    engine = pytest.importorskip("xllamacpp.xllamacpp")
    library = ctypes.CDLL(engine.__file__)
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_type_name.restype = ctypes.c_char_p
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = (ctypes.c_char_p, _Params)
    library.gguf_free.argtypes = (ctypes.c_void_p,)
    return library


def opens(ggml: ctypes.CDLL, path: Path) -> bool:
    """Whether gguf.cpp accepts the header and tensor table of a file."""
    context = ggml.gguf_init_from_file(str(path).encode(), _Params(no_alloc=True, ctx=None))
    ggml.gguf_free(context)
    return context is not None
