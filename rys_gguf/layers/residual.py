"""What a layer adds to the residual stream: the tensors that write it, and those that damp it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from rys_gguf.errors import Refused
from rys_gguf.formats.header import TensorInfo
from rys_gguf.formats.model import Model
from rys_gguf.layers.rule import Architecture, Damper
from rys_gguf.text import printable

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
# What damping has to multiply: these, but for a norm in front of a network, and a factor that is
# zero for no layer that passes its input on (Architecture.silenced).
_DAMPED = _WRITERS - {"ffn_norm"} | {"layer_output_scale"}
# llama-graph.cpp adds these biases behind the scale (build_attn, build_moe_ffn), and that of
# ffn_down in front of it (build_ffn).
_BIASED_BEHIND = frozenset({"attn_output", "ffn_down_exps"})
_EXPERTS = "_exps"


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
    `blk.N.{behind}`.
    """

    tensor: str
    n_new: int = 0
    behind: str = ""


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
            found[damper.tensor] = Damped(damper.tensor)
        else:
            weight = tensors[f"{writer}.weight"]
            n = weight.ne[2] if writer.endswith(_EXPERTS) else 1
            found[damper.tensor] = Damped(damper.tensor, n, f"{writer}.weight")
        bias = f"{writer}.bias"
        if damper.tensor == f"{writer}.scale" and bias in tensors and writer in _BIASED_BEHIND:
            found[bias] = Damped(bias)
    return tuple(found.values())


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
