"""Let llama.cpp call functions of ours, and map files of holes without filling them.

On Linux llama.cpp maps a model with MAP_POPULATE and advises the kernel to read all of it. For the
file of a variant, whose data are holes, that would fill as many bytes of page cache as the model
has. Here the library's own entries for such functions are changed, in this process.

Source: src/llama-mmap.cpp, llama_mmap::impl (b11549); the System V ABI's relocations.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
from collections.abc import Iterator, Mapping
from ctypes import c_int, c_long, c_size_t, c_void_p
from typing import Any

_MAP_POPULATE = 0x8000
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_RELOCATIONS, _DYNAMIC_SYMBOLS = 4, 11  # SHT_RELA, SHT_DYNSYM
# R_X86_64_GLOB_DAT and JUMP_SLOT, R_AARCH64_GLOB_DAT and JUMP_SLOT.
_SLOTS = (6, 7, 1025, 1026)

_MMAP = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_size_t, c_int, c_int, c_int, c_long)
_MADVISE = ctypes.CFUNCTYPE(c_int, c_void_p, c_size_t, c_int)
# What llama.cpp calls must not be collected.
_kept: list[Any] = []


def map_lazily(library: str) -> bool:
    """Whether the loaded library will now map files without reading them."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    libc.mmap.restype = c_void_p
    libc.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]

    def lazily(
        address: int | None, size: int, protection: int, flags: int, fd: int, at: int
    ) -> Any:
        return libc.mmap(address, size, protection, flags & ~_MAP_POPULATE, fd, at)

    mapping = _MMAP(lazily)
    advice = _MADVISE(lambda *_: 0)
    found = redirect(library, {"mmap": mapping, "mmap64": mapping, "posix_madvise": advice})
    return bool({"mmap", "mmap64"} & found)


def redirect(library: str, functions: Mapping[str, Any]) -> set[str]:
    """Let a loaded library call these C functions; the names of those that it takes from elsewhere.

    There are none where this cannot be done.
    """
    if sys.platform != "linux" or sys.byteorder != "little":
        return set()
    try:
        base = _loaded_at(library)
        slots = [(base + at, name) for at, name in _slots(library) if name in functions]
    except (OSError, ValueError, LookupError, struct.error):
        return set()
    libc = ctypes.CDLL(None)
    for address, name in slots:
        _write(libc, address, ctypes.cast(functions[name], c_void_p).value or 0)
        _kept.append(functions[name])
    return {name for _, name in slots}


def _loaded_at(library: str) -> int:
    """The address of the file's first byte. Raises LookupError."""
    real = os.path.realpath(library)
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[2] == "00000000" and fields[5].rstrip("\n") == real:  # noqa: PLR2004
                return int(fields[0].partition("-")[0], 16)
    raise LookupError(library)


def _slots(library: str) -> Iterator[tuple[int, str]]:
    """(offset, name) of every function that the library takes from elsewhere."""
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        start, size, n = (*struct.unpack_from("<Q", raw, 40), *struct.unpack_from("<HH", raw, 58))
        sections = [_SECTION.unpack_from(raw, start + k * size) for k in range(n)]
        symbols = next(s for s in sections if s[1] == _DYNAMIC_SYMBOLS)
        names = sections[symbols[6]][4]
        for section in sections:
            if section[1] != _RELOCATIONS:
                continue
            table = raw[section[4] : section[4] + section[5]]
            for at, info, _ in _RELOCATION.iter_unpack(table):
                if info & 0xFFFFFFFF not in _SLOTS:
                    continue
                symbol = _SYMBOL.unpack_from(raw, symbols[4] + (info >> 32) * _SYMBOL.size)
                name = names + symbol[0]
                yield at, raw[name : raw.find(b"\0", name)].decode("ascii", "replace")


def _write(libc: Any, address: int, value: int) -> None:
    """Write a pointer into a table that may be read-only since the library was loaded."""
    page = address & -mmap.PAGESIZE
    size = c_size_t(address + 8 - page)
    if libc.mprotect(c_void_p(page), size, c_int(mmap.PROT_READ | mmap.PROT_WRITE)) == 0:
        ctypes.memmove(address, struct.pack("<Q", value), 8)
