"""One file that becomes candidate after candidate: only the differences are written.

A window repeats d layers, so a candidate is the source with d more layers. The order of tensors in
a GGUF is free. Here the source's tensors come first, in the order of the source, and the copies
follow. From one candidate to the next only the names of the source's tensors change, which are in
the header; among the copies, a window that is shifted by one layer has one new layer. The engine
computes the same as from the file that `apply` writes, because it finds tensors by name.

The header has room to grow, in an array that nobody reads, so that tensor data never has to move.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gguf.constants import GGUFValueType

from rys_gguf.errors import OutputFailed
from rys_gguf.files.copying import BLOCK_BYTES, copy_bytes
from rys_gguf.files.source import SourceFile
from rys_gguf.formats.header import KV, Header, Span, padded
from rys_gguf.formats.model import Model
from rys_gguf.formats.shards import TensorData
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.plan import Plan, PlannedFile, make_plan
from rys_gguf.patch.tensors import GatheredTensor, PlannedTensor, layout
from rys_gguf.patch.writer import gathered, write_files
from rys_gguf.search.hosts.base import Hosted, Workplace
from rys_gguf.search.hosts.loading import Loader
from rys_gguf.text import printable

_ROOM_KEY = "rys.search.room"
# Tables of about 50 more layers.
_ROOM_BYTES = 64 << 10


class WorkingFileHost:
    """Changes one working file from candidate to candidate; jobs in order of windows cost least."""

    def __init__(self, place: Workplace) -> None:
        self._source = place.model.files[0].path
        self._file = CandidateFile(place.model, place.folder / f"{place.name}.gguf", place.schedule)
        self._loader = Loader(place.options)

    @contextlib.contextmanager
    def open(self, layer_map: LayerMap) -> Iterator[Hosted]:
        """As Host."""
        path, change, start = self._source, Change(0, 0), time.monotonic()
        if not layer_map.is_identity:
            path, change = self._file.path, self._file.become(layer_map)
        seconds = time.monotonic() - start
        with self._loader.engine(path) as engine:
            yield Hosted(engine, change.n_written, change.n_shared, seconds)

    def stop(self) -> None:
        """End the engine that runs."""
        self._loader.stop()

    def close(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._file.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Change:
    """The cost of becoming a candidate: bytes written, and bytes shared with the source."""

    n_written: int
    n_shared: int


class CandidateFile:
    """A file at `path` that holds one candidate of `model` at a time.

    Raises Refused for a map whose file would not compute what the map says, OutputFailed if the
    disk is full or the folder cannot be written to; the next `become` then makes a new file.
    """

    def __init__(self, model: Model, path: Path, schedule: Schedule = Schedule.PORTABLE) -> None:
        self.path = path
        self._model = model
        self._schedule = schedule
        self._held: PlannedFile | None = None

    def become(self, layer_map: LayerMap) -> Change:
        """Turn the file into the model of that map."""
        plan = make_plan(self._model, layer_map, schedule=self._schedule, provenance=False)
        held, self._held = self._held, None
        data_offset = held.header.data_offset if held else 0
        file = _arranged(plan, held, data_offset)
        if held is None or file.header.data_offset != data_offset:
            written = write_files(
                self._model, [file], [self.path], force=True, progress=lambda _: None,
                may_be_link=False,
            )  # fmt: skip
            change = Change(written.n_copied, written.n_shared)
        else:
            change = self._patch(held, file)
        self._held = file
        return change

    def _patch(self, held: PlannedFile, file: PlannedFile) -> Change:
        n_written = n_shared = 0
        try:
            flags = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
            fd = os.open(self.path, flags)
            try:
                for offset, piece in _differences(self._model, held, file):
                    os.lseek(fd, offset, os.SEEK_SET)
                    if isinstance(piece, bytes):
                        _write(fd, piece)
                        n_written += len(piece)
                        continue
                    source: SourceFile = self._model.files[piece.shard]
                    for done, is_shared in copy_bytes(source, fd, piece.offset, piece.n_bytes):
                        n_shared += done if is_shared else 0
                        n_written += 0 if is_shared else done
                os.ftruncate(fd, file.n_bytes)
            finally:
                os.close(fd)
        except OSError as e:
            raise OutputFailed(f"{printable(self.path)}: {e.strerror or e}") from e
        self._model.require_unchanged()
        return Change(n_written, n_shared)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


# -- the layout of the file ----------------------------------------------------------------------


def _arranged(plan: Plan, held: PlannedFile | None, data_offset: int) -> PlannedFile:
    """The plan's tensors in an order that leaves as many as possible where they are."""
    originals: list[PlannedTensor] = []
    copies: list[PlannedTensor] = []
    seen: set[Span] = set()
    for tensor in plan.tensors:
        if isinstance(tensor.data, TensorData) and tensor.data.span not in seen:
            seen.add(tensor.data.span)
            originals.append(tensor)
        else:
            copies.append(tensor)
    originals.sort(key=_place_in_source)
    alignment = plan.header.alignment
    before = held.tensors[len(originals) :] if held else ()
    tensors = layout([*originals, *_refilled(before, copies, alignment)], alignment)
    # Long values first, so that a vocabulary stays in place whatever else changes its length.
    kvs = sorted(plan.header.kvs, key=lambda kv: not isinstance(kv.raw, Span))
    header = replace(plan.header, kvs=tuple(kvs), tensors=tuple(t.target for t in tensors))
    return PlannedFile(_roomy(header, plan.model, data_offset), tensors)


def _place_in_source(tensor: PlannedTensor) -> tuple[int, int]:
    assert isinstance(tensor.data, TensorData)
    return tensor.data.span.shard, tensor.data.span.offset


def _refilled(
    before: tuple[PlannedTensor, ...], copies: list[PlannedTensor], alignment: int
) -> list[PlannedTensor]:
    """`copies` in an order close to the one `before`; a freed place goes to one of its size."""
    left = list(copies)
    kept = [_take(left, [t for t in left if t.data == old.data]) for old in before]
    order: list[PlannedTensor] = []
    for old, same in zip(before, kept, strict=True):
        size = padded(old.target.n_bytes, alignment)
        tensor = same or _take(
            left, [t for t in left if padded(t.target.n_bytes, alignment) == size]
        )
        if tensor is not None:
            order.append(tensor)
    return order + left


def _take(left: list[PlannedTensor], fitting: list[PlannedTensor]) -> PlannedTensor | None:
    if not fitting:
        return None
    left.remove(fitting[0])
    return fitting[0]


def _roomy(header: Header, model: Model, data_offset: int) -> Header:
    """The header with an array that puts the data at `data_offset`, or further on with new room.

    A new data offset has the source's position within a block, so that file systems can share.
    """
    room = KV.of_items(_ROOM_KEY, GGUFValueType.UINT8, [], header.byteorder)
    n = padded(replace(header, kvs=(*header.kvs, room)).n_bytes, header.alignment)
    if not n <= data_offset <= n + 2 * _ROOM_BYTES:
        phase = model.header.data_offset % max(BLOCK_BYTES, header.alignment) & -header.alignment
        data_offset = padded(n + _ROOM_BYTES, max(BLOCK_BYTES, header.alignment)) + phase
    room = KV.of_items(
        _ROOM_KEY, GGUFValueType.UINT8, [b"\0"] * (data_offset - n), header.byteorder
    )
    return replace(header, kvs=(*header.kvs, room))


# -- the differences between two candidates -------------------------------------------------------


def _differences(
    model: Model, held: PlannedFile, file: PlannedFile
) -> Iterator[tuple[int, bytes | Span]]:
    """(offset, content) for everything in which the new file differs from the old one."""
    before = dict(_header_pieces(held.header))
    for offset, piece in _header_pieces(file.header):
        old = before.get(offset)
        if piece == old:
            continue
        if isinstance(piece, bytes) and isinstance(old, bytes):
            for at in range(0, len(piece), BLOCK_BYTES):
                block = piece[at : at + BLOCK_BYTES]
                if block != old[at : at + BLOCK_BYTES]:
                    yield offset + at, block
        else:
            yield offset, piece
    present = {tensor.target.offset: tensor.data for tensor in held.tensors}
    for tensor in file.tensors:
        if present.get(tensor.target.offset) != tensor.data:
            yield from _content(model, tensor, file.header.data_offset + tensor.target.offset)


def _content(
    model: Model, tensor: PlannedTensor, offset: int
) -> Iterator[tuple[int, bytes | Span]]:
    """(offset, content) of a tensor that is to be at `offset`."""
    if isinstance(tensor.data, TensorData):
        yield offset, tensor.data.span
    elif isinstance(tensor.data, GatheredTensor):
        for rows in gathered(model, tensor.data):
            yield offset, rows
            offset += len(rows)
    else:
        yield offset, tensor.data


def _header_pieces(header: Header) -> Iterator[tuple[int, bytes | Span]]:
    offset = 0
    for piece in header.encode():
        yield offset, piece
        offset += len(piece) if isinstance(piece, bytes) else piece.n_bytes
