"""The paths of a proof cover every output, and leave in no two that must not be together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf import LayerMap
from rys_gguf.checks.paths import Lending, covering_paths

maps = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.integers(0, n - 1), min_size=1, max_size=20).map(
        lambda sources: LayerMap(n, tuple(sources))
    )
)


def ascend_and_cover(paths: list[tuple[int, ...]], layer_map: LayerMap) -> bool:
    """Whether every output is on some path, and sources ascend along each."""
    return {out for path in paths for out in path} == set(range(len(layer_map))) and all(
        list(path) == sorted(path)
        and [layer_map[o] for o in path] == sorted({layer_map[o] for o in path})
        for path in paths
    )


@given(maps)
def test_paths_ascend_and_cover_every_output(layer_map: LayerMap) -> None:
    """For any map, every output is on some path, and sources ascend along each path."""
    assert ascend_and_cover(covering_paths(layer_map), layer_map)


@pytest.mark.parametrize(
    ("spec", "n"), [("blocks:2,4", 2), ("blocks:2,4;2,4", 3), ("blocks:0,6", 2)]
)
def test_a_window_needs_a_path_per_pass(spec: str, n: int) -> None:
    """Originals, copies, copies of copies: each path is the complete source again."""
    paths = covering_paths(LayerMap.parse(spec, 6))
    assert len(paths) == n
    assert all(len(path) == 6 for path in paths)


@given(maps, st.data())
def test_a_reader_finds_the_same_layers_before_its_lender(
    layer_map: LayerMap, data: st.DataObject
) -> None:
    """Whatever lends to whatever: in front of a lender, both sides leave in the same layers."""
    source = {
        n: (data.draw(st.integers(0, n - 1)),)
        for n in range(1, layer_map.n_source)
        if data.draw(st.booleans())
    }
    variant = {
        out: (data.draw(st.integers(0, out - 1)),)
        for out in range(1, len(layer_map))
        if layer_map[out] in source
    }
    paths = covering_paths(layer_map, Lending(variant, source))
    assert ascend_and_cover(paths, layer_map)
    for path in paths:
        for reader in set(path) & set(variant):
            (here,), (there,) = variant[reader], source[layer_map[reader]]
            assert {layer_map[o] for o in path if o < here} == {
                layer_map[o] for o in path if layer_map[o] < there
            }


def test_readers_go_with_the_copy_that_lends() -> None:
    """The copies of 2 and 3 lend to 4 and 5: the originals are proven on a path of their own."""
    layer_map = LayerMap.parse("blocks:2,4", 6)
    lending = Lending({6: (4, 5), 7: (4, 5)}, {4: (2, 3), 5: (2, 3)})
    assert covering_paths(layer_map, lending) == [(0, 1, 2, 3), (0, 1, 4, 5, 6, 7)]
