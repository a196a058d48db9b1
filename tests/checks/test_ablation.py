"""An ablated copy differs from its model in the zeroed tensors only."""

from __future__ import annotations

from pathlib import Path

import pytest

from rys_gguf import Model
from rys_gguf.checks.ablation import ablated_copy, require_room, residual_writers
from rys_gguf.errors import RysError
from tests import tiny


def test_an_ablated_copy_has_zeros_where_layers_write(tmp_path: Path) -> None:
    """Attention output and FFN down of that layer are zero, and nothing else has changed."""
    out = tiny.write(tmp_path / "m.gguf", "gemma3", 12)
    with Model(out) as model:
        names = {t.name for t in residual_writers(model.layers[4])}
        with ablated_copy(model, [4], out.parent) as path, Model(path) as ablated:
            for a, b in zip(model.header.tensors, ablated.header.tensors, strict=True):
                before, after = (
                    b"".join(m.read(m.data(t).span)) for m, t in ((model, a), (ablated, b))
                )
                assert after == (bytes(len(before)) if a.name in names else before)
        assert not path.exists()
    assert names == {"blk.4.attn_output.weight", "blk.4.ffn_down.weight"}


def test_without_layers_the_model_itself_is_given(tmp_path: Path) -> None:
    """Nothing is copied if nothing is to be zeroed."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 2)
    with Model(path) as model, ablated_copy(model, [], tmp_path) as same:
        assert same == path
        assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_a_folder_that_is_not_there_is_one_message(tmp_path: Path) -> None:
    """The folder and the reason are named."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 2)
    with (
        Model(path) as model,
        pytest.raises(RysError, match="none: cannot make a silenced copy: No such file"),
        ablated_copy(model, [0], tmp_path / "none"),
    ):
        pass


def test_an_error_of_the_user_of_a_copy_is_not_blamed_on_the_copy(tmp_path: Path) -> None:
    """An OSError raised inside the block arrives as it is."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 2)
    with (
        Model(path) as model,
        pytest.raises(ConnectionRefusedError),
        ablated_copy(model, [0], tmp_path),
    ):
        raise ConnectionRefusedError
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_too_little_room_is_noticed_before_copying(tmp_path: Path) -> None:
    """The message says what is needed and how to choose another folder."""
    with pytest.raises(RysError, match=f"needs {1 << 62} bytes.*--workdir"):
        require_room(tmp_path, 1 << 62)
