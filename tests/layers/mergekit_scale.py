"""What mergekit multiplies a weight by, said once more for the tests.

Source: evaluate_setting in config.py and resolve_parameter in parameter_resolver.py of mergekit
0.1.5, for scales without gradients.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LAYER = "model.layers.5."
# Of a layer and beside it; those with `other` stand for what a checkpoint may have besides.
NAMES = (
    *(
        f"{LAYER}{name}.{kind}"
        for name in (
            "self_attn.q_proj", "self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj",
            "mlp.down_proj", "input_layernorm", "other", "self_attn.other", "mlp.other",
            "other_proj", "other.q_proj", "other.gate", "other.norm", "other.lm_head",
        )
        for kind in ("weight", "bias")
    ),
    "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
)  # fmt: skip


def factor_of(name: str, chain: Iterable[Any]) -> float:
    """What a tensor is multiplied by, given `scale` of the source, the slice and the root."""
    for scale in chain:
        entries = scale if isinstance(scale, list) else [scale]
        for entry in entries:
            if not isinstance(entry, dict):
                return float(entry)
            part = entry.get("filter")
            if part is None or part == "*" or part in name:
                return float(entry["value"])
    return 1.0
