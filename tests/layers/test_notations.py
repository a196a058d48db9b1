"""Recipes of other tools: taken if they mean one thing, else answered with what to write."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.layers.layer_map import LayerMap

N = 16


def answer(spec: str, n: int = N) -> str:
    """The last line of the error for a spec: what to write instead."""
    with pytest.raises(InvalidLayerMap) as caught:
        LayerMap.parse(spec, n)
    return str(caught.value).split("\n")[-1].strip()


def advised(spec: str, n: int = N) -> list[LayerMap]:
    """The maps of all specs that the error for `spec` says to write."""
    kind = spec.partition(":")[0]
    found = re.findall(r"\b(?:write|or) '?([a-z]*:?[0-9.][0-9.,;x]*)", answer(spec, n))
    specs = [text.rstrip(".,") if ".." not in text[-2:] else text for text in found]
    return [LayerMap.parse(text if ":" in text else f"{kind}:{text}", n) for text in specs]


# -- other tools, as their sources compute -------------------------------------------------------


def rys(windows: list[tuple[int, int]], n: int) -> list[int]:
    """RYS src/core/layer_config.py: every window goes behind the last copy of its last layer."""
    result = list(range(n))
    for i, j in windows:
        after = max(k for k, layer in enumerate(result) if layer == j - 1) + 1
        result = result[:after] + list(range(i, j)) + result[after:]
    return result


def exllamav3(text: str, n: int) -> list[int]:
    """exllamav3 util/misc.py: inclusive ranges whose ends may be open."""
    layers: list[int] = []
    for item in text.split(","):
        first, dots, last = item.partition("..")
        if dots:
            layers += range(int(first or 0), int(last or n - 1) + 1)
        else:
            layers.append(int(item))
    return layers


def mergekit(ranges: list[tuple[int, int]]) -> list[int]:
    """Slices of mergekit plan.py: each is range(*layer_range)."""
    return [layer for a, b in ranges for layer in range(a, b)]


half_open = (
    st.tuples(st.integers(0, N - 1), st.integers(1, N))
    .map(sorted)
    .filter(lambda ends: ends[0] < ends[1])
)
ranges = st.lists(half_open.map(tuple), min_size=1, max_size=6)
# A path whose numbers are half-open and whose last layers are the model's.
to_the_end = st.tuples(ranges, st.integers(0, N - 1)).map(lambda t: [*t[0], (t[1], N)])


def changes(sources: list[int]) -> bool:
    """Whether a map is not the model as it is, which no spec may describe."""
    return sources != list(range(N))


# -- taken ---------------------------------------------------------------------------------------


@given(ranges, st.sampled_from(["{},{}", "({},{})", "({}, {})", "[{}, {}]", "[{}, {})"]))
def test_windows_are_those_of_rys(windows: list[tuple[int, int]], form: str) -> None:
    """In whatever brackets they were printed."""
    spec = "blocks:" + ";".join(form.format(*window) for window in windows)
    assert list(LayerMap.parse(spec, N).sources) == rys(windows, N)


closed = half_open.map(lambda ends: (ends[0], ends[1] - 1))
exllamav3_items = st.one_of(
    st.integers(0, N - 1).map(str),
    closed.map(lambda ends: "{}..{}".format(*ends)),
    st.integers(0, N - 1).map("..{}".format),
    st.integers(0, N - 1).map("{}..".format),
    st.just(".."),
)


@given(st.lists(exllamav3_items, min_size=1, max_size=6).map(",".join))
def test_paths_are_those_of_exllamav3(text: str) -> None:
    """Open ranges among them."""
    sources = exllamav3(text, N)
    if changes(sources):
        assert list(LayerMap.parse(f"layers:{text}", N).sources) == sources
        if ".." not in text and "," in text[text.find(",") + 1 :]:
            assert list(LayerMap.parse(f"layers:[{text}]", N).sources) == sources


@given(st.lists(st.tuples(closed, st.integers(1, 4)), max_size=6))
def test_x_is_the_number_of_passes_in_all(items: list[tuple[tuple[int, int], int]]) -> None:
    """A range is passed as a whole: 2..3x2 is 2, 3, 2, 3."""
    items = [*items, ((0, N - 1), 1)]
    spec = "layers:" + ",".join(f"{a}..{b}x{n}" for (a, b), n in items)
    sources = [layer for (a, b), n in items for layer in [*range(a, b + 1)] * n]
    if changes(sources):
        assert list(LayerMap.parse(spec, N).sources) == sources


@given(st.sets(st.integers(0, N), min_size=2, max_size=8), st.integers(2, 4), st.data())
def test_repeated_layers_alone_are_no_model(
    cuts: set[int], n_times: int, data: st.DataObject
) -> None:
    """Nobody wants a model of 10, 10, 10: the answer keeps the other layers."""
    stretches = list(itertools.pairwise(sorted(cuts)))
    chosen = sorted(data.draw(st.sets(st.sampled_from(stretches), min_size=1)))
    spec = "layers:" + ",".join(f"{a}..{b - 1}x{n_times}" for a, b in chosen)
    repeated = {layer for a, b in chosen for layer in range(a, b)}
    if len(repeated) == N:
        assert len(LayerMap.parse(spec, N)) == n_times * N
    else:
        (whole,) = advised(spec)
        assert [len(whole.outputs_of(k)) for k in range(N)] == [
            n_times if k in repeated else 1 for k in range(N)
        ]
        windows = [window for window in chosen for _ in range(n_times - 1)]
        assert list(whole.sources) == rys(windows, N)


@pytest.mark.parametrize("spec", ["layers:0x513", "layers:0..1x999999999", "layers:..x33"])
def test_many_passes_are_refused_before_they_are_made(spec: str) -> None:
    """A number of nine digits must not fill the memory."""
    with pytest.raises(InvalidLayerMap, match=f"more than {MAX_LAYERS} layers"):
        LayerMap.parse(spec, N)


# -- answered ------------------------------------------------------------------------------------


@given(to_the_end)
def test_half_open_numbers_that_reach_the_end_are_noticed(path: list[tuple[int, int]]) -> None:
    """The number after the last layer gives them away; the answer means what mergekit makes."""
    spec = "layers:" + ",".join("{}..{}".format(*ends) for ends in path)
    if changes(mergekit(path)):
        assert [list(m.sources) for m in advised(spec)] == [mergekit(path)]
        assert "if the ends are exclusive" in answer(spec)


@given(to_the_end, st.sampled_from(["[{},{}]", "({}, {})"]), st.sampled_from(["{}", "[{}]"]))
def test_pairs_of_a_path_are_those_of_mergekit(
    path: list[tuple[int, int]], form: str, around: str
) -> None:
    """As they stand in its layer_range."""
    spec = "layers:" + around.format(", ".join(form.format(*ends) for ends in path))
    if changes(mergekit(path)) and len(path) > 1:
        assert [list(m.sources) for m in advised(spec)] == [mergekit(path)]


@given(ranges)
def test_slices_of_python_have_exclusive_ends(path: list[tuple[int, int]]) -> None:
    """Whichever option they were given to."""
    text = ",".join("{}:{}".format(*ends) for ends in path)
    if changes(mergekit(path)):
        assert [list(m.sources) for m in advised(f"layers:{text}")] == [mergekit(path)]
    if len(path) == 1 or path[0][0]:
        assert [list(m.sources) for m in advised(f"blocks:{text}")] == [rys(path, N)]


@given(st.lists(closed.map(tuple), min_size=1, max_size=6), st.sampled_from(["-", " - "]))
def test_ranges_with_a_dash_include_their_ends(path: list[tuple[int, int]], dash: str) -> None:
    """As paths, and as windows where they cannot be a path."""
    text = ",".join(f"{a}{dash}{b}" for a, b in path)
    wanted = mergekit([(a, b + 1) for a, b in path])
    if changes(wanted):
        assert [list(m.sources) for m in advised(f"layers:{text}")] == [wanted]
    if path[0][0]:
        for spec in (f"blocks:{text}", f"blocks:{text.replace(dash, '..')}"):
            assert [list(m.sources) for m in advised(spec)] == [
                rys([(a, b + 1) for a, b in path], N)
            ]


@given(half_open, st.integers(2, 8), st.sampled_from(["{},{}x{}", "({}, {})x{}", "{},{} * {}"]))
def test_a_number_of_passes_may_mean_two_things(ends: list[int], n: int, form: str) -> None:
    """All passes, or those that are added: both are spelled out."""
    window = (ends[0], ends[1])
    maps = advised(f"blocks:{form.format(*window, n)}")
    assert [list(m.sources) for m in maps] == [rys([window] * (n - 1), N), rys([window] * n, N)]


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("blocks:3..5", "write 3,6"),
        ("blocks:3-5", "write 3,6"),
        ("blocks:0:8", "write 0,8"),
        ("blocks:10:", "write 10,16"),
        ("blocks:3,6x3", "write '3,6;3,6' for 3 passes in all, or '3,6;3,6;3,6' for 3 extra"),
        ("blocks:3,6x1", "write 3,6 once for each extra pass"),
        ("blocks:(3,6),(10,14)", "write '3,6;10,14'"),
        ("blocks:[(3,6),(10,14)]", "write '3,6;10,14'"),
        ("blocks:7,8,9,10", "write 7,11"),
        ("blocks:0..7,4..15", "write layers:0..7,4..15; that is a path, for --layers"),
        ("blocks:..7,4..", "write layers:..7,4..; that is a path, for --layers"),
        ("blocks:0-7,4-15", "write layers:0..7,4..15, ends included; that is a path"),
        ("blocks:[0,8],[4,16]", "write layers:0..7,4..15 if the ends are exclusive"),
        ("blocks:..3,2x3,4..", "write layers:..3,2x3,4..; that is a path"),
        ("blocks:slices:", "that is a mergekit recipe: plan and apply read its file"),
        ("blocks:recipe.yml", "that is a mergekit recipe: plan and apply read its file"),
        ("layers:recipe.yaml", "that is a mergekit recipe: plan and apply read its file"),
        ("layers:0-7,3-11", "write 0..7,3..11, ends included"),
        ("layers:0..7,3-11,15", "write 0..7,3..11,15"),
        ("layers::8,4:", "write ..7,4..: ends are included here"),
        ("layers:0..8,4..12,8..16", "write 0..7,4..11,8..15 if the ends are exclusive"),
        ("layers:[0, 8], [4, 16]", "write 0..7,4..15 if the ends are exclusive"),
        ("layers:0,1,...,15,15", "write 0,1..15,15"),
        ("layers:[0,1,...]", "write 0,1..: a range has two dots and no commas"),
        ("layers:0...7", "write 0..7 if layer 7 belongs to it"),
        ("layers:0 1 2 3 3", "write 0,1,2,3,3, with commas"),
        ("layers:0..9,9..5", "write 9,8,7,6,5"),
        ("layers:10x3", "write ..9,10x3,11.. to keep the others"),
        ("layers:0..1x2,4x3,5x3,15x2", "write 0..1x2,2..3,4x3,5x3,6..14,15x2 to keep"),
        ("layers:[8,12]", "to repeat layers 8 to 11, write blocks:8,12, with --blocks"),
        ("(3,6)", "write blocks:(3,6)"),
        ("3,6;10,14", "write blocks:3,6;10,14"),
        ("..7,3..", "write layers:..7,3.."),
        ("[0,1,2,3,3]", "write layers:[0,1,2,3,3]"),
        ("0-7,3-15", "write layers:0..7,3..15"),
        ("3-5", "write blocks:3,6"),
        ("3,6x3", "write 'blocks:3,6;3,6' for 3 passes in all"),
        ("merge_method: passthrough", "that is a mergekit recipe: plan and apply read its file"),
        ("- sources:", "that is a mergekit recipe: plan and apply read its file"),
    ],
)
def test_other_notations_are_answered_with_the_right_one(spec: str, wanted: str) -> None:
    """What people paste is answered with what to write."""
    assert wanted in answer(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "layers:0..20,4..16",  # one number is further away than the end
        "layers:0..8,x",
        "layers:0,16",  # numbers alone have no ends
        "layers:8..0:4",
        "layers:5:3",
        "layers:9...5",
        "layers:[5,3],[4,4]",
        "blocks:14..16",
        "blocks:8,12,14",
        "blocks:a..b",
    ],
)
def test_no_advice_is_better_than_wrong_advice(spec: str) -> None:
    """Where nothing makes sense of a spec, the error stands alone."""
    assert "write" not in answer(spec)


# -- anything ------------------------------------------------------------------------------------


@given(
    st.one_of(
        st.text(),
        st.text("0123456789.,;:-x*()[] \u2026"),
        st.tuples(
            st.sampled_from(["blocks:", "layers:", "LAYERS:", " blocks :"]),
            st.one_of(st.text(), st.text("0189.,;:-x*()[] \u2026\n"), st.text("05.,x[]")),
        ).map("".join),
    ),
    st.integers(1, 40),
)
def test_any_text_is_a_map_or_an_error(text: str, n: int) -> None:
    """Nothing else comes out, the message can be printed, and the map says what it is."""
    layer_map, error = None, ""
    try:
        layer_map = LayerMap.parse(text, n)
    except InvalidLayerMap as e:
        error = str(e)
    assert all(line.isprintable() for line in error.split("\n"))
    if layer_map is not None:
        assert LayerMap.parse(layer_map.spec, n) == layer_map
