"""Recipes of mergekit: slices, which are half-open ranges of layers that follow one another.

A slice is damped by factors on the weights that write to the residual stream (`recipe_scale`).

    slices:
      - sources: [{model: NAME, layer_range: [0, 24]}]
      - sources: [{model: NAME, layer_range: [8, 32]}]
    merge_method: passthrough

Source: config.py (the fields, and which `filter` a tensor's name matches), plan.py (the order of
layers) and merge_methods/passthrough.py (what `scale` does) of mergekit 0.1.5.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rys_gguf.errors import InvalidLayerMap, InvalidOptions, Refused
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap, at
from rys_gguf.layers.recipe_nodes import Document, compose
from rys_gguf.layers.recipe_scale import damping, scales
from rys_gguf.layers.residual import checkpoint_projections
from rys_gguf.text import printable, quoted

# 010 is eight in YAML 1.1, and nobody means that.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class MergekitRecipe:
    """The path of a mergekit recipe as a spec, and the model that it was written for."""

    spec: str
    model: str

    @property
    def is_damped(self) -> bool:
        """Whether it damps layers, by factors on weights."""
        return "@" in self.spec

    def require_damping(self, model: Model) -> None:
        """Raise Refused where the factors of a damped recipe do not damp layers of `model`."""
        if self.is_damped:
            checkpoint_projections(
                model,
                "a map with @ damps all that a layer adds: write it with --layers if that is meant",
            )


def read_mergekit(path: str | os.PathLike[str], model: Model | None = None) -> MergekitRecipe:
    """The path of a passthrough recipe of one model, with the factors that damp its slices.

    Raises InvalidLayerMap, naming file and line, for recipes that do more than put layers of one
    model into another order, and damp them. Whether these factors damp a layer depends on its
    architecture: with `model`, or in `require_damping`, raises Refused where they do not.
    """
    document = _Recipe(printable(path))
    root = document.mapping(compose(path, document.name), "a mergekit recipe")
    document.demand_passthrough(root)
    of_root = scales(document, root)
    parts, models = [], []
    for entry in document.slices(root):
        output = document.mapping(entry, "a slice")
        of_slice = scales(document, output)
        source = document.only_source(output, entry)
        damp = damping(document, (*scales(document, source), *of_slice, *of_root))
        first, last = document.layer_range(source)
        parts.append(f"{first}..{last - 1}{at(damp)}")
        models.append(document.model(source))
    if len(set(models)) > 1:
        names = ", ".join(printable(name) for name in sorted(set(models)))
        raise document.error(
            root["slices"],
            f"takes layers of {len(set(models))} models ({names}); rys-gguf repeats layers of one",
        )
    # In brackets, so that nothing takes these ends for exclusive ones a second time. Two numbers
    # in brackets could be a window, two ranges cannot.
    recipe = MergekitRecipe(f"layers:[{','.join(parts)}]", models[0])
    if model is not None:
        recipe.require_damping(model)
    return recipe


@dataclass(frozen=True, slots=True)
class _Recipe(Document):
    """A recipe's file."""

    def demand_passthrough(self, root: Mapping[str, Any]) -> None:
        """Refuse recipes that compute new weights."""
        for key in ("merge_method", "slices"):
            if key not in root:
                kinds = [k for k in ("models", "modules") if k in root]
                found = f"has {kinds[0]} instead" if kinds and key == "slices" else "has none"
                raise InvalidLayerMap(
                    f"{self.name}: expected a mergekit recipe with {key}; this one {found}"
                )
        method = self.text(root["merge_method"], "merge_method")
        if method != "passthrough":
            raise self.error(
                root["merge_method"],
                f"merge_method is {printable(method)}, which computes new weights; rys-gguf "
                f"copies layers, as passthrough does",
            )

    def slices(self, root: Mapping[str, Any]) -> list[Any]:
        """The entries of `slices`, each of which has at least one layer."""
        entries = self.sequence(root["slices"], "slices")
        if not entries:
            raise self.error(root["slices"], "slices is empty")
        if len(entries) > MAX_LAYERS:
            raise self.error(
                root["slices"],
                f"takes {len(entries)} slices; llama.cpp stops at {MAX_LAYERS} layers",
            )
        return entries

    def only_source(self, output: Mapping[str, Any], entry: Any) -> dict[str, Any]:
        """The one source of an entry of `slices`."""
        if "sources" not in output:
            raise self.error(entry, "a slice without sources")
        sources = self.sequence(output["sources"], "sources")
        if len(sources) != 1:
            raise self.error(
                output["sources"], f"a slice of passthrough has one source, not {len(sources)}"
            )
        source = self.mapping(sources[0], "a source with model and layer_range")
        for key in ("model", "layer_range"):
            if key not in source:
                raise self.error(sources[0], f"a source without {key}")
        return source

    def layer_range(self, source: Mapping[str, Any]) -> tuple[int, int]:
        """The first layer, and one past the last."""
        node = source["layer_range"]
        shown = [
            item.value if item.id == "scalar" else "" for item in self.sequence(node, "layer_range")
        ]
        if len(shown) != 2 or not all(map(_NUMBER.fullmatch, shown)):  # noqa: PLR2004 - a pair
            raise self.error(node, "layer_range is not a pair of layer numbers such as [0, 24]")
        first, last = map(int, shown)
        if first >= last:
            raise self.error(
                node, f"layer_range [{first}, {last}] is empty: it ends before layer {last}"
            )
        return first, last

    def model(self, source: Mapping[str, Any]) -> str:
        """The model's name, and the revision where there is one."""
        name = self.text(source["model"], "model")
        revision = source.get("revision")
        return name if revision is None else f"{name}@{self.text(revision, 'revision')}"


def write_mergekit(layer_map: LayerMap, checkpoint: str, model: Model | None = None) -> str:
    """The passthrough recipe of a map for a checkpoint; `read_mergekit` reads it back.

    A damped map takes factors on the weights whose products a layer adds. Which ones these are
    tells `model`, the GGUF file of the checkpoint or of a variant. mergekit sets the number of
    layers in the checkpoint's config.json and nothing else, so the comment says what to do with the
    rest. Raises Refused for a damped map without a model, or where factors on weights do not damp
    its layers, and InvalidOptions for a name that is not printable.
    """
    if not checkpoint.isprintable():
        raise InvalidOptions(
            f"{quoted(checkpoint)} is not the name of a checkpoint: OWNER/NAME or a path"
        )
    scaled = _scaled(layer_map, model)
    note = (
        f"# What a layer adds is damped by factors on its weights named {' and '.join(scaled)}.\n"
        if scaled else ""
    )  # fmt: skip
    name = json.dumps(checkpoint, ensure_ascii=False)  # a printable string of JSON is one of YAML
    slices = "".join(
        f"  - sources: [{{model: {name}, layer_range: [{s.source}, {s.source + s.n_layers}]"
        f"{_parameters(s.damp, scaled)}}}]\n"
        for s in layer_map.path()
    )
    return (
        f"# {layer_map.spec} of {layer_map.n_source} layers, {len(layer_map)} in all.\n"
        "# In the merged config.json mergekit sets num_hidden_layers only. Where there is a list\n"
        "# with one entry per layer (layer_types, ...), give layer n the entry that layer\n"
        "# SOURCES[n] had. Where a number picks layers by their position (max_window_layers,\n"
        "# full_attention_interval, sliding_window_pattern, first_k_dense_replace, ...), it\n"
        "# counts the new layers: write layer_types instead, or check every layer's kind.\n"
        f"# SOURCES = {list(layer_map.sources)}\n{note}"
        f"slices:\n{slices}merge_method: passthrough\n"
    )


def _scaled(layer_map: LayerMap, model: Model | None) -> tuple[str, ...]:
    """Parts of the names of the weights that damp a layer; none where no layer is damped."""
    if not layer_map.damping:
        return ()
    if model is None:
        raise Refused(
            f"{layer_map.spec} damps layers, and which weights do that depends on the "
            f"architecture; name the model as well"
        )
    return checkpoint_projections(model, "take the map without @ and --damp")


def _parameters(damp: float, scaled: tuple[str, ...]) -> str:
    """What a source of a slice says of its factor: a weight is scaled if its name has a filter."""
    if damp == 1:
        return ""
    # YAML 1.1, which mergekit reads, takes 1e-05 for a text.
    value = repr(damp) if "." in repr(damp) else repr(damp).replace("e", ".0e")
    filters = ", ".join(f"{{filter: {part}, value: {value}}}" for part in scaled)
    return f", parameters: {{scale: [{filters}]}}"
