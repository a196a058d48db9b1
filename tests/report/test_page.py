"""The page: complete, alone, and safe whatever a model said."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rys_gguf.report.content import Content
from rys_gguf.report.page import render
from rys_gguf.report.pictures import Pictures, draw
from rys_gguf.report.sentences import interval_text, points, score_text
from tests.fake_runs import WINNER, FakeRun, make_run, name_of
from tests.report.parser import Page

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\x00\u202e&<!--{{7*7}}"
)
# Half a surrogate pair can stand in run.json, but not in the lines of answers.
HALF = HOSTILE + "\ud800"


def page_of(run: FakeRun, n_maps: int = 0) -> Page:
    """The page of a run, with its first maps and the other picture where the test is of them."""
    whole = Content.of(run)
    content = replace(whole, maps=whole.maps[:n_maps])
    return Page(render(content, draw(content) if n_maps else Pictures({}, None), {}))


def items_of(page: Page) -> Any:
    """The answers inside a page."""
    return json.loads(page.scripts[0])


@pytest.fixture(scope="module")
def page(content: Content, drawn: Pictures) -> Page:
    """The page of a run with a winner, with generated answers."""
    return Page(render(content, drawn, {"h-reasoning-0": "Which day is it?"}))


def test_the_page_is_complete_and_alone(page: Page) -> None:
    """It is well-formed, and refers to nothing outside."""
    assert page.open == []
    assert not re.search(r"""(src|href|xmlns)=|url\((?!#)|@import|https?://""", page.text)
    assert len(page.attributes("id")) == len(set(page.attributes("id")))


def test_one_script_may_run(page: Page) -> None:
    """The policy names its checksum, and allows no other source of anything but style."""
    assert len(page.scripts) == 2
    (policy,) = (a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )


def test_the_page_shows_what_was_found(page: Page) -> None:
    """Verdicts, maps, tests, baselines, provenance and rules are on it."""
    assert "<h1>blocks:10,14 is better than the base: +" in page.text
    for part in (
        "no evidence", "Holm p", "suite-1", "llama-server", "output 8 would run as another kind",
        "references of a single author", "divergence 9.5 nats is above 5", "Pareto front",
        "the engine ended with code 1", "rys-gguf apply tiny-instruct.Q4_1.gguf --blocks 10,14",
        "Search scores: ranks only",
    ):  # fmt: skip
        assert part in page.text, part
    assert page.text.count('class="map"') == 5
    data = items_of(page)
    assert data["about"]["h-reasoning-0"]["question"] == "Which day is it?"
    lines = data["candidates"][name_of(WINNER)]["stages"]["generate"]
    assert lines["h-reasoning-0"]["response"].startswith("Answer: ")
    assert lines.keys() == data["base"]["generate"].keys()


def test_verdicts_come_before_facts(page: Page) -> None:
    """On a telephone the first screen should hold the answer."""
    places = [page.text.index(f"<h2>{h}</h2>") for h in ("Verdicts", "Next step", "About this run")]
    assert places == sorted(places)


def test_the_table_of_windows_is_the_ranking(page: Page, content: Content) -> None:
    """The order of the page is that of the search."""
    table = page.text[page.text.index('aria-label="all windows of the search"') :]
    shown = re.findall(r'class="l mono">(blocks:\d+,\d+)<', table)[:21]
    assert shown == [rank.trial.candidate.spec for rank in content.ranking.ranks]


def test_held_out_scores_have_their_intervals_and_controls_are_marked() -> None:
    """The table of finalists shows intervals and marks controls."""
    run = make_run(0)
    run.items = [x for x in run.items if x["stage"] == "final" or x["family"] != "math"]
    text = page_of(run).text
    table = text[text.index("Finalists on held-out items") : text.index("What the search promised")]
    assert "math (control)" in table
    assert "eq (control)" not in table
    for v in Content.of(run).verdicts:
        for e in v.judgement.families:
            score, _, rest = score_text(e.window, e.window_interval).partition(" ")
            below = f"<small>{rest.strip('()')}</small>" if e.name != "eq" else ""
            assert f">{score}{below}</td>" in table
            assert f">{points(e.difference)}<small>{interval_text(e.interval)}</small>" in table


def hostile_run() -> FakeRun:
    """A run whose every word is an attack."""
    run = make_run(0)
    run.raw["model"]["name"] = run.raw["identity"]["suite"] = HALF
    run.raw["model"]["path"] = run.raw["identity"]["engine"]["build"] = HALF
    run.raw["provenance"] = {HALF: HALF}
    run.raw["floors"] = {HALF: {"constant": 0.1, "random": 0.2}}
    run.raw["illegal"].append({"spec": HALF, "rule": HALF})
    for result in run.results:
        if result["reason"]:
            result["reason"] = HOSTILE
    for item in run.items:
        item["response"] = item["parsed"] = item["topic"] = HOSTILE
        item["probabilities"] = [{HOSTILE: 0.5}]
        item["family"] = item["family"].replace("math", HOSTILE)
        item["item"] = HOSTILE + item["item"]
    return run


def test_what_a_model_says_stays_text() -> None:
    """Markup, ends of scripts, templates and control characters, wherever text can stand."""
    page = page_of(hostile_run(), n_maps=2)  # of all families and of the one with a name to fear
    assert page.open == []
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert not [a for tag, a in page.tags if tag == "img" or "onerror" in a]
    assert not set(page.text) & {"\x00", "\x1b", "\u202e", "\ud800"}
    assert "49" not in re.findall(r"<!--(\d\d)", page.text)
    response = next(iter(items_of(page)["base"]["final"].values()))["response"]
    assert response.startswith("</script><script>")
    assert "\\x1b[2J\\x00\\u202e" in response


def test_what_has_no_score_is_no_zero() -> None:
    """Among the items of the page."""
    run = make_run(0)
    line = next(x for x in run.items if x["candidate"] == name_of(WINNER) and x["stage"] == "final")
    line.update(score=None, credit=None, status="no_answer")
    kept = items_of(page_of(run))["candidates"][name_of(WINNER)]["stages"]["final"]
    assert kept[line["item"]]["score"] is None
    assert kept[line["item"]]["status"] == "no_answer"


def test_a_search_alone_claims_nothing() -> None:
    """Without held-out items there are ranks and no verdict."""
    page = page_of(make_run(0, final=False), n_maps=1)
    assert "<h1>Search only: ranks, no verdicts yet</h1>" in page.text
    assert "it ranks windows and gives no verdicts" in page.text
    assert "is better than the base" not in page.text
    assert page.open == []


def test_facts_are_those_of_the_run() -> None:
    """Versions, engine and settings as run.json has them, nested values in one line."""
    run = make_run(0)
    run.raw["rys_gguf"] = "0.1.0"
    run.raw["command"] = "rys-gguf sweep tiny.gguf --threads 2"
    run.raw["n_threads"] = 2
    run.raw["identity"]["settings"] = {"threads": 2, "plan": {"name": "two-pass", "sizes": [8, 4]}}
    text = page_of(run).text
    for name, value in (
        ("Engine", "llama-server, build b1"),
        ("Threads", "2"),
        ("Command", "rys-gguf sweep tiny.gguf --threads 2"),
        ("Settings", "threads 2, plan two-pass, sizes 8 4"),
        ("Swept with", "rys-gguf 0.1.0"),
        ("Header SHA-256", "ab" * 8),
        ("Windows", "21 tried, 1 not legal"),
        ("Started", "2026-01-01 00:00:00 UTC"),
    ):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in text


def test_a_large_run_gives_a_page_of_bearable_size(tmp_path: Path) -> None:
    """Finalists keep their answers; of the others there are as many as fit."""
    run = make_run(0)
    for line in run.items:
        line["response"] = "x" * 3500
    page = page_of(run)
    assert len(page.text) < 12_000_000
    keys = list(items_of(page)["candidates"])
    assert keys[0] == name_of(WINNER)
    assert len(keys) < 21
