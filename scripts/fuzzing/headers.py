"""Targets `reader` and `plan`: the bytes of a GGUF file.

The promise of `reader`: any bytes either parse or raise InvalidGGUF, in bounded memory, and what
parses encodes to the bytes it was read from. `plan` adds: what parses is planned or refused, with a
RysError and nothing else, and so is the way back of a variant; what is printed and the card of the
variant show text as text.

Half of the mutations are libFuzzer's, on bytes; the others change one value or tensor of a header
that parses, and so reach what comes after the parser.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguf.constants import GGUFValueType

from rys_gguf import LayerMap, Model, RysError, apply, make_plan, plan_undo
from rys_gguf.cli.render import description_json, description_lines, plan_json, plan_lines
from rys_gguf.errors import InvalidGGUF
from rys_gguf.extras import load
from rys_gguf.formats.header import KV, SCALAR_FORMAT, Header, Span, TensorInfo
from rys_gguf.formats.reader import HeaderReader
from rys_gguf.layers.describe import describe
from rys_gguf.layers.schedule import Schedule
from rys_gguf.report.card import make_card
from scripts.fuzzing.base import Bytes, require_harmless
from tests import tiny

# A header is followed by this much tensor data, all of it a hole, if its last byte is odd.
HOLE_BYTES = 1 << 24
# One per way in which metadata describes layers; the weights are not part of a seed.
SEEDS: list[tuple[str, int, dict[str, Any]]] = [
    ("llama", 2, {}),
    ("gemma3", 3, {}),
    ("gpt-oss", 2, {}),
    ("gemma4", 3, {}),
    ("qwen35", 2, {"n_mtp": 1, "recurrent_layers": True}),
    ("lfm2", 3, {}),
    ("apertus", 2, {}),
    ("jamba", 3, {}),
    ("bert", 2, {}),
]


class Headers:
    """One file that takes each input in turn; `plans` chooses between the targets."""

    limits = ("-rss_limit_mb=512", "-timeout=10", "-max_len=16384")
    parts = (
        "files/source.py", "formats/", "layers/architectures.py", "layers/carry.py",
        "layers/describe.py", "layers/rule", "layers/windows.py", "patch/plan.py",
        "patch/provenance.py", "patch/tensors.py", "patch/undo.py", "report/card.py",
        "report/front_matter.py",
    )  # fmt: skip
    # The share of libFuzzer's own mutations, and of the others that of the tensor table.
    _BYTES, _TENSORS = 0.5, 0.3

    def __init__(self, folder: Path, *, plans: bool) -> None:
        self.plans = plans
        self._path = folder / "m.gguf"

    def __call__(self, data: bytes) -> None:
        """Read `data` as a file; any exception but InvalidGGUF is a finding."""
        self._fill(data, HOLE_BYTES if data and data[-1] & 1 else 0)
        try:
            with HeaderReader(self._path) as reader:
                require_same_bytes(reader.header, data)
        except InvalidGGUF:
            return
        if self.plans:
            plan_and_describe(self._path)

    def seeds(self) -> Iterator[tuple[str, bytes]]:
        """The headers of tiny models, each with a vocabulary of two tokens."""
        small = {
            "tokenizer.ggml.tokens": ["<unk>", "\u2581a"],
            "tokenizer.ggml.scores": [0.0, 1.0],
            "tokenizer.ggml.token_type": [2, 1],
            "general.name": "A *model*",
            "general.license": "mit",
            "general.license.link": "https://b.example/LICENSE",
            "general.languages": ["en", "de"],
            "general.source.repo_url": "https://huggingface.co/a/b",
        }
        with tempfile.TemporaryDirectory() as name:
            for arch, n_layers, options in SEEDS:
                path = tiny.write(Path(name) / "m.gguf", arch, n_layers, extra=small, **options)
                yield arch, _header_of(path) + b"\1"  # with a hole behind
                yield f"{arch}-cut", _header_of(path) + b"\0"
            once, twice = Path(name) / "once.gguf", Path(name) / "twice.gguf"
            apply(path, "blocks:0,1", once)
            apply(once, "layers:1,0,2", twice)
            yield "variant", _header_of(once) + b"\1"
            yield "variant-of-variant", _header_of(twice) + b"\1"

    def mutate(self, data: bytes, max_size: int, dice: random.Random, by_bytes: Bytes) -> bytes:
        """Bytes as libFuzzer changes them, or another value or tensor of a valid header."""
        header = self._parsed(data) if dice.random() >= self._BYTES else None
        if header is None:
            return by_bytes(data, max_size)
        if header.tensors and (dice.random() < self._TENSORS or not header.kvs):
            changed = list(header.tensors)
            at = dice.randrange(len(changed))
            changed[at : at + 1] = other_tensors(changed[at], dice)
            header = replace(header, tensors=tuple(changed))
        elif header.kvs:
            kvs = list(header.kvs)
            at = dice.randrange(len(kvs))
            kvs[at : at + 1] = other_kvs(kvs[at], dice)
            header = replace(header, kvs=tuple(kvs))
        pieces = [p for p in header.encode() if isinstance(p, bytes)]
        return (b"".join(pieces)[: max_size - 1]) + bytes([dice.randrange(2)])

    def _fill(self, data: bytes, n_hole: int) -> None:
        with open(self._path, "wb") as file:
            file.write(data)
            file.truncate(len(data) + n_hole)

    def _parsed(self, data: bytes) -> Header | None:
        self._fill(data, HOLE_BYTES)
        try:
            with HeaderReader(self._path) as reader:
                return reader.header if reader.alignment <= 1 << 12 else None
        except InvalidGGUF:
            return None


def _header_of(path: Path) -> bytes:
    with HeaderReader(path) as reader:
        return path.read_bytes()[: reader.data_offset]


CARD_KEYS = {
    "base_model", "base_model_relation", "language", "library_name", "license", "license_link",
    "license_name", "tags",
}  # fmt: skip
NUMBERS = [0, 1, 2, 3, 4, 7, 8, 31, 63, 255, 512, 513, 1 << 16, (1 << 31) - 1, 1 << 31]
NUMBERS += [(1 << 32) - 1, 1 << 32, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
TEXTS = ["", "llama", "gemma3", "qwen35", "blk.", "blk.01.x", "x" * 64, "a\0b", "\udcff"]
# What a card must show as text.
TEXTS += ["javascript:alert(1)", "[a](https://b.example)", "<img src=x onerror=y>", "a\n---\nb: c"]
TEXTS += [
    "https://huggingface.co/a/b",
    "www.b.example",
    "`x`",
    "| a | b |",
    "mit",
    "!!python/none x",
]


def other_kvs(kv: KV, dice: random.Random) -> list[KV]:
    """`kv` dropped, doubled, of another type, or with another value of its own."""
    scalars = [*SCALAR_FORMAT, GGUFValueType.STRING]
    # What leaves more of the model standing comes more often.
    action = dice.choice(["drop", "double", "retype", "array", *["value"] * 12])
    if action == "drop":
        return []
    if action == "double":
        return [kv, kv]
    if action == "array" or (kv.is_array and action == "value"):
        own = [kv.item_type] if kv.item_type in scalars else scalars
        item = dice.choice(scalars if action == "array" else own)
        n = dice.choice([0, 1, 2, kv.n_items % 64])
        values = [number_or_text(item, dice) for _ in range(n)]
        return [KV.of(kv.key, GGUFValueType.ARRAY, values, byteorder=kv.byteorder, item_type=item)]
    type_ = dice.choice(scalars) if action == "retype" else kv.type
    return [KV.of(kv.key, type_, number_or_text(type_, dice), byteorder=kv.byteorder)]


def number_or_text(type_: GGUFValueType, dice: random.Random) -> Any:
    """A value of that type at one of the edges."""
    if type_ == GGUFValueType.STRING:
        return dice.choice(TEXTS)
    if type_ in (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64):
        return dice.choice([0.0, -1.0, 1e-6, 0.5, float("inf"), float("nan")])
    if type_ == GGUFValueType.BOOL:
        return dice.choice([False, True])
    letter = SCALAR_FORMAT[type_]
    bits = {"b": 8, "h": 16, "i": 32, "q": 64}[letter.lower()]
    number = dice.choice(NUMBERS) & ((1 << bits) - 1)
    return number - (1 << bits) if letter.islower() and number >> (bits - 1) else number


def other_tensors(tensor: TensorInfo, dice: random.Random) -> list[TensorInfo]:
    """`tensor` dropped, doubled, or with another name, shape, type or offset."""
    number = dice.choice(NUMBERS) & ((1 << 63) - 1)
    choices = [
        [],
        [tensor, tensor],
        [replace(tensor, name=dice.choice(TEXTS))],
        [replace(tensor, name=f"blk.{number}.{tensor.name.rpartition('.blk')[2]}")],
        [replace(tensor, type=number & 0xFFFFFFFF)],
        [replace(tensor, type=dice.randrange(40))],
        [replace(tensor, offset=number)],
        [replace(tensor, ne=(*tensor.ne[1:], number))],
        [replace(tensor, ne=tensor.ne[:1] * dice.randrange(6))],
    ]
    return dice.choice(choices)


def require_same_bytes(header: Header, data: bytes) -> None:
    """What was parsed, encoded again, is what was read, up to the padding before the data."""
    at = 0
    for piece in header.encode():
        if isinstance(piece, Span):
            assert piece.offset == at, "a value's span is not where the value stands"
            at += piece.n_bytes
            continue
        known = piece[: max(0, header.n_bytes - at)]
        assert data[at : at + len(known)] == known[: max(0, len(data) - at)], "encodes differently"
        at += len(piece)


def plan_and_describe(path: Path) -> None:
    """Everything the commands do with a header; a RysError is an answer."""
    try:
        model = Model(path)
    except InvalidGGUF:
        return
    with model:
        for schedule in Schedule:
            with contextlib.suppress(RysError):
                half = max(1, model.n_trunk // 2)
                layer_map = LayerMap.parse(f"blocks:0,{half}", model.n_trunk)
                planned = make_plan(model, layer_map, schedule=schedule)
                require_harmless(plan_lines(planned, full=True))
                json.dumps(plan_json(planned, full=True))
                require_plain_card(make_card(model, model, layer_map))
        with contextlib.suppress(RysError):
            description = describe(model)
            require_harmless(description_lines(model, description))
            json.dumps(description_json(model, description))
        for to_base, exact in itertools.product((False, True), repeat=2):
            with contextlib.suppress(RysError):
                plan_undo(model, to_base=to_base, exact=exact)


def require_plain_card(card: str) -> None:
    """The front matter has the card's own keys, and nothing but the card's own markup is active."""
    require_harmless(card.split("\n"))
    _, front, body = card.split("---\n", 2)
    values = load("a card", "yaml").safe_load(front)
    assert set(values) <= CARD_KEYS, f"has other keys: {set(values) - CARD_KEYS}"
    assert "javascript:" not in (values.get("license_link") or "")
    shown = re.sub(r"```.*?```|`[^`]*`", "", body, flags=re.DOTALL)
    assert not re.search(r"<(?!!--)[a-z/]|\]\((?!https://github\.com/)|(?<!\()https?://", shown), (
        shown
    )
