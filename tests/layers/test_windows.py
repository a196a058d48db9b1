"""Which windows are legal, and what a refusal says."""

from __future__ import annotations

from pathlib import Path

import pytest

from rys_gguf import LayerMap, Model, Refused, Schedule, make_plan
from rys_gguf.layers.carry import ModelRules, metadata_of
from rys_gguf.layers.rule import Architecture, Rule
from rys_gguf.layers.rules import Anchored, CountSwitch, Periodic, Unsupported
from rys_gguf.layers.windows import is_legal, legal_windows, nearest_windows
from tests import tiny
from tests.disk import write_llama
from tests.layers.metadata import meta

EVEN = Periodic("a", "b", 2, array="flags", array_read_by="somebody")


def rules(*of: Rule, n: int = 6) -> ModelRules:
    """A model of n layers under these rules."""
    return ModelRules(Architecture("a", of, ""), meta(n))


def refused(path: Path, spec: str, *of: Rule, schedule: Schedule = Schedule.PORTABLE) -> str:
    """The message that refuses a map of a model of six layers."""
    with Model(write_llama(path / "m.gguf", 6)) as model:
        own = ModelRules(Architecture("llama", of, ""), metadata_of(model))
        with pytest.raises(Refused) as caught:
            make_plan(model, LayerMap.parse(spec, 6), schedule=schedule, rules=own)
    return str(caught.value)


def test_legal_windows_are_those_without_conflicts() -> None:
    """With kinds of period 2, those of an even length."""
    for n in range(1, 7):
        windows = list(legal_windows(rules(EVEN), Schedule.PORTABLE, n))
        assert len(windows) == (0 if n % 2 else 7 - n)
        assert all(is_legal(rules(EVEN), w, Schedule.PORTABLE) for w in windows)
    assert len(list(legal_windows(rules(EVEN), Schedule.EXPLICIT, 3))) == 4


def test_a_window_past_the_engines_limit_is_not_legal() -> None:
    """llama.cpp stops at 512 layers."""
    assert not is_legal(rules(n=300), (0, 300), Schedule.PORTABLE)
    assert is_legal(rules(n=300), (0, 200), Schedule.PORTABLE)


def test_the_nearest_windows_move_their_ends_least() -> None:
    """By the sum of both moves, then by the change of length."""
    assert nearest_windows(rules(EVEN), (1, 4), Schedule.PORTABLE) == [(0, 4), (1, 3), (1, 5)]
    assert nearest_windows(rules(EVEN), (1, 4), Schedule.PORTABLE, limit=1) == [(0, 4)]


def test_a_refusal_names_reason_neighbours_and_cure(tmp_path: Path) -> None:
    """Everything that helps is in it."""
    message = refused(tmp_path, "blocks:1,4", EVEN)
    assert message.startswith("m.gguf: blocks:1,4 would not compute what it says (schedule port")
    assert "nearest legal windows: blocks:0,4, blocks:1,3, blocks:1,5" in message
    assert message.endswith("or --schedule explicit: llama.flags lists each layer's kind: somebody")


def test_a_cure_of_several_parts_is_one_cure(tmp_path: Path) -> None:
    """gemma3 of 62 layers needs a list of kinds and another scale, with one option."""
    path = tiny.write(tmp_path / "m.gguf", "gemma3", 62)
    with Model(path) as model, pytest.raises(Refused) as caught:
        make_plan(model, LayerMap.parse("blocks:5,8", 62))
    *_, cure, more = str(caught.value).splitlines()
    assert cure.startswith(
        "  or --schedule explicit: gemma3.attention.sliding_window_pattern lists"
    )
    assert more.startswith("    and blk.N.attn_q_norm.weight multiplied by ")
    assert str(caught.value).count("--schedule explicit") == 1


def test_a_refusal_of_several_windows_names_no_neighbours(tmp_path: Path) -> None:
    """Which of them would have to move is not for a message to say."""
    for spec in ("blocks:1,2;4,5", "layers:5,0..4"):
        assert "windows" not in refused(tmp_path, spec, EVEN).replace(spec, "")


def test_where_no_window_is_legal_it_is_said(tmp_path: Path) -> None:
    """A rule for the count leaves none."""
    message = refused(tmp_path, "blocks:1,2", CountSwitch(None, "the scale"))
    assert "no window of this model is legal under this schedule" in message
    assert "explicit" not in message


def test_a_final_reason_is_all_there_is_to_say(tmp_path: Path) -> None:
    """No other map would do either."""
    message = refused(tmp_path, "blocks:1,2", Unsupported("it loops"), Anchored(3, "x"))
    assert message == "m.gguf: no layers of 'llama' can be repeated: it loops"


def test_a_map_of_another_model_is_refused(tmp_path: Path) -> None:
    """Its number of layers must be the model's."""
    with (
        Model(write_llama(tmp_path / "m.gguf", 6)) as model,
        pytest.raises(Refused, match="the map is for 5 layers, the model has 6"),
    ):
        make_plan(model, LayerMap.parse("blocks:1,2", 5))
