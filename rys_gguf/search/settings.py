"""The options of a sweep, as the user sets them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rys_gguf.engines.base import EngineOptions
from rys_gguf.files.text_file import read_text
from rys_gguf.layers.blocks import BLOCK, LAYER, Form
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.suite import Suite
from rys_gguf.runs.records import HALVING, THOMPSON
from rys_gguf.runs.storage import digest

# The lengths of windows where none are named: of a map, and of the first and the second pass.
MAP_SIZES = tuple(range(1, 9))
PASS_SIZES = (8, 4)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that decide a sweep's result, apart from model, suites, windows and engine.

    `shares` are the fractions of the suite that have been asked after each round. After each round
    the better `keep` of the candidates go on, but at least `n_finalists`. `max_divergence` is in
    nats, `min_agreement` a fraction of next words. `looks` are the fractions of the held-out items
    that finalists have been asked when it is decided who is asked more. Models think for up to
    `thinking` tokens before they answer held-out items, not at all if it is 0.
    """

    schedule: Schedule = Schedule.PORTABLE
    shares: tuple[float, ...] = (0.05, 0.1, 0.3)
    keep: float = 0.34
    n_finalists: int = 3
    max_divergence: float = 1.0
    min_agreement: float = 0.5
    generate: bool = False
    preflight: bool = True
    looks: tuple[float, ...] = (1.0,)
    thinking: int = 0

    def as_json(self) -> dict[str, Any]:
        """The settings as plain values. They are part of a run's identity: keep the names."""
        plain = {
            **dataclasses.asdict(self),
            "schedule": self.schedule.value,
            "shares": list(self.shares),
            "looks": list(self.looks),
        }
        if len(self.looks) == 1:
            # Runs from before there was more than one say nothing of it.
            del plain["looks"]
        if not self.thinking:
            # And neither do those from before a model could be told to think.
            del plain["thinking"]
        return plain


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """The windows to try: "two-pass" (two sizes), "map" (all of `sizes`) or "list" (of a file).

    `damp` multiplies what their copies add to the residual stream. `sampler` chooses what to ask of
    them: "halving" or, for a map, "thompson", which may start from the scan in the file `prior`.

    Each window is tried with all `passes`, by "block" or by "layer" or in "both" modes. With
    `max_blocks` above 1 the best windows are then combined, up to so many in a map, and `beam` maps
    of each number are asked. `asks` are the most items that all single windows together are asked
    in the search; None for as many as the settings come to.
    """

    name: str
    sizes: tuple[int, ...]
    windows: Path | None = None
    damp: float = 1.0
    sampler: str = HALVING
    prior: Path | None = None
    passes: tuple[int, ...] = (2,)
    mode: str = BLOCK
    max_blocks: int = 1
    beam: int = 8
    asks: int | None = None

    @classmethod
    def of(
        cls,
        name: str | None = None,
        sizes: tuple[int, ...] | None = None,
        windows: Path | None = None,
        damp: float = 1.0,
        sampler: str | None = None,
        prior: Path | None = None,
    ) -> SweepPlan:
        """The plan of a user who leaves the rest open: a map by Thompson sampling.

        Two passes and lists are halved.
        """
        name = "list" if windows else name or "map"
        sizes = sizes or (MAP_SIZES if name == "map" else PASS_SIZES)
        sampler = sampler or (THOMPSON if name == "map" else HALVING)
        return cls(name, sizes, windows, damp, sampler, prior)

    @property
    def forms(self) -> tuple[Form, ...]:
        """How each window is repeated."""
        by_layer = {BLOCK: (False,), LAYER: (True,)}.get(self.mode, (False, True))
        return tuple(Form(n, way) for n in sorted(set(self.passes)) for way in by_layer)

    def as_json(self) -> dict[str, Any]:
        """The plan as plain values, part of a run's identity; a file counts by its content."""
        text = read_text(self.windows, "the windows") if self.windows else None
        # Runs from before there was another sampler do not name theirs.
        sampler = {} if self.sampler == HALVING else {"sampler": self.sampler}
        return {
            **sampler,
            "name": self.name,
            "sizes": list(self.sizes) if self.windows is None else None,
            "windows": digest(text) if text is not None else None,
            # Runs from before there were damped copies say nothing of them.
            **({} if self.damp == 1 else {"damp": self.damp}),
            **({} if self.prior is None else {"prior": digest(read_text(self.prior, "the scan"))}),
            # Nor of more passes, single layers and combinations.
            **({} if self.passes == (2,) else {"passes": sorted(set(self.passes))}),
            **({} if self.mode == BLOCK else {"mode": self.mode}),
            **({} if self.max_blocks == 1 else {"max_blocks": self.max_blocks, "beam": self.beam}),
            # Nor of a budget.
            **({} if self.asks is None else {"asks": self.asks}),
        }


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """A whole sweep: the model, the run's folder, the windows, settings, items and engine.

    `suites` are the items to search with, and the held-out items that judge the finalists.
    `command` is the command line, for the run's readers. `seconds` are the most that the sweep may
    take: they become the plan's `asks` once the engine's speed is known. `n_engines` as fast as
    that of the base run side by side. `seconds_gone` of the `seconds` went into levels and into
    measuring the base. To find levels the model will be asked up to `n_leveling` items; none unless
    this is a dry run.
    """

    model: Path
    folder: Path
    plan: SweepPlan
    settings: Settings
    suites: tuple[Suite, Suite]
    options: EngineOptions
    command: str = ""
    seconds: float | None = None
    n_engines: int = 1
    seconds_gone: float = 0.0
    n_leveling: int = 0
