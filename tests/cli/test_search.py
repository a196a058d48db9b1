"""The commands around sweeps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rys_gguf.cli.search import WorkerOptions, parsed_time
from rys_gguf.engines.base import EngineOptions
from rys_gguf.runs.storage import read_progress
from rys_gguf.search.executors import local, ray_cluster
from tests import tiny
from tests.cli.calls import ONE_THREAD, call, data, done, refused


@pytest.fixture
def hybrid(tmp_path: Path) -> Path:
    """A model of 24 layers of which every sixth is another kind."""
    return tiny.write(tmp_path / "g.gguf", "gemma3", 24)


GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1.0"


def test_dry_run_lists_candidates_and_costs(model: Path) -> None:
    """The candidates and their cost are shown before anything runs."""
    args = ["--plan", "map", "--sizes", "2", "--families", "math"]
    text = done("sweep", model, *args, "--dry-run").stdout
    assert text.startswith("note: math: level 1 is assumed; the model is first asked which ")
    assert "blocks:0,2, blocks:1,3" in text
    assert "working file" in text
    assert list(model.parent.iterdir()) == [model]


def test_a_wider_space_is_counted_before_it_is_searched(
    model: Path, suite: Path, tmp_path: Path
) -> None:
    """Forms are candidates of their own; combinations come on top, and so do their items."""
    args: list[str | Path] = [
        "--plan",
        "map",
        "--sampler",
        "halving",
        "--sizes",
        "2",
        "--suite",
        suite,
    ]
    wide = ["--passes", "3,2", "--mode", "both", "--max-blocks", "3", "--beam", "5"]
    text = done("sweep", model, *args, *wide, "--dry-run").stdout
    assert "candidates: 20 windows of 2 layers in 4 forms\n" in text
    assert (
        "combined: windows that gain and do not overlap, at most 5 maps of each of 2 and 3" in text
    )
    assert "at most 10 combined ones" in text
    assert "2 runs a window once more" in refused("sweep", model, "--passes", "1", code=2)
    windows = tmp_path / "windows.txt"
    windows.write_text("1,2;3,4\n")
    listed: list[str | Path] = ["sweep", model, "--windows", windows, "--suite", suite, "--dry-run"]
    assert "write 8,12;8,12 for three passes" in refused(*listed, "--mode", "layer", code=2)
    assert "list the combinations as well" in refused(*listed, "--max-blocks", "2", code=2)


def test_three_passes_end_in_a_command_that_writes_them(
    model: Path, suite: Path, tmp_path: Path
) -> None:
    """The window stands in it once for each further pass."""
    args: list[str | Path] = ["--plan", "map", "--sizes", "1", "--passes", "3", "--max-blocks", "2"]
    args += ["--suite", suite, "--no-preflight", "--max-divergence", "99", "--min-agreement", "0"]
    text = done("sweep", model, *args, "--finalists", "1", *ONE_THREAD).stdout
    assert re.search(r"\nrys-gguf apply \S+ --blocks (\d,\d) --blocks \1( |\n)", text)


def test_a_dry_run_of_many_windows_is_short(model: Path, hybrid: Path) -> None:
    """A line for hundreds of candidates, and one for those that are not legal."""
    text = done("sweep", model, "--sizes", "1..3,4", "--families", "math", "--dry-run").stdout
    assert "candidates: 18 windows of 1 to 4 layers, blocks:0,1 to blocks:2,6" in text
    text = done("sweep", hybrid, "--sizes", "5,6", "--families", "math", "--dry-run").stdout
    assert "candidates: 19 windows of 6 layers, blocks:0,6 to blocks:18,24" in text
    assert "not legal: 20 windows, such as blocks:0,5: output " in text


def test_a_sweep_ends_in_its_verdict(model: Path, suite: Path, tmp_path: Path) -> None:
    """The report comes at its end, the log tells how it went, and again there is nothing to do."""
    windows = tmp_path / "windows.txt"
    windows.write_text("blocks:2,4\n")
    log = tmp_path / "log.txt"
    args: list[str | Path] = [
        "--suite",
        suite,
        "--windows",
        windows,
        "--no-preflight",
        "--max-divergence",
        "99",
    ]
    args += ["--min-agreement", "0", "--log-file", log, *ONE_THREAD]
    first = done("sweep", model, *args)
    assert "blocks:2,4: no evidence" in first.stdout
    assert f"rys-gguf report {model}.sweep\n" in first.stderr
    assert first.stdout.endswith(f"\nrys-gguf apply {model} --blocks 2,4\n")
    assert "prepare: 4 steps to do" in log.read_text()
    progress = read_progress(Path(f"{model}.sweep"))
    assert progress is not None
    assert progress.is_over
    again = done("sweep", model, *args, "--write-best")
    assert again.stdout == first.stdout
    assert "nothing was written: the verdict on the best finalist, blocks:2,4, is" in again.stderr
    assert not Path(f"{model}.best").exists()
    assert (
        done("report", f"{model}.sweep", "-o", tmp_path / "report")
        .stdout.partition("\n")[0]
        .startswith("m.gguf  run ")
    )
    assert (tmp_path / "report" / "report.html").is_file()


def test_a_sweep_asks_the_model_for_its_levels_once(model: Path, tmp_path: Path) -> None:
    """A run that goes on keeps those that it was begun with, and has no other ones."""
    windows = tmp_path / "windows.txt"
    windows.write_text("blocks:2,4\n")
    args: list[str | Path] = ["sweep", model, "--windows", windows, *ONE_THREAD]
    args += ["--families", "math", "--suite-size", "quick", "--no-preflight"]
    args += ["--max-divergence", "99", "--min-agreement", "0"]
    first = done(*args)
    assert "levels: math 0 (skill" in first.stderr
    assert "to ask these levels again: --level math=0\n" in first.stderr
    again = done(*args)
    assert again.stdout == first.stdout
    assert "levels" not in again.stderr
    assert done(*args, "--level", "0").stdout == first.stdout
    assert "is assumed" not in done(*args, "--dry-run").stdout
    assert "holds a different run: suite is" in refused(*args, "--level", "1")
    assert "holds a different run: suite is" in refused(*args, "--families", "eq")
    heldout = Path(f"{model}.sweep", "heldout.jsonl")
    heldout.write_text(heldout.read_text().replace('"level": 0', '"level": 9', 1))
    assert done(*args).stdout == first.stdout
    heldout.write_text("[]")
    message = refused(*args)
    assert "heldout.jsonl, line 1: expected an object" in message
    assert "to continue the run all the same, give its --level" in message


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--heldout", "x.jsonl"], "--heldout goes with --suite"),
        (["--control", "math"], "is in --families as well"),
        (["--suite", "SUITE", "--control", "math"], "--control asks generated items"),
        (["--sizes", "8,x"], "is not a list of numbers such as 8,4"),
        (["--sizes", "0..3"], "is not a list of numbers from 1"),
        (["--sizes", "3..1"], "is not a list of numbers from 1"),
        (["--plan", "two-pass", "--prior", "SUITE", "--dry-run"], "--prior starts --sampler thom"),
        (["--windows", "SUITE", "--sampler", "thompson", "--dry-run"], "use --plan map with it"),
        (["--time", "soon"], "is not a time such as 90s, 30m, 2h or 1h30m"),
        (["--time", "0m"], "is not a time such as"),
    ],
)
def test_options_that_do_not_go_together(
    model: Path, suite: Path, args: list[str], message: str
) -> None:
    """A usage error says which."""
    line = [str(suite) if arg == "SUITE" else arg for arg in args]
    assert message in refused("sweep", model, *line, code=2)


def test_comparing_shows_what_is_kept() -> None:
    """A run keeps all of itself; as lines and as JSON that every parser reads."""
    text = done("compare", GOLDEN, GOLDEN).stdout
    assert "math" in text
    found = data("compare", GOLDEN, GOLDEN)
    assert "Infinity" not in json.dumps(found)
    assert isinstance(found, dict)
    assert {"floor", "floor_of"} <= found["candidates"][0]["kept"][0].keys()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1m1s", 61)]
)
def test_times_are_written_as_people_write_them(text: str, seconds: int) -> None:
    """Hours, minutes, seconds."""
    assert parsed_time(text) == seconds


@pytest.mark.parametrize("command", [["report"], ["compare", GOLDEN]])
def test_a_folder_that_holds_no_run_is_named(command: list[str | Path], tmp_path: Path) -> None:
    """Nothing is written into it."""
    result = call(*command, tmp_path)
    assert result.exit_code == 1
    assert str(tmp_path) in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        (WorkerOptions(2, "0,1", None), ("local", 2, ("0", "1"))),
        (WorkerOptions(1, None, None), ("local", 1, ())),
        (WorkerOptions(4, "0,1", "auto"), ("ray", "auto", 4, 3, 0.5)),
    ],
)
def test_workers_become_an_executor(
    monkeypatch: pytest.MonkeyPatch, workers: WorkerOptions, expected: tuple[object, ...]
) -> None:
    """Threads and GPUs of each worker come from the options."""
    monkeypatch.setattr(local, "factory", lambda _, n, gpus: ("local", n, gpus))
    monkeypatch.setattr(
        ray_cluster,
        "factory",
        lambda address, n, _, *, cpus, gpus: ("ray", address, n, cpus, gpus),
    )
    made: object = workers.executor(EngineOptions(n_threads=3))
    assert made == expected
    # Threads are divided between workers, GPUs are not.
    assert workers.n_engines == {2: 2, 1: 1, 4: 4}[workers.workers]
