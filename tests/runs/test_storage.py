"""A run's folder: lines are there whole or not at all, and another run is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rys_gguf.errors import RysError
from rys_gguf.runs.storage import ITEMS, RESULTS, OpenRun, Run
from tests.disk import fill

INFO: dict[str, Any] = {"identity": {"model": {"name": "m.gguf"}, "suite": "abc"}}


def line(candidate: str, stage: str = "round1", **more: Any) -> dict[str, Any]:
    """A line as a sweep writes it."""
    return {"candidate": candidate, "stage": stage, "status": "ok", **more}


def filled(folder: Path) -> Path:
    """A run with three results, two items each."""
    with OpenRun.start(folder, INFO, {"suite.jsonl": "{}\n"}) as run:
        for name in "abc":
            run.record(line(name), [line(name, item=f"{name}{n}") for n in range(2)])
    return folder


def test_what_is_recorded_is_read_again(tmp_path: Path) -> None:
    """Results and items come back in order; a later line for the same stage replaces one."""
    folder = filled(tmp_path / "run")
    with OpenRun.start(folder, INFO, {}) as run:
        run.record(line("b", reason="again"), [line("b", item="b0", score=1)])
    run = Run.open(folder)
    assert [r["candidate"] for r in run.results] == ["a", "b", "c"]
    assert run.result("b", "round1")["reason"] == "again"
    assert [i["item"] for i in run.items] == ["a0", "a1", "b0", "b1", "c0", "c1"]
    assert run.items_of("b", "round1")[0]["score"] == 1
    assert run.info["identity"] == INFO["identity"]


def test_items_of_a_stage_that_failed_later_do_not_count(tmp_path: Path) -> None:
    """Killed between items and result, run again, failed: what was half recorded is no answer."""
    folder = filled(tmp_path / "run")
    with (folder / ITEMS).open("a") as file:
        file.write(json.dumps(line("b", "final", item="i1")) + "\n")
    with OpenRun.start(folder, INFO, {}) as run:
        run.record({**line("b", "final"), "status": "failed"}, [])
        assert run.items_of("b", "final") == []
        assert {i["stage"] for i in run.items} == {"round1"}


def test_a_discarded_run_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    """What else is in the folder stays."""
    folder = filled(tmp_path / "run")
    with OpenRun.start(folder, INFO, {}) as run:
        run.discard()
    assert not folder.exists()
    folder = filled(tmp_path / "again")
    (folder / "report").mkdir()
    with OpenRun.start(folder, INFO, {}) as run:
        run.discard()
    assert [p.name for p in folder.iterdir()] == ["report"]


@pytest.mark.parametrize("name", [RESULTS, ITEMS])
def test_half_a_line_never_happened(tmp_path: Path, name: str) -> None:
    """Cut at every byte of the last line: the run opens, goes on, and loses that line at most."""
    folder = filled(tmp_path / "run")
    files = {n: (folder / n).read_bytes() for n in (RESULTS, ITEMS)}
    whole = files[name]
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(last, len(whole)):
        for n, content in files.items():
            (folder / n).write_bytes(content)
        (folder / name).write_bytes(whole[:end])
        n_results = 2 if name == RESULTS else 3
        assert len(Run.open(folder).results) == n_results
        with OpenRun.start(folder, INFO, {}) as run:
            run.record(line("d"), [line("d", item="d0")])
        again = Run.open(folder)
        assert again.result("d", "round1") is not None
        assert [i["item"] for i in again.items_of("d", "round1")] == ["d0"]
        for path in (RESULTS, ITEMS):
            for text in (folder / path).read_text().splitlines():
                json.loads(text)


def test_items_without_their_result_do_not_count(tmp_path: Path) -> None:
    """A run that died between the two asks that candidate again."""
    folder = filled(tmp_path / "run")
    text = (folder / RESULTS).read_text().splitlines(keepends=True)
    (folder / RESULTS).write_text("".join(text[:-1]))
    run = Run.open(folder)
    assert {i["candidate"] for i in run.items} == {"a", "b"}


@pytest.mark.parametrize(
    ("identity", "said"),
    [
        ({"model": {"name": "other.gguf"}, "suite": "abc"}, "model.name"),
        ({"model": {"name": "m.gguf"}, "suite": "xyz"}, "suite"),
        ({"model": {"name": "m.gguf"}, "suite": "abc", "settings": {"keep": 1}}, "settings"),
    ],
)
def test_a_run_of_other_things_is_refused(tmp_path: Path, identity: Any, said: str) -> None:
    """The message names what differs, and nothing is written."""
    folder = filled(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(RysError, match=rf"another|other things: {said} is"):
        OpenRun.start(folder, {"identity": identity}, {})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_other_items_are_told_by_the_options_that_choose_them(tmp_path: Path) -> None:
    """A hash alone would leave the user guessing."""
    folder = filled(tmp_path / "run")
    for suite, said in (("suite", "--suite-size"), ("heldout", "--control")):
        with pytest.raises(RysError, match=said):
            OpenRun.start(folder, {"identity": {**INFO["identity"], suite: "xyz"}}, {})
    both = {**INFO["identity"], "suite": "xyz", "heldout": "xyz"}
    with pytest.raises(RysError, match="--suite-size"):
        OpenRun.start(folder, {"identity": both}, {})


def test_a_folder_with_other_files_is_not_written_to(tmp_path: Path) -> None:
    """Somebody's folder stays somebody's."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RysError, match="neither empty nor a run"):
        OpenRun.start(tmp_path, INFO, {})
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    """A second one on the same folder is told, and the first goes on."""
    folder = filled(tmp_path / "run")
    with OpenRun.start(folder, INFO, {}) as run:
        with pytest.raises(RysError, match="another sweep"), OpenRun.start(folder, INFO, {}):
            pass
        run.record(line("z"), [])
    assert Run.open(folder).result("z", "round1") is not None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", "{", "not JSON"),
        ("run.json", "[]", "identity"),
        ("run.json", '{"identity": {}, "schema": 99}', "schema is 99, expected 1"),
        ("results.jsonl", "[1]\n", "results.jsonl, line 1"),
        ("items.jsonl", '{"candidate": 1}\n', "items.jsonl, line 1"),
    ],
)
def test_files_of_others_are_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    """A broken file is one message with its name and line."""
    folder = filled(tmp_path / "run")
    (folder / name).write_text(content)
    with pytest.raises(RysError, match=said):
        Run.open(folder)


def test_no_run_is_said_so(tmp_path: Path) -> None:
    """A folder without run.json, or a file, such as the model."""
    (tmp_path / "m.gguf").touch()
    for path in (tmp_path, tmp_path / "m.gguf", tmp_path / "nowhere"):
        with pytest.raises(
            RysError, match=f"{path}: no run here: expected a folder that sweep wrote"
        ):
            Run.open(path)


def test_a_full_disk_leaves_whole_lines(small_disk: Path) -> None:
    """What did not fit is not there; after making room the run goes on."""
    folder = small_disk / "run"
    with OpenRun.start(folder, INFO, {}) as run:
        run.record(line("a"), [line("a", item="a0")])
        filler = fill(small_disk)
        with pytest.raises(RysError, match="run the same command again"):
            run.record(line("b"), [line("b", item=f"b{n}", text="x" * 999) for n in range(99)])
        filler.unlink()
        assert [r["candidate"] for r in Run.open(folder).results] == ["a"]
        run.record(line("b"), [line("b", item="b0")])
    assert [i["item"] for i in Run.open(folder).items] == ["a0", "b0"]
