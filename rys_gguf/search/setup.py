"""The data that all jobs of a sweep have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from rys_gguf.checks.smoke import Reply
from rys_gguf.engines.base import EngineOptions
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.item import Item
from rys_gguf.probes.requests import TokenizedRequest
from rys_gguf.probes.thinking import Thinking


@dataclass(frozen=True, slots=True)
class Limits:
    """When a candidate counts as damaged: nats from the base, and agreement on next words."""

    max_divergence: float = 1.0
    min_agreement: float = 0.5


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything a worker needs besides its jobs: plain data that can be pickled.

    `items`, `requests` and `baselines` are those of each suite by its name ("search", "heldout"),
    items and requests in the same order. `texts` are token sequences after which a candidate is
    compared with the base: `reference` holds the base's most likely tokens there with their
    log-probabilities in nats. `replies` are the base's in the loop stage. `folder` is where
    workers put their files. With `thinking`, models think before they answer held-out items.
    """

    model: str
    folder: str
    schedule: Schedule
    options: EngineOptions
    chats: bool
    items: dict[str, tuple[Item, ...]]
    requests: dict[str, tuple[tuple[TokenizedRequest, ...], ...]]
    baselines: dict[str, float]
    texts: tuple[tuple[int, ...], ...]
    reference: tuple[dict[int, float], ...] = ()
    replies: tuple[Reply, ...] = ()
    limits: Limits = field(default_factory=Limits)
    thinking: Thinking | None = None
