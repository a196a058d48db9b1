"""A whole sweep, from a model's path to a finished run: what the command calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rys_gguf._version import __version__
from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import RysError, Unsuitable
from rys_gguf.formats.model import Model
from rys_gguf.layers.carry import architecture_of, metadata_of
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.families import emotions
from rys_gguf.probes.item import dump
from rys_gguf.probes.suite import Suite
from rys_gguf.runs.storage import HELDOUT, SUITE, OpenRun, digest, require_identity
from rys_gguf.search.executors.local import Pool
from rys_gguf.search.space import Selection, Windows, coarse, every, listed
from rys_gguf.search.study import Settings, Sweep, Watcher, prepare, round_ends
from rys_gguf.text import size


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """Which windows: "two-pass" (two sizes), "map" (all of `sizes`), "list" (those of a file)."""

    name: str
    sizes: tuple[int, ...]
    windows: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """The plan as plain values; a file of windows by what it holds."""
        listed_ = self.windows.read_text(encoding="utf-8") if self.windows else None
        return {
            "name": self.name,
            "sizes": list(self.sizes) if self.windows is None else None,
            "windows": digest(listed_) if listed_ is not None else None,
        }


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A plan on a model: what to begin with, the size of a second pass, words about it."""

    first: Selection
    fine_size: int | None
    illegal: tuple[Any, ...]
    notes: tuple[str, ...]


def _resolve(plan: SweepPlan, windows: Windows) -> _Resolved:
    resolved = _chosen(plan, windows)
    if not resolved.first.candidates:
        why = resolved.illegal[0].rule if resolved.illegal else (
            f"the model has {windows.n_layers} layers, no window of "
            f"{' or '.join(map(str, plan.sizes))}"
        )  # fmt: skip
        raise RysError(f"none of the windows can be tried: {why}")
    return resolved


def _chosen(plan: SweepPlan, windows: Windows) -> _Resolved:
    if plan.windows is not None:
        first = listed(windows, plan.windows)
        return _Resolved(first, None, first.illegal, ())
    if plan.name == "map":
        first = every(windows, plan.sizes)
        return _Resolved(first, None, first.illegal, ())
    if len(plan.sizes) != 2:  # noqa: PLR2004 - one for each pass
        raise RysError("--plan two-pass takes two sizes, such as --sizes 8,4")
    sizes = tuple(windows.legal_size(wanted) for wanted in plan.sizes)
    notes = tuple(
        f"windows of {wanted} layers are not legal here: {found} instead"
        for wanted, found in zip(plan.sizes, sizes, strict=True)
        if wanted != found
    )
    first = coarse(windows, sizes[0])
    others = windows.choose(windows.of_size(sizes[1], range(windows.n_layers)))
    return _Resolved(first, sizes[1], first.illegal + others.illegal, notes)


def run_sweep(
    model: Path,
    folder: Path,
    plan: SweepPlan,
    settings: Settings,
    suites: tuple[Suite, Suite],
    options: EngineOptions,
    pool: Pool,
    watcher: Watcher,
    *,
    retry_failed: bool = False,
) -> OpenRun:
    """Sweep, or go on with the sweep in that folder. Raises RysError; what is done is kept."""
    suite, heldout = suites
    model = model.resolve()
    with Model(model) as opened:
        windows = Windows(opened, settings.schedule)
        resolved = _resolve(plan, windows)
        about = _about(opened, model)
        identity: dict[str, Any] = {
            "model": {
                "name": opened.name,
                "sha256": opened.header_digest(),
                "n_bytes": opened.n_bytes,
            },
            "suite": suite.suite_id,
            "heldout": heldout.suite_id,
            "settings": {**settings.as_json(), "plan": plan.as_json()},
        }
    require_identity(folder, identity)
    for note in resolved.notes:
        watcher.say(f"note: {note}")
    n_items = len(suite.items) + len(heldout.items)
    watcher.begin("prepare", n_items)
    prepared = prepare(
        model, folder / "work", options, settings, suite, heldout,
        progress=watcher.advance,
    )  # fmt: skip
    identity["engine"] = {
        "program": options.binary.name if options.binary else "xllamacpp",
        "build": prepared.build,
        "arguments": list(options.arguments),
        "n_ctx": options.n_ctx,
    }
    info = {
        "identity": identity,
        "rys_gguf": __version__,
        "model": about,
        "plan": {"name": plan.name, "sizes": list(plan.sizes), "notes": list(resolved.notes)},
        "families": sorted({item.family for item in suite.items}),
        "illegal": [{"spec": i.spec, "rule": i.rule} for i in resolved.illegal],
        "floors": {
            family: dataclasses.asdict(topics[""])
            for family, topics in (
                heldout.generated_floors if settings.generate else heldout.floors
            ).items()
        },
        "provenance": {emotions.FAMILY: emotions.PROVENANCE}
        if any(item.id.startswith(f"{emotions.FAMILY}-") for item in suite.items)
        else {},
    }
    files = {SUITE: dump(suite.items), HELDOUT: dump(heldout.items)}
    with OpenRun.start(folder, info, files) as run:
        if retry_failed:
            run.forget_failed()
        sweep = Sweep(run, prepared.setup, settings, pool, watcher)
        try:
            sweep.run(resolved.first, resolved.fine_size)
        except Unsuitable:
            # Whatever the user changes now makes it another run: no folder is to stand in its way.
            if all(result["is_base"] for result in run.results):
                run.discard()
            raise
        return run


def _about(model: Model, path: Path) -> dict[str, Any]:
    arch, meta = architecture_of(model), metadata_of(model)
    rules = [text for rule in arch.rules if (text := rule.describe(meta))]
    return {
        "name": model.name,
        "path": str(path),
        "architecture": model.architecture,
        "n_layers": model.n_trunk,
        "n_bytes": model.n_bytes,
        "layer_bytes": [sum(t.n_bytes for t in layer) for layer in model.layers],
        "rule": "; ".join(rules) or "every layer alike",
    }


def dry_lines(model: Path, plan: SweepPlan, settings: Settings, suite: Suite) -> Iterator[str]:
    """What a sweep would try, for a terminal."""
    with Model(model) as opened:
        windows = Windows(opened, Schedule(settings.schedule))
        resolved = _resolve(plan, windows)
        largest = max(sum(t.n_bytes for t in layer) for layer in opened.layers)
        for note in resolved.notes:
            yield f"note: {note}"
        what = "pass 1" if resolved.fine_size else "candidates"
        yield f"{what}: {', '.join(c.spec for c in resolved.first.candidates)}"
        if resolved.fine_size:
            yield f"pass 2: windows of {resolved.fine_size} layers around the best two"
        for illegal in resolved.illegal:
            yield f"not legal: {illegal.spec}: {illegal.rule}"
        added = max((c.layer_map.n_added for c in resolved.first.candidates), default=0)
        yield (
            f"working file: {size(opened.n_bytes + added * largest)} once, then about "
            f"{size(largest)} for a window that moves on by a layer"
        )
        n = len(suite.items)
        rounds = ", ".join(map(str, round_ends(n, settings.shares)))
        yield f"items: {rounds} of {n} round after round; {settings.n_finalists} finalists"
