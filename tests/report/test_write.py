"""The files of a report: all of them, complete, and never written through somebody's link."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf.errors import OutputFailed, RysError
from rys_gguf.report.content import Content
from rys_gguf.report.pictures import Pictures
from rys_gguf.report.terminal import text_report
from rys_gguf.report.write import questions, write_report
from rys_gguf.runs.storage import Run
from tests.disk import fill
from tests.fake_runs import make_run
from tests.report.test_page import hostile_run

GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1.0"


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures, which take most of the time of a report."""
    monkeypatch.setattr("rys_gguf.report.pictures.draw", lambda _content: Pictures({}, None))


@pytest.fixture
def same_pictures(drawn: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture for every map, for reports that only have to be written."""

    def draw(content: Content) -> Pictures:
        return replace(drawn, maps={m.name: drawn.maps["overall"] for m in content.maps})

    monkeypatch.setattr("rys_gguf.report.pictures.draw", draw)


@pytest.mark.usefixtures("same_pictures")
def test_everything_is_written(tmp_path: Path) -> None:
    """The page first; data, and each map as PNG and CSV, beside it."""
    paths = write_report(make_run(0), tmp_path / "out")
    names = [p.name for p in paths]
    assert names[:3] == ["report.html", "report.json", "report.csv"]
    for name in ("overall", "math", "eq", "reasoning", "damage"):
        assert {f"map-{name}.png", f"map-{name}.csv"} <= set(names)
        assert (tmp_path / "out" / f"map-{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "gain-and-size.png" in names
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(names)


def test_a_run_that_version_0_1_0_wrote_shows_one_ranking(tmp_path: Path) -> None:
    """Page, JSON, CSV and terminal agree on who stands where, and so does the map's ring."""
    run = Run.open(GOLDEN)
    write_report(run, tmp_path)
    content = Content.of(run)
    ranking = [rank.trial.candidate.spec for rank in content.ranking.ranks]
    assert len(ranking) == 24
    assert content.maps[0].best_text.startswith(f"best {ranking[0]} at ")
    plain = json.loads((tmp_path / "report.json").read_text())
    assert [rank["spec"] for rank in plain["ranking"]] == ranking
    rows = csv.DictReader((tmp_path / "report.csv").read_text().splitlines())
    assert [row["spec"] for row in rows] == ranking
    page = (tmp_path / "report.html").read_text()
    table = page[page.index('aria-label="all windows of the search"') :]
    places = [table.index(f'"l mono">{spec}<') for spec in ranking]
    assert places == sorted(places)
    lines = [line.split()[0] for line in text_report(run) if line.startswith("  blocks:")]
    assert lines == ranking[:10]


@pytest.mark.usefixtures("no_pictures")
def test_the_default_folder_is_in_the_run(tmp_path: Path) -> None:
    """A report belongs to its run."""
    folder = make_run(0).write(tmp_path / "run")
    assert write_report(Run.open(folder))[0] == folder / "report" / "report.html"


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", ["report.html", "report.csv", "report.json"])
def test_a_planted_link_to_a_file_is_replaced(tmp_path: Path, name: str) -> None:
    """Links survive archives: what they lead to is not the report's to write."""
    folder = make_run(0).write(tmp_path / "run")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (folder / "report").mkdir()
    (folder / "report" / name).symlink_to(victim)
    (folder / "report" / f"{name}.part").symlink_to(victim)
    write_report(Run.open(folder))
    assert victim.read_text() == "mine"
    assert not (folder / "report" / name).is_symlink()
    assert (folder / "report" / name).stat().st_size > 100


@pytest.mark.usefixtures("no_pictures")
def test_a_planted_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    """It would put the report, and whatever it replaces, anywhere."""
    folder = make_run(0).write(tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "report").symlink_to(elsewhere)
    with pytest.raises(OutputFailed, match="report: is a symbolic link in the run's folder"):
        write_report(Run.open(folder))
    assert not list(elsewhere.iterdir())
    write_report(Run.open(folder), folder / "report")
    assert (elsewhere / "report.html").exists(), "a user who names the link wants it"


@pytest.mark.usefixtures("same_pictures")
def test_a_full_disk_leaves_the_old_page_as_it_is(small_disk: Path) -> None:
    """A page is replaced by a complete one or not at all."""
    out = small_disk / "out"
    write_report(make_run(0), out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    fill(small_disk)
    with pytest.raises(OutputFailed, match="cannot write: No space left"):
        write_report(make_run(1), out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """One message names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFailed, match="file/out: cannot write"):
        write_report(make_run(0), tmp_path / "file" / "out")


def test_missing_packages_are_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message can be pasted."""
    monkeypatch.setattr("rys_gguf.extras.find_spec", lambda name: name != "jinja2" or None)
    with pytest.raises(RysError, match=r"the report needs jinja2: pip install jinja2$"):
        write_report(make_run(0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("same_pictures")
def test_names_of_families_are_no_paths(tmp_path: Path) -> None:
    """Whoever wrote the suite chose them."""
    run = hostile_run()
    for item in run.items:
        item["family"] = item["family"].replace("eq", "../../eq")
    paths = write_report(run, tmp_path / "out")
    assert all(p.parent == tmp_path / "out" for p in paths)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in paths}
    assert not list(tmp_path.glob("*eq*"))


def test_questions_only_explain(tmp_path: Path) -> None:
    """A suite that cannot be read, or is none, or a pipe that never ends, is left out."""
    (tmp_path / "suite.jsonl").write_text('{"id": "a", "question": "Why?"}\n[1]\n')
    os.mkfifo(tmp_path / "heldout.jsonl")
    assert questions(tmp_path) == {"a": "Why?"}
    (tmp_path / "suite.jsonl").write_text("[" * 100_000 + "\n")
    assert questions(tmp_path) == {}
