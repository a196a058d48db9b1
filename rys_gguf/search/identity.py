"""The identity of a run, which decides whether a folder's run may go on, and its run.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rys_gguf._version import __version__
from rys_gguf.engines.base import LIVE, SERVER, EngineOptions
from rys_gguf.errors import InvalidSuite
from rys_gguf.formats.model import Model
from rys_gguf.layers.carry import ModelRules
from rys_gguf.probes.families import emotions
from rys_gguf.probes.names import LEVELS
from rys_gguf.probes.suite import Suite
from rys_gguf.runs.records import MAX_COMMAND, Baseline, ModelInfo, PlanInfo, RunInfo
from rys_gguf.runs.storage import HELDOUT, INFO, read_info
from rys_gguf.search.samplers.base import Sampler
from rys_gguf.search.settings import SweepRequest

# Of halving: each asks the better third of the one before.
_MOST_ROUNDS = 8


def identity_of(model: Model, request: SweepRequest) -> dict[str, Any]:
    """The part of an identity that is known before an engine starts.

    Names and values are those of version 0.1.0, so that its runs can be continued and compared.
    """
    suite, heldout = request.suites
    return {
        "model": {
            "name": model.name,
            "sha256": model.header_digest(),
            "n_bytes": model.n_bytes,
        },
        "suite": suite.suite_id,
        "heldout": heldout.suite_id,
        "settings": {**request.settings.as_json(), "plan": request.plan.as_json()},
    }


def engine_identity(options: EngineOptions, build: str) -> dict[str, Any]:
    """The engine's part of an identity; `build` is what the engine calls itself."""
    # Runs from before there was a live engine say nothing of their kind.
    kind = {} if options.kind == SERVER else {"kind": options.kind}
    return {
        **kind,
        "program": options.binary.name if options.binary else "xllamacpp",
        "build": build,
        "arguments": list(options.arguments),
        "n_ctx": options.n_ctx,
    }


def kind_of(folder: Path) -> str | None:
    """The kind of engine that the run in a folder was made with; None if there is no run."""
    if not (folder / INFO).exists():
        return None
    engine = read_info(folder).identity.get("engine")
    is_live = isinstance(engine, dict) and engine.get("kind") == LIVE
    return LIVE if is_live else SERVER


def levels_of(folder: Path) -> dict[str, int] | None:
    """The level of each family of the run in a folder; None if there is no run.

    Raises InvalidSuite if its held-out items cannot be read.
    """
    if not (folder / INFO).exists():
        return None
    try:
        items = Suite.read(folder / HELDOUT).items
    except InvalidSuite as e:
        raise InvalidSuite(f"{e}; to continue the run all the same, give its --level") from e
    return {item.family: item.level for item in items if item.level in LEVELS}


def shares_of(folder: Path) -> tuple[float, ...] | None:
    """The rounds of the run in a folder; None if there is no run.

    No option sets them, so a run goes on with its own.
    """
    if not (folder / INFO).exists():
        return None
    settings = read_info(folder).identity.get("settings")
    shares = settings.get("shares") if isinstance(settings, dict) else None
    if not isinstance(shares, list) or not 0 < len(shares) <= _MOST_ROUNDS:
        return None
    is_share = all(isinstance(x, float) and 0 < x <= 1 for x in shares)
    return tuple(shares) if is_share else None


def asks_of_run(folder: Path) -> int | None:
    """The budget of the run in a folder, in items; None where there is no run, or no budget."""
    if not (folder / INFO).exists():
        return None
    found: Any = read_info(folder).identity
    for name in ("settings", "plan", "asks"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, int) else None


def model_info(model: Model, path: Path) -> ModelInfo:
    """The model as run.json describes it."""
    return ModelInfo(
        name=model.name,
        path=str(path),
        architecture=model.architecture,
        n_layers=model.n_trunk,
        n_bytes=model.n_bytes,
        layer_bytes=tuple(sum(t.n_bytes for t in layer) for layer in model.layers),
        rule="; ".join(ModelRules.of(model).in_words),
    )


def run_info(
    request: SweepRequest, identity: dict[str, Any], about: ModelInfo, sampler: Sampler
) -> RunInfo:
    """run.json of a new run; storage adds its id and the time."""
    suite, heldout = request.suites
    is_ours = any(item.id.startswith(f"{emotions.FAMILY}-") for item in suite.items)
    return RunInfo(
        identity=identity,
        rys_gguf=__version__,
        model=about,
        plan=PlanInfo(
            name=request.plan.name,
            sizes=request.plan.sizes,
            notes=tuple(sampler.notes),
            sampler=request.plan.sampler,
        ),
        families=tuple(sorted({item.family for item in suite.items})),
        illegal=sampler.first.illegal,
        baselines=_baselines(heldout, generate=request.settings.generate),
        provenance={emotions.FAMILY: emotions.PROVENANCE} if is_ours else {},
        command=request.command[:MAX_COMMAND],
        n_threads=request.options.n_threads,
    )


def _baselines(heldout: Suite, *, generate: bool) -> dict[str, Baseline]:
    by_family = heldout.generated_baselines if generate else heldout.baselines
    return {
        family: Baseline(constant=topics[""].constant, random=topics[""].random)
        for family, topics in by_family.items()
    }
