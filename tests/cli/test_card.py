"""The command that writes a model card."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.calls import done, refused


@pytest.fixture
def variant(model: Path) -> Path:
    """Two layers of the tiny model run twice."""
    return Path(done("apply", model, "--blocks", "2,4").stdout.strip())


def test_a_card_is_printed_or_written(variant: Path, model: Path, tmp_path: Path) -> None:
    """The card goes to the named file or, in a folder, to the name that the Hub reads."""
    text = done("card", variant, "--source", model).stdout
    assert text.startswith("---\n")
    folder = tmp_path / "card"
    folder.mkdir()
    result = done("card", variant, "--source", model, "-o", folder)
    assert (folder / "README.md").read_text() == text
    assert "check it before you publish it" in result.stderr
    assert "exists already" in refused("card", variant, "--source", model, "-o", folder)


def test_a_map_without_its_source_is_a_usage_error(variant: Path) -> None:
    """Without its source a variant is described by its own record alone."""
    message = refused("card", variant, "--blocks", "2,4", code=2)
    assert "--blocks, --layers and --mergekit go with --source" in message


def test_a_file_without_a_record_needs_its_source(model: Path) -> None:
    """The message says how to name it."""
    message = refused("card", model)
    assert "m.gguf: records no layer map; --source names the model it was made from" in message


def test_the_validation_beside_the_variant_is_read(variant: Path, model: Path) -> None:
    """The validation report beside the variant is used, or the one that is named."""
    report = {"spec": "blocks:1,2", "rungs": []}
    variant.with_name(variant.name + ".validate.json").write_text(json.dumps(report))
    assert "the validation is of blocks:1,2" in refused("card", variant, "--source", model)


@pytest.mark.parametrize(
    "content", [b"[1]", b'{"rungs": 5}', b'{"rungs": ["a"]}', b"{", b"[" * 100_000, b"\xff"]
)
def test_another_file_is_no_validation(variant: Path, tmp_path: Path, content: bytes) -> None:
    """A file that is not a validation report is named, whatever it holds."""
    path = tmp_path / "v.json"
    path.write_bytes(content)
    message = refused("card", variant, "--validation", path)
    assert f"Error: {path}: " in message
    assert "validation report" in message


def test_only_a_regular_file_is_read(variant: Path, tmp_path: Path) -> None:
    """A FIFO would be waited for, and /dev/zero has no end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/zero"), tmp_path):
        assert "not a regular file" in refused("card", variant, "--validation", path)
    assert "No such file" in refused("card", variant, "--validation", tmp_path / "none.json")


def test_a_run_of_another_model_is_no_evidence(variant: Path, model: Path) -> None:
    """Its scores are of a model with another number of layers."""
    golden = Path(__file__).parent.parent / "golden" / "run-0.1.0"
    message = refused("card", variant, "--source", model, "--run", golden)
    assert "the run is of a model with 30 layers, the map of one with 6" in message
