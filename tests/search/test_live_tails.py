"""A live sweep records the same whether windows are computed as tails or as whole variants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import msgspec

from rys_gguf.engines.base import LIVE, EngineOptions
from rys_gguf.engines.live.tails import Tails
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import Times
from rys_gguf.runs.stage import DIVERGENCE, LOOPS, round_stage
from rys_gguf.search.executors import local
from rys_gguf.search.executors.base import Outcome
from rys_gguf.search.job import Job, Step
from rys_gguf.search.setup import Limits, Setup
from tests import tiny
from tests.search.fakes import scripted_setup

N = 8
OPTIONS = EngineOptions(kind=LIVE, n_ctx=256, n_threads=1, load_seconds=60, answer_seconds=60)
STEPS = (Step(DIVERGENCE), Step(round_stage(1), items=(0, 1, 2, 3)), Step(LOOPS))
WINDOWS = ((2, 3), (3, 5), (2, 5), (2, 8))
JOBS = [Job(Candidate(LayerMap.from_blocks([window], N)), STEPS) for window in WINDOWS]


def _records(setup: Setup, *batches: list[Job]) -> dict[tuple[str, str], Outcome]:
    """All outcomes without their times; each batch is run by an executor of its own."""
    found = {}
    for jobs in batches:
        with local.factory(OPTIONS)(setup) as executor:
            for outcome in executor.run(jobs):
                times = {"engine_seconds": 0.0, "seconds": Times()}
                result = msgspec.structs.replace(outcome.result, **times)
                answers = tuple(msgspec.structs.replace(a, seconds=0.0) for a in outcome.answers)
                found[result.candidate, str(result.stage)] = Outcome(result, answers)
    return found


def test_tails_record_what_whole_variants_record(tmp_path: Path) -> None:
    """Bit for bit, in one go and in two."""
    path = tiny.write(tmp_path / "m.gguf", "llama", N)
    (tmp_path / "work").mkdir()
    setup = replace(
        scripted_setup(path, tmp_path), options=OPTIONS, limits=Limits(float("inf"), 0.0)
    )
    with patch.object(Tails, "logits", autospec=True, side_effect=Tails.logits) as asked:
        records = _records(setup, JOBS)
        assert asked.call_count == 2 * 3  # the last window ends with the last layer
        assert _records(setup, JOBS[:2], JOBS[2:]) == records
    with patch.object(Tails, "has_room", return_value=False):
        assert _records(setup, JOBS) == records
    assert len(records) == len(STEPS) * len(JOBS)
