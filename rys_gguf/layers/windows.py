"""Which windows of a model may be repeated, and the message where one may not."""

from __future__ import annotations

from collections.abc import Iterator

from rys_gguf.errors import InvalidLayerMap, Refused
from rys_gguf.formats.model import Model
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rule import Conflict
from rys_gguf.layers.schedule import Schedule
from rys_gguf.text import printable

# A bound on the work for hundreds of layers: a window that is only legal far away is no neighbour.
_MAX_TRIED = 4096


def is_legal(rules: ModelRules, window: tuple[int, int], schedule: Schedule) -> bool:
    """Whether every output runs as its source if the half-open window is repeated."""
    try:
        layer_map = LayerMap.from_blocks([window], rules.meta.n_trunk)
    except InvalidLayerMap:
        return False
    return not rules.carry(layer_map, schedule).conflicts


def legal_windows(
    rules: ModelRules, schedule: Schedule, n_layers: int
) -> Iterator[tuple[int, int]]:
    """The half-open windows of `n_layers` layers that may be repeated."""
    for i in range(rules.meta.n_trunk - n_layers + 1):
        if is_legal(rules, (i, i + n_layers), schedule):
            yield i, i + n_layers


def nearest_windows(
    rules: ModelRules, window: tuple[int, int], schedule: Schedule, limit: int = 3
) -> list[tuple[int, int]]:
    """The legal windows that differ least from `window`, by how far both ends move."""
    i0, j0 = window
    n = rules.meta.n_trunk
    candidates = [(i, j) for i in range(n) for j in range(i + 1, n + 1) if (i, j) != window]
    candidates.sort(
        key=lambda w: (abs(w[0] - i0) + abs(w[1] - j0), abs(w[1] - w[0] - (j0 - i0)), w)
    )
    legal = (w for w in candidates[:_MAX_TRIED] if is_legal(rules, w, schedule))
    return [w for w, _ in zip(legal, range(limit), strict=False)]


def refusal(
    model: Model,
    rules: ModelRules,
    layer_map: LayerMap,
    schedule: Schedule,
    conflicts: tuple[Conflict, ...],
) -> Refused:
    """The error for a map with conflicts: every reason, and the nearest windows that are legal."""
    if final := [conflict.text for conflict in conflicts if conflict.final]:
        name = printable(model.architecture)
        return model.refuse(f"no layers of '{name}' can be repeated: " + "\n  ".join(final))
    lines = [f"{layer_map.spec} would not compute what it says (schedule {schedule.value})"]
    lines += [conflict.text for conflict in conflicts]
    windows = layer_map.undamped.windows() or ()
    if len(windows) == 1:
        nearest = nearest_windows(rules, windows[0], schedule)
        n = model.n_trunk
        none = "no window of this model" if n * (n + 1) // 2 <= _MAX_TRIED else "no window near it"
        lines.append(
            "nearest legal windows: " + ", ".join(f"blocks:{i},{j}" for i, j in nearest)
            if nearest
            else f"{none} is legal under this schedule"
        )
    if schedule is Schedule.PORTABLE and conflicts and all(c.curable for c in conflicts):
        explicit = rules.carry(layer_map, Schedule.EXPLICIT)
        lines.append("or --schedule explicit: " + "\n    and ".join(explicit.notes))
    return model.refuse("\n  ".join(lines))
