"""What a layer adds to the residual stream: the tensors that write it, and those that damp it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType

from rys_gguf.errors import Refused
from rys_gguf.formats.header import TensorInfo
from rys_gguf.formats.model import Model
from rys_gguf.layers.rule import Architecture, Damper
from rys_gguf.text import printable, quoted

# The tensors whose products are added to the residual stream, by their name after `blk.N.`
# (gguf-py/gguf/constants.py; read off the graphs in src/models). Their biases, and the norms and
# scales behind them, write there as well. ffn_norm is one of them because llama.cpp runs a
# feed-forward network without weights (build_ffn of null tensors) where a graph expects other
# tensors than the loader takes: ernie4_5-moe with a step above 1, refact with experts.
_WRITERS = frozenset({
    "attn_output", "attn_output_b", "attn_out", "cross_attn_output", "ffn_norm", "ffn_down",
    "ffn_down_exps", "ffn_down_shexp", "ffn_down_chexps", "ssm_out", "shortconv.out_proj",
    "time_mix_output", "channel_mix_value", "proj", "ple_value", "post_attention_norm",
    "post_ffw_norm", "attn_post_norm", "ffn_post_norm", "laurel_post_norm", "per_layer_post_norm",
})  # fmt: skip
# A norm of zeros gives zeros, except for its bias. In front of a network it has to be zero itself.
_BEHIND = frozenset(name for name in _WRITERS if name.endswith("norm") and name != "ffn_norm")
# What damping has to reach: all of these but the norm in front of a network, and the number that
# multiplies a layer's output, or the embeddings that it adds (silenced by Architecture.silenced).
_DAMPED = _WRITERS - {"ffn_norm"} | {"layer_output_scale"}
# llama-graph.cpp adds these biases behind the scale (build_attn, build_moe_ffn), and that of
# ffn_down in front of it (build_ffn).
_BIASED_BEHIND = frozenset({"attn_output", "ffn_down_exps"})
_EXPERTS = "_exps"
# Far above any vector of a model: rescaled tensors are held in memory.
_MAX_BYTES = 1 << 24

# Architectures whose checkpoints at Hugging Face add the products of o_proj and down_proj, with
# their biases, and nothing else, to the residual stream (their classes in transformers 5.24).
OF_PROJECTIONS = frozenset({
    "apertus", "arcee", "cohere2", "command-r", "ernie4_5", "gemma", "granite", "llama", "mistral3",
    "nemotron", "phi3", "qwen2", "qwen3", "seed_oss", "smollm3", "stablelm",
})  # fmt: skip
_PROJECTIONS = {"attn_output": "o_proj", "ffn_down": "down_proj"}

Values = npt.NDArray[np.float32]


def residual_writers(tensors: Iterable[TensorInfo]) -> Iterator[TensorInfo]:
    """The tensors of a layer that must be zero for the layer to pass its input on."""
    for tensor in tensors:
        name, _, kind = tensor.name.split(".", 2)[2].rpartition(".")
        if not name:
            name, kind = kind, ""
        if name in _WRITERS and (name not in _BEHIND or kind == "bias"):
            yield tensor


@dataclass(frozen=True, slots=True)
class Damped:
    """A tensor `blk.N.{tensor}` that damps a layer when it is multiplied.

    With `n_new` the file does not have it: it is a vector of that many ones then, behind the tensor
    `blk.N.{behind}`. `of_all`: as that of a Damper.
    """

    tensor: str
    n_new: int = 0
    behind: str = ""
    of_all: bool = False

    def values(self, old: Values, damp: float, of_all: float) -> Values:
        """The tensor's values in a layer that is damped by `damp`; they round to F32.

        `of_all` is the number s that multiplies the sum x + a of the layer's input and what it
        adds; 1 if there is none. So the layer adds s (x + a) - x to x. A part d of that is left by
        another number, 1 + d (s - 1), if a is multiplied by d s and divided by that number.
        """
        if damp == 1:
            return old
        passed = 1 + damp * (of_all - 1)
        if self.of_all:
            return np.full_like(old, passed)
        return np.asarray(old * np.float32(damp * of_all / passed), np.float32)


def damped_tensors(model: Model, arch: Architecture, layer: int) -> tuple[Damped, ...]:
    """The tensors that damp a layer of the model; together they multiply all that it adds.

    Raises Refused if llama.cpp adds something that none of them multiplies.
    """
    tensors = {t.name.split(".", 2)[2]: t for t in model.layers[layer]}
    found: dict[str, Damped] = {}
    for writer in _writers(model.layers[layer]):
        damper = _damper_of(arch, writer, tensors)
        if damper is None:
            raise _refusal(model, arch, layer, writer)
        if damper.tensor in tensors or damper.tensor != f"{writer}.scale":
            found[damper.tensor] = Damped(damper.tensor, of_all=damper.of_all)
        else:
            weight = tensors[f"{writer}.weight"]
            n = weight.ne[2] if writer.endswith(_EXPERTS) and len(weight.ne) > 2 else 1  # noqa: PLR2004
            found[damper.tensor] = Damped(damper.tensor, n, f"{writer}.weight")
        bias = f"{writer}.bias"
        if damper.tensor == f"{writer}.scale" and bias in tensors and writer in _BIASED_BEHIND:
            found[bias] = Damped(bias)
    return tuple(found.values())


def checkpoint_projections(model: Model, cure: str) -> tuple[str, ...]:
    """Parts of the names of all weights whose products layers of the model's checkpoint add.

    A factor on these weights damps a layer. Raises Refused, saying what to do instead, where others
    add as well, or a norm behind them would undo a factor.
    """
    names = {t.name.split(".", 2)[2].rpartition(".")[0] for layer in model.layers for t in layer}
    others = names & (_DAMPED - _PROJECTIONS.keys())
    if model.architecture not in OF_PROJECTIONS or others:
        shown = f"tensors {quoted(min(others))}" if others else quoted(model.architecture)
        raise model.refuse(
            f"a recipe of mergekit can damp layers only where o_proj and down_proj add all that a "
            f"layer adds, which is not known of {shown}; {cure}"
        )
    return tuple(_PROJECTIONS.values())


def scale_of_all(model: Model, layer: int, damped: Iterable[Damped]) -> float:
    """The number among the tensors that damp a layer which multiplies all that the layer gives.

    1 if there is none. Raises Refused if it is no number above 0 in F32.
    """
    names = {f"blk.{layer}.{d.tensor}" for d in damped if d.of_all}
    for tensor in model.layers[layer]:
        if tensor.name in names:
            value = f32_values(model, tensor)
            if value.size != 1 or not 0 < value[0] < np.inf:
                raise model.refuse(f"{printable(tensor.name)} is not a number above 0")
            return float(value[0])
    return 1.0


def f32_values(model: Model, tensor: TensorInfo) -> Values:
    """The values of an F32 vector. Raises Refused for another tensor."""
    if tensor.type != GGMLQuantizationType.F32 or tensor.n_bytes > _MAX_BYTES:
        raise model.refuse(
            f"tensor {quoted(tensor.name)} is {tensor.type_name} of {tensor.n_bytes} bytes; "
            f"only vectors in F32 can be rescaled"
        )
    dtype = np.dtype(np.float32).newbyteorder(model.header.byteorder)
    raw = b"".join(model.read(model.data(tensor).span))
    return np.frombuffer(raw, dtype).astype(np.float32)


def _writers(tensors: Iterable[TensorInfo]) -> Iterator[str]:
    """The names of what a layer's damping has to multiply, each once."""
    names: dict[str, None] = {}
    for tensor in tensors:
        name, _, kind = tensor.name.split(".", 2)[2].rpartition(".")
        if name in _DAMPED and (name not in _BEHIND or kind == "bias"):
            names[name] = None
    return iter(names)


def _damper_of(arch: Architecture, writer: str, tensors: Container[str]) -> Damper | None:
    """What multiplies all that a writer adds; None if nothing does."""
    for damper in arch.dampers:
        is_scale = damper.tensor == f"{writer}.scale" and f"{writer}.weight" in tensors
        if writer in damper.writers and (is_scale or damper.tensor in tensors):
            return damper
    return None


def _refusal(model: Model, arch: Architecture, layer: int, writer: str) -> Refused:
    can = "other layers of it can" if arch.dampers else "no layer of it can"
    return model.refuse(
        f"source layer {layer} cannot be damped: in {printable(arch.name)} llama.cpp multiplies "
        f"nothing into all that blk.{layer}.{writer} adds ({can}; see docs/architectures.md)"
    )
