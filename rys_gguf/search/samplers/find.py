"""The sampler and the rounds that a request asks for."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
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
from rys_gguf.search.samplers.rounds import Rounds, longest_within, round_ends, small_ends
from rys_gguf.search.samplers.thompson import Thompson, least_of_thompson
from rys_gguf.search.samplers.two_pass import TwoPass
from rys_gguf.search.settings import MAP_SIZES, SweepPlan, SweepRequest
from rys_gguf.search.space import Windows, in_words
from rys_gguf.text import printable

# What two rounds of halving ask of all windows of two sizes, by the model's depth.
_SHARE_OF_LAYER = 0.23
_LEAST_ASKS = 16


def rounds_of(request: SweepRequest, n_windows: int) -> Rounds:
    """The rounds of a sweep of so many single windows.

    They follow from the suite's length, the sampler, the settings and the budget.
    """
    if request.plan.sampler == THOMPSON:
        return replace(_scaled(request, 1), ends=small_ends(len(request.suites[0].items)))
    if request.plan.asks is None:
        return _scaled(request, 1)
    most = 1 / min(request.settings.shares)
    return longest_within(request.plan.asks, n_windows, lambda x: _scaled(request, x), most)


def _scaled(request: SweepRequest, factor: float) -> Rounds:
    """The rounds of halving, with shares of the suite this many times those of the settings."""
    settings = request.settings
    shares = [min(1.0, factor * share) for share in settings.shares]
    ends = round_ends(len(request.suites[0].items), shares)
    return Rounds(ends, settings.keep, settings.n_finalists)


def stops_of(request: SweepRequest, rounds: Rounds) -> tuple[int, ...]:
    """The rounds after which the better combinations go on.

    They are asked as many items as halving would ask, however small the rounds are.
    """
    wanted = round_ends(rounds.ends[-1], request.settings.shares)
    return tuple(sum(end < n for end in rounds.ends) + 1 for n in wanted)


def asks_of(request: SweepRequest, n_windows: int, n_layers: int) -> int:
    """The most items that so many single windows of a model are asked in the search.

    Raises InvalidOptions if the budget is less than `least_asks`.
    """
    plan = request.plan
    if plan.asks is not None and plan.asks < (least := least_asks(request, n_windows)):
        raise InvalidOptions(
            f"--asks {plan.asks:,} is too little for {n_windows:,} windows: give at least "
            f"{least:,}, or try fewer windows (--sizes, --windows)"
        )
    if plan.sampler != THOMPSON:
        return rounds_of(request, n_windows).n_asks(n_windows)
    if plan.asks is not None:
        return plan.asks
    return n_layers * n_asks_per_layer(len(request.suites[0].items)) * len(plan.forms)


def least_asks(request: SweepRequest, n_windows: int) -> int:
    """The least budget with which a search of so many single windows is more than chance."""
    if request.plan.sampler == THOMPSON:
        rounds = rounds_of(request, n_windows)
        return min(least_of_thompson(rounds), n_windows * rounds.ends[-1])
    return _scaled(request, 0).n_asks(n_windows)


def single(sampler: Sampler) -> Sampler:
    """The part of a sampler that tries single windows: all of it, unless it combines them."""
    return sampler.single if isinstance(sampler, Beam) else sampler


def sampler_of(request: SweepRequest, model: Model) -> Sampler:
    """The sampler of a request.

    Raises InvalidOptions if plan and sampler do not go together or the budget is too small,
    RysError if there is no legal window to try.
    """
    plan = request.plan
    _require_match(plan)
    base = Candidate.base(model.n_trunk).key
    windows = Windows(model, request.settings.schedule, plan.damp, plan.forms)
    sampler = make_sampler(plan, windows, Halving(base, _scaled(request, 1)))
    # Which windows there are decides how long the rounds of a budget can be.
    n_asks = asks_of(request, sampler.n_most, model.n_trunk)
    halving = Halving(base, rounds_of(request, sampler.n_most))
    if plan.sampler == THOMPSON:
        sampler = _thompson(request, model, sampler, halving, n_asks)
    elif plan.asks is not None:
        sampler = make_sampler(plan, windows, halving)
    if plan.max_blocks == 1:
        return sampler
    stops = stops_of(request, halving.rounds)
    return Beam(sampler, windows, halving, plan.max_blocks, plan.beam, stops)


def _require_match(plan: SweepPlan) -> None:
    if plan.sampler == THOMPSON and plan.name != "map":
        raise InvalidOptions(
            f"--sampler {THOMPSON} searches all windows of some sizes: use --plan map with it, "
            f"without --windows"
        )
    if plan.prior is not None and plan.sampler != THOMPSON:
        raise InvalidOptions(f"--prior starts --sampler {THOMPSON}, and no other sampler")


def _thompson(
    request: SweepRequest, model: Model, of_map: Sampler, halving: Halving, n_asks: int
) -> Thompson:
    """The sampler that asks the windows of a map by what is believed of them."""
    notes = list(of_map.notes)
    effects: tuple[PriorEffect, ...] = ()
    if request.plan.prior is not None:
        note, effects = _prior(request.plan.prior)
        notes.append(note)
    identity = json.dumps(identity_of(model, request), sort_keys=True)
    return Thompson(of_map.first, halving, n_asks, zlib.crc32(identity.encode()), notes, effects)


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
