"""The last layers of a model as a plan: what all windows that begin at the same layer share."""

from __future__ import annotations

import contextlib

from rys_gguf.errors import Refused
from rys_gguf.formats.model import Model
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.plan import Plan, make_plan


def tail_plan(
    model: Model, rules: ModelRules, start: int, end: int = 0, damp: float = 1.0
) -> Plan | None:
    """The layers from `start` on and the head, to be fed with inputs of layers.

    Those below `end` are damped: they are the copies of the window that ends there. None where the
    architecture gives no inputs of layers, or its rules allow no such model. The file lists the
    kinds of layers where their places do not tell: every llama.cpp that gives inputs of layers
    (mid-2026) reads these lists.
    """
    if not rules.arch.tails:
        return None
    sources = tuple(range(start, model.n_trunk))
    damping = tuple(damp if layer < end else 1.0 for layer in sources)
    layer_map = LayerMap(model.n_trunk, sources, damping)
    for schedule in (Schedule.PORTABLE, Schedule.EXPLICIT):
        with contextlib.suppress(Refused):
            return make_plan(model, layer_map, schedule=schedule, provenance=False, rules=rules)
    return None
