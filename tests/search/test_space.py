"""The windows of a model: legal ones, illegal ones with their rule, and those of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from rys_gguf import Model
from rys_gguf.errors import InvalidLayerMap, RysError
from rys_gguf.layers.blocks import Form
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.search.settings import SweepPlan
from rys_gguf.search.space import Selection, Windows, coarse, every, fine, listed, most_fine
from tests import tiny


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    """Sixteen layers, any of which may be repeated."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 16)) as model:
        return Windows(model, Schedule.PORTABLE)


def test_equal_maps_are_one_candidate(tmp_path: Path, windows: Windows) -> None:
    """However they were written; comments and empty lines do not count."""
    path = tmp_path / "w.txt"
    path.write_text("8,12\nblocks:8,12  # again\n\nlayers:0..11,8..15\nblocks:2,4;6,8\n")
    chosen = listed(windows, path)
    assert [c.key for c in chosen.candidates] == ["0-11,8-15", "0-3,2-7,6-15"]
    path.write_text("(8,12)\n[8, 12]\nlayers:..11,8..\nlayers:..7,8..11x2,12..\n")
    assert [c.key for c in listed(windows, path).candidates] == ["0-11,8-15"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8,12\n12,8\n", "line 2"),
        ("# none\n", "no windows"),
        ("8,99\n", "line 1"),
        ("0..7,4..15\n", r"write layers:0\.\.7,4\.\.15"),
        ("8-11\n", "write 8,12"),
        ("slices:\n", "that is a mergekit recipe: plan and apply read its file"),
    ],
)
def test_a_wrong_list_is_named_with_its_line(
    tmp_path: Path, windows: Windows, text: str, message: str
) -> None:
    """A file that lists nothing, or is not text, is named as well."""
    path = tmp_path / "w.txt"
    path.write_text(text)
    with pytest.raises(RysError, match=message):
        listed(windows, path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RysError, match="not UTF-8 text"):
        listed(windows, path)


def test_illegal_windows_are_listed_with_their_rule(tmp_path: Path) -> None:
    """A period of 6 layers allows windows of 6; an explicit schedule allows any."""
    with Model(tiny.write(tmp_path / "g.gguf", "gemma3", 12)) as model:
        windows = Windows(model, Schedule.PORTABLE)
        explicit = Windows(model, Schedule.EXPLICIT)
    chosen = coarse(windows, 3, 1)
    assert not chosen.candidates
    assert len(chosen.illegal) == 10
    assert "period 6" in chosen.illegal[0].rule
    assert windows.legal_size(8) == 6
    assert len(fine(windows, [(0, 6)], 6, 2).candidates) == 3
    assert explicit.legal_size(8) == 8


def test_the_first_pass_reaches_the_last_layer(windows: Windows) -> None:
    """Windows of one size, a stride apart, and the last one that the model has."""
    chosen = coarse(windows, 5, 4)
    assert [c.window for c in chosen.candidates] == [(0, 5), (4, 9), (8, 13), (11, 16)]


def test_the_second_pass_stays_around_the_best_two(windows: Windows) -> None:
    """A third window adds nothing; there are never more windows than announced."""
    zone = [(4, 8), (10, 14), (0, 4)]
    chosen = fine(windows, zone, 2, 1)
    found = {c.window for c in chosen.candidates}
    assert found == {(i, i + 2) for i in (*range(3, 8), *range(9, 14))}
    assert len(found) <= most_fine(4, 2, 1)


def test_a_map_has_every_window_of_its_sizes(windows: Windows) -> None:
    """Each window occurs once, whatever the order of the sizes."""
    chosen = every(windows, (3, 2, 3))
    expected = {(i, i + d) for d in (2, 3) for i in range(16 - d + 1)}
    assert {c.window for c in chosen.candidates} == expected
    assert len(chosen.candidates) == len(expected)


def test_all_windows_are_damped_alike(tmp_path: Path) -> None:
    """But for those of a file that say themselves what damps them."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 8)) as model:
        windows = Windows(model, Schedule.PORTABLE, 0.5)
    assert [c.spec for c in coarse(windows, 6, 2).candidates] == [
        "blocks:0,6@0.5",
        "blocks:2,8@0.5",
    ]
    path = tmp_path / "w.txt"
    path.write_text("2,4\n2,4@0.25\n2,4@0.5\nlayers:0..5,5..\n")
    assert [c.spec for c in listed(windows, path).candidates] == [
        "blocks:2,4@0.5", "blocks:2,4@0.25", "blocks:5,6@0.5",
    ]  # fmt: skip
    path.write_text("2,4\nlayers:0..5\n")
    with pytest.raises(RysError, match=r"w\.txt, line 2: .*there is no copy to damp"):
        listed(windows, path)


def test_windows_that_cannot_be_damped_are_illegal(tmp_path: Path) -> None:
    """With the tensor that nothing multiplies; a whole model of them has no window."""
    with Model(tiny.write(tmp_path / "q.gguf", "qwen2", 8)) as model:
        windows = Windows(model, Schedule.PORTABLE, 0.5)
    chosen = coarse(windows, 6, 2)
    assert not chosen.candidates
    assert "nothing into all that blk.0.attn_output adds" in chosen.illegal[0].rule
    with pytest.raises(RysError, match="no layer of it can"):
        windows.legal_size(6)


def test_only_a_damped_plan_says_so() -> None:
    """So that runs of earlier versions go on."""
    assert "damp" not in SweepPlan("map", (4,)).as_json()
    assert SweepPlan("map", (4,), damp=0.5).as_json()["damp"] == 0.5


def test_a_window_is_tried_in_all_forms(tmp_path: Path) -> None:
    """Each form is a candidate of its own at the window's place; one layer has no form by layer."""
    forms = SweepPlan("map", (), passes=(3, 2), mode="both").forms
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 4)) as model:
        windows = Windows(model, Schedule.PORTABLE, forms=forms)
        damped = Windows(model, Schedule.PORTABLE, 0.5, forms)
    chosen = every(windows, (3, 1)).candidates
    assert [c.spec for c in chosen if c.window == (1, 4)] == [
        "blocks:1,4", "blocks:1,2;2,3;3,4",
        "blocks:1,4;1,4", "blocks:1,2;1,2;2,3;2,3;3,4;3,4",
    ]  # fmt: skip
    assert [c.spec for c in chosen if c.window == (2, 3)] == ["blocks:2,3", "blocks:2,3;2,3"]
    assert len(chosen) == 2 * 4 + 4 * 2
    assert "blocks:1,4@0.5;1,4@0.5" in [c.spec for c in every(damped, (3,)).candidates]


def test_many_candidates_are_said_in_few_words(tmp_path: Path, windows: Windows) -> None:
    """By the lengths of windows, however often these run; a few are named one by one."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 16)) as model:
        wide = Windows(model, Schedule.PORTABLE, forms=(Form(3), Form(3, by_layer=True)))
    chosen = every(wide, (2, 3))
    assert chosen.in_words() == "58 windows of 2 or 3 layers in 2 forms"
    assert every(windows, (12,)).in_words() == ", ".join(f"blocks:{i},{i + 12}" for i in range(5))
    pairs = windows.choose(LayerMap.parse(f"blocks:{i},{i + 1};14,16", 16) for i in range(13))
    many = Selection((*pairs.candidates, *every(windows, (8,)).candidates), ())
    assert many.in_words() == "22 layer maps, blocks:0,1;14,16 to blocks:8,16"


def test_a_form_that_no_engine_can_load_is_refused(tmp_path: Path) -> None:
    """llama.cpp stops at 512 layers."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 16)) as model:
        windows = Windows(model, Schedule.PORTABLE, forms=(Form(99),))
    with pytest.raises(InvalidLayerMap, match=r"llama\.cpp stops at 512"):
        every(windows, (8,))


def test_layers_of_a_pattern_repeat_only_where_the_rule_allows(tmp_path: Path) -> None:
    """Each of six layers twice shifts the kinds of those behind it, unlike the six as a whole."""
    forms = (Form(by_layer=True),)
    with Model(tiny.write(tmp_path / "g.gguf", "gemma3", 12)) as model:
        portable = every(Windows(model, Schedule.PORTABLE, forms=forms), (6,))
        explicit = every(Windows(model, Schedule.EXPLICIT, forms=forms), (6,))
    assert not portable.candidates
    assert "period 6" in portable.illegal[0].rule
    assert len(explicit.candidates) == 7


def test_what_a_plan_adds_is_part_of_its_identity() -> None:
    """And says nothing where it adds nothing, so that runs of earlier versions go on."""
    plain = SweepPlan("map", (4,)).as_json()
    assert not {"passes", "mode", "max_blocks", "beam"} & plain.keys()
    assert SweepPlan("map", (4,), beam=3).as_json() == plain, "nothing is combined"
    wide = SweepPlan("map", (4,), passes=(3, 2), mode="both", max_blocks=2).as_json()
    assert wide == {**plain, "passes": [2, 3], "mode": "both", "max_blocks": 2, "beam": 8}
