"""The windows and the cost of a sweep, worked out before it starts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rys_gguf.engines.base import SERVER
from rys_gguf.engines.live.kept import sessions_kept
from rys_gguf.formats.model import Model
from rys_gguf.probes.item import Item
from rys_gguf.runs.records import IllegalWindow
from rys_gguf.search.budget import time_line, with_recorded_asks, within
from rys_gguf.search.effort import Effort
from rys_gguf.search.pace import Pace
from rys_gguf.search.prepare import CUTS, TEXTS, prepare
from rys_gguf.search.room import bytes_free, bytes_needed
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.find import rounds_of, sampler_of, single
from rys_gguf.search.samplers.rounds import Rounds
from rys_gguf.search.samplers.thompson import Thompson
from rys_gguf.search.settings import SweepRequest
from rys_gguf.search.sized import sight_lines
from rys_gguf.text import printable, size

_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_SECOND = 1000
# More windows than this are not listed one by one.
_FEW_ILLEGAL = 16


def dry_lines(request: SweepRequest) -> Iterator[str]:
    """Lines for a terminal: the windows and the cost of a sweep.

    Writes nothing, and runs nothing unless `seconds` are given: then the model is loaded, and its
    speed decides how much is asked.
    """
    request = with_recorded_asks(request)
    pace = None
    if request.seconds is not None:
        with Model(request.model) as model:
            sampler = sampler_of(request, model)
        start = time.monotonic()
        pace = _pace(request)
        request = replace(request, seconds_gone=time.monotonic() - start)
        request = within(request, sampler, pace)
    with Model(request.model) as model:
        sampler = sampler_of(request, model)
        yield from (f"note: {note}" for note in sampler.notes)
        yield from sampler.describe()
        single_ones = single(sampler)
        rounds = rounds_of(request, single_ones.n_most)
        n_combined = request.plan.max_blocks
        yield from _illegal_lines(single_ones.first.illegal)
        largest = max(sum(t.n_bytes for t in layer) for layer in model.layers)
        added = max(c.n_added for c in sampler.first.candidates) * n_combined
        needed = bytes_needed(model, sampler.first.candidates, request.folder, n_combined)
        first, later = size(model.n_bytes + added * largest), size(largest)
        unless = "" if request.options.kind == SERVER else "none with the live engine; otherwise "
        yield (
            f"working file: {unless}{first} once, then about {later} each time the window shifts "
            f"by one layer"
        )
        yield (
            f"disk: {unless}{size(needed)} needed with a finalist's file, "
            f"{size(bytes_free(request.folder))} free in {printable(request.folder)}"
        )
    n = len(request.suites[0].items)
    if isinstance(single_ones, Thompson):
        yield (
            f"items: {single_ones.n_asks:,} asked in all, {rounds.ends[0]} at a time, up to {n} of "
            f"a window; {rounds.n_finalists} finalists"
        )
    else:
        ends = ", ".join(map(str, rounds.ends))
        yield f"items: {ends} of {n} in successive rounds; {rounds.n_finalists} finalists"
    yield from sight_lines(request)
    if request.settings.thinking:
        yield _thinking_line(request)
    effort = Effort.of(request, sampler)
    yield _windows_line(effort, single_ones, rounds)
    yield time_line(request, effort, pace) if pace else _unmeasured(request, effort)


@sessions_kept()
def _pace(request: SweepRequest) -> Pace:
    return prepare(request).pace


def _illegal_lines(illegal: Sequence[IllegalWindow]) -> Iterator[str]:
    """The windows that are left out; of many an example."""
    if len(illegal) <= _FEW_ILLEGAL:
        yield from (f"not legal: {i.spec}: {i.rule}" for i in illegal)
    else:
        yield f"not legal: {len(illegal)} windows, such as {illegal[0].spec}: {illegal[0].rule}"


def _windows_line(effort: Effort, single_ones: Sampler, rounds: Rounds) -> str:
    """How many windows there are, and how many of them come how far."""
    parts = [f"at most {effort.n_windows} windows"]
    if not isinstance(single_ones, Thompson):
        later = rounds.n_standing(effort.n_windows)[1:]
        parts += [f"{n} of them in round {number}" for number, n in enumerate(later, 2)]
    if effort.n_combined:
        parts.append(f"at most {effort.n_combined} combined ones")
    return f"{', '.join(parts)}; held-out items: {effort.n_heldout} for the base and each finalist"


def _unmeasured(request: SweepRequest, effort: Effort) -> str:
    """The forward passes of a sweep, the tokens that they read, and how to learn the time."""
    search, heldout = (suite.items for suite in request.suites)
    n_filtered = effort.n_windows + effort.n_combined
    asked = (
        (n_filtered * len(TEXTS) * len(CUTS), n_filtered * _text_tokens()),
        _cost(search, (effort.n_search + effort.n_asks + effort.n_asks_combined) / len(search)),
        _cost(heldout, effort.n_finalists + 1),
    )
    passes, tokens = (round(sum(numbers)) for numbers in zip(*asked, strict=True))
    minutes = max(1, round(tokens / _TOKENS_PER_SECOND / 60))
    return (
        f"time: not measured yet (--time does); about {passes:,} forward passes read {tokens:,} "
        f"tokens, {minutes} minute{'s' * (minutes > 1)} at {_TOKENS_PER_SECOND:,} tokens per "
        f"second{_not_counted(request)}"
    )


def _not_counted(request: SweepRequest) -> str:
    """What a sweep writes: no tokens are read for it, and only the model knows how many."""
    settings = request.settings
    written = (("the thoughts", settings.thinking), ("the generated answers", settings.generate))
    names = [name for name, is_written in written if is_written]
    return f", without {' and '.join(names)}" if names else ""


def _thinking_line(request: SweepRequest) -> str:
    """How much the models may think in all."""
    settings, items = request.settings, request.suites[1].items
    n_finalists = settings.n_finalists
    n_models = n_finalists + 2  # the base and a placebo
    n_thoughts = n_models * sum(len({r.prompt for r in item.requests()}) for item in items)
    if settings.generate:
        n_thoughts += (n_models - 1) * len(items)
    return (
        f"thinking: up to {settings.thinking:,} tokens before each answer to a held-out item, by "
        f"the base, {n_finalists} finalist{'s' * (n_finalists > 1)} and a placebo; at most "
        f"{n_thoughts:,} thoughts and {n_thoughts * settings.thinking:,} tokens to write"
    )


def _cost(items: Sequence[Item], times: float) -> tuple[float, float]:
    """Forward passes, and about how many tokens they read, to ask all items so many times."""
    n_passes = n_characters = 0
    for item in items:
        before = None
        for request in item.requests():
            n_passes += 1
            # An engine keeps the prompt that two requests in a row have in common.
            n_characters += len(request.opening)
            n_characters += len(request.prompt) if request.prompt != before else 0
            before = request.prompt
    return times * n_passes, times * n_characters / _CHARACTERS_PER_TOKEN


def _text_tokens() -> int:
    return round(sum(map(len, TEXTS)) * sum(CUTS) / _CHARACTERS_PER_TOKEN)
