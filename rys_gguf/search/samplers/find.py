"""The sampler and the rounds that a request asks for."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

from rys_gguf.errors import InvalidOptions, RysError
from rys_gguf.formats.model import Model
from rys_gguf.layers.blocks import TWICE
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import THOMPSON
from rys_gguf.search.identity import identity_of
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.beam import Beam
from rys_gguf.search.samplers.grid import Grid
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.samplers.listed import Listed
from rys_gguf.search.samplers.rounds import Rounds, round_ends, small_ends
from rys_gguf.search.samplers.thompson import Thompson
from rys_gguf.search.samplers.two_pass import TwoPass
from rys_gguf.search.settings import SweepPlan, SweepRequest
from rys_gguf.search.space import Windows


def rounds_of(request: SweepRequest) -> Rounds:
    """The rounds of a sweep: they follow from the suite's length, the sampler and the settings."""
    if request.plan.sampler == THOMPSON:
        ends = small_ends(len(request.suites[0].items))
        return replace(_rounds_of_halving(request), ends=ends)
    return _rounds_of_halving(request)


def _rounds_of_halving(request: SweepRequest) -> Rounds:
    settings = request.settings
    ends = round_ends(len(request.suites[0].items), settings.shares)
    return Rounds(ends, settings.keep, settings.n_finalists)


def sampler_of(request: SweepRequest, model: Model) -> Sampler:
    """The sampler of a request.

    Raises InvalidOptions if plan and sampler do not go together, RysError if there is no legal
    window to try.
    """
    plan, rounds = request.plan, rounds_of(request)
    halving = Halving(Candidate.base(model.n_trunk).key, rounds)
    windows = Windows(model, request.settings.schedule, plan.damp, plan.forms)
    single = _sampler_of_windows(request, model, windows, halving)
    if plan.max_blocks == 1:
        return single
    # As many items as halving would ask, however small the rounds are.
    stops = tuple(
        sum(end < wanted for end in rounds.ends) + 1 for wanted in _rounds_of_halving(request).ends
    )
    return Beam(single, windows, halving, plan.max_blocks, plan.beam, stops)


def _sampler_of_windows(
    request: SweepRequest, model: Model, windows: Windows, halving: Halving
) -> Sampler:
    plan = request.plan
    if plan.sampler != THOMPSON:
        return make_sampler(plan, windows, halving)
    if plan.name != "map":
        raise InvalidOptions(
            f"--sampler {THOMPSON} searches all windows of some sizes: use --plan map with it, "
            f"without --windows"
        )
    chosen = make_sampler(plan, windows, halving).first
    # As many as halving would ask of the same windows.
    n_asks = _rounds_of_halving(request).n_asks(len(chosen.candidates))
    identity = json.dumps(identity_of(model, request), sort_keys=True)
    return Thompson(chosen, halving, n_asks, zlib.crc32(identity.encode()))


def make_sampler(plan: SweepPlan, windows: Windows, halving: Halving) -> Sampler:
    """The sampler that halves a plan's windows. Raises RysError if it has no legal one to try."""
    sampler: Sampler
    if plan.windows is not None:
        if plan.forms != (TWICE,):
            raise InvalidOptions(
                "--passes and --mode are about windows of --plan: in the file of --windows, write "
                "8,12;8,12 for three passes, and 8,9;9,10 for layer by layer"
            )
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
