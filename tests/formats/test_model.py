"""An open model: what makes a GGUF file one, and which tensors belong to which layer."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from gguf.constants import GGUFValueType

from rys_gguf import InvalidGGUF, Model
from tests.strategies import U32, architecture, raw_array, raw_file, raw_kv, raw_string, raw_tensor

T = GGUFValueType


def count(n: int, key: bytes = b"llama.block_count", type_: T = T.UINT32) -> bytes:
    """A key with a number."""
    return raw_kv(key, type_, U32(n))


def text(key: bytes, value: bytes) -> bytes:
    """A key with a text."""
    return raw_kv(key, T.STRING, raw_string(value))


def opened(path: Path, *kvs: bytes, names: tuple[bytes, ...] = ()) -> Model:
    """A model of these keys, with tensors of one weight each."""
    tensors = [raw_tensor(name, [1], offset=32 * n) for n, name in enumerate(names)]
    path.write_bytes(raw_file(kvs, tensors, bytes(32 * len(names))))
    return Model(path)


def test_tensors_are_grouped_by_layer_in_file_order(tmp_path: Path) -> None:
    """Trunk, MTP tail, and tensors of no layer; a layer may have no tensors."""
    names = (b"token_embd.weight", b"blk.2.b", b"blk.0.a", b"blk.2.a", b"blk.3.x")
    mtp = count(1, b"llama.nextn_predict_layers")
    with opened(tmp_path / "m.gguf", architecture(), count(4), mtp, names=names) as model:
        assert (model.block_count, model.n_trunk, model.n_mtp) == (4, 3, 1)
        assert [[t.name for t in layer] for layer in model.layers] == [
            ["blk.0.a"], [], ["blk.2.b", "blk.2.a"], ["blk.3.x"],
        ]  # fmt: skip
        assert [t.name for t in model.globals] == ["token_embd.weight"]
        assert model.scalar("block_count") == 4
        assert model.scalar("none") is None


@pytest.mark.parametrize(
    ("arch", "name", "n_mtp"),
    [
        (b"deepseek4", b"blk.3.nextn.eh_proj.weight", 1),
        (b"deepseek4", b"blk.2.nextn.eh_proj.weight", 0),
        (b"deepseek4", b"blk.3.nextn.enorm.weight", 0),
        (b"llama", b"blk.3.nextn.enorm.weight", 1),
    ],
)
def test_mtp_blocks_are_counted_by_their_projection_in_deepseek4(
    tmp_path: Path, arch: bytes, name: bytes, n_mtp: int
) -> None:
    """Where the first of them lacks it, all blocks are layers; elsewhere the key decides."""
    kvs = (
        text(b"general.architecture", arch),
        count(4, arch + b".block_count"),
        count(1, arch + b".nextn_predict_layers"),
    )
    with opened(tmp_path / "m.gguf", *kvs, names=(name,)) as model:
        assert (model.n_trunk, model.n_mtp) == (4 - n_mtp, n_mtp)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (b"adapter", "is a LoRA adapter; give the model it belongs to"),
        (b"mmproj", "is a multimodal projector"),
        (b"imatrix", "is an importance matrix, not a model"),
        (b"vocab", "is a vocabulary without weights"),
    ],
)
def test_files_that_belong_to_a_model_are_named(tmp_path: Path, kind: bytes, message: str) -> None:
    """Each kind of companion has its own message."""
    with pytest.raises(InvalidGGUF, match=message):
        opened(tmp_path / "m.gguf", architecture(), text(b"general.type", kind))


@pytest.mark.parametrize(
    ("kvs", "message"),
    [
        ([architecture(b"clip")], "is a multimodal projector; give the language model"),
        ([architecture(b"controlvector")], "is a control vector, not a model; give the model it"),
        ([architecture(), text(b"adapter.type", b"lora")], "is a LoRA adapter; give the model"),
        (
            [architecture(), raw_kv(b"tokenizer.ggml.tokens", T.ARRAY, raw_array(T.STRING, []))],
            "is a vocabulary without weights; give the model it belongs to",
        ),
        ([architecture(b"flux")], "has no flux.block_count: not a language model llama.cpp can"),
    ],
)
def test_files_without_a_kind_are_known_by_their_keys(
    tmp_path: Path, kvs: list[bytes], message: str
) -> None:
    """Older companions do not say what they are, and models of images have no layers."""
    with pytest.raises(InvalidGGUF, match=rf"^m\.gguf: {message}"):
        opened(tmp_path / "m.gguf", *kvs)


LLAMA = architecture()
MTP = b"llama.nextn_predict_layers"


@pytest.mark.parametrize(
    ("kvs", "names", "message"),
    [
        ([], (), "has no general.architecture"),
        ([count(1, b"general.architecture")], (), "has no general.architecture"),
        ([LLAMA], (), "has no llama.block_count"),
        ([LLAMA, count(0)], (), "llama.block_count is 0, llama.cpp takes 1..512"),
        ([LLAMA, count(513)], (), "llama.block_count is 513, llama.cpp takes 1..512"),
        ([LLAMA, count(4, type_=T.INT32)], (), "block_count is INT32, llama.cpp wants UINT32"),
        ([LLAMA, count(2), count(2, MTP)], (), "is 2 of 2 blocks: no layers are left"),
        ([LLAMA, count(2)], (b"blk.2.x",), "'blk.2.x' is past the last block"),
        ([LLAMA, count(2)], (b"blk.01.x",), "'blk.01.x': expected blk.<number>.<name>"),
    ],
)
def test_a_header_that_is_no_models_is_refused(
    tmp_path: Path, kvs: list[bytes], names: tuple[bytes, ...], message: str
) -> None:
    """The message names the file, and the key or the tensor."""
    with pytest.raises(InvalidGGUF) as caught:
        opened(tmp_path / "m.gguf", *kvs, names=names)
    assert str(caught.value).startswith("m.gguf: ")
    assert message in str(caught.value)


def test_long_values_are_read_from_the_file(tmp_path: Path) -> None:
    """`raw` gives a value's bytes in pieces, whether it stays in the file or not."""
    long = text(b"long", b"x" * 3_000_000)
    with opened(tmp_path / "m.gguf", architecture(), count(1), long) as model:
        pieces = [list(model.raw(kv)) for kv in model.header.kvs]
    assert b"".join(pieces[2])[8:] == b"x" * 3_000_000
    assert [len(p) for p in pieces[2]] == [1 << 20, 1 << 20, 3_000_008 - (2 << 20)]
    assert pieces[1] == [U32(1)]


def test_the_digest_covers_everything_before_the_data(tmp_path: Path) -> None:
    """It is the SHA-256 of the header on disk, with its padding."""
    path = tmp_path / "m.gguf"
    with opened(path, architecture(), count(1), names=(b"blk.0.x",)) as model:
        n = model.header.data_offset
        assert model.header_digest() == hashlib.sha256(path.read_bytes()[:n]).hexdigest()
