"""The sampler and the rounds that a request asks for."""

from __future__ import annotations

from rys_gguf.errors import RysError
from rys_gguf.formats.model import Model
from rys_gguf.runs.candidate import Candidate
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.grid import Grid
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.samplers.listed import Listed
from rys_gguf.search.samplers.rounds import Rounds, round_ends
from rys_gguf.search.samplers.two_pass import TwoPass
from rys_gguf.search.settings import SweepPlan, SweepRequest
from rys_gguf.search.space import Windows


def rounds_of(request: SweepRequest) -> Rounds:
    """The rounds of a sweep: they follow from the suite's length and the settings."""
    settings = request.settings
    ends = round_ends(len(request.suites[0].items), settings.shares)
    return Rounds(ends, settings.keep, settings.n_finalists)


def sampler_of(request: SweepRequest, model: Model) -> Sampler:
    """The sampler of a request. Raises RysError if there is no legal window to try."""
    halving = Halving(Candidate.base(model.n_trunk).key, rounds_of(request))
    windows = Windows(model, request.settings.schedule, request.plan.damp)
    return make_sampler(request.plan, windows, halving)


def make_sampler(plan: SweepPlan, windows: Windows, halving: Halving) -> Sampler:
    """The sampler of a plan. Raises RysError if it has no legal window to try."""
    sampler: Sampler
    if plan.windows is not None:
        sampler = Listed(windows, plan.windows, halving)
    elif plan.name == "map":
        sampler = Grid(windows, plan.sizes, halving)
    else:
        sampler = TwoPass(windows, plan.sizes, halving)
    if not sampler.first.candidates:
        illegal = sampler.first.illegal
        sizes = " or ".join(map(str, plan.sizes))
        why = (
            illegal[0].rule
            if illegal
            else f"the model has {windows.n_layers} layers, no window of {sizes}"
        )
        raise RysError(f"none of the windows can be tried: {why}")
    return sampler
