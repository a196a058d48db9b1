"""What the layers of a model need when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rule import Metadata


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory: weights, KV cache per token, and recurrent state per sequence.

    `kv_per_token` counts K and V in 16 bits for the layers that have them; it is None where the
    header does not say enough. `state` belongs to linear layers. As a difference between two
    models the numbers may be negative.
    """

    weights: int
    kv_per_token: int | None
    state: int


def added_memory(model: Model, meta: Metadata, layer_map: LayerMap) -> Memory:
    """What the output needs beyond the source. Raises Refused for sizes that are no numbers."""
    weights = kv_per_token = state = 0
    is_known = True
    for n in range(model.n_trunk):
        cost = layer_memory(model, meta, n)
        n_added = len(layer_map.outputs_of(n)) - 1
        weights += n_added * cost.weights
        state += n_added * cost.state
        if cost.kv_per_token is None:
            is_known = False
        else:
            kv_per_token += n_added * cost.kv_per_token
    return Memory(weights, kv_per_token if is_known else None, state)


def layer_memory(model: Model, meta: Metadata, layer: int) -> Memory:
    """What one trunk layer needs.

    Widths of K and V: llama-hparams.cpp, n_embd_k_gqa and n_embd_v_gqa; recurrent state: n_embd_r
    and n_embd_s, in 32-bit floats.
    """
    tensors = model.layers[layer]
    parts = {t.name.split(".")[2] for t in tensors}
    weights = sum(t.n_bytes for t in tensors)
    if "ssm_conv1d" in parts:
        inner, d_state = meta.scalar("ssm.inner_size", 0), meta.scalar("ssm.state_size", 0)
        conv = inner + 2 * meta.scalar("ssm.group_count", 0) * d_state
        floats = (meta.scalar("ssm.conv_kernel", 1) - 1) * conv + d_state * inner
        return Memory(weights, 0, 4 * floats)
    heads = _per_layer(meta, "attention.head_count", layer)
    if not heads:
        return Memory(weights, None, 0)
    width = meta.scalar("embedding_length", 0) // heads
    n_kv = _per_layer(meta, "attention.head_count_kv", layer, heads)
    k, v = meta.scalar("attention.key_length", width), meta.scalar("attention.value_length", width)
    if meta.scalar("attention.kv_lora_rank"):
        return Memory(weights, None, 0)
    return Memory(weights, 2 * n_kv * (k + v), 0)


def _per_layer(meta: Metadata, suffix: str, layer: int, default: int = 0) -> int:
    values = meta.array(suffix)
    return int(values[layer] if values else meta.scalar(suffix, default))
