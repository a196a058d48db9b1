"""Quantising a variant like its source: the type that each tensor takes from its source layer.

A variant of a BF16 or F16 model and a quantised file of the same model are two halves: the map
leads from each tensor of the variant to the one of the quantised file whose type it should get.
llama-quantize takes these types with --tensor-type-file (tools/quantize/quantize.cpp of llama.cpp
b11549): one PATTERN=TYPE after another, between white space. A pattern is put into lower case and
searched in a name as a regular expression, the first that is found decides (llama-quant.cpp,
llama_tensor_get_type); so all of them have both anchors, or blk.1. would be found in blk.11. too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.formats.header import TensorInfo
from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.text import quoted

# What a pattern says literally. The tables of gguf-py name no tensor otherwise.
_NAME = re.compile(r"[a-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class WantedType:
    """The type, as gguf-py spells it, that a variant's tensor has in the quantised source."""

    tensor: TensorInfo
    type: str

    @property
    def is_had(self) -> bool:
        """Whether the tensor has it."""
        return self.tensor.type_name == self.type


def wanted_types(variant: Model, quantised: Model, layer_map: LayerMap) -> Iterator[WantedType]:
    """The type of each tensor of the variant in the quantised file, in the variant's order.

    Tensors that the variant has on its own, such as those that damp a layer, are left out.
    Raises InvalidLayerMap if the map is of another number of layers, InvalidGGUF if the quantised
    file lacks a matrix.
    """
    if layer_map.n_source != quantised.n_trunk:
        raise InvalidLayerMap(
            f"{layer_map.spec} is for {layer_map.n_source} layers, {quantised.name} has "
            f"{quantised.n_trunk}"
        )
    theirs = {t.name: t for t in quantised.header.tensors}
    for tensor in variant.header.tensors:
        name = _source_name(tensor.name, layer_map)
        found = theirs.get(name)
        if found is not None:
            yield WantedType(tensor, found.type_name)
        elif len(tensor.ne) > 1:
            raise quantised.invalid(
                f"has no tensor {quoted(name)}, which {quoted(tensor.name)} of {variant.name} "
                f"comes from; expected a quantised file of the variant's source"
            )


def tensor_type_file(variant: Model, quantised: Model, layer_map: LayerMap) -> str:
    r"""The file for `llama-quantize --tensor-type-file`: a line for each kind of tensor and type.

        ^blk\.(0|1|4)\.ffn_down\.weight$=q6_k

    Vectors are left out: llama-quantize leaves them as they are. Raises as `wanted_types`, and
    Refused for a name that no pattern can say.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for wanted in wanted_types(variant, quantised, layer_map):
        name = wanted.tensor.name
        if len(wanted.tensor.ne) < 2:  # noqa: PLR2004 - a matrix
            continue
        if not _NAME.fullmatch(name):
            raise variant.refuse(
                f"tensor {quoted(name)}: llama-quantize compares names in lower case and without "
                f"spaces, so none of its patterns says this one"
            )
        if not wanted.type.isidentifier():
            raise quantised.refuse(
                f"tensor {quoted(name)} has {wanted.type}, which llama-quantize cannot be told"
            )
        block, layer, rest = _parts(name)
        groups.setdefault((block + "*" + rest, wanted.type), []).append(layer)
    return "".join(
        f"{_pattern(name, layers)}={type_.lower()}\n" for (name, type_), layers in groups.items()
    )


def _parts(name: str) -> tuple[str, str, str]:
    """A tensor's name around the number of its layer, which is empty where it has none."""
    block, _, rest = name.partition(".")
    layer, dot, rest = rest.partition(".")
    return (block + ".", layer, dot + rest) if block == "blk" else (name, "", "")


def _pattern(name: str, layers: list[str]) -> str:
    block, _, rest = name.replace(".", r"\.").partition("*")
    number = layers[0] if len(layers) == 1 else f"({'|'.join(layers)})"
    return f"^{block}{number}{rest}$"


def _source_name(name: str, layer_map: LayerMap) -> str:
    """Where a tensor's values come from; layers behind the map are those of the source's tail."""
    block, layer, rest = _parts(name)
    if not layer:
        return name
    out = int(layer)
    tail = layer_map.n_source + out - len(layer_map)
    return f"{block}{layer_map[out] if out < len(layer_map) else tail}{rest}"
