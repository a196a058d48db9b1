"""The sampler and the rounds that a request asks for."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

from rys_gguf.errors import InvalidOptions, RysError
from rys_gguf.formats.model import Model
from rys_gguf.layers.blocks import TWICE
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import THOMPSON
from rys_gguf.runs.scan import PriorEffect, prior_effects, read_scan
from rys_gguf.search.identity import identity_of
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.beam import Beam
from rys_gguf.search.samplers.grid import Grid
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.samplers.listed import Listed
from rys_gguf.search.samplers.rounds import Rounds, round_ends, small_ends
from rys_gguf.search.samplers.thompson import Thompson
from rys_gguf.search.samplers.two_pass import TwoPass
from rys_gguf.search.settings import MAP_SIZES, SweepPlan, SweepRequest
from rys_gguf.search.space import Windows, in_words
from rys_gguf.text import printable

# What two rounds of halving ask of all windows of two sizes, by the model's depth.
_SHARE_OF_LAYER = 0.23
_LEAST_ASKS = 16


def rounds_of(request: SweepRequest) -> Rounds:
    """The rounds of a sweep: they follow from the suite's length, the sampler and the settings."""
    settings, n_items = request.settings, len(request.suites[0].items)
    is_thompson = request.plan.sampler == THOMPSON
    ends = small_ends(n_items) if is_thompson else round_ends(n_items, settings.shares)
    return Rounds(ends, settings.keep, settings.n_finalists)


def sampler_of(request: SweepRequest, model: Model) -> Sampler:
    """The sampler of a request.

    Raises InvalidOptions if plan and sampler do not go together, RysError if there is no legal
    window to try.
    """
    plan = request.plan
    windows = Windows(model, request.settings.schedule, plan.damp, plan.forms)
    single = _of_single_windows(request, model, windows)
    if plan.max_blocks == 1:
        return single
    rounds = rounds_of(request)
    # As many items as halving would ask, however small the rounds are.
    wanted = round_ends(rounds.ends[-1], request.settings.shares)
    stops = tuple(sum(end < n for end in rounds.ends) + 1 for n in wanted)
    halving = Halving(Candidate.base(model.n_trunk).key, rounds)
    return Beam(single, windows, halving, plan.max_blocks, plan.beam, stops)


def _of_single_windows(request: SweepRequest, model: Model, windows: Windows) -> Sampler:
    plan = request.plan
    halving = Halving(Candidate.base(model.n_trunk).key, rounds_of(request))
    if plan.sampler == THOMPSON and plan.name != "map":
        raise InvalidOptions(
            f"--sampler {THOMPSON} searches all windows of some sizes: use --plan map with it, "
            f"without --windows"
        )
    if plan.prior is not None and plan.sampler != THOMPSON:
        raise InvalidOptions(f"--prior starts --sampler {THOMPSON}, and no other sampler")
    sampler = make_sampler(plan, windows, halving)
    if plan.sampler != THOMPSON:
        return sampler
    notes = list(sampler.notes)
    effects: tuple[PriorEffect, ...] = ()
    if plan.prior is not None:
        note, effects = _prior(plan.prior)
        notes.append(note)
    n_asks = model.n_trunk * n_asks_per_layer(len(request.suites[0].items)) * len(plan.forms)
    identity = json.dumps(identity_of(model, request), sort_keys=True)
    seed = zlib.crc32(identity.encode())
    return Thompson(sampler.first, halving, n_asks, seed, notes, effects)


def n_asks_per_layer(n_items: int) -> int:
    """How many items Thompson sampling asks for each layer of a model, of a suite of `n_items`.

    n_asks_per_layer(312) == 72
    """
    return max(_LEAST_ASKS, round(_SHARE_OF_LAYER * n_items))


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
        sampler = _map(windows, plan.sizes, halving)
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


def _map(windows: Windows, sizes: Sequence[int], halving: Halving) -> Grid:
    """A map; of lengths that nobody named, those without a legal window are left out."""
    legal = windows.legal_sizes(sizes) if tuple(sizes) == MAP_SIZES else tuple(sizes)
    left_out = [size for size in sizes if size not in legal and size <= windows.n_layers]
    notes = [f"windows of {in_words(left_out)} layers are not legal here"] if left_out else []
    if not set(legal) <= set(sizes):
        notes = [f"{notes[0]}: {in_words(legal)} instead"]
    return Grid(windows, legal, halving, tuple(notes))


def _prior(path: Path) -> tuple[str, tuple[PriorEffect, ...]]:
    """What a scan says of single windows, and a line about it. Raises RysError if it is nothing."""
    scan = read_scan(path)
    effects = tuple(prior_effects(scan))
    if not effects:
        raise RysError(f"{printable(path)}: no window with an effect and an interval to start from")
    model = f"{printable(scan.model.name)}, {scan.model.n_layers} layers"
    return (
        f"starts from a scan of {len(effects)} window{'s' * (len(effects) > 1)} ({model})",
        effects,
    )
