"""Architectures that are not in the table, and files that are no whole models."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from rys_gguf import InvalidGGUF, LayerMap, Model, Refused, find_problems, make_plan, write_plan
from rys_gguf.layers.architectures import CHECKED_AGAINST
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.complete import require_complete
from rys_gguf.layers.rule import Architecture
from tests import tiny
from tests.cli.calls import done, refused
from tests.disk import finish


def rename_architecture(path: Path, old: str, new: str) -> Path:
    """Give a file another architecture of the same length in all its keys."""
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    return path


def written(path: Path, arch: str, names: list[str], **keys: int) -> Path:
    """A file with these tensors of four weights each, and these keys."""
    writer = gguf.GGUFWriter(str(path), arch)
    for key, value in keys.items():
        writer.add_uint32(f"{arch}.{key}", value)
    for name in names:
        writer.add_tensor(name, np.zeros(4, np.float32))
    finish(writer)
    return path


def test_alike_layers_of_an_unknown_architecture_need_a_word(tmp_path: Path) -> None:
    """They are refused unless --assume-uniform takes responsibility, which the message names."""
    source = rename_architecture(tiny.write(tmp_path / "m.gguf", "llama", 4), "llama", "lluma")
    message = refused("plan", source, "--blocks", "1,3")
    assert "Its layers look alike" in message
    assert "--assume-uniform" in message
    assert "prove" in message
    out = tmp_path / "out.gguf"
    args = ("--blocks", "1,3", "--assume-uniform", "-o", out)
    done("apply", source, *args)
    done("verify", out, "--source", source)


def test_a_uniform_guess_writes_the_map(tmp_path: Path) -> None:
    """With `assume_uniform` the architecture has no rules, and any map is written."""
    source = rename_architecture(tiny.write(tmp_path / "m.gguf", "llama", 4), "llama", "lluma")
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse("layers:3,1", 4), assume_uniform=True)
        write_plan(plan, tmp_path / "out.gguf")
    assert plan.rules.arch == Architecture("lluma", (), "inferred from the file's tensors")
    assert find_problems(tmp_path / "out.gguf", source) == []


def test_inferred_rules_are_of_no_build_of_llama_cpp(tmp_path: Path) -> None:
    """Rules of the table name the build they were read from, others that they were inferred."""
    known = tiny.write(tmp_path / "m.gguf", "jamba", 8)
    assert (
        f"source: llama.cpp {CHECKED_AGAINST}, src/models/jamba.cpp:"
        in done("inspect", known).stdout
    )
    shown = done("inspect", rename_architecture(known, "jamba", "jambo")).stdout
    assert "source: inferred from the file's tensors" in shown


def test_periodic_layers_of_an_unknown_architecture_keep_their_phase(tmp_path: Path) -> None:
    """Where the tensors repeat with a period, a map must keep it."""
    source = rename_architecture(tiny.write(tmp_path / "m.gguf", "qwen35", 8), "qwen35", "qwin35")
    with Model(source) as model:
        with pytest.raises(Refused, match="a period of 4"):
            make_plan(model, LayerMap.parse("blocks:3,5", 8))
        assert len(make_plan(model, LayerMap.parse("blocks:2,6", 8)).layer_map) == 12


def test_layers_without_a_period_are_refused(tmp_path: Path) -> None:
    """What decides the kind of each layer cannot be guessed."""
    names = ["blk.0.x", "blk.1.x", "blk.1.y", "blk.2.x", "blk.2.z"]
    with Model(written(tmp_path / "m.gguf", "newarch", names, block_count=3)) as model:
        with pytest.raises(Refused, match="differ without a period"):
            ModelRules.of(model)
        assert ModelRules.of(model, assume_uniform=True).arch.rules == ()


def test_two_stacks_of_layers_are_refused(tmp_path: Path) -> None:
    """The tensors of an encoder-decoder show it, and no assumption helps."""
    names = ["enc.blk.0.x", "dec.blk.0.x", "blk.0.x"]
    with (
        Model(written(tmp_path / "m.gguf", "newenc", names, block_count=1)) as model,
        pytest.raises(Refused, match="more than one stack"),
    ):
        ModelRules.of(model, assume_uniform=True)


# -- what a file must hold -----------------------------------------------------------------------


def test_an_mtp_key_without_its_block_is_refused(tmp_path: Path) -> None:
    """llama.cpp would leave out the last layer with a warning."""
    source = tiny.write(tmp_path / "m.gguf", "deepseek2", 8, extra={".nextn_predict_layers": 1})
    with Model(source) as model, pytest.raises(InvalidGGUF, match="nextn_predict_layers is 1"):
        make_plan(model, LayerMap.parse("blocks:3,5", 7))


def test_a_file_of_mtp_blocks_only_is_named(tmp_path: Path) -> None:
    """A draft file has no layers to repeat."""
    path = written(
        tmp_path / "m.gguf", "qwen35", ["blk.4.x"], block_count=5, nextn_predict_layers=1
    )
    with Model(path) as model, pytest.raises(InvalidGGUF, match="only MTP blocks"):
        require_complete(model, Architecture("qwen35", (), ""))


def test_blocks_without_tensors_are_named_up_to_five(tmp_path: Path) -> None:
    """The rest are counted; an architecture with empty blocks may have them."""
    path = written(tmp_path / "m.gguf", "llama", ["blk.0.x"], block_count=9)
    with Model(path) as model:
        with pytest.raises(InvalidGGUF) as caught:
            require_complete(model, Architecture("llama", (), ""))
        require_complete(model, Architecture("llama", (), "", empty_blocks=True))
    lines = str(caught.value).split("\n  ")
    assert lines[0] == "m.gguf: block 1 has no tensors, though llama.block_count is 9"
    assert lines[-2:] == [
        "block 5 has no tensors, though llama.block_count is 9",
        "and 3 more",
    ]


def test_mtp_blocks_may_be_absent_where_the_table_says_so(tmp_path: Path) -> None:
    """Some converters count MTP blocks that they do not write."""
    path = written(tmp_path / "m.gguf", "llama", ["blk.0.x"], block_count=2, nextn_predict_layers=1)
    with Model(path) as model:
        require_complete(model, Architecture("llama", (), "", absent_mtp=True))
        with pytest.raises(InvalidGGUF, match="block 1 has no tensors"):
            require_complete(model, Architecture("llama", (), ""))
