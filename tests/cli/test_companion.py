"""The command for what belongs to a model, and what apply says of it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from tests import tiny
from tests.cli.calls import data, done, refused
from tests.companions import (
    make_adapter,
    make_importance,
    write_adapter,
    write_control_vector,
    write_imatrix,
    write_old_imatrix,
)
from tests.disk import finish


@pytest.fixture
def variant(model: Path) -> Path:
    """A variant with two more layers than the model."""
    return Path(done("apply", model, "--blocks", "2,4").stdout.strip())


def adapter(model: Path, name: str = "style-F16.gguf") -> Path:
    """An adapter beside the model."""
    return write_adapter(model.with_name(name), make_adapter(model, "attn_q.weight"))


def test_each_file_is_written_beside_itself(model: Path, variant: Path) -> None:
    """The name is that of the variant's map, in front of the quantisation's; paths go to stdout."""
    lora = adapter(model)
    matrix = write_old_imatrix(model.with_name("m.dat"), make_importance(model))
    paths = done("companion", variant, lora, matrix).stdout.split()
    assert [Path(p).name for p in paths] == ["style-rys_2-3-F16.gguf", "m-rys_2-3.dat"]
    message = refused("companion", variant, lora)
    assert message.endswith("exists already; --force replaces it")
    assert done("companion", variant, lora, "--force").stdout == f"{paths[0]}\n"


def test_a_folder_takes_several_files_and_a_name_one(
    model: Path, variant: Path, tmp_path: Path
) -> None:
    """Two files are never written to one name."""
    folder = tmp_path / "out"
    folder.mkdir()
    lora, vector = adapter(model), write_control_vector(model.with_name("c.gguf"), {1: _ones()})
    done("companion", variant, lora, vector, "-o", folder)
    assert {p.name for p in folder.iterdir()} == {"style-rys_2-3-F16.gguf", "c-rys_2-3.gguf"}
    one = tmp_path / "one.gguf"
    assert done("companion", variant, lora, "-o", one).stdout == f"{one}\n"
    message = refused("companion", variant, lora, vector, "-o", tmp_path / "two.gguf", code=2)
    assert "2 files cannot all be written to two.gguf; name a folder with -o" in message


def _ones(n: int = tiny.N_EMBD) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ones(n, np.float32)


def test_nothing_is_written_unless_all_files_are_right(model: Path, variant: Path) -> None:
    """The first file is right, the second of another model."""
    lora, wide = adapter(model), write_control_vector(model.with_name("c.gguf"), {1: _ones(8)})
    before = set(model.parent.iterdir())
    assert "Error: c.gguf: tensor 'direction.1' is F32 of shape [8]" in refused(
        "companion", variant, lora, wide
    )
    assert set(model.parent.iterdir()) == before


def test_json_says_what_became_of_each(model: Path, variant: Path) -> None:
    """A projector has no output, since it fits as it is."""
    projector = model.with_name("mmproj.gguf")
    writer = gguf.GGUFWriter(str(projector), "clip")
    writer.add_tensor("v.patch_embd.weight", _ones())
    finish(writer)
    vector = write_control_vector(model.with_name("c.gguf"), {1: _ones()}, hint="mistral")
    first, second = data("companion", variant, projector, vector)
    assert (first["kind"], first["output"]) == ("mmproj", None)
    assert (second["kind"], second["output"]) == (
        "control_vector",
        str(model.with_name("c-rys_2-3.gguf")),
    )
    assert "was made for 'mistral', m-rys_2-3.gguf is another architecture" in second["notes"]
    text = done("companion", variant, projector)
    assert text.stdout == ""
    assert "note: mmproj.gguf fits as it is" in text.stderr


def test_a_variant_without_a_record_takes_a_map(model: Path, tmp_path: Path) -> None:
    """Files of other tools do not say where their layers come from."""
    out = tmp_path / "v.gguf"
    done("apply", model, "--blocks", "2,4", "--no-provenance", "-o", out)
    lora = adapter(model)
    assert "v.gguf: records no layer map" in refused("companion", out, lora)
    mapped = ("--source", model, "--blocks", "2,4")
    moved = Path(done("companion", out, lora, *mapped).stdout.strip())
    tensors = [t.name for t in gguf.GGUFReader(moved).tensors]
    assert len(tensors) == 2 * 8
    assert "blk.7.attn_q.weight.lora_a" in tensors


def test_apply_names_what_will_not_fit(model: Path) -> None:
    """One line, with the command that makes it fit; none where nothing is there."""
    assert "note" not in done("apply", model, "--blocks", "1,2").stderr
    adapter(model, "a.gguf")
    assert (
        "note: a.gguf: right for the model's layer numbers only; rys-gguf companion "
        "m-rys_2-3.gguf FILE makes it fit\n"
    ) in done("apply", model, "--blocks", "2,4").stderr
    for name in ("b.gguf", "c.gguf", "d.gguf"):
        write_imatrix(model.with_name(name), make_importance(model))
    assert (
        "note: a.gguf, b.gguf, c.gguf and 1 more: "
        in done("apply", model, "--blocks", "3,4").stderr
    )
