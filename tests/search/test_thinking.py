"""A sweep whose finalists think before they answer, with the real engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf import Model
from rys_gguf.engines.base import EngineOptions, Generation
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.thinking import Marks, Thinking
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.stage import FINAL, PLACEBO
from rys_gguf.runs.storage import RESULTS, Run
from rys_gguf.search.hosts.base import Workplace
from rys_gguf.search.job import HELDOUT, Job, Step
from rys_gguf.search.objective import run_job
from tests import tiny
from tests.cli.calls import done, refused
from tests.fake_engine import FakeEngine
from tests.search.fakes import ScriptedEngine, ScriptedHost, scripted_setup

N_TOKENS = 6


@pytest.fixture
def job(tmp_path: Path) -> list[str | Path]:
    """A sweep of a tiny model that thinks, over items of one's own, as arguments."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 5, extra=tiny.THINKING)
    suite = tmp_path / "own.jsonl"
    suite.write_text("".join(
        json.dumps({"kind": "choice", "question": f"Is {n} even?", "answer": ("yes", "no")[n % 2]})
        + "\n" for n in range(24)
    ))  # fmt: skip
    return [
        "sweep", source, "--suite", suite, "--plan", "map", "--sizes", "2", "--sampler",
        "halving", "--threads", "1", "--no-preflight", "--max-divergence", "1000",
        "--min-agreement", "0", "--finalists", "1",
    ]  # fmt: skip


def answers(folder: Path) -> dict[tuple[str, str, str], tuple[object, ...]]:
    """The answers of a run by candidate, stage and item, without times."""
    return {
        (trial.key, str(stage), item): (a.soft_score, a.thoughts, a.n_thought, a.thoughts_cut)
        for trial in Run.open(folder).trials.values()
        for stage, by_item in trial.answers.items()
        for item, a in by_item.items()
    }


def test_finalists_and_a_placebo_think_and_a_sweep_goes_on(
    job: list[str | Path], tmp_path: Path
) -> None:
    """Only before held-out items. A run that was cut off ends the same, one without is another."""
    folder = tmp_path / "run"
    job = [*job, "-o", folder]
    said = done(*job, "--thinking", str(N_TOKENS)).stdout
    assert f"It thinks for {N_TOKENS} tokens before an answer and the base for" in said
    assert "100% of its thoughts were cut off and 100% of the base's" in said
    assert "Against the placebo blocks:" in said
    found = answers(folder)
    for (_, stage, _), (_, thoughts, n, cut) in found.items():
        is_judged = stage in ("final", "placebo")
        assert (bool(thoughts), bool(cut)) == (is_judged, is_judged)
        assert n == (N_TOKENS if is_judged else None)
    by_stage = {stage: {key for key, s, _ in found if s == stage} for _, stage, _ in found}
    assert len(by_stage["final"]) == 2
    assert len(by_stage["placebo"] - by_stage["final"]) == 1
    lines = (folder / RESULTS).read_text().splitlines(keepends=True)
    # Cut off before the finalist's look.
    n_kept = max(n for n, line in enumerate(lines) if json.loads(line)["stage"] == "loops") - 1
    (folder / RESULTS).write_text("".join(lines[:n_kept]))
    done(*job, "--thinking", str(N_TOKENS))
    assert answers(folder) == found
    assert "settings.thinking" in refused(*job)


def test_what_cannot_think_is_refused(job: list[str | Path], tmp_path: Path) -> None:
    """Without a template, without room in the context; and the dry run says what it would cost."""
    plain = tiny.write(tmp_path / "plain.gguf", "llama", 5)
    message = refused("sweep", plain, *job[2:], "--thinking", "8")
    assert "plain.gguf: --thinking needs a chat template, and the model has none" in message
    assert not (tmp_path / "plain.gguf.sweep").exists()
    message = refused(*job, "--thinking", "3000", code=2)
    assert "--thinking 3000 takes a context of 3," in message
    lines = done(*job, "--thinking", "100", "--dry-run").stdout
    assert (
        "thinking: up to 100 tokens before each answer to a held-out item, by the base, 1 finalist "
        "and a placebo; at most 36 thoughts and 3,600 tokens to write"
    ) in lines
    assert "per second, without the thoughts" in lines
    # With a time they are measured.
    lines = done(*job, "--thinking", "16", "--generate", "--time", "1h", "--dry-run").stdout
    assert "held-out items of the finalists and the placebo" in lines
    assert "not measured yet" not in lines


@pytest.mark.parametrize(
    ("thought", "is_cut", "n_looping"),
    [("It is so.", False, 0), ("It is so. " * 9, True, 1), ("It is so. " * 9, False, 0)],
)
def test_an_answer_keeps_its_thought(
    thought: str, is_cut: bool, n_looping: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its length, whether it was cut off, and whether it looped then."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 6)
    (tmp_path / "work").mkdir()
    thinking = Thinking(7, Marks("<think>", "</think>", ""))
    setup = replace(scripted_setup(path, tmp_path), thinking=thinking)
    written = Generation(thought, 7, truncated=is_cut)
    monkeypatch.setattr(ScriptedEngine, "reply", lambda *_: written)
    monkeypatch.setattr(ScriptedEngine, "option_probabilities", FakeEngine.option_probabilities)
    with Model(path) as model:
        place = Workplace(model, Path(setup.folder), "host", Schedule.PORTABLE, EngineOptions())
        steps = tuple(Step(stage, HELDOUT, (0, 1)) for stage in (FINAL, PLACEBO))
        outcomes = list(run_job(Job(Candidate.base(6), steps), ScriptedHost(place), setup))
    assert [[a.item for a in outcome.answers] for outcome in outcomes] == [["h0", "h1"]] * 2
    for a in (a for outcome in outcomes for a in outcome.answers):
        assert a.thoughts == (thought.strip(),)
        assert (a.n_thought, a.thoughts_cut, a.thoughts_looping) == (7, int(is_cut), n_looping)
