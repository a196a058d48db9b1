"""The page that follows a running sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rys_gguf.report.pictures import Pictures
from rys_gguf.report.watch import progress_sentence, watch
from rys_gguf.runs.disk import take_lock
from rys_gguf.runs.records import Progress
from rys_gguf.runs.storage import LOCK, PROGRESS, OpenRun, is_at_work, read_progress
from tests.fake_runs import FakeRun, make_run
from tests.report.parser import Page

RELOAD = '<meta http-equiv="refresh" content="5">'


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures, which take most of the time of a page."""
    monkeypatch.setattr("rys_gguf.report.pictures.draw", lambda _content: Pictures({}, None))


def only(run: FakeRun, *stages: str) -> FakeRun:
    """The part of a run that is there once these stages are over."""
    part = run.copy()
    part.results = [line for line in run.results if line["stage"] in stages]
    part.items = [line for line in run.items if line["stage"] in stages]
    return part


class Sweep:
    """A sweep at work in a folder: each pause of the watcher is a step of it."""

    def __init__(self, folder: Path, *steps: Callable[[OpenRun], None]) -> None:
        self.folder = folder
        self.page = folder / "report" / "report.html"
        self.pages: list[str] = []
        self.files: list[set[str]] = []
        self._steps = list(steps)
        self.now, self.speed = 0.0, 1000.0
        self._lock = take_lock(folder / LOCK)

    def sleep(self, seconds: float) -> None:
        """Do the next step; after the last one the sweep is over."""
        self.now += self.speed
        assert seconds >= 2
        self.pages.append(self.page.read_text() if self.page.exists() else "")
        self.files.append({p.name for p in self.folder.iterdir()})
        if not self._steps:
            self.end()
            return
        self._steps.pop(0)(OpenRun(self.folder, make_run(0).info))

    def end(self) -> None:
        """Let the folder go."""
        assert self._lock is not None
        self._lock.close()

    def write(self, run: FakeRun) -> Callable[[OpenRun], None]:
        """The step in which the log grows to that of a run."""

        def step(_: OpenRun) -> None:
            made = run.write(self.folder.parent / f"step-{len(self.pages)}")
            for name in ("results.jsonl", "items.jsonl"):
                (self.folder / name).write_bytes((made / name).read_bytes())

        return step


def test_the_page_follows_the_sweep(tmp_path: Path) -> None:
    """No page before the base, no verdict before the end, and no reload once nobody watches."""
    run = make_run(0)
    empty = run.copy()
    empty.results, empty.items = [], []
    sweep = Sweep(empty.write(tmp_path / "run"))
    sweep._steps = [
        lambda opened: opened.note(Progress(part="pass 1", n_done=3, n_total=42, seconds_left=99)),
        sweep.write(only(run, "damage", "round1")),
        lambda opened: opened.note(Progress(part="finalists", n_done=5, n_total=6)),
        sweep.write(run),
        lambda _: None,
    ]
    said: list[str] = []
    watch(sweep.folder, None, said.append, sweep.sleep, lambda: sweep.now)
    assert said == [
        "Running",
        "Running: pass 1, 3 of at most 42 stages, about 99 s left in this part",
        "Running: finalists, 5 of at most 6 stages",
    ]
    assert sweep.pages[:2] == ["", ""]
    for page in sweep.pages[2:]:
        assert RELOAD in page
        assert Page(page).open == []
        assert "there are no verdicts before all finalists have answered" in page
        assert "rys-gguf apply" not in page
        assert "is better than the base" not in page
        assert page.count('class="l mono">blocks:') >= 20, "the ranking so far"
    assert "<h1>Running: pass 1, 3 of at most 42 stages" in sweep.pages[2]
    assert "<h1>Running: finalists, 5 of at most 6 stages</h1>" in sweep.pages[-1]
    assert sweep.pages[-1] == sweep.pages[-2], "nothing grew"
    assert RELOAD not in sweep.page.read_text()
    own = {"run.json", "results.jsonl", "items.jsonl", LOCK, PROGRESS, "report"}
    assert sweep.files[-1] == own


def test_a_page_is_made_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of one core at most; how far the sweep is shows at once."""
    sweep = Sweep(only(make_run(0), "damage").write(tmp_path / "run"))
    sweep.speed = 2.0
    made: list[float] = []

    def draw(_content: object) -> Pictures:
        made.append(sweep.now)
        sweep.now += 1
        return Pictures({}, None)

    monkeypatch.setattr("rys_gguf.report.pictures.draw", draw)

    def grow(n: int) -> Callable[[OpenRun], None]:
        def step(opened: OpenRun) -> None:
            with (sweep.folder / "results.jsonl").open("ab") as log:
                log.write((sweep.folder / "results.jsonl").read_bytes().splitlines(True)[0])
            opened.note(Progress(part="pass 1", n_done=n, n_total=9))

        return step

    sweep._steps = [grow(n) for n in range(8)]
    watch(sweep.folder, None, sleep=sweep.sleep, clock=lambda: sweep.now)
    assert made == [0, 11]
    for n, page in enumerate(sweep.pages[1:]):
        assert f"<h1>Running: pass 1, {n} of at most 9 stages</h1>" in page


def test_whoever_stops_watching_leaves_a_page_that_stays(tmp_path: Path) -> None:
    """It says how far the sweep was, and loads itself no more."""
    sweep = Sweep(make_run(0).write(tmp_path / "run"))

    def stopped(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(sweep.folder, tmp_path / "page", sleep=stopped)
    sweep.end()
    text = (tmp_path / "page" / "report.html").read_text()
    assert "<h1>Running</h1>" in text
    assert RELOAD not in text
    assert not (sweep.folder / "report").exists()


def test_a_base_alone_has_a_page(tmp_path: Path) -> None:
    """The first minutes of a sweep ask the base only."""
    run = make_run(0)
    run.results = [line for line in run.results if line["is_base"]]
    sweep = Sweep(run.write(tmp_path / "run"))
    watch(sweep.folder, sleep=sweep.sleep)
    assert RELOAD in sweep.pages[0]


def test_a_run_at_rest_is_not_waited_for(tmp_path: Path) -> None:
    """The watcher says so; a folder without a lock is at rest, and gets none."""
    folder = make_run(0).write(tmp_path / "run")
    said: list[str] = []
    watch(folder, None, said.append)
    assert said == [f"{folder}: no sweep is at work here"]
    assert not is_at_work(tmp_path / "none")
    assert {p.name for p in folder.iterdir()} == {"run.json", "results.jsonl", "items.jsonl"}


def test_progress_of_a_stranger_is_left_out(tmp_path: Path) -> None:
    """Whatever stands in the file, a link included, the page shows the run."""
    path = tmp_path / PROGRESS
    for text in ("", "{", '{"n_done": -1}', '{"part": 5}', "[" * 10_000, " " * (1 << 15)):
        path.write_text(text)
        assert read_progress(tmp_path) is None
    path.unlink()
    path.symlink_to("/dev/zero")
    assert read_progress(tmp_path) is None
    assert progress_sentence(Progress()) == "Running"
