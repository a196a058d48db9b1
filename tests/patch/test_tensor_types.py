"""The types of a quantised source, as llama-quantize is told them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from gguf.constants import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from rys_gguf.formats.header import TensorInfo
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.patch.tensor_types import tensor_type_file

Q = GGMLQuantizationType
N_SOURCE = 13


def model(types: Mapping[str, int]) -> Any:
    """As much of a model as is read here: its tensors, matrices all."""
    tensors = tuple(TensorInfo(name, (32, 2), type_, 0, 0) for name, type_ in types.items())
    return SimpleNamespace(header=SimpleNamespace(tensors=tensors), n_trunk=N_SOURCE, name="m")


@given(
    sources=st.lists(st.integers(0, N_SOURCE - 1), min_size=1, max_size=24),
    types=st.lists(
        st.sampled_from([Q.Q4_K, Q.Q6_K, Q.IQ2_XXS]), min_size=N_SOURCE + 1, max_size=N_SOURCE + 1
    ),
)
@settings(max_examples=50, deadline=None)
def test_one_pattern_is_found_in_each_name(sources: list[int], types: list[Q]) -> None:
    """That of its source layer's type: blk.1 is not found in blk.11, and a tail follows the map."""
    kinds = ("attn_q", "ffn_down")
    quantised = {f"blk.{n}.{k}.weight": t for n, t in enumerate(types) for k in kinds}
    quantised["token_embd.weight"] = Q.Q8_0
    wanted = {
        f"blk.{out}.{kind}.weight": quantised[f"blk.{source}.{kind}.weight"]
        for out, source in enumerate([*sources, N_SOURCE])
        for kind in kinds
    } | {"token_embd.weight": Q.Q8_0}
    text = tensor_type_file(
        model(dict.fromkeys(wanted, Q.BF16)), model(quantised), LayerMap(N_SOURCE, tuple(sources))
    )
    rules = [line.split("=") for line in text.split()]
    for name, type_ in wanted.items():
        found = [spelt for pattern, spelt in rules if re.search(pattern, name)]
        assert found == [type_.name.lower()]
