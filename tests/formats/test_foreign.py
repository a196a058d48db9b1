"""What stock llama.cpp does not load here is named, and taken all the same."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from gguf.constants import GGUFValueType

from rys_gguf import EngineFailed, LayerMap, Model, make_plan
from tests import tiny
from tests.engine import logprobs
from tests.strategies import U32, architecture, raw_array, raw_file, raw_kv, raw_string, raw_tensor

T = GGUFValueType
COUNT = raw_kv(b"llama.block_count", T.UINT32, U32(2))


def notes(path: Path) -> tuple[str, ...]:
    """The notes on a plan for the model."""
    with Model(path) as model:
        return make_plan(model, LayerMap.parse("layers:0,1,1", 2)).notes


@pytest.mark.parametrize(
    ("type_", "name"), [(31, "Q4_0_4_4"), (36, "IQ4_NL_4_4"), (144, "type 144")]
)
def test_types_of_forks_are_named(tmp_path: Path, type_: int, name: str) -> None:
    """Types that were removed from llama.cpp, or never were in it."""
    path = tmp_path / "m.gguf"
    tensors = [raw_tensor(b"blk.%d.x" % n, [32], type_, 32 * n) for n in range(2)]
    path.write_bytes(raw_file([architecture(), COUNT], tensors, bytes(64)))
    (note,) = notes(path)
    assert note.startswith(f"tensor 'blk.0.x' is {name}, which llama.cpp does not read")
    assert note.endswith("(2 of 2 tensors)")


def test_arrays_of_arrays_are_named(tmp_path: Path) -> None:
    """The format allows them; gguf.cpp does not."""
    path = tmp_path / "m.gguf"
    nested = raw_array(T.ARRAY, [raw_array(T.UINT8, [b"\1"])])
    tensors = [raw_tensor(b"blk.%d.x" % n, [8], 0, 32 * n) for n in range(2)]
    kvs = [architecture(), COUNT, raw_kv(b"deep", T.ARRAY, nested)]
    path.write_bytes(raw_file(kvs, tensors, bytes(64)))
    assert notes(path) == ("key 'deep' is an array of arrays, which llama.cpp does not read",)


def test_another_byte_order_is_named(tmp_path: Path) -> None:
    """A big-endian model is written, but it does not load where it was written."""
    path = tmp_path / "m.gguf"
    name = raw_kv(b"general.architecture", T.STRING, raw_string(b"llama", ">"), ">")
    count = raw_kv(b"llama.block_count", T.UINT32, struct.pack(">I", 2), ">")
    tensors = [raw_tensor(b"blk.%d.x" % n, [8], 0, 32 * n, ">") for n in range(2)]
    path.write_bytes(raw_file([name, count], tensors, bytes(64), byteorder=">"))
    assert notes(path) == (
        "the file is big-endian: llama.cpp loads it on big-endian machines only, not here",
    )


def test_a_usual_model_gets_no_note(tmp_path: Path) -> None:
    """There is nothing to say about a model that loads."""
    assert notes(tiny.write(tmp_path / "m.gguf", "llama", 2)) == ()


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        (
            {".rope.scaling.type": "dynamic"},
            "llama.rope.scaling.type is 'dynamic'; llama.cpp aborts on it, it knows none, ",
        ),
        (
            {".classifier.activation": "relu"},
            "llama.classifier.activation is 'relu'; llama.cpp aborts on it, it knows gelu, ",
        ),
        (
            {"tokenizer.ggml.tokens": [f"t{n}" for n in range(tiny.N_VOCAB - 1)]},
            "token_embd.weight has 259 rows for 258 tokens; llama.cpp loads no model in which",
        ),
    ],
)
def test_values_that_the_engine_refuses_are_named(
    tmp_path: Path, extra: dict[str, Any], note: str
) -> None:
    """The engine in use does not start on the source, so the user hears of it."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 2, extra=extra)
    (found,) = notes(path)
    assert found.startswith(note)
    with pytest.raises(EngineFailed):
        logprobs(path, [[1, 50]])


@pytest.mark.parametrize("scaling", ["none", "linear", "yarn", "longrope"])
def test_values_that_the_engine_takes_are_taken(tmp_path: Path, scaling: str) -> None:
    """Each kind of scaling that llama.cpp knows loads, without a note."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 2, extra={".rope.scaling.type": scaling})
    assert notes(path) == ()
    assert logprobs(path, [[1, 50]]).size
