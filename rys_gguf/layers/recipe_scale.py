"""What a recipe of mergekit damps: factors on weights, which it picks by parts of their names.

    parameters:
      scale:
        - {filter: o_proj, value: 0.5}
        - {filter: down_proj, value: 0.5}
        - value: 1.0

The first entry whose filter is in a weight's name gives its factor; one without a filter takes all
weights. What no entry takes is asked of the next level: source, slice, root.

Source: config.py (evaluate_setting, parameter_sources) and parameter_resolver.py of mergekit 0.1.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.layers.recipe_nodes import Document
from rys_gguf.text import printable, quoted

_TAG = "tag:yaml.org,2002:"
_NULL, _TEXT = f"{_TAG}null", f"{_TAG}str"
_DECIMAL = re.compile(r"\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
# YAML takes 1e-05 for a text, and mergekit a text for a number. Whole numbers have other notations
# in YAML 1.1: 010 is eight, and 1_0 ten.
_NUMBERS = {
    f"{_TAG}int": re.compile(r"\+?[01]"),
    f"{_TAG}float": _DECIMAL,
    _TEXT: _DECIMAL,
}
# Published recipes have three. Without an end, aliases could make of a small file a long walk.
_MOST_ENTRIES = 32
# Names of weights are shorter.
_LONGEST_FILTER = 200
_DIGIT = re.compile("[0-9]")
_PROJECTIONS = ("o_proj", "down_proj")
# All that they have in checkpoints of OF_PROJECTIONS. The zero stands for the layer's number.
_WRITERS = (
    "model.layers.0.self_attn.o_proj.weight",
    "model.layers.0.self_attn.o_proj.bias",
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.0.mlp.down_proj.bias",
)
_EXPECTED = (
    "rys-gguf reads a scale only if it damps layers: the same number from 0 to 1 for "
    "filter: o_proj and filter: down_proj, and 1 or nothing for all other weights"
)


@dataclass(frozen=True, slots=True)
class Scale:
    """A factor on all weights with `part` in their names that no scale before it takes."""

    part: str
    factor: float
    node: Any


def scales(document: Document, mapping: Mapping[str, Any]) -> tuple[Scale, ...]:
    """The scales among the parameters of a source, a slice or the root.

    Raises InvalidLayerMap for other parameters: a copy without them would be another model.
    """
    weight, node = mapping.get("residual_weight"), mapping.get("parameters")
    if weight is not None and weight.tag != _NULL:
        raise _other_parameters(document, weight, ["residual_weight"])
    if node is None or node.tag == _NULL:
        return ()
    parameters = document.mapping(node, "parameters")
    if others := [name for name in parameters if name != "scale"]:
        raise _other_parameters(document, node, others)
    return tuple(_entries(document, parameters["scale"])) if parameters else ()


def damping(document: Document, chain: Sequence[Scale]) -> float:
    """What scales multiply what a layer adds by, those of the first level first.

    Raises InvalidLayerMap where they do anything else.
    """
    parts: list[str] = []
    reached = []
    for scale in chain:
        # Names that have this part have any part of it as well, and are taken by then.
        if not any(part in scale.part for part in parts):
            parts.append(scale.part)
            reached.append(scale)
    changing = [scale for scale in reached if scale.factor != 1]
    if not changing:
        return 1.0
    factors: dict[str, float] = {}
    for scale in reached:
        _demand_damping(document, scale)
        for name in _WRITERS:
            if scale.part in name:
                factors.setdefault(name, scale.factor)
    found = [factors.get(name, 1.0) for name in _WRITERS]
    weights, biases = found[::2], found[1::2]
    if weights != biases:
        raise _unfit(
            document, changing[0].node, "scales weights and their biases by different numbers"
        )
    if len(set(weights)) > 1:
        by = " and ".join(f"{name} by {n}" for name, n in zip(_PROJECTIONS, weights, strict=True))
        raise _unfit(document, changing[0].node, f"scales {by}")
    return found[0]


def _demand_damping(document: Document, scale: Scale) -> None:
    """Refuse a scale that may change anything but what all layers of a slice add."""
    shown = f"the filter {quoted(scale.part)}"
    if _DIGIT.search(scale.part):
        raise document.error(
            scale.node,
            f"{shown} may pick layers by their numbers; give these layers a slice of their own, "
            f"with filters that have no digits",
        )
    if scale.factor == 1:
        return
    if not scale.part:
        raise _unfit(document, scale.node, f"scales all weights by {scale.factor}")
    is_whole = any(name in scale.part for name in _PROJECTIONS)
    if not is_whole or not any(scale.part in name for name in _WRITERS):
        raise _unfit(document, scale.node, f"{shown}, value {scale.factor}, may take other weights")


def _entries(document: Document, node: Any) -> Iterable[Scale]:
    """What stands behind `scale`: a number, one entry, or a list of either."""
    if node.id == "mapping":
        return [_entry(document, node)]
    if node.id == "scalar":
        return [Scale("", _number(document, node), node)]
    items = _items(document, node)
    if items and all(item.id == "scalar" for item in items):
        return [Scale("", _constant(document, node), node)]
    return [_entry(document, item) for item in items]


def _entry(document: Document, node: Any) -> Scale:
    """A value with its filter, if it has one."""
    entry = document.mapping(node, "an entry of scale with filter and value")
    if others := sorted(entry.keys() - {"filter", "value"}):
        raise document.error(
            node, f"an entry of scale has filter and value, and no {quoted(others[0])}"
        )
    value, part = entry.get("value"), entry.get("filter")
    if value is None or not value.value:
        raise document.error(node, "an entry of scale without value")
    factor = _number(document, value) if value.id != "sequence" else _constant(document, value)
    if part is None or part.tag == _NULL:
        return Scale("", factor, node)
    if part.tag != _TEXT or len(part.value) > _LONGEST_FILTER:
        raise document.error(
            part, f"filter is not a text of up to {_LONGEST_FILTER} characters: a part of names"
        )
    return Scale("" if part.value == "*" else part.value, factor, node)


def _items(document: Document, node: Any) -> list[Any]:
    items = document.sequence(node, "scale")
    if len(items) > _MOST_ENTRIES:
        raise document.error(
            node,
            f"scale has {len(items)} entries; at most {_MOST_ENTRIES} are read, and two are enough",
        )
    return items


def _constant(document: Document, node: Any) -> float:
    """The number of a gradient that is the same for all layers."""
    numbers = {_number(document, item) for item in _items(document, node)}
    if len(numbers) != 1:
        raise document.error(
            node,
            "scale has a gradient, a list of numbers over the layers; give each layer a slice of "
            "its own, with one number",
        )
    return numbers.pop()


def _number(document: Document, node: Any) -> float:
    pattern = _NUMBERS.get(node.tag) if node.id == "scalar" else None
    number = float(node.value) if pattern and pattern.fullmatch(node.value) else -1.0
    if not 0 <= number <= 1:
        shown = quoted(node.value, 40) if node.id == "scalar" else f"a {node.id}"
        raise _unfit(document, node, f"scale is {shown}, not a decimal number from 0 to 1")
    return number


def _unfit(document: Document, node: Any, what: str) -> InvalidLayerMap:
    return document.error(node, f"{what}; {_EXPECTED}")


def _other_parameters(document: Document, node: Any, names: Iterable[str]) -> InvalidLayerMap:
    return document.error(
        node,
        f"has parameters ({printable(', '.join(names))}), which may change weights; rys-gguf "
        f"reads scale, where it damps layers, and no others",
    )
