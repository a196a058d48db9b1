"""Prompts put together into batches, with the tokens that they share computed once.

A batch is computed in waves. Each wave is one llama_decode; what it computed is then copied to the
sequences that go on from there. The last wave of a prompt ends with its last token, whose logits
are the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

Prompt = tuple[int, ...]

# A shared beginning is computed apart where that saves as many tokens.
_MIN_SAVED = 16


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens `start` to `end` of a prompt, computed in the sequence of that number.

    The sequences `copies` go on from there; if there are none, the prompt ends here.
    """

    sequence: int
    start: int
    end: int
    copies: tuple[int, ...] = ()
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Different prompts in order, each in the sequence of its position, and their waves."""

    prompts: tuple[Prompt, ...]
    waves: tuple[tuple[Segment, ...], ...]

    @property
    def n_tokens(self) -> int:
        """The tokens that are computed."""
        return sum(s.end - s.start for wave in self.waves for s in wave)

    @property
    def n_widest(self) -> int:
        """The tokens of the largest wave."""
        return max(sum(s.end - s.start for s in wave) for wave in self.waves)


def make_batches(
    prompts: Sequence[Prompt], max_tokens: int, max_sequences: int
) -> tuple[Batch, ...]:
    """Batches of all different prompts, in the order of their tokens.

    Each has at most `max_tokens` tokens to compute, or one prompt that has more. The same prompts
    in any order give the same batches.
    """
    batches: list[Batch] = []
    group: list[Prompt] = []
    n = 0
    for prompt in sorted(set(prompts)):
        more = len(prompt) - (_n_shared(group[-1], prompt) if group else 0)
        if group and (n + more > max_tokens or len(group) == max_sequences):
            batches.append(_batch(group))
            group, n, more = [], 0, len(prompt)
        group.append(prompt)
        n += more
    if group:
        batches.append(_batch(group))
    return tuple(batches)


def _batch(prompts: Sequence[Prompt]) -> Batch:
    waves: list[list[Segment]] = []
    for level, segment in _segments(prompts, range(len(prompts)), 0, 0, 0):
        while len(waves) <= level:
            waves.append([])
        waves[level].append(segment)
    return Batch(tuple(prompts), tuple(tuple(wave) for wave in waves))


def _segments(
    prompts: Sequence[Prompt], group: Sequence[int], start: int, seen: int, level: int
) -> Iterator[tuple[int, Segment]]:
    """The segments of a group in sorted order, whose tokens are computed up to `start`.

    The group is known to agree up to `seen`.
    """
    first, last = prompts[group[0]], prompts[group[-1]]
    # Each prompt keeps at least one token of its own: the one whose logits are wanted.
    shortest = min(len(prompts[k]) for k in group)
    n = max(seen, min(_n_shared(first, last), shortest - 1))
    if len(group) > 1 and (len(group) - 1) * (n - start) >= _MIN_SAVED:
        yield level, Segment(group[0], start, n, copies=tuple(group[1:]))
        start, level = n, level + 1
    parts = [list(part) for _, part in groupby(group, key=lambda k: prompts[k][n : n + 1])]
    for part in parts:
        if len(part) == 1 or (len(parts) == 1 and n == seen):
            for k in part:
                yield level, Segment(k, start, len(prompts[k]), ends=True)
        else:
            yield from _segments(prompts, part, start, n, level)


def _n_shared(a: Prompt, b: Prompt) -> int:
    """The length of what two prompts begin with alike."""
    for n, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return n
    return min(len(a), len(b))
