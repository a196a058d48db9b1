"""The windows and the cost of a sweep, worked out without an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rys_gguf.engines.base import SERVER
from rys_gguf.formats.model import Model
from rys_gguf.probes.item import Item
from rys_gguf.runs.records import IllegalWindow
from rys_gguf.search.job import Step
from rys_gguf.search.phases import final_steps
from rys_gguf.search.prepare import CUTS, TEXTS
from rys_gguf.search.room import bytes_free, bytes_needed
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.samplers.beam import Beam
from rys_gguf.search.samplers.find import rounds_of, sampler_of
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
    """Lines for a terminal: the windows and the cost of a sweep. Writes and runs nothing."""
    with Model(request.model) as model:
        sampler = sampler_of(request, model)
        rounds = rounds_of(request)
        yield from (f"note: {note}" for note in sampler.notes)
        yield from sampler.describe()
        beam = sampler if isinstance(sampler, Beam) else None
        sampler = beam.single if beam else sampler
        n_combined = request.plan.max_blocks
        yield from _illegal_lines(sampler.first.illegal)
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
    if isinstance(sampler, Thompson):
        yield (
            f"items: {sampler.n_asks:,} asked in all, {rounds.ends[0]} at a time, up to {n} of a "
            f"window; {rounds.n_finalists} finalists"
        )
    else:
        ends = ", ".join(map(str, rounds.ends))
        yield f"items: {ends} of {n} in successive rounds; {rounds.n_finalists} finalists"
    yield from sight_lines(request)
    if request.settings.thinking:
        yield _thinking_line(request)
    yield from _effort(request, sampler, rounds, beam)


def _illegal_lines(illegal: Sequence[IllegalWindow]) -> Iterator[str]:
    """The windows that are left out; of many an example."""
    if len(illegal) <= _FEW_ILLEGAL:
        yield from (f"not legal: {i.spec}: {i.rule}" for i in illegal)
    else:
        yield f"not legal: {len(illegal)} windows, such as {illegal[0].spec}: {illegal[0].rule}"


def _effort(
    request: SweepRequest, sampler: Sampler, rounds: Rounds, beam: Beam | None
) -> Iterator[str]:
    """The number of candidates and forward passes, and the tokens that they read."""
    search, heldout = (suite.items for suite in request.suites)
    final = final_steps(len(heldout), generate=False)[0]
    n_standing = sampler.n_most
    if isinstance(sampler, Thompson):
        n_standing = min(n_standing, -(-sampler.n_asks // rounds.ends[0]))
    n_texts = len(TEXTS) * len(CUTS)
    passes, tokens = n_standing * n_texts, n_standing * _text_tokens()
    parts = [f"at most {n_standing} windows"]
    if isinstance(sampler, Thompson):
        # A whole suite for each model: the base, and as many windows as the asks come to.
        everything = Step(rounds.steps[0].stage, items=tuple(range(len(search))))
        more = _cost(search, everything, 1 + -(-sampler.n_asks // len(search)))
        passes, tokens = passes + more[0], tokens + more[1]
    for number, step in enumerate(() if isinstance(sampler, Thompson) else rounds.steps, 1):
        if number > 1:
            n_standing = min(n_standing, rounds.n_kept(n_standing))
            parts.append(f"{n_standing} of them in round {number}")
        # Once more for the base.
        more = _cost(search, step, n_standing + 1)
        passes, tokens = passes + more[0], tokens + more[1]
    if beam:
        everything = Step(rounds.steps[0].stage, items=tuple(range(len(search))))
        more = _cost(search, everything, -(-beam.n_asks // len(search)))
        passes += more[0] + beam.n_combined * n_texts
        tokens += more[1] + beam.n_combined * _text_tokens()
        parts.append(f"at most {beam.n_combined} combined ones")
    n_finalists = min(rounds.n_finalists, n_standing)
    more = _cost(heldout, final, n_finalists + 1)
    passes, tokens = passes + more[0], tokens + more[1]
    yield f"{', '.join(parts)}; held-out items: {len(heldout)} for the base and each finalist"
    minutes = max(1, round(tokens / _TOKENS_PER_SECOND / 60))
    yield (
        f"time: not measured yet; about {passes:,} forward passes read {tokens:,} tokens, "
        f"{minutes} minute{'s' * (minutes > 1)} at {_TOKENS_PER_SECOND:,} tokens per "
        f"second{_not_counted(request)}"
    )


def _not_counted(request: SweepRequest) -> str:
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


def _cost(items: Sequence[Item], step: Step, n_models: int) -> tuple[int, int]:
    """Forward passes, and about how many tokens they read, for a step of so many models."""
    n_passes = n_characters = 0
    for position in step.items:
        before = None
        for request in items[position].requests():
            n_passes += 1
            # An engine keeps the prompt that two requests in a row have in common.
            n_characters += len(request.opening)
            n_characters += len(request.prompt) if request.prompt != before else 0
            before = request.prompt
    return n_models * n_passes, n_models * (n_characters // _CHARACTERS_PER_TOKEN)


def _text_tokens() -> int:
    return round(sum(map(len, TEXTS)) * sum(CUTS) / _CHARACTERS_PER_TOKEN)
