"""An edited copy differs from its model in the edited tensors only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType, GGUFValueType

from rys_gguf import Model, Refused
from rys_gguf.checks.ablation import Edit, edited_copy, require_room, silence
from rys_gguf.errors import RysError
from rys_gguf.formats.header import KV, Span
from rys_gguf.layers.architectures import ARCHITECTURES
from tests import tiny

EDIT = Edit(KV.of("general.name", GGUFValueType.UINT32, 0), Span(0, 4))
WRITERS = ["attn_output.weight", "ffn_down.weight", "ffn_norm.weight"]


@pytest.mark.parametrize(
    ("arch", "zeros", "ones"),
    [
        ("gemma3", WRITERS, []),
        ("gemma4", [*WRITERS, "proj.weight"], ["layer_output_scale.weight"]),
        ("talkie", ["attn_output.weight", "ffn_down.weight", "layer_output_scale.weight"], []),
    ],
)
def test_a_silenced_copy_has_zeros_where_layers_write(
    tmp_path: Path, arch: str, zeros: list[str], ones: list[str]
) -> None:
    """What that layer writes with is zero, what scales the residual is one, the rest as it was."""
    path = tiny.write(tmp_path / "m.gguf", arch, 12)
    new = {f"blk.4.{name}": b"\0\0\0\0" for name in zeros}
    new |= {f"blk.4.{name}": b"\0\0\x80\x3f" for name in ones}
    with Model(path) as model:
        edits = silence(model, ARCHITECTURES[arch], [4])
        with edited_copy(model, edits, tmp_path) as copy, Model(copy) as edited:
            for a, b in zip(model.header.tensors, edited.header.tensors, strict=True):
                before, after = (
                    b"".join(m.read(m.data(t).span)) for m, t in ((model, a), (edited, b))
                )
                value = new.pop(a.name, None)
                assert after == (before if value is None else value * (len(before) // 4))
        assert not copy.exists()
    assert new == {}


def test_a_scale_that_cannot_be_set_is_refused(tmp_path: Path) -> None:
    """A scale of the residual in another type than F32 has no bytes for one that we write."""
    path = tiny.write(tmp_path / "m.gguf", "gemma4", 4)
    with Model(path) as model:
        f16 = int(GGMLQuantizationType.F16)
        model.layers[2] = [replace(tensor, type=f16) for tensor in model.layers[2]]
        with pytest.raises(
            Refused, match=r"blk\.2\.layer_output_scale\.weight is F16, expected F32"
        ):
            list(silence(model, ARCHITECTURES["gemma4"], [2]))


def test_without_edits_the_model_itself_is_given(tmp_path: Path) -> None:
    """Nothing is copied if nothing is to be changed."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 2)
    with Model(path) as model, edited_copy(model, [], tmp_path) as same:
        assert same == path
        assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_a_folder_that_is_not_there_is_one_message(tmp_path: Path) -> None:
    """The folder and the reason are named."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 2)
    with (
        Model(path) as model,
        pytest.raises(RysError, match="none: cannot make a silenced copy: No such file"),
        edited_copy(model, [EDIT], tmp_path / "none"),
    ):
        pass


def test_an_error_of_the_user_of_a_copy_is_not_blamed_on_the_copy(tmp_path: Path) -> None:
    """An OSError raised inside the block arrives as it is."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 2)
    with (
        Model(path) as model,
        pytest.raises(ConnectionRefusedError),
        edited_copy(model, [EDIT], tmp_path),
    ):
        raise ConnectionRefusedError
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_too_little_room_is_noticed_before_copying(tmp_path: Path) -> None:
    """The message says what is needed and how to choose another folder."""
    with pytest.raises(RysError, match=f"needs {1 << 62} bytes.*--workdir"):
        require_room(tmp_path, 1 << 62)


def test_streams_that_are_mixed_are_kept_apart(tmp_path: Path) -> None:
    """DeepSeek 4: the mixing is the identity, and the header's epsilon no longer blurs it."""
    path = tiny.write(tmp_path / "m.gguf", "deepseek4", 8)
    with Model(path) as model:
        edits = silence(model, ARCHITECTURES["deepseek4"], [2])
        with edited_copy(model, edits, tmp_path) as copy, Model(copy) as edited:
            base = next(t for t in edited.layers[2] if t.name == "blk.2.hc_attn_base.weight")
            values = np.frombuffer(b"".join(edited.read(edited.data(base).span)), "<f4")
            assert (values[8:].reshape(4, 4) == np.where(np.eye(4), 0, -1e4)).all()
            key = "deepseek4.hyper_connection.epsilon"
            changed = {
                a.key
                for a, b in zip(model.header.kvs, edited.header.kvs, strict=True)
                if a.raw != b.raw
            }
            assert changed == {key}
            assert edited.header.get(key) == KV.of(key, GGUFValueType.FLOAT32, 0.0)
