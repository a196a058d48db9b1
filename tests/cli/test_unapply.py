"""The command unapply: what it writes, prints and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.calls import data, done, refused


@pytest.fixture
def variant(model: Path) -> Path:
    """blocks:1,3 of the tiny llama."""
    done("apply", model, "--blocks", "1,3", "-o", model.with_name("v.gguf"))
    return model.with_name("v.gguf")


def test_the_source_comes_back(model: Path, variant: Path) -> None:
    """The path goes to stdout, and a sentence to stderr."""
    out = model.with_name("back.gguf")
    result = done("unapply", variant, "-o", out)
    assert out.read_bytes() == model.read_bytes()
    assert result.stdout == f"{out}\n"
    assert "m.gguf byte for byte" in result.stderr


def test_in_a_folder_it_gets_its_old_name(model: Path, variant: Path, tmp_path: Path) -> None:
    """The name on record."""
    (tmp_path / "folder").mkdir()
    done("unapply", variant, "-o", tmp_path / "folder")
    assert (tmp_path / "folder" / "m.gguf").read_bytes() == model.read_bytes()


def test_nothing_is_replaced_without_force(model: Path, variant: Path) -> None:
    """Not the source, where it still lies, and never the variant."""
    assert "exists already" in refused("unapply", variant, "-o", model)
    assert "is the source model itself" in refused("unapply", variant, "-o", variant, "--force")
    done("unapply", variant, "-o", model, "--force")


def test_a_chain_goes_back_one_step_or_all(model: Path, variant: Path) -> None:
    """--to-base skips the models between."""
    second, out = model.with_name("w.gguf"), model.with_name("back.gguf")
    done("apply", variant, "--blocks", "0,2", "-o", second)
    done("unapply", second, "-o", out)
    assert out.read_bytes() == variant.read_bytes()
    done("unapply", second, "--to-base", "-o", out, "--force")
    assert out.read_bytes() == model.read_bytes()


def test_a_dry_run_shows_the_way_back_and_writes_nothing(model: Path, variant: Path) -> None:
    """It needs no output."""
    before = sorted(model.parent.iterdir())
    result = done("unapply", variant, "--dry-run")
    lines = result.stdout.splitlines()
    assert lines[0] == "v.gguf  back to m.gguf, undoing blocks:1,3"
    assert lines[1:-1] == [
        "layers   8 -> 6",
        "  layer 0..2 <- output 0..2",
        "  layer 3..5 <- output 5..7",
    ]
    assert lines[-1].startswith(f"bytes    {variant.stat().st_size} -> {model.stat().st_size} (")
    assert sorted(model.parent.iterdir()) == before


def test_json_tells_the_same(model: Path, variant: Path) -> None:
    """Of a dry run and of a file written."""
    shown = data("unapply", variant, "--dry-run")
    assert shown["source"] == "m.gguf"
    assert shown["exact"] is True
    assert shown["fault"] == ""
    assert shown["layer_map"] == [0, 1, 2, 5, 6, 7]
    assert shown["n_bytes"] == [variant.stat().st_size, model.stat().st_size]
    out = model.with_name("back.gguf")
    assert data("unapply", variant, "-o", out)["output"] == [str(out)]


def test_a_usage_error_without_an_output(variant: Path) -> None:
    """Exit code 2."""
    assert "-o" in refused("unapply", variant, code=2)


def test_what_is_lacking_is_said_on_one_line(model: Path) -> None:
    """Exit code 1, and nothing written."""
    out, back = model.with_name("short.gguf"), model.with_name("back.gguf")
    done("apply", model, "--layers", "0..2,4..5", "-o", out)
    message = refused("unapply", out, "-o", back)
    assert "short.gguf: m.gguf cannot be given back: the map drops its layer 3," in message
    assert not back.exists()
    assert "records no source" in refused("unapply", model, "-o", back)


def test_a_changed_header_only_if_asked_for(model: Path, variant: Path) -> None:
    """A note says that it is not the source."""
    raw = variant.read_bytes()
    key = b"llama.context_length\x04\x00\x00\x00"
    at = raw.index(key) + len(key)
    variant.write_bytes(raw[:at] + b"\x00\x08\x00\x00" + raw[at + 4 :])
    out = model.with_name("back.gguf")
    assert "cannot be given back byte for byte" in refused("unapply", variant, "-o", out)
    result = done("unapply", variant, "--inexact", "-o", out)
    assert "note: not m.gguf byte for byte" in result.stderr
    assert out.stat().st_size == model.stat().st_size
    assert data("unapply", variant, "--inexact", "--dry-run")["exact"] is False
