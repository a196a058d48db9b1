"""Validate a variant step by step: structure first, then load, proof and loops.

Each rung answers another question, and a later one means nothing while an earlier one has failed,
so validation stops at the first failure.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rys_gguf._version import __version__
from rys_gguf.checks.prove import describe_difference, n_passes, prove, runs_as
from rys_gguf.checks.smoke import PROMPTS, compare, run_smoke
from rys_gguf.checks.smoke_report import as_json
from rys_gguf.checks.variant import VariantPair
from rys_gguf.checks.verify import find_problems
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.find import open_engine
from rys_gguf.errors import Refused, RysError


@dataclass(frozen=True, slots=True)
class Rung:
    """One step: its name, its outcome ("passed", "failed" or "open"), and what it found.

    "open" means that the step cannot answer its question for this model, which is not a pass.
    """

    name: str
    outcome: str
    shows: str
    seconds: float
    details: Any


@dataclass(frozen=True, slots=True)
class Report:
    """The rungs in order, up to the first that failed."""

    variant: str
    source: str
    spec: str
    rungs: tuple[Rung, ...]

    @property
    def passed(self) -> bool:
        """Whether no rung failed."""
        return all(rung.outcome != "failed" for rung in self.rungs)

    def dump(self) -> str:
        """The report as JSON."""
        data = {"rys_gguf": __version__, "passed": self.passed, **dataclasses.asdict(self)}
        return json.dumps(data, indent=2) + "\n"


def validate(
    pair: VariantPair,
    options: EngineOptions,
    *,
    tolerance: float = 0.0,
    workdir: str | os.PathLike[str] | None = None,
    done: Callable[[Rung], None] = lambda _: None,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Climb the ladder; `tolerance` and `workdir` are those of `prove`.

    `done` is called after each rung, and `progress` gets 1 after each of `n_steps` steps. Failures
    that a rung can have are part of the report; any other error is raised.
    """
    climb = _Climb(pair, options, tolerance, workdir, progress)
    rungs: list[Rung] = []
    for name, step in (
        ("verify", climb.verify),
        ("load", climb.load),
        ("prove", climb.prove),
        ("smoke", climb.smoke),
    ):
        start = time.monotonic()
        try:
            outcome, shows, details = step()
        except Refused as e:
            outcome, shows, details = "open", str(e), None
        except RysError as e:
            outcome, shows, details = "failed", str(e), None
        rungs.append(Rung(name, outcome, shows, round(time.monotonic() - start, 1), details))
        done(rungs[-1])
        if outcome == "failed":
            break
    return Report(str(pair.variant), str(pair.source), pair.layer_map.spec, tuple(rungs))


def n_steps(pair: VariantPair) -> int:
    """How often a validation that passes calls `progress`."""
    return 2 + n_passes(pair) + 2 * len(PROMPTS)


_Outcome = tuple[str, str, Any]  # the outcome, shows and details of a rung


@dataclass(frozen=True, slots=True)
class _Climb:
    """The rungs, one a method."""

    pair: VariantPair
    options: EngineOptions
    tolerance: float
    workdir: str | os.PathLike[str] | None
    progress: Callable[[int], None]

    def verify(self) -> _Outcome:
        pair = self.pair
        problems = [str(p) for p in find_problems(pair.variant, pair.source, pair.layer_map.spec)]
        self.progress(1)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            return "failed", problems[0] + more, problems
        return "passed", "header and every tensor are what the map makes of the source", []

    def load(self) -> _Outcome:
        with open_engine(self.pair.variant, self.options) as engine:
            text = engine.generate("The", 8).text
            details = {"build": engine.build, "text": text}
        self.progress(1)
        return "passed", "llama.cpp loads it and generates", details

    def prove(self) -> _Outcome:
        proof = prove(
            self.pair,
            self.options,
            tolerance=self.tolerance,
            workdir=self.workdir,
            progress=self.progress,
        )
        layer_map = self.pair.layer_map
        if not proof.holds(self.tolerance):
            return "failed", describe_difference(proof, layer_map, self.tolerance), proof.as_json()
        how = proof.precision(self.tolerance)
        shows = f"each of {len(layer_map)} outputs {runs_as(layer_map)}, {how}"
        return "passed", shows, proof.as_json()

    def smoke(self) -> _Outcome:
        variant, source = (
            run_smoke(model, self.options, progress=lambda _: self.progress(1))
            for model in (self.pair.variant, self.pair.source)
        )
        verdict = compare(variant, source)
        if not verdict.passed:
            return "failed", verdict.reasons[0], as_json(verdict)
        return "passed", "it does not loop where its source does not", as_json(verdict)
