"""Blocks are found in maps, however these were written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.layers.blocks import TWICE, Block, Form, blocks_of
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.runs.candidate import Candidate

N = 12


@st.composite
def apart(draw: st.DrawFn) -> list[Block]:
    """Blocks with a layer or more between them."""
    blocks: list[Block] = []
    start = draw(st.integers(0, 4))
    while start < N and len(blocks) < 3:
        stop = draw(st.integers(start + 1, N))
        form = Form(draw(st.integers(2, 4)), draw(st.booleans()))
        blocks.append(Block(start, stop, form))
        start = stop + draw(st.integers(1, 4))
    return blocks


def map_of(blocks: list[Block]) -> LayerMap:
    """The map that repeats them."""
    return LayerMap.from_blocks([w for block in blocks for w in block.windows], N)


@given(blocks=apart())
def test_a_map_has_the_blocks_that_it_was_made_of(blocks: list[Block]) -> None:
    """Each layer of a block runs as often as its form says, and the others once."""
    layer_map = map_of(blocks)
    assert Candidate(layer_map).blocks == tuple(blocks)
    passes = dict.fromkeys(range(N), 1)
    for block in blocks:
        passes |= dict.fromkeys(range(*block.window), block.form.n_passes)
    assert {layer: len(layer_map.outputs_of(layer)) for layer in range(N)} == passes
    assert LayerMap.parse(layer_map.spec, N) == layer_map


@pytest.mark.parametrize(
    ("spec", "blocks"),
    [
        ("layers:0..3,2..3x2,4..", [Block(2, 4, Form(3))]),
        ("layers:0..1,2x2,3x2,4x2,5..", [Block(2, 5, Form(by_layer=True))]),
        ("layers:0..1,2x3,3x2,4..", [Block(2, 3, Form(3)), Block(3, 4)]),
        ("blocks:2,4;4,6", [Block(2, 4), Block(4, 6)]),
        ("blocks:2,3;3,4;6,8;6,8", [Block(2, 4, Form(by_layer=True)), Block(6, 8, Form(3))]),
        ("blocks:2,8;4,6", []),
        ("layers:0..5,8..", []),
    ],
)
def test_blocks_of_specs(spec: str, blocks: list[Block]) -> None:
    """Side by side, single layers are one block by layer; what overlaps is no block."""
    assert Candidate(LayerMap.parse(spec, N)).blocks == tuple(blocks)


def test_a_single_layer_has_one_form() -> None:
    """Its block by layer would be the same map under another name."""
    assert Block(3, 4, Form(3, by_layer=True)) == Block(3, 4, Form(3))
    assert blocks_of([(3, 4)]) == (Block(3, 4),)
    assert (str(TWICE), str(Form(3, by_layer=True))) == ("twice", "3 times, layer by layer")
