"""The ladder of the method: structure first, then load, proof and loops; it stops where it breaks.

Each rung answers another question, and a later one says nothing while an earlier one is open.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rys_gguf._version import __version__
from rys_gguf.checks.prove import describe_difference, prove
from rys_gguf.checks.smoke import compare, run_smoke
from rys_gguf.checks.smoke_report import as_json
from rys_gguf.checks.verify import find_problems
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.find import open_engine
from rys_gguf.errors import Refused, RysError
from rys_gguf.layers.layer_map import LayerMap


@dataclass(frozen=True, slots=True)
class Rung:
    """One step: its name, how it ended ("passed", "failed", "open"), and what it showed.

    "open" is a question this rung cannot answer for the model; it is not a pass.
    """

    name: str
    outcome: str
    shows: str
    seconds: float
    details: Any


@dataclass(frozen=True, slots=True)
class Report:
    """The rungs climbed, in order; the last one failed if the whole did."""

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


Step = tuple[str, str, Any]  # outcome, what it shows, details


def validate(
    variant: str | os.PathLike[str],
    source: str | os.PathLike[str],
    layer_map: LayerMap,
    options: EngineOptions,
    *,
    tolerance: float = 0.0,
    workdir: str | os.PathLike[str] | None = None,
    done: Callable[[Rung], None] = lambda _: None,
) -> Report:
    """Climb the ladder; `done` is called after each rung. Arguments as for `prove`.

    What a rung finds is in the report; only errors that are no finding are raised.
    """
    steps: list[tuple[str, Callable[[], Step]]] = [
        ("verify", lambda: _verify(variant, source, layer_map)),
        ("load", lambda: _load(variant, options)),
        ("prove", lambda: _prove(variant, source, layer_map, options, tolerance, workdir)),
        ("smoke", lambda: _smoke(variant, source, options)),
    ]
    rungs: list[Rung] = []
    for name, step in steps:
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
    return Report(str(variant), str(source), layer_map.spec, tuple(rungs))


def _verify(
    variant: str | os.PathLike[str], source: str | os.PathLike[str], layer_map: LayerMap
) -> Step:
    problems = [str(p) for p in find_problems(variant, source, layer_map.spec)]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return "failed", problems[0] + more, problems
    return "passed", "header and every tensor are what the map makes of the source", []


def _load(variant: str | os.PathLike[str], options: EngineOptions) -> Step:
    with open_engine(variant, options) as engine:
        text = engine.generate("The", 8).text
        details = {"build": engine.build, "text": text}
    return "passed", "llama.cpp loads it and generates", details


def _prove(
    variant: str | os.PathLike[str],
    source: str | os.PathLike[str],
    layer_map: LayerMap,
    options: EngineOptions,
    tolerance: float,
    workdir: str | os.PathLike[str] | None,
) -> Step:
    proof = prove(variant, source, layer_map, options, tolerance=tolerance, workdir=workdir)
    details = dataclasses.asdict(proof)
    if not proof.holds(tolerance):
        return "failed", describe_difference(proof, layer_map), details
    exact = all(r.exact for r in proof.results)
    how = "bit for bit" if exact else f"within {tolerance:g} nats"
    return "passed", f"each of {len(layer_map)} outputs runs as its source, {how}", details


def _smoke(
    variant: str | os.PathLike[str], source: str | os.PathLike[str], options: EngineOptions
) -> Step:
    verdict = compare(run_smoke(Path(variant), options), run_smoke(Path(source), options))
    outcome = "passed" if verdict.passed else "failed"
    shows = "it does not loop where its source does not"
    return outcome, shows if verdict.passed else verdict.reasons[0], as_json(verdict)
