"""The command `sweep` with the real engine: resumed, interrupted, without disk, called wrongly."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rys_gguf.runs.records import StageResult
from rys_gguf.runs.stage import FINAL, GENERATE, SPEED, Status
from rys_gguf.runs.storage import Run
from rys_gguf.runs.trial import Trial
from tests import tiny
from tests.cli.calls import done, refused
from tests.command import command, leftovers, run
from tests.disk import fill

ARGS = ["--plan", "map", "--sizes", "2", "--threads", "1", "--no-preflight",
        "--max-divergence", "1000", "--min-agreement", "0", "--finalists", "1"]  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> list[str | Path]:
    """A sweep of a tiny model over items of one's own, as arguments."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 5, extra={".context_length": 2048})
    suite = tmp_path / "own.jsonl"
    suite.write_text("".join(
        json.dumps({"kind": "choice", "question": f"Is {n} even?", "answer": ("yes", "no")[n % 2]})
        + "\n" for n in range(40)
    ))  # fmt: skip
    return ["sweep", source, "--suite", suite, *ARGS]


def trials(folder: Path) -> list[Trial]:
    """The trials of a run."""
    return list(Run.open(folder).trials.values())


def scores(folder: Path) -> dict[tuple[str, str], object]:
    """The results of a run by candidate and stage, without times."""
    return {
        (trial.key, str(stage)): (result.status, result.soft_scores, result.measures.get("kl"))
        for trial in trials(folder)
        for stage, result in trial.results.items()
    }


def test_killed_again_and_again_it_ends_the_same(job: list[str | Path], tmp_path: Path) -> None:
    """SIGKILL at random moments; then SIGINT, which says how to continue and what is known."""
    job = [*job, "--finalists", "3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(*job, "-o", whole).returncode == 0
    assert not (whole / "work").exists()
    rng = random.Random(1)
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(
            command(*job, "-o", killed), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            before = n_lines(killed)
            while n_lines(killed) < before + 2 and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))
            process.send_signal(number)
            output, errors = process.communicate(timeout=60)
        if number == signal.SIGINT and process.returncode:
            assert process.returncode == 128 + number
            assert "This sweep is not over: it came to" in output
            assert "Next step: Run the sweep again" in output
            assert "run the same command again to continue" in errors
            assert not (killed / "work").exists()
        time.sleep(0.2)
        alive = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
        assert alive.stdout == ""
    done(*job, "-o", killed)
    assert scores(killed) == scores(whole)
    lines = (killed / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(scores(killed))
    assert leftovers(tmp_path, [whole, killed, *(p for p in job if isinstance(p, Path))]) == set()


def test_a_time_becomes_asks_once(job: list[str | Path], tmp_path: Path) -> None:
    """It is said beforehand; the run goes on with its asks, whatever time is given later."""
    folder = tmp_path / "run"
    said = done(*job, "-o", folder, "--time", "1h", "--dry-run").stdout.splitlines()[-1]
    assert re.match(r"time: about [0-9]+ s, as measured on the base: .* for at most 80 of", said)
    assert not folder.exists()
    assert "note: time: about" in done(*job, "-o", folder, "--time", "1h").stderr
    before = scores(folder)
    settings = Run.open(folder).info.identity["settings"]
    assert settings["plan"]["asks"] == 4 * 20, "all items of all windows"
    done(*job, "-o", folder, "--time", "1s")
    assert scores(folder) == before
    assert "settings.plan.asks is 80 there and null here" in refused(*job, "-o", folder)


def test_a_search_out_of_time_goes_to_the_verdict(job: list[str | Path], tmp_path: Path) -> None:
    """Its time is in the run's folder, and so is what was spent of it."""
    folder = tmp_path / "run"
    done(*job, "-o", folder, "--time", "1h")
    info = json.loads((folder / "run.json").read_text())
    assert 0 < info["search_until"] < 3600
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    n_kept = 1 + next(
        n for n, line in enumerate(lines) if json.loads(line)["stage"] == "round1"
        and not json.loads(line)["is_base"]
    )  # fmt: skip
    (folder / "results.jsonl").write_text("".join(lines[:n_kept]))
    (folder / "run.json").write_text(json.dumps({**info, "search_until": 0.001}))
    told = done(*job, "-o", folder, "--time", "1h").stderr
    assert "note: the time of the search is over before its last questions (search): " in told
    asked = {(key, stage) for key, stage, *_ in scores(folder)}
    assert {key for key, stage in asked if stage == "final"} == {
        key for key, stage in asked if stage == "round1"
    }


def n_lines(folder: Path) -> int:
    """How many results are recorded."""
    path = folder / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_workers_side_by_side_find_the_same(job: list[str | Path], tmp_path: Path) -> None:
    """Two engines at once; every line is there once."""
    done(*job, "-o", tmp_path / "one")
    done(*job, "-o", tmp_path / "two", "--workers", "2")
    assert scores(tmp_path / "one") == scores(tmp_path / "two")


def test_a_base_without_room_leaves_no_folder_behind(job: list[str | Path], tmp_path: Path) -> None:
    """The advice in the message makes it another run, which the first must not block."""
    folder = tmp_path / "run"
    args = [a for a in job if a != "--no-preflight"]
    assert "does not beat the best constant answer" in refused(*args, "-o", folder)
    assert not folder.exists()
    done(*job, "-o", folder)


def test_a_working_folder_that_cannot_be_emptied_is_named(
    job: list[str | Path], tmp_path: Path
) -> None:
    """A link is not followed to what it points at."""
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "run" / "work").symlink_to(tmp_path / "precious")
    # The folder of a run holds nothing else, so the link has to come after its beginning.
    assert "neither empty nor a run" in refused(*job, "-o", tmp_path / "run")
    (tmp_path / "run" / "work").unlink()
    done(*job, "-o", tmp_path / "run")
    (tmp_path / "run" / "work").symlink_to(tmp_path / "precious")
    assert f"{tmp_path / 'run' / 'work'}: " in refused(*job, "-o", tmp_path / "run")
    assert (tmp_path / "precious").exists()


def test_speeds_are_measured_one_after_another(job: list[str | Path], tmp_path: Path) -> None:
    """Base and finalists have jobs of their own, at the end: engines side by side are slower."""
    done(*job, "-o", tmp_path / "run", "--workers", "2", "--finalists", "2")
    finalists = [t for t in trials(tmp_path / "run") if FINAL in t.results]
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    last = [json.loads(line)["stage"] for line in lines[-len(finalists) :]]
    assert last == ["speed"] * len(finalists)
    for trial in finalists:
        assert (trial.measure(SPEED, "tokens_per_second") or 0) > 0
        assert 0 <= (trial.measure(SPEED, "spread") or 0) < 1
        beside = trial.measure(SPEED, "base_tokens_per_second")
        assert (beside is None) == trial.candidate.is_base
        assert trial.measure(FINAL, "tokens_per_second") is None


def test_finalists_answer_in_words_as_well(job: list[str | Path], tmp_path: Path) -> None:
    """With --generate: base and finalists, on the held-out items, and the verdicts rest on it."""
    told = done(*job, "--generate", "-o", tmp_path / "run").stdout
    found = trials(tmp_path / "run")
    in_words = {t.key for t in found if t.answers.get(GENERATE)}
    assert in_words == {t.key for t in found if t.answers.get(FINAL)}
    assert len(in_words) == 2
    for trial in found:
        for stage, answers in trial.answers.items():
            for answer in answers.values():
                is_generated = stage == GENERATE
                assert (answer.scoring == "generate") == is_generated
                assert isinstance(answer.response, str) == is_generated
                assert bool(answer.probabilities) != is_generated
    assert "generated answers" in told


def test_an_engine_that_dies_is_a_failed_candidate_with_its_last_words(
    job: list[str | Path], tmp_path: Path
) -> None:
    """The others are tried; --retry-failed tries it again, and only then."""
    script = tmp_path / "server"
    script.write_text(
        "#!/usr/bin/env python3\n"
        "import os, sys\n"
        "path = sys.argv[sys.argv.index('--model') + 1]\n"
        "flag = os.path.join(os.path.dirname(sys.argv[0]), 'works')\n"
        "if 'worker-' in path and not os.path.exists(flag):\n"
        "    print('out of memory on device 7'); sys.exit(9)\n"
        "port = sys.argv[sys.argv.index('--port') + 1]\n"
        "import json\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, '-m', "
        "'rys_gguf.engines.child', json.dumps({'model': path, 'port': int(port), 'n_ctx': 2048, "
        "'n_threads': 1, 'n_ubatch': None})])\n"
    )
    script.chmod(0o755)
    folder = tmp_path / "run"
    done(*job, "-o", folder, "--llama-server", script)
    results = list(failed(folder))
    assert len(results) == 4
    assert "exit code 9" in (results[0].reason or "")
    assert results[0].log == ("out of memory on device 7",)
    (tmp_path / "works").touch()
    done(*job, "-o", folder, "--llama-server", script)
    assert len(list(failed(folder))) == 4
    done(*job, "-o", folder, "--llama-server", script, "--retry-failed")
    assert not list(failed(folder))


def failed(folder: Path) -> Iterator[StageResult]:
    """The results that say a failure."""
    for trial in trials(folder):
        yield from (r for r in trial.results.values() if r.status is Status.FAILED)


def test_a_disk_without_room_is_noticed_before_anything_runs(
    job: list[str | Path], small_disk: Path
) -> None:
    """The message has the bytes needed and free; with room the same command runs."""
    job = [*job, "--engine", "server"]  # a live engine needs no room for models
    folder = small_disk / "run"
    filler = fill(small_disk)
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - (150 << 10))  # the run's lines, but no working file
    message = refused(*job, "-o", folder)
    assert re.search(r"[0-9]+ bytes needed for the working file and .*, [0-9]+ free", message)
    assert not folder.exists()
    filler.unlink()
    done(*job, "-o", folder)


def test_a_disk_that_fills_up_stops_the_sweep_and_loses_nothing(
    job: list[str | Path], small_disk: Path
) -> None:
    """One message that says how to go on; with room the same command ends the sweep."""
    folder = small_disk / "run"
    with subprocess.Popen(
        command(*job, "-o", folder), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        while n_lines(folder) < 1 and process.poll() is None:
            time.sleep(0.01)
        filler = fill(small_disk)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert str(folder) in errors
    assert not (folder / "work").exists()
    filler.unlink()
    done(*job, "-o", folder)
    results = (folder / "results.jsonl").read_text().splitlines()
    assert len(results) == len(scores(folder))


def test_wrong_calls_are_one_message(job: list[str | Path], tmp_path: Path) -> None:
    """Each mistake is reported before anything runs."""
    source = job[1]
    (tmp_path / "w.txt").write_text("3,9\n")
    assert "line 1" in refused("sweep", source, "--windows", tmp_path / "w.txt", "--suite", job[3])
    (tmp_path / "bad.jsonl").write_text('{"kind": "choice"}\n')
    assert "line 1: question" in refused("sweep", source, "--suite", tmp_path / "bad.jsonl")
    refused("sweep", source, "--level", "9", code=2)
    refused("sweep", source, "--families", "chess", code=2)
    refused("sweep", source, "--sizes", "x", code=2)
    control = ("sweep", source, "--control", "eq", "--dry-run")
    assert "in --families as well" in refused(*control, code=2)
    assert "--heldout only" in refused(*control, "--suite", job[3], code=2)
    done(*control, "--families", "math")
    own = Path(job[3])
    (tmp_path / "other.jsonl").write_text('{"kind": "choice", "question": "?", "answer": "no"}\n')
    held = ("sweep", source, "--suite", own, "--dry-run", "--heldout")
    assert "line-1 asks the same as line-1 of" in refused(*held, own)
    done(*held, tmp_path / "other.jsonl")
    detect = refused("sweep", source, "--suite", own, "--detect", "3", code=2)
    assert "--detect sizes generated items" in detect
    eq = ("--families", "eq", "--level", "0")
    sees = done("sweep", source, *eq, "--detect", "30", "--dry-run").stdout
    assert "sees: in four sweeps out of five a true gain of 28" in sees
    both = refused("sweep", source, "--time", "30m", "--asks", "500", code=2)
    assert "--time and --asks are two ways" in both
    few = refused("sweep", source, *ARGS, "--asks", "20", "--dry-run", code=2)
    assert "--asks 20 is too little for 4 windows: give at least" in few
    two_pass = ("sweep", source, "--plan", "two-pass", "--sizes", "2", "--dry-run")
    assert "two sizes" in refused(*two_pass)
    too_long = ("sweep", source, "--plan", "map", "--sizes", "40")
    assert "the model has 5 layers, no window of 40" in refused(*too_long, "--dry-run")
    assert "the model has 5 layers, no window of 40" in refused(*too_long)


def test_a_dry_run_lists_and_writes_nothing(job: list[str | Path], tmp_path: Path) -> None:
    """The candidates, the items, the disk and the tokens, before anything is written or loaded."""
    before = set(tmp_path.iterdir())
    job = [*job, "--finalists", "3"]
    lines = done(*job, "--dry-run").stdout.splitlines()
    assert lines[0] == "candidates: blocks:0,2, blocks:1,3, blocks:2,4, blocks:3,5"
    assert "items: 80 asked in all, 8 at a time, up to 20 of a window; 3 finalists" in lines
    (disk,) = (line for line in lines if line.startswith("disk: "))
    assert re.fullmatch(r"disk: .* needed with a finalist's file, .* free in .*gguf\.sweep", disk)
    assert "at most 4 windows; held-out items: 20 for the base and each finalist" in lines
    halving = done(*job, "--sampler", "halving", "--dry-run").stdout
    assert "items: 16, 20 of 20 in successive rounds; 3 finalists" in halving
    assert "at most 4 windows, 3 of them in round 2; held-out items: 20 for the base" in halving
    assert re.search(r"time: not measured yet \(--time does\); about [0-9,]+ ", lines[-1])
    assert set(tmp_path.iterdir()) == before
