"""The name of an output where the user gives none."""

from __future__ import annotations

import re
from pathlib import Path

from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.patch.provenance import compose, valid_origins

# The labels llama.cpp and its publishers end file names with: Q4_K_M, UD-Q4_K_XL, i1-IQ3_XXS, BF16.
_QUANT_LABEL = re.compile(
    r"[-._](?:UD-|i1-)?(?:I?Q[1-8]_[0-9A-Z_]+|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32|FP16|FP32)"
    r"(?=\.gguf$|-[0-9]{5}-of-[0-9]{5}\.gguf$)",
    re.IGNORECASE,
)
# What Ollama calls a model's file; the name of the model in it says more.
_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)
_SHARD = re.compile(r"-[0-9]{5}-of-[0-9]{5}(?=\.gguf$)")


def default_output(model: Model, layer_map: LayerMap) -> Path:
    """A path beside the source, with the map's label before the quantisation's.

    Qwen3.5-2B-UD-Q4_K_XL.gguf and blocks:8,12 give Qwen3.5-2B-rys_8-11-UD-Q4_K_XL.gguf.
    """
    path = model.files[0].path
    name, label = _file_name(model), layer_map.label
    if earlier := valid_origins(model):
        # A variant's variant is named as one that is made in one step.
        of_source = f"-{earlier[-1].layer_map.label}"
        if of_source in name:
            name = name.replace(of_source, "")
            label = compose(earlier[-1].layer_map, layer_map).label
    return path.with_name(_labelled(name, label))


def _file_name(model: Model) -> str:
    """The model's file name, or the one that a blob would have outside its cache."""
    name, title = model.files[0].path.name, model.header.get("general.name")
    if not _BLOB.fullmatch(name):
        return name
    text = "" if title is None else _NO_FILE_NAME.sub("-", str(title.value))[:100].strip(".-")
    return f"{text or 'model'}.gguf"


def companion_output(path: Path, layer_map: LayerMap) -> Path:
    """A path beside a companion of the source, named as `default_output` names the variant."""
    return path.with_name(_labelled(path.name, layer_map.label))


def _labelled(name: str, label: str) -> str:
    match = _QUANT_LABEL.search(name)
    suffix = re.search(r"\.(gguf|dat|imatrix)$", name)
    at = match.start() if match else len(_SHARD.sub("", name)) - len(suffix[0]) if suffix else 0
    if not suffix:
        at = len(name)
    return _SHARD.sub("", f"{name[:at]}-{label}{name[at:]}")
