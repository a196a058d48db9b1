"""Each sampler keeps to the contract, and chooses the windows that it promises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rys_gguf import Model
from rys_gguf.errors import RysError
from rys_gguf.layers.schedule import Schedule
from rys_gguf.runs.candidate import Candidate
from rys_gguf.search.samplers.find import make_sampler
from rys_gguf.search.samplers.grid import Grid
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.samplers.listed import Listed
from rys_gguf.search.samplers.rounds import Rounds, round_ends
from rys_gguf.search.samplers.two_pass import TwoPass
from rys_gguf.search.settings import SweepPlan
from rys_gguf.search.space import Windows, coarse, fine, listed
from tests import tiny
from tests.search.fakes import Planted, Window, trials_of, window_of
from tests.search.sampler_contract import SamplerContract, upcoming


class TestGrid(SamplerContract):
    """The map."""

    def make(self, windows: Windows, halving: Halving, folder: Path) -> Grid:
        """Windows of two sizes."""
        return Grid(windows, (3, 6), halving)


class TestListed(SamplerContract):
    """A list of windows."""

    def make(self, windows: Windows, halving: Halving, folder: Path) -> Listed:
        """Legal and illegal windows, two windows at once, and a path that drops layers."""
        lines = ("0,6", "1,7", "2,5", "3,9", "blocks:0,6;6,12", "layers:0..3,8..11", "4,10", "6,12")
        path = folder / "windows.txt"
        path.write_text("\n".join(lines))
        return Listed(windows, path, halving)


class TestTwoPass(SamplerContract):
    """Two passes."""

    def make(self, windows: Windows, halving: Halving, folder: Path) -> TwoPass:
        """Windows of 4 layers, then of 2; with a period of 6 both are 6."""
        return TwoPass(windows, (4, 2), halving)


# -- what each of them chooses -------------------------------------------------------------------

ROUNDS = Rounds((20,))
HALVING = Halving(Candidate.base(16).key, ROUNDS)


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    """Sixteen layers, any of which may be repeated."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 16)) as model:
        return Windows(model, Schedule.PORTABLE)


def tried(sampler: Any, world: Planted) -> list[Window]:
    """The windows that a search enters, in order."""
    base = Candidate.base(16)
    log: list[Any] = []
    found: dict[str, Window] = {}
    from rys_gguf.search.job import Job

    log += world.outcomes(Job(base, ROUNDS.steps))
    while (batch := upcoming([sampler], trials_of(log, 16))) is not None:
        for job in batch.jobs:
            found[job.candidate.key] = window_of(job.candidate) or (0, 0)
            log += world.outcomes(job)
    return list(found.values())
