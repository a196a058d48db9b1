"""Hostile headers: every command that reads one ends soon, with a message and nothing else."""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from gguf.constants import GGUFValueType as T

from rys_gguf import InvalidGGUF, LayerMap, Model, Refused, make_plan
from rys_gguf.cli import main
from rys_gguf.formats.header import KV, Header, padded
from rys_gguf.formats.reader import HeaderReader
from rys_gguf.formats.types import tensor_bytes
from rys_gguf.layers.carry import Carried, ModelRules
from rys_gguf.layers.describe import describe
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.tensors import GatheredTensor
from rys_gguf.patch.writer import gathered
from tests import tiny
from tests.command import leftovers

LONG = "x" * 400_000  # longer than what is kept in memory with its key
ESCAPE = "\x1b]0;owned\a\u202e"


def scalar(key: str, type_: T, value: object) -> KV:
    """A KV of one value."""
    return KV.of(key, type_, value)


def array(key: str, type_: T, value: object, n: int) -> KV:
    """A KV of `n` equal items."""
    return KV.of(key, T.ARRAY, [value] * n, item_type=type_)


def changed(path: Path, arch: str, *kvs: KV) -> Path:
    """A tiny model with keys replaced or added."""
    tiny.write(path, arch, 8)
    with HeaderReader(path) as reader:
        old = reader.header
        data = path.read_bytes()[reader.data_offset :]
    keys = {kv.key: kv for kv in (*old.kvs, *kvs)}
    header = Header(old.version, old.byteorder, tuple(keys.values()), old.tensors)
    path.write_bytes(b"".join(p for p in header.encode() if isinstance(p, bytes)) + data)
    return path


def every_command(path: Path) -> list[Result]:
    """The results of all commands that read a header."""
    window, out = ("--blocks", "2,4"), ("-o", path.with_name("out.gguf"))
    calls: list[tuple[object, ...]] = [
        ("inspect", path),
        ("inspect", path, "--json"),
        ("plan", path, *window, "--full"),
        ("plan", path, *window, "--schedule", "explicit"),
        ("apply", path, *window, *out),
        ("align", path, *out, "--force"),
        ("verify", path, "--source", path),
        ("diff", path, path),
    ]
    return [CliRunner().invoke(main, list(map(str, call))) for call in calls]


# What a command reads of these it must not take for what it should be.
HOSTILE = {
    "architecture": ("llama", scalar("general.architecture", T.STRING, LONG)),
    "general.type": ("llama", scalar("general.type", T.STRING, LONG)),
    "general.name": ("llama", scalar("general.name", T.STRING, LONG)),
    "split.count": ("llama", scalar("split.count", T.STRING, LONG)),
    "split.count-array": ("llama", array("split.count", T.UINT16, 1, 200_000)),
    "split.tensors.count": ("llama", scalar("split.tensors.count", T.STRING, LONG)),
    "heads-text": ("llama", scalar("llama.attention.head_count", T.STRING, LONG)),
    "heads-nan": ("llama", scalar("llama.attention.head_count", T.FLOAT32, math.nan)),
    "heads-texts": ("llama", array("llama.attention.head_count_kv", T.STRING, ESCAPE, 8)),
    "heads-nans": ("llama", array("llama.attention.head_count_kv", T.FLOAT32, math.nan, 8)),
    "window-text": ("gemma3", scalar("gemma3.attention.sliding_window", T.STRING, ESCAPE)),
    "pattern-text": ("gemma3", scalar("gemma3.attention.sliding_window_pattern", T.STRING, "2")),
    "pattern-long": ("gemma3", array("gemma3.attention.sliding_window_pattern", T.BOOL, True, 513)),
    "pattern-in-file": (
        "gpt-oss",
        array("gpt-oss.attention.sliding_window_pattern", T.BOOL, True, 300_000),
    ),
    "interval-nan": ("qwen35", scalar("qwen35.full_attention_interval", T.FLOAT32, math.nan)),
    "interval-inf": ("qwen35", scalar("qwen35.full_attention_interval", T.FLOAT64, math.inf)),
    "interval-negative": ("qwen35", scalar("qwen35.full_attention_interval", T.INT32, -4)),
    "kinds-in-file": ("lfm2", array("lfm2.attention.head_count_kv", T.UINT32, 0, 300_000)),
    "escapes": ("llama", scalar(ESCAPE, T.STRING, ESCAPE)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_no_value_of_a_wrong_kind_is_a_traceback(tmp_path: Path, case: str) -> None:
    """Texts, NaNs and lists in the place of numbers, or far too long, give a message."""
    arch, kv = HOSTILE[case]
    path = changed(tmp_path / "m.gguf", arch, kv)
    for result in every_command(path):
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert all(line.isprintable() for line in result.output.splitlines())
        if result.exit_code:
            assert len(result.output) < 2000
    assert leftovers(tmp_path, [path, tmp_path / "out.gguf"]) == set()


LOADED = ("escapes", "general.name", "pattern-long")


@pytest.mark.parametrize("case", [c for c in HOSTILE if c not in LOADED])
def test_such_a_source_is_not_patched(tmp_path: Path, case: str) -> None:
    """A source that llama.cpp would not load is refused before anything is written."""
    arch, kv = HOSTILE[case]
    path = changed(tmp_path / "m.gguf", arch, kv)
    with pytest.raises((InvalidGGUF, Refused)), Model(path) as model:
        make_plan(model, LayerMap.parse("blocks:0,4", model.n_trunk))


def test_a_name_as_long_as_a_book_is_kept_as_it_is(tmp_path: Path) -> None:
    """llama.cpp loads it; no label is added to it, and it is not read into memory."""
    path = changed(tmp_path / "m.gguf", "llama", HOSTILE["general.name"][1])
    with Model(path) as model:
        planned = make_plan(model, LayerMap.parse("blocks:0,4", model.n_trunk))
        assert planned.header.get("general.name") == model.header.get("general.name")


def test_an_architecture_of_escapes_is_shown_escaped(tmp_path: Path) -> None:
    """Every message shows an unknown name, and always escaped."""
    path = changed(
        tmp_path / "m.gguf",
        "llama",
        scalar("general.architecture", T.STRING, ESCAPE),
        scalar(f"{ESCAPE}.block_count", T.UINT32, 8),
        scalar(f"{ESCAPE}.nextn_predict_layers", T.UINT32, 8),
    )
    for result in every_command(path):
        assert result.exit_code == 1
        assert "\\x1b]0;owned\\x07\\u202e" in result.output
        assert all(line.isprintable() for line in result.output.splitlines())


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
@pytest.mark.parametrize(("arch", "n_layers"), [("llama", 500), ("gpt-oss", 255), ("gemma3", 200)])
def test_inspect_of_hundreds_of_layers_says_how_far_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, n_layers: int
) -> None:
    """Trying all windows of that many layers takes minutes; found by fuzzing."""
    carry = ModelRules.carry
    n_outputs: list[int] = []

    def counted(self: ModelRules, layer_map: LayerMap, schedule: Schedule) -> Carried:
        n_outputs.append(len(layer_map))
        return carry(self, layer_map, schedule)

    monkeypatch.setattr(ModelRules, "carry", counted)
    count = scalar(f"{arch}.block_count", T.UINT32, n_layers)
    path = changed(tmp_path / "m.gguf", arch, count)
    result = CliRunner().invoke(main, ["inspect", str(path)])
    looked = {int(n) for n in re.findall(r"of up to (\d+) layers", result.output)}
    assert looked
    assert all(0 < n < n_layers for n in looked)
    assert 0 < sum(n_outputs) < 3_000_000


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
def test_layers_of_an_unknown_architecture_are_compared_in_good_time(tmp_path: Path) -> None:
    """Hundreds of layers that differ only at the end are not compared part by part."""
    path = tmp_path / "m.gguf"
    tiny.write(path, "llama", 2)
    with HeaderReader(path) as reader:
        old = reader.header
    kvs = [kv for kv in old.kvs if kv.key.startswith("general.")]
    kvs = [kv for kv in kvs if kv.key != "general.architecture"]
    kvs += [
        scalar("general.architecture", T.STRING, "new"),
        scalar("new.block_count", T.UINT32, 500),
    ]
    tensors = tuple(
        old.tensors[0].__class__(f"blk.{n}.part{k}.weight", (0,), 0, 0, 0)
        for n in range(500)
        for k in range(32 + (n == 499))
    )
    header = Header(old.version, old.byteorder, tuple(kvs), tensors)
    path.write_bytes(b"".join(p for p in header.encode() if isinstance(p, bytes)))
    with Model(path) as model:
        began = time.process_time()
        with pytest.raises(Refused, match="differ without a period"):
            describe(model)
    assert time.process_time() - began < 20


def with_tensor(path: Path, arch: str, name: str, ne: tuple[int, ...], **options: Any) -> Path:
    """A tiny model in which one tensor claims another shape; its data is a hole."""
    tiny.write(path, arch, 6, **options)
    with HeaderReader(path) as reader:
        old = reader.header
    tensors, offset = [], 0
    for tensor in old.tensors:
        new = tensor
        if tensor.name == name:
            n_bytes = tensor_bytes(tensor.type, ne)
            assert n_bytes is not None
            new = replace(tensor, ne=ne, n_bytes=n_bytes)
        tensors.append(replace(new, offset=offset))
        offset = padded(offset + new.n_bytes, 32)
    header = Header(old.version, old.byteorder, old.kvs, tuple(tensors))
    path.write_bytes(b"".join(p for p in header.encode() if isinstance(p, bytes)))
    os.truncate(path, header.data_offset + offset)
    return path


@pytest.mark.parametrize("ne", [(0, 8), (6 * 16, 0)])
def test_a_tensor_without_weights_is_not_gathered(tmp_path: Path, ne: tuple[int, ...]) -> None:
    """A tensor without weights has no slices."""
    path = with_tensor(tmp_path / "m.gguf", "gemma4", "per_layer_token_embd.weight", ne)
    with Model(path) as model, pytest.raises(Refused, match="expected 6 slices"):
        make_plan(model, LayerMap.parse("blocks:0,1", 6))


def test_long_slices_do_not_fill_the_memory(tmp_path: Path) -> None:
    """A row of 600 MB is read in small pieces, and gives the same slices as a short one."""
    ne = (6 * 25_000_000, 1)
    path = with_tensor(tmp_path / "m.gguf", "gemma4", "per_layer_token_embd.weight", ne)
    with Model(path) as model:
        tensor = next(t for t in model.header.tensors if t.ne == ne)
        n_slice = tensor.n_bytes // 6
        data = model.data(tensor)
        with path.open("r+b") as file:
            for n in range(6):
                file.seek(data.span.offset + n * n_slice)
                file.write(bytes([n + 1]))
        starts, done, longest = [], 0, 0
        for piece in gathered(model, GatheredTensor(data, 1, 6, n_slice, (4, 1, 1))):
            starts += [piece[0]] if done % n_slice == 0 else []
            done, longest = done + len(piece), max(longest, len(piece))
    assert starts == [5, 2, 2]
    assert done == 3 * n_slice
    assert longest <= 1 << 20
