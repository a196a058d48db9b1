"""A run's folder: lines are there completely or not at all, and another run is refused."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from rys_gguf.errors import RysError
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import ItemAnswer, ModelInfo, RunInfo, StageResult
from rys_gguf.runs.stage import FINAL, Stage, Status, round_stage
from rys_gguf.runs.storage import HELDOUT, INFO, ITEMS, LOCK, RESULTS, SUITE, OpenRun, Run
from tests.disk import fill

N_LAYERS = 8
A, B, C, D = (f"0-{end},{end - 1}-7" for end in (3, 4, 5, 6))
ROUND = round_stage(1)


def about(identity: dict[str, Any] | None = None) -> RunInfo:
    """A run.json of a model with 8 layers."""
    return RunInfo(
        identity=identity or {"model": {"name": "m.gguf"}, "suite": "abc"},
        model=ModelInfo(n_layers=N_LAYERS),
    )


def result(key: str, stage: Stage = ROUND, status: Status = Status.OK, **more: Any) -> StageResult:
    """A result as a worker emits it."""
    candidate = Candidate.from_key(key, N_LAYERS)
    return StageResult(
        candidate=key,
        spec=more.pop("spec", candidate.spec),
        windows=candidate.windows,
        extra_layers=candidate.n_added,
        is_base=candidate.is_base,
        stage=stage,
        status=status,
        **more,
    )


def answer(key: str, item: str, stage: Stage = ROUND, **more: Any) -> ItemAnswer:
    """An answer as a worker emits it."""
    return ItemAnswer(candidate=key, stage=stage, item=item, family="math", **more)


def filled(folder: Path) -> Path:
    """A run with three results, two answers each."""
    with OpenRun.start(folder, about(), {SUITE: "{}\n"}) as run:
        for key in (A, B, C):
            run.record(result(key), [answer(key, f"i{n}") for n in range(2)])
    return folder


def items(run: Run) -> list[tuple[str, str]]:
    """Every answer that counts, as (candidate, item)."""
    return [
        (key, item)
        for key, trial in run.trials.items()
        for answers in trial.answers.values()
        for item in answers
    ]


def test_what_is_recorded_is_read_again(tmp_path: Path) -> None:
    """Results and answers come back in order; a later line for the same stage replaces one."""
    folder = filled(tmp_path / "run")
    with OpenRun.start(folder, about(), {}) as run:
        run.record(result(B, reason="again"), [answer(B, "i0", score=1.0)])
        live = {key: (trial.results, trial.answers) for key, trial in run.trials.items()}
    read = Run.open(folder)
    assert {key: (trial.results, trial.answers) for key, trial in read.trials.items()} == live
    assert list(read.trials) == [A, B, C]
    assert read.trials[B].results[ROUND].reason == "again"
    assert items(read) == [(key, item) for key in (A, B, C) for item in ("i0", "i1")]
    assert read.trials[B].answers[ROUND]["i0"].score == 1
    assert read.info.identity == about().identity


def test_the_base_is_found_by_its_map(tmp_path: Path) -> None:
    """It is the trial of the model as it is, None before it has a result."""
    folder = tmp_path / "run"
    with OpenRun.start(folder, about(), {}) as run:
        assert run.base is None
        run.record(result("0-7"), [])
        assert run.base is run.trials["0-7"]
        assert run.base.candidate.is_base


def test_trials_are_values_and_the_mapping_is_live(tmp_path: Path) -> None:
    """A trial at hand stays as it was; the mapping shows what was recorded since."""
    with OpenRun.start(filled(tmp_path / "run"), about(), {}) as run:
        trials = run.trials
        before = trials[A]
        run.record(result(A, FINAL), [answer(A, "h0", FINAL)])
        assert before.stages == (ROUND,)
        assert trials[A].stages == (ROUND, FINAL)
        run.record(result(D), [])
        assert D in trials
        assert not isinstance(trials, MutableMapping)


def test_answers_of_a_stage_that_failed_later_do_not_count(tmp_path: Path) -> None:
    """Killed between answers and result, run again, failed: what was half recorded is no answer."""
    folder = filled(tmp_path / "run")
    with (folder / ITEMS).open("a") as file:
        file.write(json.dumps({"candidate": B, "stage": "final", "item": "h", "family": "x"}))
        file.write("\n")
    with OpenRun.start(folder, about(), {}) as run:
        run.record(result(B, FINAL, Status.FAILED), [])
        assert FINAL not in run.trials[B].answers
        assert FINAL in run.trials[B].results


def test_what_failed_can_be_forgotten(tmp_path: Path) -> None:
    """Failures of one candidate or of all are forgotten, but their lines stay in the file."""
    folder = filled(tmp_path / "run")
    with OpenRun.start(folder, about(), {}) as run:
        for key in (A, D):
            run.record(result(key, FINAL, Status.FAILED), [])
    with OpenRun.start(folder, about(), {}) as run:
        run.forget_failed(A)
        assert run.trials[A].stages == (ROUND,)
        assert run.trials[D].stages == (FINAL,)
        run.forget_failed()
        assert run.trials[D].stages == ()
        assert items(run)[:2] == [(A, "i0"), (A, "i1")]
    assert Run.open(folder).trials[D].status(FINAL) is Status.FAILED


def test_a_discarded_run_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    """Whatever else is in the folder stays."""
    folder = filled(tmp_path / "run")
    with OpenRun.start(folder, about(), {}) as run:
        run.discard()
    assert not folder.exists()
    folder = filled(tmp_path / "again")
    (folder / "report").mkdir()
    with OpenRun.start(folder, about(), {}) as run:
        run.discard()
    assert [p.name for p in folder.iterdir()] == ["report"]


@pytest.mark.parametrize("name", [RESULTS, ITEMS])
def test_half_a_line_never_happened(tmp_path: Path, name: str) -> None:
    """Wherever the last line is cut, the run opens, goes on, and loses that line at most."""
    folder = filled(tmp_path / "run")
    files = {n: (folder / n).read_bytes() for n in (RESULTS, ITEMS)}
    complete = files[name]
    last = complete.rstrip(b"\n").rfind(b"\n") + 1
    for end in {*range(last, len(complete), 23), last + 1, len(complete) - 1}:
        for n, content in files.items():
            (folder / n).write_bytes(content)
        (folder / name).write_bytes(complete[:end])
        assert len(Run.open(folder).trials) == (2 if name == RESULTS else 3)
        with OpenRun.start(folder, about(), {}) as run:
            run.record(result(D), [answer(D, "i0")])
        again = Run.open(folder)
        assert list(again.trials[D].answers[ROUND]) == ["i0"]
        for path in (RESULTS, ITEMS):
            for text in (folder / path).read_text().splitlines():
                json.loads(text)


def test_answers_without_their_result_do_not_count(tmp_path: Path) -> None:
    """A run that died between the two asks that candidate again."""
    folder = filled(tmp_path / "run")
    text = (folder / RESULTS).read_text().splitlines(keepends=True)
    (folder / RESULTS).write_text("".join(text[:-1]))
    assert {key for key, _ in items(Run.open(folder))} == {A, B}


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"model": {"name": "other.gguf"}, "suite": "abc"}, "model.name"),
        ({"model": {"name": "m.gguf"}, "suite": "xyz"}, "suite"),
        ({"model": {"name": "m.gguf"}, "suite": "abc", "settings": {"keep": 1}}, "settings"),
    ],
)
def test_a_run_of_other_things_is_refused(tmp_path: Path, identity: Any, message: str) -> None:
    """The message names what differs, and nothing is written."""
    folder = filled(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(RysError, match=rf"holds a different run: {message} is"):
        OpenRun.start(folder, about(identity), {})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_other_items_are_told_by_the_options_that_choose_them(tmp_path: Path) -> None:
    """A hash alone would leave the user guessing."""
    folder = filled(tmp_path / "run")
    for suite, message in (("suite", "--suite-size"), ("heldout", "--control")):
        with pytest.raises(RysError, match=message):
            OpenRun.start(folder, about({**about().identity, suite: "xyz"}), {})
    both = {**about().identity, "suite": "xyz", "heldout": "xyz"}
    with pytest.raises(RysError, match="--suite-size"):
        OpenRun.start(folder, about(both), {})


def test_a_folder_with_other_files_is_not_written_to(tmp_path: Path) -> None:
    """Somebody's folder stays somebody's."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RysError, match="neither empty nor a run"):
        OpenRun.start(tmp_path, about(), {})
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_start_that_was_cut_off_can_be_made_again(tmp_path: Path) -> None:
    """What it left, partial files among it, is replaced."""
    for name in (SUITE, f"{INFO}.part", LOCK):
        (tmp_path / name).write_text("half")
    with OpenRun.start(tmp_path, about(), {SUITE: "{}\n"}):
        pass
    assert (tmp_path / SUITE).read_text() == "{}\n"
    assert Run.open(tmp_path).info.identity == about().identity


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    """A second one on the same folder is refused, and the first goes on."""
    folder = filled(tmp_path / "run")
    with OpenRun.start(folder, about(), {}) as run:
        with pytest.raises(RysError, match="another sweep"), OpenRun.start(folder, about(), {}):
            pass
        run.record(result(D), [])
    assert D in Run.open(folder).trials


def test_two_sweeps_that_begin_at_once_do_not_mix(tmp_path: Path) -> None:
    """One of them begins the run, with its own items; the other is refused."""
    identities = [{"suite": name, "model": {"name": "m.gguf"}} for name in ("abc", "def")]
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        barrier = threading.Barrier(len(identities))

        def begin(n: int, folder: Path = folder, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            try:
                OpenRun.start(folder, about(identities[n]), {SUITE: f"{n}\n", HELDOUT: f"{n}\n"})
            except RysError:
                return False
            return True

        with ThreadPoolExecutor() as pool:
            begun = list(pool.map(begin, range(len(identities))))
        assert sum(begun) == 1
        assert Run.open(folder).info.identity == identities[begun.index(True)]
        for name in (SUITE, HELDOUT):
            assert (folder / name).read_text() == f"{begun.index(True)}\n"


def test_no_run_is_said_so(tmp_path: Path) -> None:
    """A folder without run.json, or a file, such as the model."""
    (tmp_path / "m.gguf").touch()
    for path in (tmp_path, tmp_path / "m.gguf", tmp_path / "nowhere"):
        with pytest.raises(
            RysError, match=f"{path}: no run here: expected a folder that sweep wrote"
        ):
            Run.open(path)


def test_a_full_disk_leaves_complete_lines(small_disk: Path) -> None:
    """What did not fit is not there; after making room the run goes on."""
    folder = small_disk / "run"
    with OpenRun.start(folder, about(), {}) as run:
        run.record(result(A), [answer(A, "i0")])
        filler = fill(small_disk)
        with pytest.raises(RysError, match="run the same command again"):
            run.record(result(B), [answer(B, f"i{n}", response="x" * 999) for n in range(99)])
        filler.unlink()
        assert list(Run.open(folder).trials) == [A]
        run.record(result(B), [answer(B, "i0")])
    assert items(Run.open(folder)) == [(A, "i0"), (B, "i0")]


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    """A worker's impossible number is an error at once, and the files stay as they are."""
    folder = filled(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with OpenRun.start(folder, about(), {}) as run:
        for bad, answers in (
            (result(D), [answer(D, "i0", score=1.5)]),
            (result(D, n_items=-1), []),
            (result(D, engine_seconds=float("nan")), []),
            (result(A, spec="blocks:0,1"), []),
        ):
            with pytest.raises(RysError, match="not what a sweep writes"):
                run.record(bad, answers)
        assert D not in run.trials
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_half_a_surrogate_pair_is_written_as_a_question_mark(tmp_path: Path) -> None:
    """A model can write one; a run must not end by it."""
    folder = filled(tmp_path / "run")
    with OpenRun.start(folder, about(), {}) as run:
        run.record(result(D), [answer(D, "i0", response="a\ud800b")])
    assert Run.open(folder).trials[D].answers[ROUND]["i0"].response == "a?b"


def test_a_run_that_could_not_be_opened_again_is_not_begun(tmp_path: Path) -> None:
    """A value beyond its bounds is found before hours of work, and leaves no folder behind."""
    info = replace(about(), rys_gguf="9" * (1 << 17))
    with pytest.raises(RysError, match=r"run\.json: not what a sweep writes: .*rys_gguf"):
        OpenRun.start(tmp_path / "run", info, {})
    assert not (tmp_path / "run").exists()
