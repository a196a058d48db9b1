"""A probe of a real model: its table, file and notes, and that it loses and replaces nothing."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf.engines.base import LIVE
from rys_gguf.probes.ask import answer_line
from rys_gguf.probes.run import run_probe
from rys_gguf.probes.suite import Suite, build_suite
from rys_gguf.probes.summary import summarise
from rys_gguf.probes.tables import row_lines
from tests import tiny
from tests.cli.calls import data, done, refused
from tests.engine import OPTIONS

OWN = (
    '{"kind": "choice", "question": "Is fire hot?", "answer": "yes"}\n'
    '{"kind": "choice", "question": "Is ice hot?", "answer": "no"}\n'
)


def test_a_probe_of_a_real_model_keeps_every_answer(smollm2: Path, tmp_path: Path) -> None:
    """The command writes a table and a file with every answer; the library gives the same."""
    suite = tmp_path / "own.jsonl"
    items = build_suite("quick", levels={"math": 0}, families=("math",)).items[:6]
    suite.write_text("".join(json.dumps(i.as_json()) + "\n" for i in items))
    out = tmp_path / "answers.jsonl"
    args: list[str | Path] = ["probe", smollm2, "--threads", "1", "-o", out, "--suite", suite]
    (row, *_) = data(*args, "--no-preflight")["rows"]
    assert list(row) == ["family", "topic", "n", "score", "error", "floor", "answered"]
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert [k["item"] for k in kept] == [i.id for i in items]
    assert row["n"] == len(kept)
    assert math.isclose(row["score"], sum(k["score"] for k in kept) / len(kept))
    again = run_probe(smollm2, replace(OPTIONS, kind=LIVE), items, preflight=False)
    lines = [json.loads(json.dumps(answer_line(a))) for a in again]
    without_time = [{k: v for k, v in line.items() if k != "seconds"} for line in kept]
    assert [{k: v for k, v in line.items() if k != "seconds"} for line in lines] == without_time
    assert next(iter(row_lines(summarise(Suite(items), again)))).startswith("family")


def test_a_model_that_was_measured_is_no_error(smollm2: Path, tmp_path: Path) -> None:
    """If a sweep would refuse the suite, a note follows the table and the exit code is 0."""
    suite = tmp_path / "own.jsonl"
    # Nobody can know these answers.
    suite.write_text(
        "".join(
            json.dumps({
                "kind": "choice", "question": f"Was the coin's toss number {n} heads?",
                "answer": ("yes", "no")[n % 2],
            }) + "\n"
            for n in range(12)
        )
    )  # fmt: skip
    out = tmp_path / "answers.jsonl"
    told = done("probe", smollm2, "--threads", "1", "-o", out, "--suite", suite)
    assert told.stdout.startswith("family")
    assert "Error" not in told.stderr
    assert "own: the model does not beat the best constant answer" in told.stderr
    assert "baseline 0.500" in told.stderr
    assert len(out.read_text().splitlines()) == 12


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_found_first(smollm2: Path, tmp_path: Path) -> None:
    """Nothing is asked if the answers could not be kept."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o500)
    message = refused("probe", smollm2, "-o", folder / "a.jsonl", "--llama-server", sys.executable)
    assert "Permission denied" in message


def test_a_folder_that_is_not_there_is_found_first(smollm2: Path, tmp_path: Path) -> None:
    """The engine in this command would fail if it were started."""
    message = refused(
        "probe", smollm2, "-o", tmp_path / "none" / "a.jsonl", "--llama-server", sys.executable
    )
    assert "none: no such folder" in message
    assert "engine" not in message


def test_a_dry_run_shows_the_items_and_asks_none(tmp_path: Path) -> None:
    """It lists families, topics and baselines, starts no engine and writes nothing."""
    model = tiny.write(tmp_path / "m.gguf", "llama", 2)
    # A family named twice is asked once.
    args: list[str | Path] = [
        "probe",
        model,
        "--dry-run",
        "--level",
        "1",
        "--families",
        "math,reasoning,math",
    ]
    told = done(*args, "--llama-server", sys.executable).stdout
    statistics = data(*args)
    assert {s["family"] for s in statistics} == {"math", "reasoning"}
    assert {s["level"] for s in statistics} == {1}
    suite = build_suite(
        "quick", levels=dict.fromkeys(("math", "reasoning"), 1), families=("math", "reasoning")
    )
    assert sum(s["n"] for s in statistics) == len(suite.items)
    lines = told.splitlines()
    assert len(lines) == len(statistics) + 1
    for line, s in zip(lines[1:], statistics, strict=True):
        assert line.startswith(f"{s['family']} {s['topic']}")
        assert f"{s['constant']:.3f}" in line
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_missing_parts_are_one_message(smollm2: Path, tmp_path: Path) -> None:
    """A missing suite, an empty suite and contradicting options each give one message."""
    assert "cannot read the suite" in refused("probe", smollm2, "--suite", tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "no items" in refused("probe", smollm2, "--suite", tmp_path / "empty.jsonl")
    (tmp_path / "one.jsonl").write_text('{"kind": "choice", "question": "?", "answer": "no"}\n')
    both = refused("probe", smollm2, "--suite", tmp_path / "one.jsonl", "--heldout", code=2)
    assert "name your held-out file" in both


def test_answers_replace_nothing_by_accident(tmp_path: Path) -> None:
    """The model, a device and another file are refused before any question is asked."""
    model = tiny.write(tmp_path / "m.gguf", "llama", 2, extra={".context_length": 2048})
    suite = tmp_path / "own.jsonl"
    suite.write_text(OWN)
    other = tmp_path / "thesis.txt"
    other.write_text("mine")
    args: list[str | Path] = ["probe", model, "--suite", suite, "--no-preflight", "--threads", "1"]
    for out, message in [
        (model, "is the source model itself"),
        (suite, "is the source model itself"),
        (other, "--force replaces it"),
        (Path("/dev/null"), "not a regular file"),
    ]:
        force = ["--force"] if out in (model, suite) else []
        assert message in refused(*args, "-o", out, *force)
    assert other.read_text() == "mine"
    assert Path("/dev/null").is_char_device()
    done(*args, "-o", other, "--force")
    assert [json.loads(x)["item"] for x in other.read_text().splitlines()] == ["line-1", "line-2"]
    done(*args)
    done(*args)
