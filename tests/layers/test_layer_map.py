"""The spec grammar and the layer map."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.layers.layer_map import LayerMap, join_blocks

SAME_MAP = [
    ("blocks:2,4", 6, [0, 1, 2, 3, 2, 3, 4, 5]),
    ("layers:0..3,2..5", 6, [0, 1, 2, 3, 2, 3, 4, 5]),
    ("layers:0..1,2,3,2,3,4..5", 6, [0, 1, 2, 3, 2, 3, 4, 5]),
    ("blocks: 2 , 4 ", 6, [0, 1, 2, 3, 2, 3, 4, 5]),
    ("blocks:0,6", 6, [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]),
    ("blocks:1,2;4,5", 6, [0, 1, 1, 2, 3, 4, 4, 5]),
    ("blocks:4,5;1,2", 6, [0, 1, 1, 2, 3, 4, 4, 5]),
    ("blocks:2,4;2,4", 6, [0, 1, 2, 3, 2, 3, 2, 3, 4, 5]),
    # The second window ends inside the first one's copy: it goes after the last copy of layer 3.
    ("blocks:2,4;3,4", 6, [0, 1, 2, 3, 2, 3, 3, 4, 5]),
    ("blocks:2,4;3,5", 6, [0, 1, 2, 3, 2, 3, 4, 3, 4, 5]),
    ("layers:5,4,3,2,1,0", 6, [5, 4, 3, 2, 1, 0]),
    ("layers:0..2,5", 6, [0, 1, 2, 5]),
    ("layers:0..13,10..13,14..29", 30, [*range(14), *range(10, 30)]),
    ("blocks:(2,4)", 6, [0, 1, 2, 3, 2, 3, 4, 5]),
    ("blocks:[1, 2]; [4,5)", 6, [0, 1, 1, 2, 3, 4, 4, 5]),
    ("layers:..3,2..", 6, [0, 1, 2, 3, 2, 3, 4, 5]),
    ("layers:..,4..", 6, [0, 1, 2, 3, 4, 5, 4, 5]),
    ("layers: .. 3 , 2 .. ", 6, [0, 1, 2, 3, 2, 3, 4, 5]),
    ("layers:0..1,2..3x3,4..5", 6, [0, 1, 2, 3, 2, 3, 2, 3, 4, 5]),
    ("layers:..2,3x2,4x1,5 x 3", 6, [0, 1, 2, 3, 3, 4, 5, 5, 5]),
    ("layers:..x2", 3, [0, 1, 2, 0, 1, 2]),
    ("layers:2x2,0x2", 3, [2, 2, 0, 0]),
    ("layers:[0, 1, 2, 3, 2, 3, 4, 5]", 6, [0, 1, 2, 3, 2, 3, 4, 5]),
    ("layers:[5]", 6, [5]),
    ("Blocks:2,4", 6, [0, 1, 2, 3, 2, 3, 4, 5]),
]


@pytest.mark.parametrize(("spec", "n", "sources"), SAME_MAP)
def test_a_spec_means_its_sources(spec: str, n: int, sources: list[int]) -> None:
    """Both notations give the documented list of sources."""
    assert list(LayerMap.parse(spec, n).sources) == sources


def test_the_published_example_has_its_four_seam_points() -> None:
    """blocks:15,20 on 64 layers gives 69, with the stretches and seams of the RYS description."""
    layer_map = LayerMap.parse("blocks:15,20", 64)
    assert len(layer_map) == 69
    assert [str(stretch) for stretch in layer_map.stretches()] == [
        "output 0..19 <- source 0..19",
        "output 20..24 <- source 15..19",
        "output 25..68 <- source 20..63",
    ]
    assert layer_map.seams() == ((19, 19), (20, 15), (24, 19), (25, 20))


BAD = [
    ("blocks:8", "expected i,j", "8"),
    ("blocks:", "expected i,j", None),
    ("blocks:8,12;", "expected i,j", None),
    ("blocks:12,8", "copies nothing", "12,8"),
    ("blocks:8,8", "copies nothing", "8,8"),
    ("blocks:(0,0)", "in RYS it is the model as it is", "(0,0)"),
    ("blocks:8,31", "31 is past the end", "8,31"),
    ("blocks:-1,4", "'-1' is not a layer number", "-1,4"),
    ("blocks:8-12", "expected i,j", "8-12"),
    ("blocks:8,12,14", "'12,14' is not a layer number", "8,12,14"),
    ("blocks:(8,12", "'(8' is not a layer number", "(8,12"),
    ("blocks:٣,12", "is not a layer number", None),
    ("blocks:1_0,12", "is not a layer number", "1_0,12"),
    ("layers:0..40", "layer 40 does not exist", "0..40"),
    ("layers:40..", "layer 40 does not exist", "40.."),
    ("layers:0..3,x..4", "'x' is not a layer number", "x..4"),
    ("layers:0..3,..y", "'y' is not a layer number", "..y"),
    ("layers:0..3,,4", "expected a layer number", None),
    ("layers:0..3,9..5", "runs backwards", "9..5"),
    ("layers:0..3,4x0", "x0 passes nothing", "4x0"),
    ("layers:0,...,3", "'...' is not a layer number", "..."),
    ("layers:4..5x3", "a model of 6 layers, without all others", "4..5x3"),
    ("layers:0..3,4x", "'4x' is not a layer number", "4x"),
    ("layers:0-3", "'0-3' is not a layer number", "0-3"),
    ("layers:[0,1,x]", "'x' is not a layer number", "x"),
    ("layers: [8,12]", "may be a window or two layers", "[8,12]"),
    ("layers:", "expected a layer number", None),
    ("8,12", "expected blocks:i,j", "8,12"),
    ("", "expected blocks:i,j", None),
    ("layers:0..29", "nothing to change", None),
]


@pytest.mark.parametrize(("spec", "message", "marked"), BAD)
def test_a_bad_spec_is_refused_at_the_bad_part(spec: str, message: str, marked: str | None) -> None:
    """The message gives the fault and the range, with carets under the faulty part."""
    with pytest.raises(InvalidLayerMap) as caught:
        LayerMap.parse(spec, 30)
    text = str(caught.value)
    assert message in text
    if "nothing to change" not in message and "expected blocks" not in message:
        assert "0..29" in text
        _, shown, carets, *hint = text.split("\n")
        assert len(hint) <= 1
        if marked is not None:
            assert shown[carets.index("^") : carets.rindex("^") + 1] == marked


@pytest.mark.parametrize("spec", ["blocks:" + ";".join(["0,300"] * 2), "layers:" + "0..299," * 2])
def test_more_than_512_layers_are_refused(spec: str) -> None:
    """llama.cpp's limit is checked before a list of any size is built."""
    with pytest.raises(InvalidLayerMap, match=str(MAX_LAYERS)):
        LayerMap.parse(spec.rstrip(","), 300)


def test_a_control_character_in_a_spec_does_not_reach_the_message() -> None:
    """A pasted spec is escaped before it is printed."""
    with pytest.raises(InvalidLayerMap) as caught:
        LayerMap.parse("blocks:1,\x1b[2J", 30)
    assert "\x1b" not in str(caught.value)


def test_repeated_blocks_options_join_into_one_spec() -> None:
    """Recipes may be pasted with or without their prefix."""
    assert join_blocks(["8,12", "blocks:14,16"]) == "blocks:8,12;14,16"


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("blocks:8,12", "rys_8-11"),
        ("blocks:7,11;7,11", "rys_7-10_7-10"),
        ("layers:0..11,8..23", "rys_8-11"),
        ("layers:0..2,5..23", "rys_path_0-2_5-23"),
        ("blocks:8,12@0.5", "rys_8-11x0.5"),
        ("layers:0..2,5@0,6..23", "rys_path_0-2_5x0_6-23"),
    ],
)
def test_labels_are_those_of_published_files(spec: str, label: str) -> None:
    """A window's label has both ends included."""
    assert LayerMap.parse(spec, 24).label == label


maps = st.integers(1, 40).flatmap(
    lambda n: st.lists(
        st.tuples(st.integers(0, n - 1), st.sampled_from([1.0, 1.0, 0.5, 0.0]) | st.floats(0, 1)),
        min_size=1,
        max_size=60,
    ).map(lambda path: LayerMap(n, tuple(s for s, _ in path), tuple(damp for _, damp in path)))
)


@given(maps)
def test_the_canonical_spec_parses_to_the_same_map(layer_map: LayerMap) -> None:
    """Equal maps have equal specs, and the spec describes the whole map."""
    if not layer_map.is_identity:
        assert LayerMap.parse(layer_map.spec, layer_map.n_source) == layer_map
    assert len(layer_map.label) < 60


@given(maps)
def test_runs_cover_every_output_once(layer_map: LayerMap) -> None:
    """The stretches put together are the map, and seams are points of it."""
    rebuilt = [s.source + k for s in layer_map.stretches() for k in range(s.n_layers)]
    assert rebuilt == list(layer_map.sources)
    assert all(layer_map[out] == source for out, source in layer_map.seams())


@given(
    st.integers(2, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))), st.data()
)
def test_a_window_follows_the_piecewise_rule(n_and_i: tuple[int, int], data: st.DataObject) -> None:
    """The source is out below j, i + (out - j) in the copy, and out - (j - i) behind it."""
    n, i = n_and_i
    j = data.draw(st.integers(i + 1, n))
    layer_map = LayerMap.from_blocks([(i, j)], n)
    for out, source in enumerate(layer_map.sources):
        if out < j:
            assert source == out
        elif out < j + (j - i):
            assert source == i + (out - j)
        else:
            assert source == out - (j - i)
    assert layer_map.windows() == ((i, j),)
    assert layer_map.spec == f"blocks:{i},{j}"


@pytest.mark.parametrize(
    ("n", "sources", "message"),
    [
        (4, (), "the layer map is empty"),
        (4, (0,) * 513, "the layer map has 513 layers; llama.cpp stops at 512"),
        (4, (0, 4), r"output 1 <- source 4: the model has layers 0\.\.3"),
        (4, (-1,), "output 0 <- source -1"),
        (513, (0, 1), "of 513 source layers; llama.cpp stops at 512"),
    ],
)
def test_sources_must_be_layers_of_the_model(
    n: int, sources: tuple[int, ...], message: str
) -> None:
    """A map made without a spec is checked as well."""
    with pytest.raises(InvalidLayerMap, match=message):
        LayerMap(n, sources)


@pytest.mark.parametrize("window", [(2, 2), (3, 2), (-1, 2), (2, 7)])
def test_a_window_must_lie_in_the_model(window: tuple[int, int]) -> None:
    """The message gives the condition."""
    with pytest.raises(InvalidLayerMap, match="need 0 <= i < j <= 6"):
        LayerMap.from_blocks([window], 6)


def test_a_map_that_only_looks_like_windows_has_none() -> None:
    """Inserting them would give more layers than llama.cpp takes, or another end or beginning."""
    assert LayerMap(300, (*range(300), *range(1, 200), *range(1, 14))).windows() is None
    assert LayerMap(6, (0, 1, 0, 1)).spec == "layers:0..1,0..1"
    assert LayerMap(6, (1, 2)).windows() is None


def test_a_map_is_a_sequence_of_sources() -> None:
    """Length, single outputs, and the copies of a layer."""
    layer_map = LayerMap.parse("blocks:2,4", 6)
    assert (len(layer_map), layer_map[4], layer_map.n_added) == (8, 2, 2)
    assert layer_map.outputs_of(2) == (2, 4)
    assert LayerMap.parse("layers:0", 6).n_added == -5
    assert LayerMap.identity(3).is_identity


@pytest.mark.parametrize(
    ("spec", "damping"),
    [
        ("blocks:2,4@0.5", (1, 1, 1, 1, 0.5, 0.5, 1, 1)),
        ("blocks:2,4 @ .5", (1, 1, 1, 1, 0.5, 0.5, 1, 1)),
        ("layers:..3,2..3@0.5,4..", (1, 1, 1, 1, 0.5, 0.5, 1, 1)),
        ("blocks:2,4@0;5,6@0.25", (1, 1, 1, 1, 0, 0, 1, 1, 0.25)),
        ("layers:0,1x2@1e-05", (1, 1e-05, 1e-05)),
        ("blocks:2,4@1", ()),
    ],
)
def test_at_a_factor_a_part_is_damped(spec: str, damping: tuple[float, ...]) -> None:
    """All outputs of that part are, and no other."""
    assert LayerMap.parse(spec, 6).damping == damping


@pytest.mark.parametrize("factor", ["", "1.5", "-1", "half", "nan", "1e9", "0.5.5"])
def test_a_factor_is_a_number_from_0_to_1(factor: str) -> None:
    """The message shows it."""
    with pytest.raises(InvalidLayerMap, match="damps nothing: expected @ and 0 to 1"):
        LayerMap.parse(f"blocks:2,4@{factor}", 6)


@given(maps, st.floats(0, 1, exclude_max=True))
def test_every_pass_but_the_first_is_damped(layer_map: LayerMap, factor: float) -> None:
    """However the passes came about."""
    plain = layer_map.undamped
    if len(set(plain.sources)) == len(plain.sources):
        with pytest.raises(InvalidLayerMap, match="there is no copy to damp"):
            plain.damped(factor)
        return
    damped = plain.damped(factor)
    for out, source in enumerate(plain.sources):
        is_first = plain.outputs_of(source)[0] == out
        assert damped.damp(out) == (1 if is_first else factor)
    with pytest.raises(InvalidLayerMap, match="is damped already"):
        damped.damped(factor)


def test_windows_that_are_damped_alike_stay_windows() -> None:
    """Others are a path."""
    assert LayerMap.parse("blocks:2,4;3,5", 6).damped(0.5).spec == "blocks:2,4@0.5;3,5@0.5"
    assert LayerMap.parse("blocks:2,4@0.5;4,5", 6).spec == "layers:0..3,2..3@0.5,4,4..5"
    assert LayerMap.parse("blocks:2,4@0.5", 6).windows() is None
    assert LayerMap(2, (0, 1, 1), (1, 1, -0.0)).spec == "blocks:1,2@0"


@pytest.mark.parametrize(
    ("damping", "message"),
    [((1.0,), "1 factors damp the 2 layers"), ((1.0, 2.0), "output 1 is damped by 2, expected")],
)
def test_each_output_has_a_factor_from_0_to_1(damping: tuple[float, ...], message: str) -> None:
    """A map made without a spec is checked as well."""
    with pytest.raises(InvalidLayerMap, match=message):
        LayerMap(2, (0, 1), damping)
