"""The report as data: one ranking, finite numbers, and cells that no spreadsheet runs."""

from __future__ import annotations

import csv
import json
import math
from typing import Any

import pytest

from rys_gguf.report import data
from rys_gguf.report.content import Content
from rys_gguf.report.data import candidates_csv, csv_cell, map_csv, report_json
from rys_gguf.report.tables import held_out_table
from tests.fake_runs import WINNER, FakeRun, make_run
from tests.report.test_page import hostile_run


def rows_of(run: FakeRun) -> list[dict[str, str]]:
    """report.csv of a run."""
    return list(csv.DictReader(candidates_csv(Content.of(run)).splitlines()))


def json_of(run: FakeRun) -> Any:
    """report.json of a run; NaN and infinities are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(report_json(Content.of(run)), parse_constant=refuse)


@pytest.mark.parametrize(
    "start", ["=", "+", "-", "@", " =", "  @", '"=', "\uff1d", "\uff0b", "\uff0d", "\uff20"]
)
def test_words_are_no_formulas(start: str) -> None:
    """Spreadsheets run cells that begin so, and in many countries a semicolon begins a cell."""
    assert csv_cell(f"{start}1+1") == f"'{start}1+1"
    assert csv_cell(f"a;{start}1+1") == f"a;'{start}1+1"
    for plain in ("blocks:1,2", "blocks:1,2;4,8", "a-b", "a = b"):
        assert csv_cell(plain) == plain


@pytest.mark.parametrize("start", ["\t", "\r", "\n"])
def test_control_characters_are_spelled_out(start: str) -> None:
    """They hide a formula from whoever looks at the first character."""
    assert csv_cell(f"{start}=1").lstrip("'")[0] == "\\"


@pytest.mark.parametrize(
    ("value", "cell"),
    [(-0.25, "-0.25"), (-3, "-3"), (1 / 3, "0.333333"), (math.inf, ""), (math.nan, ""), (None, "")],
)
def test_numbers_stay_numbers(value: float | None, cell: str) -> None:
    """A minus sign is no formula; what is not finite is no number."""
    assert csv_cell(value) == cell


def test_every_window_has_its_line() -> None:
    """A line tells what became of its window, and a finalist's line holds the verdict."""
    rows = rows_of(make_run(0))
    assert len(rows) == 21
    first = rows[0]
    assert (first["spec"], first["verdict"]) == ("blocks:10,14", "better")
    assert float(first["low"]) > 0
    assert {row["status"] for row in rows} == {"ok", "dropped", "failed"}
    assert rows[-1]["overall_credit"] == ""


def test_json_and_csv_agree() -> None:
    """They are two forms of one ranking and one set of verdicts."""
    run = make_run(0)
    rows, plain = rows_of(run), json_of(run)
    assert [row["spec"] for row in rows] == [rank["spec"] for rank in plain["ranking"]]
    words = {v["candidate"]: v["verdict"] for v in plain["verdicts"]}
    assert words == {row["candidate"]: row["verdict"] for row in rows if row["verdict"]}
    for row, rank in zip(rows, plain["ranking"], strict=True):
        gain = rank["gains"].get("overall")
        assert row["overall_credit"] == ("" if gain is None else f"{gain['mean']:.6g}")


def test_json_has_the_documented_fields() -> None:
    """A verdict with its effects, the next step, and what was not legal."""
    plain = json_of(make_run(0))
    assert plain["schema"] == 1
    assert plain["stage"] == "final"
    assert plain["run"]["id"] == "0123456789abcdef"
    best = plain["verdicts"][0]
    assert best["windows"] == [list(WINNER)]
    assert best["overall"]["low"] > 0
    assert best["overall"]["n"] == 340
    assert [e["name"] for e in best["families"]] == ["math", "eq", "reasoning"]
    assert {"wins", "losses"} <= best["families"][0].keys()
    assert plain["next_step"]["commands"] == [
        "rys-gguf apply tiny-instruct.Q4_1.gguf --blocks 10,14"
    ]
    assert plain["pareto_front"] == ["blocks:10,14"]
    assert plain["illegal"] == [
        {"spec": "blocks:5,8", "rule": "output 8 would run as another kind"}
    ]
    documented = data.__doc__ or ""
    for field in (*plain, *plain["run"], *best, *best["overall"], *plain["ranking"][0]):
        assert f"`{field}`" in documented, field


def test_json_of_a_search_and_of_one_item_is_finite() -> None:
    """An interval without ends is null, and so is the stage of a search."""
    assert json_of(make_run(0, final=False))["stage"] is None
    run = make_run(0)
    run.items = [
        x for x in run.items
        if x["stage"] != "final" or x["item"] == "h-math-0"
    ]  # fmt: skip
    effect = json_of(run)["verdicts"][0]["overall"]
    assert effect["n"] == 1
    assert effect["low"] is None


def test_hostile_words_are_ascii() -> None:
    """No control character, and no half of a pair, in either file."""
    content = Content.of(hostile_run())
    for text in (candidates_csv(content), report_json(content)):
        assert not set(text) & {"\x00", "\x1b", "\u202e", "\ud800"}
    assert report_json(content).isascii()


def test_map_csv() -> None:
    """A line for each window, values as fractions."""
    rows = list(csv.DictReader(map_csv(Content.of(make_run(0)).maps[0]).splitlines()))
    assert len(rows) == 22
    best = max((r for r in rows if r["value"]), key=lambda r: float(r["value"]))
    assert (int(best["i"]), int(best["j"])) == WINNER
    assert best["spec"] == "blocks:10,14"


def test_page_and_json_name_the_same_detectable_difference() -> None:
    """There is one number for what a family's items would show."""
    content = Content.of(make_run(0))
    rows = held_out_table(content.verdicts).rows
    verdicts = json.loads(report_json(content))["verdicts"]
    effects = [e for v in verdicts for e in (v["overall"], *v["families"])]
    assert [row[-1].sort for row in rows] == [e["detectable"] for e in effects]
