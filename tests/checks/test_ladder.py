"""The ladder stops at the rung that breaks, and its report says what each rung showed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from rys_gguf import LayerMap, Model, make_plan, write_plan
from rys_gguf.checks.ladder import n_steps, validate
from rys_gguf.checks.variant import VariantPair
from rys_gguf.layers.architectures import ARCHITECTURES
from rys_gguf.layers.rule import Architecture
from tests import tiny
from tests.cli import calls
from tests.engine import OPTIONS


def climb(variant: Path, source: Path) -> tuple[int, dict[str, Any], str]:
    """Run validate and return its exit code, its report, and its messages."""
    done = calls.call("validate", variant, "--source", source, "--threads", "1")
    path = variant.with_name(variant.name + ".validate.json")
    return done.exit_code, json.loads(path.read_text()), done.stderr


def rungs(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The names and outcomes of the rungs."""
    return [(rung["name"], rung["outcome"]) for rung in report["rungs"]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A Gemma 3 of 12 layers."""
    return tiny.write(tmp_path / "m.gguf", "gemma3", 12)


def test_a_damaged_file_ends_at_verify(source: Path, tmp_path: Path) -> None:
    """A file that differs from its map is not loaded."""
    out = tmp_path / "out.gguf"
    calls.done("apply", source, "--blocks", "3,9", "-o", out)
    with out.open("r+b") as file:
        file.seek(-9, 2)
        file.write(b"\xff")
    code, report, messages = climb(out, source)
    assert code == 1
    assert rungs(report) == [("verify", "failed")]
    assert "verify failed: tensor" in messages
    assert report["passed"] is False


def test_a_file_the_engine_refuses_ends_at_load(tmp_path: Path) -> None:
    """A variant of a source that cannot run passes verify and fails to load."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 4, extra={".attention.head_count": None})
    out = tmp_path / "out.gguf"
    calls.done("apply", source, "--blocks", "1,3", "-o", out)
    code, report, messages = climb(out, source)
    assert code == 1
    assert rungs(report) == [("verify", "passed"), ("load", "failed")]
    assert "wrong shape" in messages


def test_a_rule_the_table_lacks_ends_at_prove(tmp_path: Path) -> None:
    """Without its rules, smollm3 looks uniform to every check of the file but not to the engine."""
    source = tiny.write(tmp_path / "m.gguf", "smollm3", 8)
    naive = tiny.write(tmp_path / "out.gguf", "smollm3", 8, sources=[0, 1, 2, 3, 2, *range(3, 8)])
    layer_map = LayerMap(8, (0, 1, 2, 3, 2, 3, 4, 5, 6, 7))
    table = {**ARCHITECTURES, "smollm3": Architecture("smollm3", (), "nowhere")}
    with patch.dict("rys_gguf.layers.carry.ARCHITECTURES", table):
        report = validate(VariantPair(naive, source, layer_map), OPTIONS)
    assert [(r.name, r.outcome) for r in report.rungs] == [
        ("verify", "passed"),
        ("load", "passed"),
        ("prove", "failed"),
    ]
    assert "do not run as their sources" in report.rungs[-1].shows


def test_the_progress_counts_every_step(source: Path, tmp_path: Path) -> None:
    """A validation up to the smoke test reports the steps that were announced for it."""
    layer_map = LayerMap.parse("blocks:3,9", 12)
    with Model(source) as model:
        write_plan(make_plan(model, layer_map), tmp_path / "out.gguf")
    pair = VariantPair(tmp_path / "out.gguf", source, layer_map)
    steps: list[int] = []
    report = validate(pair, OPTIONS, progress=steps.append)
    assert len(report.rungs) == 4
    assert sum(steps) == n_steps(pair)


def test_a_report_replaces_no_model_and_no_other_file(source: Path, tmp_path: Path) -> None:
    """The command refuses before it loads anything, with and without --force."""
    out, other = tmp_path / "out.gguf", tmp_path / "thesis.txt"
    calls.done("apply", source, "--blocks", "3,9", "-o", out)
    other.write_text("mine")
    before = out.read_bytes(), source.read_bytes()
    call = ("validate", out, "--source", source, "--report")
    for path in (out, source):
        assert "is the source model itself" in calls.refused(*call, path, "--force")
    assert "--force replaces it" in calls.refused(*call, other)
    assert "not a regular file" in calls.refused(*call, "/dev/null")
    assert (out.read_bytes(), source.read_bytes()) == before
    assert other.read_text() == "mine"
