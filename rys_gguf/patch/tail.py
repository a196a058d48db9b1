"""What follows where a map leaves the base, as a plan: all windows from one layer on share it."""

from __future__ import annotations

import contextlib
import itertools

from rys_gguf.errors import Refused
from rys_gguf.formats.model import Model
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.plan import Plan, make_plan


def tail_of(layer_map: LayerMap) -> tuple[int, LayerMap] | None:
    """How many layers run as in the base, and the map of the rest; None if one of them has none.

    tail_of(LayerMap.parse("blocks:2,4", 6)) == (4, LayerMap(6, (2, 3, 4, 5)))
    """
    is_as_in_base = (
        layer_map[out] == out and layer_map.damp(out) == 1 for out in range(len(layer_map))
    )
    n_same = sum(1 for _ in itertools.takewhile(bool, is_as_in_base))
    # llama.cpp gives what goes into a layer, and not what comes out of the last one.
    if not 0 < n_same < min(layer_map.n_source, len(layer_map)):
        return None
    sources, damping = layer_map.sources[n_same:], layer_map.damping[n_same:]
    return n_same, LayerMap(layer_map.n_source, sources, damping)


def tail_plan(model: Model, rules: ModelRules, tail: LayerMap) -> Plan | None:
    """The layers of a tail and the head, to be fed with inputs of layers.

    None where the architecture gives no inputs of layers, or its rules allow no such model. The
    file lists the kinds of layers where their places do not tell: every llama.cpp that gives inputs
    of layers (mid-2026) reads these lists.
    """
    if not rules.arch.tails:
        return None
    for schedule in (Schedule.PORTABLE, Schedule.EXPLICIT):
        with contextlib.suppress(Refused):
            return make_plan(model, tail, schedule=schedule, provenance=False, rules=rules)
    return None
