"""Files that belong to a model, as llama.cpp's tools write them: small, with random values."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from rys_gguf import Model
from rys_gguf.formats.header import layer_of
from tests.disk import finish

Array = npt.NDArray[np.float32]
Adapter = Mapping[str, tuple[Array, Array]]
"""By the name of a weight: A of shape (rank, inputs) and B of shape (outputs, rank)."""
Importance = Mapping[str, tuple[Array, Array]]
"""By the name of a weight: sums of shape (matrices, inputs) and counts of shape (matrices, 1)."""

ALPHA = 8.0
RANK = 2


def make_adapter(model: Path, *parts: str, seed: int = 0, size: float = 0.3) -> Adapter:
    """An adapter for the weights of all layers but MTP blocks whose names end so."""
    rng = np.random.default_rng(seed)
    adapter = {}
    with Model(model) as opened:
        for tensor in itertools.chain(*opened.layers[: opened.n_trunk]):
            if tensor.name.endswith(parts):
                n_in, n_out, *experts = tensor.ne
                a = rng.standard_normal((*experts, RANK, n_in), dtype=np.float32)
                b = rng.standard_normal((*experts, n_out, RANK), dtype=np.float32)
                adapter[tensor.name] = (a * np.float32(size), b * np.float32(size))
    return adapter


def write_adapter(
    path: Path,
    adapter: Adapter,
    arch: str = "llama",
    type_: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """As convert_lora_to_gguf.py writes it; B is of that type."""
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, ALPHA)
    for name, (a, b) in adapter.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", gguf.quants.quantize(b, type_), raw_dtype=type_)
    finish(writer)
    return path


def merge_adapter(model: Path, adapter: Adapter) -> None:
    """Add an adapter to the weights of a model in F32, in its file."""
    weights = {t.name: t.data for t in gguf.GGUFReader(model).tensors if t.name in adapter}
    scale = np.float32(ALPHA / RANK)
    overwrite(model, {name: weights[name] + scale * (b @ a) for name, (a, b) in adapter.items()})


def overwrite(model: Path, values: Mapping[str, Array]) -> None:
    """Put other values into tensors of a model in F32; they are named by their tensors."""
    tensors = {t.name: t for t in gguf.GGUFReader(model).tensors}
    with model.open("r+b") as file:
        for name, new in values.items():
            assert new.nbytes == tensors[name].n_bytes
            file.seek(int(tensors[name].data_offset))
            file.write(new.astype("<f4").tobytes())


def make_importance(model: Path, seed: int = 0) -> Importance:
    """What llama-imatrix might measure of a model's matrices; one expert is never asked."""
    rng = np.random.default_rng(seed)
    found = {}
    with Model(model) as opened:
        for tensor in opened.header.tensors:
            if len(tensor.ne) < 2 or layer_of(tensor.name) is None:
                continue
            n_in, _, *experts = tensor.ne
            n = experts[0] if experts else 1
            counts = rng.integers(1, 500, (n, 1)).astype(np.float32)
            counts[n - 1 :] *= n == 1
            sums = rng.random((n, n_in), dtype=np.float32) * counts
            found[tensor.name] = (sums, counts)
    return found


def write_imatrix(path: Path, importance: Importance, *, statistics: bool = False) -> Path:
    """As llama-imatrix writes it; with `statistics` as builds of late 2026 do."""
    writer = gguf.GGUFWriter(str(path), "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["wiki.train.raw"])
    writer.add_uint32("imatrix.chunk_count", 100)
    writer.add_uint32("imatrix.chunk_size", 512)
    if statistics:
        writer.add_array("imatrix.stats_schema", ["sum_sq", "mean"])
    for name, (sums, counts) in sorted(importance.items()):
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", counts)
        if statistics:
            writer.add_tensor(f"{name}.in_sum", np.sqrt(sums))
            writer.add_tensor(f"{name}.stats", np.ones(2, np.float32))
    finish(writer)
    return path


def old_entry(name: bytes, values: Array, n_calls: int = 100) -> bytes:
    """One entry of the old format."""
    counts = struct.pack("<ii", n_calls, values.size)
    return struct.pack("<i", len(name)) + name + counts + values.astype("<f4").tobytes()


def write_old_imatrix(path: Path, importance: Importance, *, tail: bool = True) -> Path:
    """As save_imatrix_legacy writes it; the oldest files have no tail."""
    entries = [
        old_entry(name.encode(), (sums / np.maximum(counts, 1)).ravel().astype(np.float32))
        for name, (sums, counts) in sorted(importance.items())
    ]
    dataset = b"wiki.train.raw"
    end = struct.pack("<ii", 100, len(dataset)) + dataset if tail else b""
    path.write_bytes(struct.pack("<i", len(entries)) + b"".join(entries) + end)
    return path


def write_control_vector(
    path: Path, directions: Mapping[int, Array], hint: str | None = "llama"
) -> Path:
    """As llama-cvector-generator writes it."""
    writer = gguf.GGUFWriter(str(path), "controlvector")
    if hint is not None:
        writer.add_string("controlvector.model_hint", hint)
    writer.add_int32("controlvector.layer_count", len(directions))
    for n, values in directions.items():
        writer.add_tensor(f"direction.{n}", values)
    finish(writer)
    return path


def write_drafter(
    path: Path, target_layers: Sequence[int], n_embd: int, arch: str = "eagle3"
) -> Path:
    """The header of a draft model with one tensor; nothing here runs it."""
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_block_count(1)
    writer.add_embedding_length(n_embd)
    writer.add_array(f"{arch}.target_layers", list(target_layers))
    writer.add_uint32(f"{arch}.target_hidden_size", n_embd)
    writer.add_tensor("fc.weight", np.arange(64, dtype=np.float32))
    finish(writer)
    return path


def read_imatrix(path: Path) -> dict[str, tuple[Array, Array]]:
    """Sums and counts by weight, read by the gguf package."""
    tensors = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    return {
        name.removesuffix(".in_sum2"): (
            np.array(sums),
            np.array(tensors[name.removesuffix("in_sum2") + "counts"]),
        )
        for name, sums in tensors.items()
        if name.endswith(".in_sum2")
    }


def read_old_imatrix(path: Path) -> dict[str, tuple[int, bytes]]:
    """Number of calls and values by weight, read as common_imatrix_load_legacy does."""
    raw, at = path.read_bytes(), 4
    found = {}
    for _ in range(struct.unpack_from("<i", raw)[0]):
        (n_name,) = struct.unpack_from("<i", raw, at)
        name = raw[at + 4 : at + 4 + n_name].decode()
        at += 4 + n_name
        n_calls, n_values = struct.unpack_from("<ii", raw, at)
        found[name] = (n_calls, raw[at + 8 : at + 8 + 4 * n_values])
        at += 8 + 4 * n_values
    return found
