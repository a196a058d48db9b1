"""The levels of generated items that the user named no level for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from rys_gguf.cli.progress import Progress
from rys_gguf.engines.base import EngineOptions
from rys_gguf.probes.choose import SuiteOptions
from rys_gguf.probes.levels import MOST_LEVELS, N_ITEMS, find_levels
from rys_gguf.text import duration

# Where no engine runs: the easiest level that does not run out of items.
_ASSUMED = 1


def assume_levels(items: SuiteOptions) -> SuiteOptions:
    """The items with a level that the model may turn out not to be asked."""
    return items.with_levels(dict.fromkeys(items.without_level, _ASSUMED))


def assumption(items: SuiteOptions) -> Iterator[str]:
    """The line that says what `assume_levels` assumes, if anything."""
    if items.without_level:
        yield (
            f"note: {', '.join(items.without_level)}: level {_ASSUMED} is assumed; the model is "
            f"first asked which level fits (at most {n_leveling(items):,} items)"
        )


def ask_levels(
    model: Path, items: SuiteOptions, engine: EngineOptions, progress: Progress
) -> SuiteOptions:
    """The items with levels that the model was asked for, which are shown with what it can do."""
    if not items.without_level:
        return items
    start = time.monotonic()
    progress.begin("levels", n_leveling(items), "item")
    found = find_levels(model, engine, items.without_level, progress.advance)
    skills = ", ".join(f"{f.family} {f.level} (skill {f.best.skill:.2f})" for f in found)
    n_asked = N_ITEMS * sum(len(f.tried) for f in found)
    progress.say(f"levels: {skills}; {n_asked} items in {duration(time.monotonic() - start)}")
    for family in found:
        if family.problem is not None:
            progress.say(f"note: {family.problem}")
    levels = {f.family: f.level for f in found}
    flags = " ".join(f"--level {family}={level}" for family, level in levels.items())
    progress.say(f"to ask these levels again: {flags}")
    return items.with_levels(levels)


def n_leveling(items: SuiteOptions) -> int:
    """At most how many items a model is asked to find the levels that nobody named."""
    return len(items.without_level) * MOST_LEVELS * N_ITEMS
