"""Models, plans and differences as lines of text."""

from __future__ import annotations

from pathlib import Path

from tests import tiny
from tests.cli.calls import data, done


def test_a_plan_shows_what_a_layer_costs_at_run_time(tmp_path: Path) -> None:
    """Weights, cache and recurrent state, for a model that has them all."""
    model = tiny.write(tmp_path / "m.gguf", "qwen35", 8, n_mtp=1, recurrent_layers=True)
    text = done("plan", model, "--blocks", "0,4").stdout
    memory = next(line for line in text.splitlines() if line.startswith("memory"))
    assert " weights" in memory
    assert "KV cache per token (f16)" in memory
    assert "recurrent state per sequence" in memory
    assert "layers   8 -> 12 + 1 MTP (stays last)" in text
    memory_json = data("plan", model, "--blocks", "0,4")["memory"]
    assert all(memory_json[key] > 0 for key in ("weights", "kv_per_token", "state"))


def test_a_full_plan_lists_every_tensor(model: Path) -> None:
    """A full plan names each tensor and its source; a short one counts them."""
    short = done("plan", model, "--blocks", "2,4").stdout
    full = done("plan", model, "--blocks", "2,4", "--full").stdout
    listed = [line.split(" <- ") for line in full.splitlines() if line.startswith("    blk.")]
    assert f"{len(listed)} have a different name from their source" in short
    assert ["    blk.4.attn_q.weight", "blk.2.attn_q.weight"] in listed
    tensors = data("plan", model, "--blocks", "2,4", "--full")["tensors"]
    renamed = [t for t in tensors if t["source"] not in (None, t["name"])]
    assert len(renamed) == len(listed)


def test_inspect_names_kinds_and_lengths(tmp_path: Path) -> None:
    """A period limits the windows that are legal without a schedule of their own."""
    model = tiny.write(tmp_path / "m.gguf", "gemma3", 24)
    lines = done("inspect", model).stdout.splitlines()
    legal = {
        line.split()[1]: line.partition(": ")[2] for line in lines if line.startswith("windows")
    }
    assert legal["portable:"].startswith("lengths 6, 12, 18, 24 (")
    assert legal["explicit:"] == "any"
    assert any(line.startswith("rule ") for line in lines)


def test_a_tail_is_drawn_as_such(tmp_path: Path) -> None:
    """MTP blocks are in the strip, and no part of what may be repeated."""
    model = tiny.write(tmp_path / "m.gguf", "qwen35", 8, n_mtp=1, recurrent_layers=True)
    text = done("inspect", model).stdout
    assert "M multi-token prediction (1)" in text
    assert data("inspect", model)["n_mtp"] == 1


def test_long_differences_are_cut(tmp_path: Path) -> None:
    """Ten tensors are shown, --full lists all."""
    small = tiny.write(tmp_path / "a.gguf", "llama", 2)
    large = tiny.write(tmp_path / "b.gguf", "llama", 6)
    short = done("diff", small, large).stdout
    assert "more tensors (--full lists them)" in short
    full = done("diff", small, large, "--full").stdout.splitlines()
    added = [line for line in full if line.startswith("+ blk.")]
    assert len(added) == len(data("diff", small, large)["tensors"]) > 10
    assert all(line.count(" -> ") == 1 for line in added)
