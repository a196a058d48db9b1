"""The page, its pictures and its tables: complete, and safe whatever a model said."""

from __future__ import annotations

import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rys_gguf.errors import OutputFailed, RysError
from rys_gguf.report.heatmap import DROPPED, FAILED, ILLEGAL, NOISE, csv_text, maps, svg, text_map
from rys_gguf.report.page import render
from rys_gguf.report.write import text_report, write_report
from rys_gguf.stats.pairs import Evidence
from rys_gguf.stats.verdict import interval_text, points, score_text, search, verdicts
from tests.fake_runs import WINNER, FakeRun, make_run, name_of

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\x00\u202e\ud800&<!--"
)


class Page(HTMLParser):
    """The elements of a page; refuses tags that close nothing."""

    _VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self.tags.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An SVG shape."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """It must close the last one opened."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """The contents of scripts."""
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a run with a winner, with generated answers."""
    folder = tmp_path_factory.mktemp("report")
    run = make_run(0, generate=True)
    run.folder = folder
    (folder / "heldout.jsonl").write_text(
        json.dumps({"id": "h-reasoning-0", "question": "Which day is it?"}) + "\n"
    )
    write_report(run, folder / "out")
    return folder / "out"


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """PNGs take most of the time of a report."""
    monkeypatch.setattr("rys_gguf.report.write.save_png", lambda _heatmap, path: path.touch())


def cells(run: FakeRun, name: str = "overall") -> dict[tuple[int, int], str]:
    """States by window on one map."""
    evidence = Evidence(run)
    heatmap = next(h for h in maps(evidence, search(evidence)) if h.name == name)
    return {c.window: c.state for c in heatmap.cells}


def test_the_page_is_whole_and_alone(written: Path) -> None:
    """Well-formed, no reference to anything outside, one script allowed and only by its hash."""
    page = Page((written / "report.html").read_text())
    assert page.open == []
    assert not re.search(r"""(src|href)=|url\((?!#)|@import|https?://""", page.text)
    assert len(page.scripts) == 2
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "'unsafe-inline'; script-src 'sha256-" in policy


def test_the_page_says_what_was_found(written: Path) -> None:
    """Verdict words and sentences, maps, tests, floors, provenance and rules are on it."""
    text = (written / "report.html").read_text()
    best, sign = WINNER
    assert f"<h1>blocks:{best},{sign} is better than the base" in text
    for part in (
        "no evidence", "Holm p", "suite-1", "llama-server", "output 8 would run as another kind",
        "references of a single author", "divergence 9.5 nats is above 5", "Pareto front",
        "the engine ended with code 1", "random 0.2",
    ):  # fmt: skip
        assert part in text, part
    assert text.count('class="map"') == 5
    data = json.loads(Page(text).scripts[0])
    assert data["about"]["h-reasoning-0"]["question"] == "Which day is it?"
    lines = data["candidates"][name_of(WINNER)]["stages"]["generate"]
    assert lines["h-reasoning-0"]["response"].startswith("Answer: ")
    assert lines.keys() == data["base"]["generate"].keys()


@pytest.mark.usefixtures("no_pictures")
def test_held_out_scores_have_their_intervals_and_controls_are_marked(tmp_path: Path) -> None:
    """In the table of finalists."""
    run = make_run(0)
    run.items = [x for x in run.items if x["stage"] == "final" or x["family"] != "math"]
    run.folder = tmp_path
    write_report(run, tmp_path / "report")
    text = (tmp_path / "report" / "report.html").read_text()
    table = text[text.index("Finalists on held-out items") : text.index("What the search promised")]
    assert "math (control)" in table
    assert "eq (control)" not in table
    evidence = Evidence(run)
    for v in verdicts(evidence):
        for e in v.judgement.families:
            shown, _, rest = score_text(e.window, e.window_interval).partition(" ")
            below = f"<small>{rest.strip('()')}</small>" if e.name != "eq" else ""
            assert f">{shown}{below}</td>" in table
            assert f">{points(e.difference)}<small>{interval_text(e.interval)}</small>" in table


def test_what_a_model_says_stays_text(tmp_path: Path) -> None:
    """Markup, ends of scripts, control characters and lone surrogates, wherever text can stand."""
    run = make_run(0)
    run.info["model"]["name"] = run.info["identity"]["suite"] = HOSTILE
    run.info["provenance"] = {HOSTILE: HOSTILE}
    run.info["illegal"].append({"spec": HOSTILE, "rule": HOSTILE})
    for result in run.results:
        if result["reason"]:
            result["reason"] = HOSTILE
    for item in run.items:
        item["response"] = item["parsed"] = item["topic"] = HOSTILE
        item["probabilities"] = [{HOSTILE: 0.5}]
        item["family"] = item["family"].replace("math", HOSTILE)
    paths = write_report(run, tmp_path)
    raw = (tmp_path / "report.html").read_bytes()
    page = Page(raw.decode())
    assert page.open == []
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert not [attrs for tag, attrs in page.tags if tag == "img" or "onerror" in attrs]
    assert not set(raw) & {0, 0x1B}
    assert "\u202e" not in raw.decode()
    data = json.loads(page.scripts[0])
    shown = next(iter(data["base"]["final"].values()))["response"]
    assert "</script>" in shown
    assert "\\x1b[2J\\x00\\u202e\\ud800" in shown
    assert all(p.parent == tmp_path for p in paths), "a family's name is no path"
    assert not set((tmp_path / "report.csv").read_bytes()) & {0, 0x1B}
    assert "\x1b" not in "\n".join(text_report(run))


def test_files_beside_the_page(written: Path) -> None:
    """Each map as PNG and CSV, every candidate in report.csv with what became of it."""
    names = {p.name for p in written.iterdir()}
    for name in ("overall", "math", "eq", "reasoning", "damage"):
        assert {f"map-{name}.png", f"map-{name}.csv"} <= names
        assert (written / f"map-{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    rows = list(csv.DictReader((written / "report.csv").read_text().splitlines()))
    assert len(rows) == 21
    first = rows[0]
    assert (first["spec"], first["verdict"]) == ("blocks:10,14", "better")
    assert float(first["low"]) > 0
    assert {row["status"] for row in rows} == {"ok", "dropped", "failed"}
    assert rows[-1]["overall_credit"] == ""


def test_cells_know_their_state() -> None:
    """The winner is clear, equal windows fade, and what did not run is told apart."""
    found = cells(make_run(0))
    assert found[WINNER] == "clear"
    assert found[0, 4] == DROPPED
    assert found[20, 24] == FAILED
    assert found[5, 8] == ILLEGAL
    null = cells(make_run(4, gain={(i, i + 4): 0.0 for i in range(21)}))
    n_noise = sum(state == NOISE for state in null.values())
    assert n_noise >= 15, "of 19 windows"


def looping() -> FakeRun:
    """The winner of the search loops: the stage after the rounds."""
    run = make_run(0, finalists=((9, 13), (2, 6)))
    last = next(r for r in run.results if r["candidate"] == name_of(WINNER))
    run.results.append(
        {**last, "stage": "loops", "status": "dropped", "reason": "loops: 3 of 4", "measures": {}}
    )
    return run


def test_what_loops_is_no_winner() -> None:
    """Hatched, not ringed, and told so beside its gain."""
    run = looping()
    assert cells(run)[WINNER] == DROPPED
    evidence = Evidence(run)
    overall = maps(evidence, search(evidence))[0]
    assert overall.best != WINNER
    (line,) = (x for x in text_report(run) if x.startswith(f"  blocks:{WINNER[0]},{WINNER[1]}"))
    assert "dropped at loops: loops: 3 of 4" in line


def test_any_gain_fits_the_plot() -> None:
    """Skill may fall to -20 and below."""
    run = make_run(0)
    for line in run.items:
        if line["family"] == "eq" and line["candidate"] == name_of(WINNER):
            line["score"] = line["credit"] = -40.0
    evidence = Evidence(run)
    found, judged = search(evidence), verdicts(evidence)
    page = render(evidence, found, judged, maps(evidence, found), {})
    assert "-1000.0" in page


def test_finalists_at_one_point_share_their_label() -> None:
    """One on the other they could not be read."""
    run = make_run(0)
    same = {name_of(w) for w in ((9, 13), (2, 6))}
    for line in run.items:
        if line["candidate"] in same and line["stage"] == "final":
            base = next(
                x for x in run.items
                if (x["candidate"], x["stage"], x["item"]) == (name_of(None), "final", line["item"])
            )  # fmt: skip
            line["score"] = base["score"]
    evidence = Evidence(run)
    found, judged = search(evidence), verdicts(evidence)
    page = render(evidence, found, judged, maps(evidence, found), {})
    assert re.search(r'class="name">blocks:(9,13 blocks:2,6|2,6 blocks:9,13)</text>', page)


def test_what_has_no_score_is_no_zero() -> None:
    """In the items of the page."""
    run = make_run(0)
    line = next(x for x in run.items if x["candidate"] == name_of(WINNER) and x["stage"] == "final")
    line.update(score=None, credit=None, status="no_answer")
    evidence = Evidence(run)
    found, judged = search(evidence), verdicts(evidence)
    page = Page(render(evidence, found, judged, maps(evidence, found), {}))
    kept = json.loads(page.scripts[0])["candidates"][name_of(WINNER)]["stages"]["final"]
    assert kept[line["item"]]["score"] is None
    assert kept[line["item"]]["status"] == "no_answer"


def test_svg_marks_and_escapes() -> None:
    """Base and best ringed, every cell titled and tied to its candidate, hatching where due."""
    evidence = Evidence(make_run(0))
    drawn = maps(evidence, search(evidence))
    text = svg(drawn[0])
    page = Page(text)
    assert page.open == []
    rings = [a for t, a in page.tags if t == "circle" and a.get("class") == "ring"]
    assert len(rings) == 2
    assert rings[1]["cx"] == str((WINNER[1] + 0.5) * 10)
    assert rings[1]["cy"] == str((WINNER[0] + 0.5) * 10), "i goes down"
    assert f'data-candidate="{name_of(WINNER)}"' in text
    assert text.count("url(#h-overall)") == 4, "dropped, failed, not legal, and the key"
    assert drawn[-1].name == "damage"
    assert "--more" in svg(drawn[-1])
    assert drawn[0].shade(10.0) == 1.0
    assert drawn[0].shade(-10.0) == -1.0


def test_scale_is_symmetric_and_without_values_still_drawn() -> None:
    """Nothing measured is no error: before the first round ends there is a report already."""
    run = make_run(0, final=False)
    run.items = []
    evidence = Evidence(run)
    heatmap = maps(evidence, search(evidence))[0]
    assert heatmap.limit == 1.0
    assert heatmap.best is None
    assert Page(svg(heatmap)).open == []


def test_text_map() -> None:
    """One row per i, the best starred, marks for what did not run; plain ASCII if asked."""
    evidence = Evidence(make_run(0))
    heatmap = maps(evidence, search(evidence))[0]
    lines = list(text_map(heatmap, ascii_only=True))
    assert all(line.isascii() for line in lines)
    row = next(line for line in lines if line.split()[:1] == ["10"])
    assert "*8" in row
    assert "+15.5" in row, "the mean of its row"
    text = "\n".join(lines)
    assert text.count("//") == 2
    assert text.count("xx") == 2, "the window, and the key"
    assert "\u2588" in "".join(text_map(heatmap))
    assert "\x1b" not in "".join(text_map(heatmap))
    assert "\x1b[31m" in "".join(text_map(heatmap, color=True))


def test_map_csv() -> None:
    """A line a window, values as fractions."""
    evidence = Evidence(make_run(0))
    rows = list(csv.DictReader(csv_text(maps(evidence, search(evidence))[0]).splitlines()))
    assert len(rows) == 22
    best = max((r for r in rows if r["value"]), key=lambda r: float(r["value"]))
    assert (int(best["i"]), int(best["j"])) == WINNER


@pytest.mark.usefixtures("no_pictures")
def test_search_only_claims_nothing(tmp_path: Path) -> None:
    """Without held-out items there are ranks and no verdict, in text and on the page."""
    run = make_run(0, final=False)
    text = "\n".join(text_report(run))
    assert "search only: ranks, no verdicts" in text
    assert "better." not in text
    write_report(run, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "search only: ranks, no verdicts" in page
    assert "is better than the base" not in page


def test_text_report_leads_with_verdicts() -> None:
    """The sentences, the luck of the search, the ranks, the map."""
    lines = list(text_report(make_run(0), ascii_only=True))
    assert lines[1].startswith("blocks:10,14: better.")
    assert any(line.startswith("Were all 19 windows equal to the base") for line in lines)
    assert any("and 11 more windows" in line for line in lines)


def info(run: FakeRun) -> dict[str, Any]:
    """run.json."""
    return run.info


def model(run: FakeRun) -> dict[str, Any]:
    """What run.json says of the model."""
    return run.info["model"]


def result(run: FakeRun) -> dict[str, Any]:
    """A line of results.jsonl."""
    return run.results[3]


def answer(run: FakeRun) -> dict[str, Any]:
    """A line of items.jsonl."""
    return run.items[3]


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        (info, "identity", None, "run.json: identity is no object"),
        (info, "model", [], "run.json: model is no object"),
        (info, "illegal", None, "run.json: illegal is no list of objects"),
        (info, "floors", [1], "run.json: floors is no object"),
        (model, "n_layers", "24", "run.json: model.n_layers is '24'"),
        (model, "n_layers", 10**9, "run.json: model.n_layers is 1000000000"),
        (model, "layer_bytes", [1], "run.json: model.layer_bytes is not one number for each"),
        (model, "n_bytes", None, "run.json: model.n_bytes is None"),
        (result, "windows", [[5, 99]], r"windows are \[\[5, 99\]\], the model has 24 layers"),
        (result, "windows", 3, "windows is 3"),
        (result, "measures", {"kl": "x"}, "measures is"),
        (result, "n_items", math.inf, "n_items is inf"),
        (answer, "family", None, "family is None"),
        (answer, "score", "1", "score is '1'"),
        (answer, "probabilities", [1], r"probabilities is \[1\]"),
    ],
)
def test_what_no_sweep_writes_is_named(part: Any, key: str, value: Any, said: str) -> None:
    """Files can be edited, or come from anyone: one message with folder, file and field."""
    run = make_run(0)
    part(run)[key] = value
    with pytest.raises(RysError, match=f"nowhere: not what a sweep writes: .*{said}"):
        Evidence(run)


def test_a_run_without_its_base_is_refused() -> None:
    """A sweep that was stopped in its first minute has nothing to report."""
    run = make_run(0)
    run.results = [r for r in run.results if not r["is_base"]]
    with pytest.raises(RysError, match="no result of the base yet"):
        list(text_report(run))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """One message with the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFailed, match="file/out: cannot write"):
        write_report(make_run(0), tmp_path / "file" / "out")
