"""Cheap reasons to drop a candidate: it has diverged from the base, or it repeats itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rys_gguf.checks.smoke import PROMPTS, Reply, compare, replies_to
from rys_gguf.engines.base import Engine
from rys_gguf.search.setup import Limits

# How many of the base's most likely tokens count; all others are one more outcome.
_N_BASE = 100
# A candidate may rank the base's tokens far lower, so it is asked for more.
_N_CANDIDATE = 500
# The least probability of "all other tokens", so that rounding cannot make it negative.
_LEAST_REST = 1e-9
# The loop filter takes some prompts of the smoke test, and only the first sentences of each reply.
# `rys-gguf smoke` and `validate` take all prompts.
_LOOP_PROMPTS = (PROMPTS[0], PROMPTS[3], PROMPTS[4], PROMPTS[7])
_LOOP_TOKENS = 64
# With so few prompts one more looping reply than the base's is no evidence.
_MORE_LOOPS = 2


@dataclass(frozen=True, slots=True)
class Divergence:
    """Distance from the base on plain text: mean KL divergence in nats, share of equal top tokens.

    `kl` is infinite or NaN where the candidate gives no numbers.
    """

    kl: float
    agreement: float


def reference(engine: Engine, texts: Sequence[Sequence[int]]) -> tuple[dict[int, float], ...]:
    """The base's most likely tokens after every text, with their log-probabilities in nats."""
    return tuple(engine.top_logprobs_of(texts, _N_BASE))


def measure_divergence(
    engine: Engine, texts: Sequence[Sequence[int]], base: Sequence[dict[int, float]]
) -> Divergence:
    """How far a candidate is from the base's `reference` after the same texts."""
    return divergence(base, engine.top_logprobs_of(texts, _N_CANDIDATE))


def divergence(
    base: Sequence[dict[int, float]], candidate: Sequence[dict[int, float]]
) -> Divergence:
    """The divergence between lists of log-probabilities by token, one for each text.

    It is taken over the base's listed tokens, with all others as one outcome. A token that the
    candidate does not list counts with the lowest probability that it does list, so large
    divergences are underestimated.
    """
    total, n_agreed = 0.0, 0
    for p, q in zip(base, candidate, strict=True):
        lowest = min(q.values())
        rest_p = max(_LEAST_REST, 1 - sum(map(math.exp, p.values())))
        rest_q = max(_LEAST_REST, 1 - sum(math.exp(q.get(t, lowest)) for t in p))
        total += sum(math.exp(v) * (v - q.get(t, lowest)) for t, v in p.items())
        total += rest_p * math.log(rest_p / rest_q)
        n_agreed += max(p, key=p.__getitem__) == max(q, key=q.__getitem__)
    return Divergence(total / len(base), n_agreed / len(base))


def damage(distance: Divergence, limits: Limits) -> str | None:
    """Why a candidate with this divergence is dropped; None if it is not."""
    if not math.isfinite(distance.kl):
        return "its probabilities are not numbers"
    if distance.kl > limits.max_divergence:
        return (
            f"damaged: {distance.kl:.2f} nats from the base on plain text, "
            f"at most {limits.max_divergence:g}"
        )
    if distance.agreement < limits.min_agreement:
        return (
            f"damaged: agrees with the base on {distance.agreement:.0%} of next words, "
            f"at least {limits.min_agreement:.0%}"
        )
    return None


def replies(engine: Engine, *, chats: bool) -> tuple[Reply, ...]:
    """A model's replies in the loop stage."""
    return tuple(replies_to(engine, _LOOP_PROMPTS, _LOOP_TOKENS, chats=chats))


def n_loops(written: Sequence[Reply]) -> int:
    """How many replies loop, repeat themselves or are not text."""
    return sum(bool(reply.findings) for reply in written)


def looping(candidate: Sequence[Reply], base: Sequence[Reply]) -> str | None:
    """Why a candidate with these replies is dropped; None if it is not."""
    verdict = compare(candidate, base or None)
    if verdict.passed or n_loops(candidate) < n_loops(base) + _MORE_LOOPS:
        return None
    return f"loops: {verdict.reasons[0]}"
