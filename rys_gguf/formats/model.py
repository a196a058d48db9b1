"""An open model: its header, the tensors of each layer, and where their bytes are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

from gguf.constants import GGUFValueType

from rys_gguf.errors import InvalidGGUF, Refused
from rys_gguf.files.source import SourceFile
from rys_gguf.formats.header import KV, Span, TensorInfo, layer_of
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.formats.other_files import companion
from rys_gguf.formats.shards import Shards, TensorData
from rys_gguf.text import printable, quoted

# These count MTP blocks only if the first one has its projection (deepseek4.cpp,
# load_arch_hparams, in b11434 as in b11549).
_MTP_BY_TENSOR = frozenset({"deepseek4"})


class Model:
    """A GGUF model opened for reading, by the path of any of its files or from open shards.

    Use it as a context manager.

    `n_trunk` main layers run in order; `n_mtp` multi-token-prediction blocks follow them;
    `block_count` counts both.
    Raises InvalidGGUF for files that are not GGUF models.
    """

    def __init__(self, files: str | os.PathLike[str] | Shards) -> None:
        self._shards = files if isinstance(files, Shards) else Shards(files)
        self.header = self._shards.header
        try:
            self._read_layers()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._shards.close()

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files the model consists of; `Span.shard` counts them."""
        return self._shards.files

    @property
    def name(self) -> str:
        """The file's name, safe to print."""
        return self._shards.files[0].name

    @property
    def n_bytes(self) -> int:
        """Size on disk."""
        return self._shards.n_bytes

    @property
    def n_trailing_bytes(self) -> int:
        """Bytes after the last tensor's padding in a single file; llama.cpp ignores them."""
        return self._shards.n_trailing_bytes if len(self.files) == 1 else 0

    @property
    def n_bytes_between_shards(self) -> int:
        """Such bytes in a model of several files, which no output has a place for."""
        return self._shards.n_trailing_bytes if len(self.files) > 1 else 0

    def key(self, suffix: str) -> str:
        """Put the architecture's prefix before a key: `block_count` to `llama.block_count`."""
        return f"{self.architecture}.{suffix}"

    def scalar(self, suffix: str) -> Any:
        """The value of a scalar under the architecture's prefix, or None."""
        kv = self.header.get(self.key(suffix))
        return None if kv is None or kv.is_array else kv.value

    def data(self, tensor: TensorInfo) -> TensorData:
        """Where the tensor's data is, and how much padding follows it."""
        return self._shards.data[tensor.name]

    def raw(self, kv: KV) -> Iterator[bytes]:
        """The value's bytes as stored, from memory or from the file, in pieces of at most 1 MiB."""
        if isinstance(kv.raw, bytes):
            yield kv.raw
        else:
            yield from self.read(kv.raw)

    def read(self, span: Span) -> Iterator[bytes]:
        """The bytes of a span in pieces of at most 1 MiB."""
        return self._shards.read(span)

    def offset_issues(self) -> list[str]:
        """Where the tensor tables break llama.cpp's rule for offsets."""
        return self._shards.offset_issues()

    def header_digest(self) -> str:
        """SHA-256 of everything before the tensor data, as it is on disk, over all files."""
        digest = hashlib.sha256()
        for shard, reader in enumerate(self._shards.readers):
            n = min(reader.data_offset, reader.file.n_bytes)
            for piece in self.read(Span(0, n, shard)):
                digest.update(piece)
        return digest.hexdigest()

    def require_unchanged(self) -> None:
        """Raise InvalidGGUF if a file changed since it was opened."""
        self._shards.require_unchanged()

    def invalid(self, what: str) -> InvalidGGUF:
        """An InvalidGGUF that names the file."""
        return InvalidGGUF(f"{self.name}: {what}")

    def refuse(self, what: str) -> Refused:
        """A Refused that names the file."""
        return Refused(f"{self.name}: {what}")

    def _read_layers(self) -> None:
        header = self.header
        if what := companion(header):
            raise self.invalid(f"is {what}")
        arch = header.get("general.architecture")
        if arch is None or arch.type != GGUFValueType.STRING:
            raise self.invalid("has no general.architecture: not a model llama.cpp can load")
        self.architecture = str(arch.value)
        self.block_count = self._count("block_count")
        if header.get(self.key("block_count")) is None:
            raise self.invalid(
                f"has no {printable(self.key('block_count'))}: not a language model llama.cpp "
                f"can load"
            )
        if not 1 <= self.block_count <= MAX_LAYERS:
            raise self.invalid(
                f"{printable(self.key('block_count'))} is {self.block_count}, "
                f"llama.cpp takes 1..{MAX_LAYERS}"
            )
        self.n_mtp = self._count_mtp()
        self.n_trunk = self.block_count - self.n_mtp
        if self.n_trunk < 1:
            raise self.invalid(
                f"{self.key('nextn_predict_layers')} is {self.n_mtp} of {self.block_count} blocks: "
                f"no layers are left"
            )
        # Grouped once, in file order; layers[n] is empty where the file has no tensors for block n.
        self.layers: list[list[TensorInfo]] = [[] for _ in range(self.block_count)]
        self.globals: list[TensorInfo] = []
        for tensor in header.tensors:
            layer = layer_of(tensor.name)
            if layer is None:
                if tensor.name.startswith("blk."):
                    raise self.invalid(
                        f"tensor {quoted(tensor.name)}: expected blk.<number>.<name>"
                    )
                self.globals.append(tensor)
            elif layer >= self.block_count:
                raise self.invalid(
                    f"tensor {quoted(tensor.name)} is past the last block: "
                    f"{self.key('block_count')} is {self.block_count}"
                )
            else:
                self.layers[layer].append(tensor)

    def _count_mtp(self) -> int:
        n_mtp = self._count("nextn_predict_layers")
        if self.architecture in _MTP_BY_TENSOR and n_mtp <= self.block_count:
            probe = f"blk.{self.block_count - n_mtp}.nextn.eh_proj.weight"
            if all(tensor.name != probe for tensor in self.header.tensors):
                return 0
        return n_mtp

    def _count(self, suffix: str) -> int:
        kv = self.header.get(self.key(suffix))
        if kv is None:
            return 0
        if kv.type != GGUFValueType.UINT32:
            raise self.invalid(f"{printable(kv.key)} is {kv.type_name}, llama.cpp wants UINT32")
        return int(kv.value)
