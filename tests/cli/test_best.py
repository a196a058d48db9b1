"""From the verdict to the finished variant: `sweep --write-best`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from rys_gguf.cli.best import BestFolder, best_of, why_nothing
from rys_gguf.cli.progress import Progress
from rys_gguf.errors import EngineFailed, OutputFailed, RysError
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.verdict import BETTER, NO_EVIDENCE, Verdict, verdicts
from tests.cli.calls import refused
from tests.engine import OPTIONS
from tests.fake_runs import FakeRun, make_run

N_LAYERS = 6


@pytest.fixture(scope="module")
def run() -> FakeRun:
    """A run of a model of six layers, of which one window is better."""
    return make_run(0, n=N_LAYERS, gain={(1, 5): 0.3}, finalists=((1, 5),))


@pytest.fixture(scope="module")
def best(run: FakeRun) -> Verdict:
    """The verdict on that window."""
    found = best_of(verdicts(Evidence(run)))
    assert found is not None
    return found


def test_the_best_is_one_that_is_better(best: Verdict) -> None:
    """A larger gain with a loss elsewhere comes second; a better window needs no reason."""

    def judged(word: str) -> Verdict:
        return dataclasses.replace(best, judgement=dataclasses.replace(best.judgement, word=word))

    first, second = judged("trade-off"), judged(BETTER)
    assert best_of([first, second]) is second
    assert why_nothing(second) is None
    assert best_of([first, judged(NO_EVIDENCE)]) is first
    assert why_nothing(first) == ("the verdict on the best finalist, blocks:1,5, is 'trade-off'")
    assert why_nothing(best_of([])) == "no window has come as far as the held-out items"


def test_the_best_window_is_written_checked_and_described(
    run: FakeRun, best: Verdict, model: Path
) -> None:
    """The folder holds the variant, the report of its validation, and its card with scores."""
    folder = BestFolder.of(None, model)
    assert folder.path == model.parent / "m.gguf.best"
    folder.require(model.parent / "run")
    with Progress() as progress:
        paths = folder.write(best, run, model, OPTIONS, progress)
    assert [p.name for p in paths] == [
        "m-rys_1-4.gguf", "m-rys_1-4.gguf.validate.json", "README.md",
    ]  # fmt: skip
    assert sorted(paths) == sorted(folder.path.iterdir())
    rungs = json.loads(paths[1].read_text())["rungs"]
    assert [rung["name"] for rung in rungs] == ["verify", "load", "prove", "smoke"]
    card = paths[2].read_text()
    assert "| **overall** |" in card
    assert "each of 10 outputs runs as its source" in card
    with pytest.raises(OutputFailed, match="exists already and is not empty"):
        folder.require(model.parent / "run")


def test_a_variant_that_fails_a_check_stays_without_a_card(
    run: FakeRun, best: Verdict, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its report says why."""

    def broken(*_: object, **__: object) -> None:
        raise EngineFailed("the proof does not hold")

    monkeypatch.setattr("rys_gguf.checks.ladder.prove", broken)
    folder = BestFolder.of(model.parent / "best", model)
    with Progress() as progress, pytest.raises(RysError, match="prove failed: the proof does not"):
        folder.write(best, run, model, OPTIONS, progress)
    names = {p.name for p in folder.path.iterdir()}
    assert names == {"m-rys_1-4.gguf", "m-rys_1-4.gguf.validate.json"}


def test_whatever_stops_it_leaves_nothing(
    run: FakeRun, best: Verdict, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command can be run again."""

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rys_gguf.cli.best.climb", stopped)
    folder = BestFolder.of(None, model)
    with Progress() as progress, pytest.raises(KeyboardInterrupt):
        folder.write(best, run, model, OPTIONS, progress)
    assert list(model.parent.iterdir()) == [model]


def test_an_output_that_exists_is_refused_before_the_sweep(model: Path, tmp_path: Path) -> None:
    """So are a file, a planted link and the run's own folder; no run is begun."""
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "README.md").write_text("mine")
    message = refused("sweep", model, "--write-best", taken)
    assert f"{taken}: exists already and is not empty" in message
    assert "Not a directory" in refused("sweep", model, f"--write-best={taken / 'README.md'}")
    assert "there is no such folder" in refused("sweep", model, f"--write-best={tmp_path}/a/b")
    message = refused("sweep", model, f"--write-best={model}.sweep", code=2)
    assert "is the run's folder" in message
    (tmp_path / "m.gguf.best").symlink_to(taken)
    assert "m.gguf.best: is a link" in refused("sweep", model, "--write-best")
    assert not Path(f"{model}.sweep").exists()
