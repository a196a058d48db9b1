"""A run of version 0.1.0: this version would have asked the same, and continues it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf import Model
from rys_gguf.engines.base import EngineOptions
from rys_gguf.probes.suite import Suite
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import builtins, decode_info, encode_info
from rys_gguf.runs.stage import SPEED
from rys_gguf.runs.storage import Run
from rys_gguf.search.identity import (
    engine_identity,
    identity_of,
    model_info,
    run_info,
    shares_of,
)
from rys_gguf.search.phases import phases
from rys_gguf.search.samplers.find import rounds_of, sampler_of
from rys_gguf.search.settings import Settings, SweepPlan, SweepRequest

GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1.0"


@pytest.fixture
def request_of_old(smollm2: Path) -> SweepRequest:
    """The request of that run."""
    suites = (Suite.read(GOLDEN / "suite.jsonl"), Suite.read(GOLDEN / "heldout.jsonl"))
    plan = SweepPlan("two-pass", (8, 4))
    shares = shares_of(GOLDEN)
    assert shares == (0.06, 0.25)
    settings = Settings(shares=shares, preflight=False)
    return SweepRequest(smollm2, GOLDEN, plan, settings, suites, EngineOptions())


def test_its_identity_is_written_as_before(request_of_old: SweepRequest) -> None:
    """Model, suites, settings and engine: a run with the same ones can be continued."""
    old = Run.open(GOLDEN).info
    with Model(request_of_old.model) as model:
        identity = identity_of(model, request_of_old)
        about = model_info(model, Path("SmolLM2-135M-Instruct.Q4_1.gguf"))
        sampler = sampler_of(request_of_old, model)
    identity["engine"] = engine_identity(request_of_old.options, "b0-unknown")
    assert identity == old.identity
    assert list(identity) == list(old.identity)
    info = run_info(request_of_old, identity, about, sampler)
    new, before = dict(builtins(info)), dict(builtins(old))
    for one in (new, before):
        # Version 0.1.0 took another constant answer for each topic of a family as its baseline.
        for name in ("run_id", "created", "rys_gguf", "floors"):
            del one[name]
    assert info.baselines.keys() == old.baselines.keys()
    assert new == before
    long = replace(request_of_old, command="x" * 20_000)
    assert decode_info(encode_info(run_info(long, identity, about, sampler)), "run.json").command


def test_another_choice_is_another_identity(request_of_old: SweepRequest, tmp_path: Path) -> None:
    """Settings, plan and the content of a list of windows count, its name does not."""
    path, copy = tmp_path / "w.txt", tmp_path / "copy.txt"
    path.write_text("1,3\n")
    copy.write_text("1,3\n")
    plans = [SweepPlan("map", (4,)), SweepPlan("map", (4, 8)), SweepPlan("list", (8, 4), path)]
    settings = [Settings(), Settings(generate=True), Settings(n_finalists=1)]
    with Model(request_of_old.model) as model:
        found = [
            identity_of(model, replace(request_of_old, plan=plan, settings=chosen))
            for plan in plans
            for chosen in settings
        ]
        again = identity_of(
            model, replace(request_of_old, plan=SweepPlan("list", (9,), copy), settings=Settings())
        )
    assert len({str(identity) for identity in found}) == len(found)
    assert again in found


def test_nothing_of_it_is_asked_again(request_of_old: SweepRequest) -> None:
    """Every phase finds its jobs recorded, and the finalists are the same."""
    run = Run.open(GOLDEN)
    with Model(request_of_old.model) as model:
        sampler = sampler_of(request_of_old, model)
        base = Candidate.base(model.n_trunk)
    suites = (request_of_old.suites[0].items, request_of_old.suites[1].items)
    parts = phases(
        base, sampler, rounds_of(request_of_old, sampler.n_most), suites, preflight=False
    )
    assert [part.next(run.trials) for part in parts] == [None] * len(parts)
    timed = {trial.key for trial in run.trials.values() if SPEED in trial.results}
    assert {base.key, *(c.key for c in parts[2].finalists(run.trials))} == timed
