"""A budget in the user's terms: the time that a sweep may take becomes the items that it may ask.

The items are part of the run's identity and the time is not: a run that goes on while the machine
is busier, or on another one, is the same run.
"""

from __future__ import annotations

import math
from dataclasses import replace

from rys_gguf.errors import InvalidOptions
from rys_gguf.runs.storage import INFO
from rys_gguf.search.effort import Effort, Seconds
from rys_gguf.search.identity import asks_of_run
from rys_gguf.search.pace import Pace
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.find import least_asks, single
from rys_gguf.search.settings import SweepRequest
from rys_gguf.text import duration, printable


def with_recorded_asks(request: SweepRequest) -> SweepRequest:
    """The request with the asks that its time became when its run began, if there is a run.

    Raises InvalidOptions for a run that began without a budget.
    """
    if request.seconds is None or not (request.folder / INFO).exists():
        return request
    asks = asks_of_run(request.folder)
    if asks is None:
        raise InvalidOptions(
            f"{printable(request.folder)}: holds a run that began without a budget; leave out "
            f"--time to continue it, or use another folder"
        )
    return replace(_asking(request, asks), seconds=None)


def within(request: SweepRequest, sampler: Sampler, pace: Pace) -> SweepRequest:
    """The request with as many asks as fit into its `seconds` at this pace.

    Raises InvalidOptions, saying how long the sweep takes at least, if that is longer.
    """
    assert request.seconds is not None
    available = request.seconds - request.seconds_gone

    def seconds_with(n_asks: int) -> Seconds:
        effort = Effort.of(_asking(request, n_asks), sampler)
        return effort.seconds(pace, request.n_engines)

    n_windows = single(sampler).n_most
    least = least_asks(request, n_windows)
    shortest = seconds_with(least)
    if shortest.total > available:
        ready = f"getting ready took {duration(request.seconds_gone)}, "
        ready *= request.seconds_gone > 0
        enough = _rounded_up(request.seconds_gone + shortest.total)
        raise InvalidOptions(
            f"--time {request.seconds:.0f}s is too short on this machine: {ready}the base takes "
            f"{duration(shortest.base)}, the least search of {n_windows} windows "
            f"{duration(shortest.search)}, and the finalists with their held-out items "
            f"{duration(shortest.final)}. Give it {enough}, or ask less "
            f"(--suite-size, --detect, --finalists, --sizes)"
        )
    low, high = least, max(least, n_windows * len(request.suites[0].items))
    while low < high:
        middle = (low + high + 1) // 2
        if seconds_with(middle).total <= available:
            low = middle
        else:
            high = middle - 1
    return replace(_asking(request, low), seconds=None)


def time_line(request: SweepRequest, effort: Effort, pace: Pace) -> str:
    """How long a sweep takes at this pace, for its user."""
    seconds = effort.seconds(pace, request.n_engines)
    levels = f" and at most {effort.n_leveling:,} to find levels" * (effort.n_leveling > 0)
    return (
        f"time: about {duration(seconds.total)}, as measured on the base: {duration(seconds.base)} "
        f"for its {effort.n_search + effort.n_heldout:,} items{levels}, "
        f"{duration(seconds.search)} for at most {effort.n_asks + effort.n_asks_combined:,} of the "
        f"search, {duration(seconds.final)} for at most "
        f"{(effort.n_finalists + effort.n_placebos) * effort.n_heldout:,} held-out items of the "
        f"finalists{' and the placebo' * effort.n_placebos}"
    )


def _asking(request: SweepRequest, n_asks: int) -> SweepRequest:
    return replace(request, plan=replace(request.plan, asks=n_asks))


def _rounded_up(seconds: float) -> str:
    """A time as --time takes it, rounded up."""
    whole = math.ceil(seconds)
    return f"{whole}s" if whole < 100 else f"{math.ceil(whole / 60)}m"  # noqa: PLR2004 - as duration
