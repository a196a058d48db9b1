"""Hypothesis strategies: GGUF files from scratch, and layer maps of tiny models.

The files' bytes are laid out by hand and follow the format's description, not the package: what
the reader finds in them is compared with what went in.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gguf.constants import GGMLQuantizationType, GGUFValueType
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from rys_gguf.formats.types import BLOCKS
from rys_gguf.layers.schedule import Schedule
from tests import tiny
from tests.random_maps import Case, option_names

T = GGUFValueType
U32, U64 = struct.Struct("<I").pack, struct.Struct("<Q").pack

SCALARS = {
    T.UINT8: "B",
    T.INT8: "b",
    T.UINT16: "H",
    T.INT16: "h",
    T.UINT32: "I",
    T.INT32: "i",
    T.FLOAT32: "f",
    T.BOOL: "?",
    T.UINT64: "Q",
    T.INT64: "q",
    T.FLOAT64: "d",
}


def raw_string(text: bytes, byteorder: str = "<") -> bytes:
    """A string as GGUF stores it."""
    return struct.pack(byteorder + "Q", len(text)) + text


def raw_array(item_type: int, items: Sequence[bytes], byteorder: str = "<") -> bytes:
    """An array of items that are encoded already."""
    return struct.pack(byteorder + "IQ", item_type, len(items)) + b"".join(items)


def raw_kv(key: bytes, type_: int, value: bytes, byteorder: str = "<") -> bytes:
    """A key with its value."""
    return raw_string(key, byteorder) + struct.pack(byteorder + "I", type_) + value


def raw_tensor(
    name: bytes, ne: Sequence[int], type_: int = 0, offset: int = 0, byteorder: str = "<"
) -> bytes:
    """An entry of the tensor table."""
    dims = struct.pack(f"{byteorder}I{len(ne)}Q", len(ne), *ne)
    return raw_string(name, byteorder) + dims + struct.pack(byteorder + "IQ", type_, offset)


def raw_file(
    kvs: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    byteorder: str = "<",
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A whole file; `alignment` is that of the data and writes no key."""
    counts = struct.pack(byteorder + "IQQ", version, len(tensors), len(kvs))
    header = b"GGUF" + counts + b"".join(kvs) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data


def architecture(name: bytes = b"llama") -> bytes:
    """The one key that every model has."""
    return raw_kv(b"general.architecture", T.STRING, raw_string(name))


@dataclass(frozen=True)
class Made:
    """A generated file: its bytes and its content."""

    content: bytes
    byteorder: str
    version: int
    alignment: int
    kvs: list[tuple[bytes, GGUFValueType, bytes]]
    tensors: list[tuple[bytes, tuple[int, ...], int, bytes]]


def names(max_size: int = 40) -> st.SearchStrategy[bytes]:
    """Keys and tensor names: usual ones and arbitrary bytes."""
    usual = st.from_regex(r"(blk\.[0-9]{1,3}\.)?[a-z_.]{1,20}", fullmatch=True).map(str.encode)
    return usual | st.binary(min_size=1, max_size=max_size)


@st.composite
def values(draw: st.DrawFn, byteorder: str, max_depth: int = 3) -> tuple[GGUFValueType, bytes]:
    """A value of any type as stored: arbitrary bits, nested arrays."""
    type_ = draw(st.sampled_from(GGUFValueType))
    return type_, draw(_value(type_, byteorder, max_depth))


@st.composite
def _value(draw: st.DrawFn, type_: GGUFValueType, byteorder: str, depth: int) -> bytes:
    if type_ == T.STRING:
        return raw_string(draw(st.binary(max_size=20)), byteorder)
    if type_ == T.ARRAY:
        types = [t for t in GGUFValueType if depth or t != T.ARRAY]
        item_type = draw(st.sampled_from(types))
        items = draw(st.lists(_value(item_type, byteorder, depth - 1), max_size=4))
        return raw_array(item_type, items, byteorder)
    size = struct.calcsize(SCALARS[type_])
    return draw(st.binary(min_size=size, max_size=size))


@st.composite
def tensors(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    """Shape, type and size of a tensor of any type that llama.cpp reads."""
    type_ = draw(st.sampled_from(sorted(BLOCKS)))
    block, n_block_bytes = BLOCKS[type_]
    dims = draw(st.lists(st.integers(0, 3), max_size=4))
    if dims:
        dims[0] *= block
    elif block > 1:
        dims = [block]
    n = 1
    for dim in dims:
        n *= dim
    return tuple(dims), int(type_), n // block * n_block_bytes


@st.composite
def files(draw: st.DrawFn) -> Made:
    """Any file that the reader must accept, whether or not it is a model."""
    byteorder = draw(st.sampled_from("<>"))
    version = draw(st.sampled_from([2, 3]))
    alignment = draw(st.sampled_from([None, 1, 8, 32, 64]))
    keys = draw(st.lists(names(), max_size=6, unique=True))
    kvs = [
        (key, *draw(values(byteorder)))
        for key in keys
        if key != b"general.alignment" and not key.startswith(b"GGUF.")
    ]
    if alignment is not None:
        kvs.append((b"general.alignment", T.UINT32, struct.pack(byteorder + "I", alignment)))
    step = alignment or 32
    table, infos, data = [], [], b""
    for name in draw(st.lists(names(), max_size=5, unique=True)):
        ne, type_, n_bytes = draw(tensors())
        content = draw(st.binary(min_size=n_bytes, max_size=n_bytes)) if n_bytes < 64 else b""
        content = content.ljust(n_bytes, b"\x5a")
        infos.append(raw_tensor(name, ne, type_, len(data), byteorder))
        table.append((name, ne, type_, content))
        data += content + bytes(-n_bytes % step)
    content = raw_file(
        [raw_kv(*kv, byteorder) for kv in kvs],
        infos,
        data,
        byteorder=byteorder,
        version=version,
        alignment=step,
    )
    return Made(content, byteorder, version, step, kvs, table)


# Numbers at which readers break: lengths, counts, dimensions, types.
_EDGES = [0, 1, 0x7F, 0xFF, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
_WIDE_EDGES = [*_EDGES, 1 << 32, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with a few bytes changed, removed, added, or replaced by an edge number."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        new = draw(
            st.binary(min_size=1, max_size=4)
            | st.sampled_from(_EDGES).map(lambda n: struct.pack("<I", n))
            | st.sampled_from(_WIDE_EDGES).map(lambda n: struct.pack("<Q", n))
        )
        cut = draw(st.sampled_from([0, 1, len(new), len(content)]))
        content = content[:at] + new + content[at + cut :]
    return content


UNKNOWN_TYPE = max(map(int, GGMLQuantizationType)) + 100


# -- layer maps over tiny models ------------------------------------------------------------------

# Layer counts at which llama.cpp computes something else in some architecture, or breaks a period.
COUNTS = [1, 2, 3, 4, 5, 8, 12, 24, 26, 27, 28, 30, 32, 40, 42, 46, 47, 48, 60, 61, 62, 63, 64, 65]
COUNTS += [80, 96, 127, 128, 130]
_MAX_OUTPUTS = 136
# Values of the options of `tiny.write`, those of an architecture's usual models more often.
_OPTIONS: dict[str, list[Any]] = {
    "arrays": [False, True],
    "decision": [0, 2],
    "expert_gating_func": [2, None, 1],
    "experts": [False, True],
    "full_attention_interval": [4, None, 2, 3],
    "indexer_types": [None, "own"],
    "keys_as_values": [False, True],
    "leading_dense": [2, 0, 1, 3, 4, 200],
    "moe_step": [1, 2, 3],
    "pattern": [False, True, "own"],
    "per_layer_input": [True, False],
    "period": [4, 2, 3],
    "q_lora_rank": [16, None, 0],
    "recurrent_layers": [False, True],
    "residual_scale": [None, 0.5],
    "shared_kv_layers": [0, 1, 2, 4],
    "wide_tail": [False, True],
    "window": [tiny.WINDOW, tiny.WINDOW, tiny.WINDOW, 3, 0],
}
# Of sliding windows, which have a period of their own without the key.
_PERIODS = [None, None, 2, 3, 5, 6, 0]
# As many layers as it takes to have one of each kind, without which llama.cpp does not run these.
_LEAST = {
    "bailingmoe3": 4,
    "deepseek4": 2,
    "gemma-embedding": 6,
    "gemma-embedding2": 6,
    "gemma4": 4,
    "glm5-next": 4,
    "granitehybrid": 4,
    "jamba": 4,
    "lfm2": 6,
    "llama4": 4,
    "modern-bert": 4,
    "nemotron_h": 2,
    "qwen4exp": 4,
    "qwen35": 4,
    "qwen35moe": 4,
    "qwen3next": 4,
}
# A window of 0 means here that no layer slides; elsewhere that it sees nothing, or a crash.
_WINDOWLESS = {"exaone4", "gemma3", "mellum", "olmo2", "plamo3", "smallthinker"}
# The kind of a layer decides the shapes of its tensors, and not only what the file says.
_SHAPED = {"gemma-embedding2"}
# Of the models that load Q in one piece (deepseek2).
_LITE_COUNTS = [26, 27]


@st.composite
def map_cases(draw: st.DrawFn, arch: str, max_layers: int = 130) -> Case:
    """A tiny model of that architecture, a map of its layers, and a schedule."""
    counts = [count for count in COUNTS if count <= max_layers]
    # What Hypothesis takes for simple is a model that llama.cpp runs: not one of a single layer.
    small = st.integers(0, 15).map(lambda n: 1 + (n + 7) % min(16, max_layers))
    sizes = [small, small, small, st.sampled_from(counts), st.integers(1, max_layers)]
    n_layers = max(draw(draw(st.sampled_from(sizes))), _LEAST.get(arch, 1))
    names = option_names(arch)
    values = {**_OPTIONS, "period": _PERIODS} if "pattern" in names else _OPTIONS
    options = {name: draw(st.sampled_from(values[name])) for name in sorted(names & values.keys())}
    if options.get("window") == 0 and arch not in _WINDOWLESS:
        options["window"] = tiny.WINDOW
    if arch in _SHAPED:
        options |= {"pattern": bool(options["pattern"]), "period": None}
    if options.get("q_lora_rank", 0) is None:
        n_layers = draw(st.sampled_from(_LITE_COUNTS))
    if options.get("shared_kv_layers"):
        period = min(options["period"], 6)
        n_layers = period * max(1, n_layers // period) + options["shared_kv_layers"]
    for name in ("pattern", "indexer_types"):
        if options.get(name) == "own":
            flags = st.lists(st.booleans(), min_size=n_layers, max_size=n_layers)
            options[name] = draw(flags)
    if options.get("indexer_types"):
        options["indexer_types"] = [
            int(n < 4 or own) for n, own in enumerate(options["indexer_types"])
        ]
    return Case(
        arch,
        n_layers,
        draw(layer_maps(n_layers, min(_MAX_OUTPUTS, max_layers + 6))),
        draw(st.sampled_from([Schedule.PORTABLE, Schedule.EXPLICIT])).value,
        options,
        n_mtp=draw(st.integers(0, 1)) if tiny.ARCHITECTURES[arch].mtp else 0,
        quantize=draw(st.sampled_from([None, None, "Q8_0", "Q4_0", "BF16"])),
        alignment=draw(st.sampled_from([None, None, None, 32, 64, 256])),
        n_shards=draw(st.sampled_from([1, 1, 1, 2, 3])),
        split=draw(st.sampled_from([False, False, False, True])),
        provenance=draw(st.booleans()),
        seed=draw(st.integers(0, 3)),
    )


def drawn(arch: str, n: int, seed_: str, max_layers: int) -> list[Case]:
    """`n` cases of an architecture, some fewer at times; equal arguments give equal cases."""
    cases: list[Case] = []

    @seed(seed_)
    @settings(
        max_examples=n,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(map_cases(arch, max_layers))
    def collect(case: Case) -> None:
        cases.append(case)

    collect()
    return cases


@st.composite
def layer_maps(draw: st.DrawFn, n: int, max_outputs: int) -> tuple[int, ...]:
    """Sources of output layers: windows repeated, layers dropped, paths, other orders."""
    kinds = [_windows, _windows, _windows, _dropped, _paths, _reordered, _counted]
    sources = draw(draw(st.sampled_from(kinds))(n, max_outputs))[:max_outputs]
    return tuple([*sources, n - 1] if sources == list(range(n)) else sources)


@st.composite
def _span(draw: st.DrawFn, n: int) -> tuple[int, int]:
    """A half-open window of `n` layers, often as long as a period or two."""
    step = draw(st.sampled_from([1, 1, 2, 3, 4, 4, 5, 6, 8]))
    size = min(n, step * draw(st.integers(1, 3)))
    start = draw(st.integers(0, n - size))
    return start, start + size


@st.composite
def _windows(draw: st.DrawFn, n: int, max_outputs: int) -> list[int]:
    sources = list(range(n))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        i, j = draw(_span(n))
        after = len(sources) - sources[::-1].index(j - 1)
        sources[after:after] = [*range(i, j)] * draw(st.sampled_from([1, 1, 2, 3]))
    return sources


@st.composite
def _dropped(draw: st.DrawFn, n: int, max_outputs: int) -> list[int]:
    sources = list(range(n))
    for _ in range(draw(st.integers(1, 2))):
        i, j = draw(_span(len(sources)))
        if j - i < len(sources):
            del sources[i:j]
    return sources


@st.composite
def _paths(draw: st.DrawFn, n: int, max_outputs: int) -> list[int]:
    spans = draw(st.lists(_span(n), min_size=1, max_size=4))
    return [source for i, j in spans for source in range(i, j)]


@st.composite
def _reordered(draw: st.DrawFn, n: int, max_outputs: int) -> list[int]:
    sources = list(range(n))
    i, j = draw(_span(n))
    how = draw(st.sampled_from(["reverse", "shuffle", "move"]))
    if how == "move":
        taken = sources[i:j]
        del sources[i:j]
        at = draw(st.integers(0, len(sources)))
        sources[at:at] = taken
    elif how == "reverse":
        sources[i:j] = sources[i:j][::-1]
    else:
        sources[i:j] = draw(st.permutations(sources[i:j]))
    return sources


@st.composite
def _counted(draw: st.DrawFn, n: int, max_outputs: int) -> list[int]:
    """A window repeated or cut so that the number of layers is one of `COUNTS`."""
    count = draw(st.sampled_from([c for c in COUNTS if c <= max_outputs]))
    i, j = draw(_span(n))
    if count <= n:
        i = min(i, count)
        return [*range(i), *range(n - count + i, n)]
    copies = [*range(i, j)] * (1 + (count - n) // (j - i))
    return [*range(j), *copies[: count - n], *range(j, n)]
