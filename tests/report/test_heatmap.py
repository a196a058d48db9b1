"""Maps as values: what became of each window, and what colour scale that gives."""

from __future__ import annotations

from dataclasses import replace

from rys_gguf.report.content import Content
from rys_gguf.report.heatmap import DROPPED, FAILED, ILLEGAL, NOISE, Heatmap
from rys_gguf.report.sentences import next_step
from rys_gguf.report.text_map import text_map
from tests.fake_runs import WINNER, FakeRun, add_map, make_run, name_of


def map_of(run: FakeRun, name: str = "overall") -> Heatmap:
    """One map of a run."""
    return next(h for h in Content.of(run).maps if h.name == name)


def states(run: FakeRun) -> dict[tuple[int, int], str]:
    """States by window on the overall map."""
    return {c.window: c.state for c in map_of(run).cells}


def looping() -> FakeRun:
    """A run whose search winner loops, which the stage after the rounds found."""
    run = make_run(0, finalists=((9, 13), (2, 6)))
    last = next(r for r in run.results if r["candidate"] == name_of(WINNER))
    run.results.append(
        {**last, "stage": "loops", "status": "dropped", "reason": "loops: 3 of 4", "measures": {}}
    )
    return run


def test_cells_know_their_state() -> None:
    """The winner is clear, equal windows are noise, and what did not run is told apart."""
    found = states(make_run(0))
    assert found[WINNER] == "clear"
    assert found[0, 4] == DROPPED
    assert found[20, 24] == FAILED
    assert found[5, 8] == ILLEGAL
    null = states(make_run(4, gain={(i, i + 4): 0.0 for i in range(21)}))
    assert sum(state == NOISE for state in null.values()) >= 12, "of 19 windows"


def test_a_window_that_loops_is_not_ringed() -> None:
    """Its cell is hatched, and the ring goes to the next best."""
    run = looping()
    assert states(run)[WINNER] == DROPPED
    assert map_of(run).best not in (None, WINNER)


def test_a_window_whose_speed_is_unknown_keeps_its_cell() -> None:
    """A failed measurement of speed says nothing about its answers."""
    run = make_run(0)
    (speed,) = (
        r for r in run.results if r["candidate"] == name_of(WINNER) and r["stage"] == "speed"
    )
    speed.update(status="failed", reason="llama.cpp ended", measures={})
    assert states(run)[WINNER] == "clear"
    assert map_of(run).best == WINNER


def test_the_ring_is_on_the_first_of_the_ranking() -> None:
    """Map and ranking show one winner."""
    content = Content.of(make_run(0))
    assert content.maps[0].best == content.ranking.ranks[0].trial.candidate.window == WINNER


def test_one_family_has_one_map() -> None:
    """Overall and that family would be the same picture twice."""
    run = make_run(0)
    run.items = [line for line in run.items if line["family"] == "math"]
    found = Content.of(run).maps
    assert [h.name for h in found] == ["overall", "damage"]
    assert found[0].title.startswith("overall (math): ")
    assert [h.name for h in Content.of(make_run(0)).maps] == [
        "overall", "math", "eq", "reasoning", "damage",
    ]  # fmt: skip


def test_the_scale_is_symmetric_and_clipped() -> None:
    """A value beyond the full colour has the full colour."""
    found = map_of(make_run(0))
    assert found.shade(10.0) == 1.0
    assert found.shade(-10.0) == -1.0
    assert found.shade(0.0) == 0.0


def test_a_map_without_values_has_a_scale() -> None:
    """There is a report before the first round ends."""
    run = make_run(0, final=False)
    run.items = []
    found = map_of(run)
    assert found.limit == 1.0
    assert found.best is None
    assert found.best_text == ""


def test_a_cell_describes_itself() -> None:
    """Window, value, and why it is not a candidate any more."""
    found = map_of(make_run(0))
    words = {c.window: found.describe(c) for c in found.cells}
    assert words[WINNER].startswith("blocks:10,14 +")
    assert words[0, 4] == "blocks:0,4: dropped - divergence 9.5 nats is above 5"
    assert words[5, 8] == "blocks:5,8: illegal - output 8 would run as another kind"


def test_a_place_shows_the_best_of_its_forms_and_says_which() -> None:
    """Three passes that did better take the cell; a form that was not legal takes none from it."""
    run = make_run(0, final=False)
    key = add_map(run, "blocks:10,14;10,14", WINNER, 0.05)
    by_layer = "blocks:10,11;11,12;12,13;13,14"
    add_map(run, by_layer, WINNER, -0.05)
    run.raw["illegal"] += [
        {"spec": "blocks:9,13;9,13", "rule": "not three times"},
        {"spec": "blocks:5,8;5,8", "rule": "nor here"},
    ]
    maps = {h.name: h for h in Content.of(run).maps}
    found = maps["overall"]
    (cell,) = (c for c in found.cells if c.window == WINNER)
    assert (cell.candidate, cell.spec, cell.n_others) == (key, "blocks:10,14;10,14", 2)
    assert found.best == WINNER
    assert found.best_text.startswith("best blocks:10,14;10,14 at +")
    assert found.describe(cell).endswith(", best of 3 here")
    assert found.remarks == ("of a window in several forms the best is shown",)
    assert all(c.state != ILLEGAL for c in found.cells if c.window == (9, 13))
    (illegal,) = (c for c in found.cells if c.window == (5, 8))
    assert (illegal.state, illegal.note) == (ILLEGAL, "output 8 would run as another kind")
    (divergence,) = (c for c in maps["damage"].cells if c.window == WINNER)
    assert (divergence.value, divergence.n_others) == (0.2, 2)


def test_several_windows_have_no_place_and_are_counted() -> None:
    """The ranking has them; the map says how many are missing."""
    run = make_run(0, final=False)
    assert map_of(run).remarks == ()
    add_map(run, "blocks:2,6;10,14", WINNER, 0.05)
    found = map_of(run)
    assert found.remarks == ("1 map of several windows or another path has no place here",)
    assert found.best == WINNER
    assert f"      {found.remarks[0]}" in list(text_map(found, ascii_only=True))
    many = replace(found, n_elsewhere=2)
    assert many.remarks == ("2 maps of several windows or another path have no place here",)


def test_the_front_weighs_gain_against_layers_of_any_map() -> None:
    """A combination is on it only if it gains more than what has fewer layers."""
    run = make_run(0)
    add_map(run, "blocks:2,6;10,14", WINNER)
    add_map(run, "blocks:10,11;11,12", WINNER)
    content = Content.of(run)
    same = content.held_out["blocks:10,14"][0]
    assert content.held_out["blocks:2,6;10,14"] == (same, 8)
    assert content.front == ("blocks:10,11;11,12",), "two layers for the same gain"
    step = next_step(content.verdicts, content.evidence.info)
    assert "rys-gguf apply tiny-instruct.Q4_1.gguf --blocks 2,6 --blocks 10,14" in step.commands
