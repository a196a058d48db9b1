"""llama.cpp's own reader of presets, which is in xllamacpp though its server is no router.

It is called as C++ does it, in a process of its own. Source: common/preset.h (b11549), and the
layout of libstdc++ with its old strings: a string is a pointer to its text, which has length,
capacity and the number of its owners in front of it.
"""

from __future__ import annotations

import ctypes
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rys_gguf.engines.live.library import find_library

_SERVER = 12  # LLAMA_EXAMPLE_SERVER
_CONTEXT = "_ZN21common_preset_contextC1E13llama_example"
_LOAD = "_ZNK21common_preset_context13load_from_iniERKNSt10filesystem4pathER13common_preset"
_ARGUMENTS = "_ZNK13common_preset7to_argsERKSs"
_OWNERS = 1000  # more than will ever let go of it


def read_presets(path: Path) -> dict[str, list[str]]:
    """The arguments that llama-server's router gives its child for each section of a preset.

    Raises ValueError, with what llama.cpp says, if it does not read the file.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, path], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        raise ValueError(done.stderr)
    read: dict[str, list[str]] = json.loads(done.stdout)
    return read


def has_reader() -> bool:
    """Whether the library exports what is called here."""
    library = ctypes.CDLL(str(find_library(None).path))
    return all(hasattr(library, name) for name in (_CONTEXT, _LOAD, _ARGUMENTS))


class _String:
    """A C++ string; `at` is the address of the pointer to its text."""

    def __init__(self, text: str) -> None:
        data = text.encode()
        head = struct.pack("<QQi4x", len(data), len(data), _OWNERS)
        self._stored = ctypes.create_string_buffer(head + data)
        self._pointer = ctypes.c_void_p(ctypes.addressof(self._stored) + len(head))
        self.at = ctypes.addressof(self._pointer)


def _word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def _text(address: int) -> str:
    start = _word(address)
    return ctypes.string_at(start, _word(start - 24)).decode()


def _nodes(root: int) -> Iterator[int]:
    """The nodes of a map in order: colour, parent, left, right, then the key and its value."""
    if root:
        yield from _nodes(_word(root + 16))
        yield root
        yield from _nodes(_word(root + 24))


def _main(path: str) -> None:
    library = ctypes.CDLL(str(find_library(None).path))
    context = ctypes.create_string_buffer(1 << 20)
    getattr(library, _CONTEXT)(ctypes.byref(context), _SERVER)
    # A path is its text, and parts that nobody looks at. So is a preset without options.
    file, everywhere, program = _String(path), _String(""), _String("")
    parts = (ctypes.c_uint64 * 16)(_word(file.at))
    common = (ctypes.c_uint64 * 16)(_word(everywhere.at))
    presets, arguments = (ctypes.c_uint64 * 6)(), (ctypes.c_uint64 * 3)()
    getattr(library, _LOAD)(presets, ctypes.byref(context), parts, common)
    found = {}
    for node in _nodes(presets[2]):
        at = ctypes.c_void_p(node + 40)
        getattr(library, _ARGUMENTS)(arguments, at, ctypes.c_void_p(program.at))
        found[_text(node + 32)] = [_text(a) for a in range(arguments[0], arguments[1], 8)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    _main(sys.argv[1])
