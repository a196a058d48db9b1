"""A run in Optuna: every candidate is a trial with what is known of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rys_gguf.errors import OutputFailed, RysError
from rys_gguf.report.optuna_study import export_study
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.verdict import search_ranking
from tests.fake_runs import WINNER, FakeRun, add_map, make_run

optuna: Any = pytest.importorskip("optuna")


def halved(run: FakeRun) -> FakeRun:
    """The run with a second round, which only its finalists were asked."""
    finalists = {line["candidate"] for line in run.results if line["stage"] == "final"}
    for lines in (run.results, run.items):
        lines += [
            {**line, "stage": "round2", **({"item": line["item"] + "-2"} if "item" in line else {})}
            for line in lines
            if line["stage"] == "round1" and line["candidate"] in finalists
        ]
    return run


def test_every_candidate_is_a_trial(tmp_path: Path) -> None:
    """State, parameters and values tell its way; other maps have a spec instead of a place."""
    run = halved(make_run(0))
    run.results.append(
        {
            "candidate": "0-3,2-5,4-23", "spec": "blocks:2,4;4,6", "windows": [[2, 4], [4, 6]],
            "extra_layers": 4, "stage": "damage", "status": "dropped", "reason": "too far",
        }
    )  # fmt: skip
    storage = f"sqlite:///{tmp_path}/study.db"
    name = export_study(run, storage)
    assert name == "rys-gguf 0123456789abcdef"
    study = optuna.load_study(storage=storage, study_name=name)
    trials = {trial.user_attrs["spec"]: trial for trial in study.trials}
    assert len(trials) == len(study.trials) == 22
    assert study.user_attrs["n_layers"] == 24
    ranks = search_ranking(Evidence(run)).ranks
    gains = {r.trial.candidate.spec: r.overall.mean for r in ranks if r.overall}
    winner = trials["blocks:10,14"]
    assert winner.state.name == "COMPLETE"
    assert winner.params == {"start": WINNER[0], "length": 4}
    assert winner.value == pytest.approx(gains["blocks:10,14"])
    assert winner.intermediate_values.keys() == {1, 2}
    assert winner.user_attrs["verdict"] == "better"
    assert winner.user_attrs["held_out_low"] > 0
    assert winner.user_attrs["gain math"] == pytest.approx(
        next(r.gains["math"].mean for r in ranks if r.trial.candidate.spec == "blocks:10,14")
    )
    assert study.best_trial.user_attrs["spec"] in {"blocks:10,14", "blocks:9,13", "blocks:2,6"}
    left = trials["blocks:5,9"]
    assert (left.state.name, left.intermediate_values.keys()) == ("PRUNED", {1})
    dropped, failed = trials["blocks:0,4"], trials["blocks:20,24"]
    assert (dropped.state.name, dropped.value) == ("PRUNED", None)
    assert dropped.user_attrs["reason"] == "divergence 9.5 nats is above 5"
    assert (failed.state.name, failed.user_attrs["status"]) == ("FAIL", "failed")
    assert trials["blocks:2,4;4,6"].params == {"spec": "blocks:2,4;4,6"}


def test_forms_are_parameters_where_a_run_has_several(tmp_path: Path) -> None:
    """All windows have them then, and none has them where all are repeated alike."""
    run = make_run(0, final=False, n=24, finalists=())
    add_map(run, "blocks:10,11;10,11;11,12;11,12", WINNER)
    storage = f"sqlite:///{tmp_path}/study.db"
    study = optuna.load_study(storage=storage, study_name=export_study(run, storage))
    params = {trial.user_attrs["spec"]: trial.params for trial in study.trials}
    start = {"start": 10}
    assert params["blocks:10,14"] == start | {"length": 4, "passes": 2, "mode": "block"}
    assert params["blocks:10,11;10,11;11,12;11,12"] == start | {
        "length": 2, "passes": 3, "mode": "layer",
    }  # fmt: skip


def test_a_study_is_replaced_on_request_only(tmp_path: Path) -> None:
    """A run that went on since can be exported again."""
    storage = f"sqlite:///{tmp_path}/study.db"
    first = make_run(0, final=False, n=8, finalists=((1, 5),))
    name = export_study(first, storage)
    with pytest.raises(OutputFailed, match="has a study 'rys-gguf 0123456789abcdef' already"):
        export_study(first, storage)
    export_study(make_run(0, n=8, finalists=((1, 5),)), storage, force=True)
    study = optuna.load_study(storage=storage, study_name=name)
    assert sum("verdict" in trial.user_attrs for trial in study.trials) == 1


@pytest.mark.parametrize("storage", ["sqlite:////none/x.db", "what://x", "nothing", ""])
def test_a_storage_that_cannot_be_written_is_one_message(storage: str) -> None:
    """Whatever is below Optuna says why."""
    with pytest.raises(RysError, match=r"^Optuna cannot write this storage: "):
        export_study(make_run(0, final=False, n=8, finalists=()), storage)
