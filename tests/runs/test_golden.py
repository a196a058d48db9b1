"""A run folder that version 0.1.0 wrote: it opens, keeps every number, and goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rys_gguf.runs.records import ItemAnswer, StageResult, decode, decode_info, encode, encode_info
from rys_gguf.runs.stage import FINAL, GENERATE, Status
from rys_gguf.runs.storage import INFO, ITEMS, RESULTS, OpenRun, Run
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.ranking import rank
from rys_gguf.stats.verdict import search_ranking, verdicts

GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1.0"


def lines(name: str) -> list[dict[str, Any]]:
    """The lines of one of its files, as plain JSON."""
    return [json.loads(line) for line in (GOLDEN / name).read_text().splitlines()]


def plain(record: StageResult | ItemAnswer) -> Any:
    """A record as JSON has it."""
    return json.loads(encode(record))


@pytest.fixture(scope="module")
def run() -> Run:
    """The run, opened."""
    return Run.open(GOLDEN)


def test_every_result_and_answer_is_there(run: Run) -> None:
    """Each line with its numbers, under its candidate and stage."""
    results = lines(RESULTS)
    assert len(results) == 62
    assert [plain(r) for t in run.trials.values() for r in t.results.values()] == sorted(
        results, key=lambda line: list(run.trials).index(line["candidate"])
    )
    items = lines(ITEMS)
    assert len(items) == 560
    answers = {
        (key, str(stage), item): plain(answer)
        for key, trial in run.trials.items()
        for stage, by_item in trial.answers.items()
        for item, answer in by_item.items()
    }
    assert answers == {(x["candidate"], x["stage"], x["item"]): x for x in items}


def test_records_lose_nothing() -> None:
    """Every key and value of every line survives decoding and encoding, and so does run.json.

    Fields that version 0.1.0 did not have are added to run.json, as they were meant then.
    """
    for name, kind in ((RESULTS, StageResult), (ITEMS, ItemAnswer)):
        for n, line in enumerate((GOLDEN / name).read_bytes().splitlines(), 1):
            assert json.loads(encode(decode(line, kind, f"{name}, line {n}"))) == json.loads(line)
    info = (GOLDEN / INFO).read_bytes()
    old = json.loads(info)
    later = {"command": "", "n_threads": None, "search_until": None}
    later["plan"] = old["plan"] | {"sampler": "halving"}
    assert json.loads(encode_info(decode_info(info, INFO))) == old | later


def test_its_trials_tell_their_way(run: Run) -> None:
    """How far each came, why it ended, and what it cost."""
    assert run.base
    assert run.base.key == "0-29"
    assert run.base.candidate.is_base
    assert len(run.trials) == 25
    ended = [t for t in run.trials.values() if t.ending]
    assert {t.ending.status for t in ended if t.ending} == {Status.DROPPED}
    assert all((t.ending.reason or "").startswith("damaged: ") for t in ended if t.ending)
    finalists = [t for t in run.trials.values() if FINAL in t.answers and not t.candidate.is_base]
    assert len(finalists) == 3
    for trial in finalists:
        assert trial.reached == FINAL
        assert [str(stage) for stage in trial.rounds] == ["round1", "round2"]
        assert not trial.is_out
    results = lines(RESULTS)
    assert sum(t.bytes_written for t in run.trials.values()) == sum(
        line["bytes_written"] for line in results
    )
    assert sum(t.engine_seconds for t in run.trials.values()) == pytest.approx(
        sum(line["engine_seconds"] for line in results)
    )


def test_its_finalists_are_the_first_of_the_ranking(run: Run) -> None:
    """What 0.1.0 chose is what is ranked first today, and shown first."""
    evidence = Evidence(run)
    first = [r.trial.key for r in rank(evidence.base, evidence.windows).order[:3]]
    assert sorted(first) == sorted(evidence.finalists(FINAL))
    assert [r.trial.key for r in search_ranking(evidence).ranks[:3]] == first
    assert evidence.judged_stage() == FINAL
    assert {v.trial.key for v in verdicts(evidence)} == set(first)
    assert {v.judgement.word for v in verdicts(evidence)} == {"no evidence"}


def test_it_goes_on(tmp_path: Path) -> None:
    """A resumed run keeps every byte and appends to it; what is new is read again with the old."""
    folder = tmp_path / "run"
    shutil.copytree(GOLDEN, folder)
    before = {name: (folder / name).read_bytes() for name in (INFO, RESULTS, ITEMS)}
    info = Run.open(folder).info
    with OpenRun.start(folder, info, {}) as run:
        assert {path.name: path.read_bytes() for path in folder.iterdir()}.items() >= before.items()
        trial = run.trials["0-14,11-29"]
        old = trial.results[FINAL]
        answers = [
            ItemAnswer(candidate=trial.key, stage=GENERATE, item=f"h{n}", family="math", score=1.0)
            for n in range(3)
        ]
        run.record(
            StageResult(
                candidate=old.candidate,
                spec=old.spec,
                windows=old.windows,
                extra_layers=old.extra_layers,
                stage=GENERATE,
                status=Status.OK,
            ),
            answers,
        )
    for name, n_new in ((RESULTS, 1), (ITEMS, 3), (INFO, 0)):
        after = (folder / name).read_bytes()
        assert after.startswith(before[name])
        assert after[len(before[name]) :].count(b"\n") == n_new
    again = Run.open(folder).trials["0-14,11-29"]
    assert list(again.answers[GENERATE].values()) == answers
    assert again.results[FINAL] == old
