"""The sweep finds what was planted, does little, and survives whatever stops it."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rys_gguf import Model
from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import RysError
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.item import Choice
from rys_gguf.runs.storage import OpenRun, Run
from rys_gguf.search.executors.local import shares
from rys_gguf.search.objective import HELDOUT, SEARCH, Job, Outcome, Setup, divergence
from rys_gguf.search.space import Windows, coarse, every, fine, listed
from rys_gguf.search.study import Settings, Sweep, round_ends
from rys_gguf.stats.ranking import best, ranks
from tests import tiny
from tests.command import command, fails, leftovers, run
from tests.disk import fill

N_LAYERS = 16
INFO: dict[str, Any] = {"identity": {"model": "m"}}


def items(n: int, name: str) -> tuple[Choice, ...]:
    """Yes-no items, half of each."""
    return tuple(
        Choice(
            id=f"{name}{k}", family="reasoning", topic="t", level=0, question=f"{name} {k}?",
            answer=("yes", "no")[k % 2],
        )
        for k in range(n)
    )  # fmt: skip


def surely(p: float) -> list[dict[str, float]]:
    """The probabilities of an answer whose item, of either kind, gets `p` right."""
    return [{"yes": p, "no": p, "rest": 1 - 2 * p}]


class PlantedPool:
    """Answers as a model would whose windows have known effects; counts what it is asked.

    `gains` are per window, of the probability of the right option; `kl` and `loops` what the
    filters see; `broken` windows fail. Raises after `fuse` outcomes, if there is one.
    """

    def __init__(
        self,
        gains: dict[tuple[int, int], float],
        *,
        kl: dict[tuple[int, int], float] | None = None,
        loops: Sequence[tuple[int, int]] = (),
        broken: Sequence[tuple[int, int]] = (),
        fuse: int | None = None,
    ) -> None:
        self.gains, self.kl, self.loops, self.broken = gains, kl or {}, loops, broken
        self.fuse = fuse
        self.n_asked = 0
        self.jobs: list[Job] = []

    def run(self, setup: Setup, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Outcomes as a worker's."""
        for job in jobs:
            self.jobs.append(job)
            window = job.candidate.windows[0] if job.candidate.windows else None
            for step in job.steps:
                if self.fuse is not None:
                    if self.fuse == 0:
                        raise KeyboardInterrupt
                    self.fuse -= 1
                reason, status, measures = None, "ok", {}
                if window in self.broken:
                    reason, status = "llama.cpp ended", "failed"
                if step.stage == "damage" and window is not None:
                    measures = {"kl": self.kl.get(window, 0.1)}
                    if measures["kl"] > setup.max_divergence:
                        reason, status = "damaged", "dropped"
                if step.stage == "loops" and window in self.loops:
                    reason, status = "loops", "dropped"
                lines = () if reason else tuple(
                    self._answer(setup, job, step.stage, step.suite, n, window) for n in step.items
                )  # fmt: skip
                self.n_asked += len(lines)
                yield Outcome(
                    {
                        "candidate": job.candidate.key, "stage": step.stage, "status": status,
                        "spec": job.candidate.spec, "reason": reason, "measures": measures,
                    },
                    lines,
                )  # fmt: skip
                if reason:
                    break

    def _answer(
        self, setup: Setup, job: Job, stage: str, suite: str, n: int, window: Any
    ) -> dict[str, Any]:
        item = setup.items[suite][n]
        ability = random.Random(item.id).uniform(0.35, 0.75)
        noise = random.Random(item.id + job.candidate.key).gauss(0, 0.08) if window else 0.0
        credit = min(1.0, max(0.0, ability + self.gains.get(window, 0.0) + noise))
        return {
            "candidate": job.candidate.key, "stage": stage, "item": item.id, "family": item.family,
            "score": float(credit > 0.5), "credit": credit, "probabilities": surely(credit),
        }  # fmt: skip


class Silent:
    """Nobody watches."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        """Keep it."""
        self.said.append(line)

    def begin(self, what: str, total: int) -> None:
        """Ignore it."""

    def advance(self) -> None:
        """Ignore it."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Sixteen layers, any of which may be repeated."""
    return tiny.write(tmp_path / "m.gguf", "llama", N_LAYERS)


def setup_for(model: Path, folder: Path, n: int = 120) -> Setup:
    """A setup without questions: the pool here asks no engine."""
    return Setup(
        str(model), str(folder / "work"), Schedule.PORTABLE, EngineOptions(), chats=False,
        items={SEARCH: items(n, "s"), HELDOUT: items(n, "h")}, questions={SEARCH: (), HELDOUT: ()},
        baselines={SEARCH: 0.0, HELDOUT: 0.0}, texts=(),
    )  # fmt: skip


def search(
    model: Path,
    folder: Path,
    pool: PlantedPool,
    fine_size: int | None = None,
    sizes: Any = (2, 3),
    setup: Setup | None = None,
) -> list[str]:
    """The finalists' specs."""
    with Model(model) as opened:
        windows = Windows(opened, Schedule.PORTABLE)
        first = every(windows, sizes) if fine_size is None else coarse(windows, 4, 2)
    with OpenRun.start(folder, INFO, {}) as opened_run:
        setup = setup or setup_for(model, folder)
        sweep = Sweep(opened_run, setup, Settings(), pool, Silent())
        return [c.spec for c in sweep.run(first, fine_size)]


def test_the_planted_winners_are_found_with_a_fraction_of_the_questions(
    model: Path, tmp_path: Path
) -> None:
    """Three of 29 windows are better; the others are a little worse, and each is noisy."""
    winners = {(4, 6): 0.15, (9, 12): 0.12, (5, 8): 0.09}
    gains = {(i, i + d): -0.05 for d in (2, 3) for i in range(N_LAYERS - d + 1)} | winners
    pool = PlantedPool(gains)
    found = search(model, tmp_path / "run", pool)
    assert set(found) == {"blocks:4,6", "blocks:9,12", "blocks:5,8"}
    # All windows on all items, and the same finalists on as many held-out ones.
    naive = (len(gains) + 1) * 120 + 4 * 120
    assert pool.n_asked < naive / 3
    finals = [j for j in pool.jobs if j.steps[-1].stage == "final"]
    assert [j.real_file for j in finals] == [False, True, True, True]
    assert {j.candidate.spec for j in finals} == {"base", *found}


def test_the_second_pass_looks_around_the_best_of_the_first(model: Path, tmp_path: Path) -> None:
    """Windows of 2 within 4 layers of the best two windows of 4, and nowhere else."""
    pool = PlantedPool({(8, 12): 0.2, (6, 10): 0.1, (9, 11): 0.3})
    assert search(model, tmp_path / "run", pool, fine_size=2)[0] == "blocks:9,11"
    tried = {j.candidate.windows[0] for j in pool.jobs if j.candidate.windows}
    small = {w for w in tried if w[1] - w[0] == 2}
    assert small == {(i, i + 2) for i in range(2, 15)}


def test_damaged_looping_and_failing_windows_are_left_behind(model: Path, tmp_path: Path) -> None:
    """Each with its reason in the results, and not among the finalists, whatever they score."""
    folder = tmp_path / "run"
    pool = PlantedPool(
        {(1, 3): 0.5, (2, 4): 0.4, (3, 5): 0.3, (4, 6): 0.2},
        kl={(1, 3): 5.0}, loops=[(2, 4)], broken=[(3, 5)],
    )  # fmt: skip
    found = search(model, folder, pool, sizes=(2,))
    assert found[0] == "blocks:4,6"
    assert not {"blocks:1,3", "blocks:2,4", "blocks:3,5"} & set(found)
    status = {(r["spec"], r["stage"]): r["status"] for r in Run.open(folder).results}
    assert status["blocks:1,3", "damage"] == "dropped"
    assert ("blocks:1,3", "round1") not in status
    assert status["blocks:2,4", "loops"] == "dropped"
    assert status["blocks:3,5", "damage"] == "failed"
    asked = [j for j in pool.jobs if j.candidate.spec == "blocks:3,5"]
    assert len(asked) == 1


def test_where_most_windows_look_damaged_the_better_half_goes_on(
    model: Path, tmp_path: Path
) -> None:
    """Limits that do not fit a model must not empty the sweep."""
    kl = {(i, i + 2): 2.0 + i for i in range(15)}
    folder = tmp_path / "run"
    found = search(model, folder, PlantedPool({(5, 7): 0.3}, kl=kl), sizes=(2,))
    assert found[0] == "blocks:5,7"
    tried = [r for r in Run.open(folder).results if r["stage"] == "round1"]
    assert len(tried) == 1 + 8  # the base, and the half that diverges least
    assert "blocks:12,14" not in {r["spec"] for r in tried}


def test_stopped_after_any_outcome_it_ends_the_same(model: Path, tmp_path: Path) -> None:
    """Nothing is done twice, and the result is that of a sweep nobody stopped."""
    gains = {(4, 6): 0.15, (9, 11): 0.12}
    kl = {(0, 2): 9.0}
    whole = PlantedPool(gains, kl=kl)
    expected = search(model, tmp_path / "whole", whole, sizes=(2,))
    done = len(Run.open(tmp_path / "whole").results)
    for fuse in (0, 1, 5):
        folder = tmp_path / f"stopped{fuse}"
        for _ in range(done + 2 if fuse else 1):
            try:
                found = search(model, folder, PlantedPool(gains, kl=kl, fuse=fuse), sizes=(2,))
                break
            except KeyboardInterrupt:
                continue
        if fuse == 0:
            assert not (folder / "results.jsonl").exists()
            continue
        assert found == expected
        lines = (folder / "results.jsonl").read_text().splitlines()
        stages = [(r["candidate"], r["stage"]) for r in map(json.loads, lines)]
        assert len(stages) == len(set(stages)) == done


def test_a_base_that_fails_ends_the_sweep(model: Path, tmp_path: Path) -> None:
    """Without it there is nothing to compare with."""

    class Broken(PlantedPool):
        def run(self, setup: Setup, jobs: Sequence[Job]) -> Iterator[Outcome]:
            job = jobs[0]
            line = {"candidate": job.candidate.key, "stage": job.steps[0].stage}
            more = {"status": "failed", "reason": "no such GPU", "spec": "base"}
            yield Outcome({**line, **more}, ())

    with pytest.raises(RysError, match="no such GPU"):
        search(model, tmp_path / "run", Broken({}))
    # Once the cause is mended the same command goes on.
    assert search(model, tmp_path / "run", PlantedPool({(4, 6): 0.2}))[0] == "blocks:4,6"


def test_a_base_at_chance_ends_the_sweep_unless_told_otherwise(model: Path, tmp_path: Path) -> None:
    """The message names the family and what to do."""

    class Guessing(PlantedPool):
        def _answer(self, *args: Any) -> dict[str, Any]:
            line = super()._answer(*args)
            right = random.Random(line["item"] + line["candidate"]).random() < 0.5
            return {**line, "score": float(right), "credit": 0.5, "probabilities": surely(0.5)}

    with pytest.raises(RysError, match=r"the model does not beat the best constant answer .* 168 items"):
        search(model, tmp_path / "run", Guessing({}))


@pytest.mark.parametrize("dull", [False, True])
def test_control_families_choose_nothing_and_must_show_something(
    model: Path, tmp_path: Path, dull: bool
) -> None:
    """Only finalists are asked; a base at chance in one ends the sweep before it begins."""

    class Dull(PlantedPool):
        def _answer(self, *args: Any) -> dict[str, Any]:
            line = super()._answer(*args)
            if line["family"] == "eq" and dull:
                right = random.Random(line["item"]).random() < 0.5
                return {**line, "score": float(right), "credit": 0.5, "probabilities": surely(0.5)}
            return line

    pool = Dull({(4, 6): 0.2})
    setup = setup_for(model, tmp_path / "run")
    controls = tuple(replace(item, family="eq") for item in items(60, "c"))
    setup.items[HELDOUT] += controls
    if dull:
        with pytest.raises(RysError, match="eq: the model does not beat the best constant answer"):
            search(model, tmp_path / "run", pool, setup=setup)
        assert {job.candidate.is_base for job in pool.jobs} == {True}
        return
    assert search(model, tmp_path / "run", pool, setup=setup)[0] == "blocks:4,6"
    asked = {(i["stage"], i["family"]) for i in Run.open(tmp_path / "run").items}
    assert asked == {
        ("round1", "reasoning"), ("round2", "reasoning"), ("final", "reasoning"), ("final", "eq")
    }  # fmt: skip


# -- the parts -----------------------------------------------------------------------------------


def test_rounds_grow_and_end_within_the_suite() -> None:
    """Shares of it, but never very few items."""
    assert round_ends(312, (0.06, 0.25)) == [19, 78]
    assert round_ends(64, (0.06, 0.25)) == [16, 48]
    assert round_ends(10, (0.06, 0.25)) == [10]


def test_a_rank_weighs_families_alike_whatever_their_scale() -> None:
    """EQ skill moves by whole points where probabilities move by hundredths."""

    def lines(fine: float, coarse_: float) -> list[dict[str, Any]]:
        rng = random.Random(fine + coarse_)
        return [
            {"item": f"f{n}", "family": "fine", "credit": fine + rng.gauss(0, 0.01)}
            for n in range(50)
        ] + [
            {"item": f"c{n}", "family": "coarse", "credit": coarse_ + rng.gauss(0, 1)}
            for n in range(50)
        ]

    found = ranks(lines(0, 0), {"x": lines(0.02, 0), "y": lines(0, 0.5), "z": lines(0, 0)})
    assert found["x"] > found["y"] > found["z"]
    assert best({"a": 1.0, "b": 1.0, "c": 2.0}, {"a": 8, "b": 4, "c": 8}, 2) == ["c", "b"]


def test_divergence_is_that_of_the_distributions() -> None:
    """Two outcomes and the rest, against the sum written out."""
    p = {1: math.log(0.6), 2: math.log(0.3)}
    q = {1: math.log(0.3), 2: math.log(0.6)}
    found = divergence([p], [q])
    assert found["kl"] == pytest.approx(0.6 * math.log(2) - 0.3 * math.log(2))
    assert found["agreement"] == 0
    assert divergence([p], [p]) == {"kl": pytest.approx(0), "agreement": 1}
    assert divergence([p], [{1: -math.inf, 2: -math.inf}])["kl"] == math.inf


def test_equal_maps_are_one_candidate(tmp_path: Path, model: Path) -> None:
    """However they were written; illegal ones are listed with their rule."""
    text = "8,12\nblocks:8,12  # again\n\nlayers:0..11,8..15\nblocks:2,4;6,8\n"
    (tmp_path / "w.txt").write_text(text)
    with Model(model) as opened:
        chosen = listed(Windows(opened, Schedule.PORTABLE), tmp_path / "w.txt")
        assert [c.key for c in chosen.candidates] == ["0-11,8-15", "0-3,2-7,6-15"]
        (tmp_path / "w.txt").write_text("8,12\n12,8\n")
        with pytest.raises(RysError, match="line 2"):
            listed(Windows(opened, Schedule.PORTABLE), tmp_path / "w.txt")
    hybrid = tiny.write(tmp_path / "g.gguf", "gemma3", 12)
    with Model(hybrid) as opened:
        windows = Windows(opened, Schedule.PORTABLE)
        chosen = coarse(windows, 3, 1)
        assert not chosen.candidates
        assert len(chosen.illegal) == 10
        assert "period 6" in chosen.illegal[0].rule
        assert windows.legal_size(8) == 6
        assert len(fine(windows, [(0, 6)], 6, 2).candidates) == 3
        explicit = Windows(opened, Schedule.EXPLICIT)
        assert explicit.legal_size(8) == 8


def test_threads_and_gpus_are_split() -> None:
    """Each worker its part; one worker keeps what was given."""
    four = shares(EngineOptions(), 2, ["0", "1", "2", "3"])
    assert dict(four[0].environment)["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert dict(four[1].environment)["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert all(o.n_threads == max(1, (os.cpu_count() or 1) // 2) for o in four)
    assert dict(shares(EngineOptions(), 3, ["0"])[2].environment)["CUDA_VISIBLE_DEVICES"] == "0"
    assert shares(EngineOptions(), 1, ())[0] == EngineOptions()
    assert shares(EngineOptions(n_threads=3), 2, ())[0].n_threads == 3


# -- with the real engine ------------------------------------------------------------------------

ARGS = ["--plan", "map", "--sizes", "2", "--threads", "1", "--no-preflight",
        "--max-divergence", "1000", "--min-agreement", "0"]  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> list[Any]:
    """A sweep of a tiny model over items of one's own, as arguments."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 5, extra={".context_length": 2048})
    suite = tmp_path / "own.jsonl"
    suite.write_text("".join(
        json.dumps({"kind": "choice", "question": f"Is {n} even?", "answer": ("yes", "no")[n % 2]})
        + "\n" for n in range(40)
    ))  # fmt: skip
    return ["sweep", source, "--suite", suite, *ARGS]


def scores(folder: Path) -> dict[tuple[str, str], Any]:
    """What a run found, without times."""
    return {
        (r["candidate"], r["stage"]): (r["status"], r["credits"], r["measures"].get("kl"))
        for r in Run.open(folder).results
    }


def test_killed_again_and_again_it_ends_the_same(job: list[Any], tmp_path: Path) -> None:
    """SIGKILL at random moments; then SIGINT, which says how to go on and clears up."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run(*job, "-o", whole)
    assert done.returncode == 0, done.stderr
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
            _, errors = process.communicate(timeout=60)
        if number == signal.SIGINT and process.returncode:
            assert process.returncode == 128 + number
            assert "run the same command again to go on" in errors
            assert not (killed / "work").exists()
        time.sleep(0.2)
        alive = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
        assert alive.stdout == ""
    again = run(*job, "-o", killed)
    assert again.returncode == 0, again.stderr
    assert scores(killed) == scores(whole)
    lines = (killed / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(scores(killed))
    assert leftovers(tmp_path, [whole, killed, *(p for p in job if isinstance(p, Path))]) == set()


def n_lines(folder: Path) -> int:
    """How many results are recorded."""
    path = folder / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_workers_side_by_side_find_the_same(job: list[Any], tmp_path: Path) -> None:
    """Two engines at once; every line is there once."""
    assert run(*job, "-o", tmp_path / "one").returncode == 0
    assert run(*job, "-o", tmp_path / "two", "--workers", "2").returncode == 0
    assert scores(tmp_path / "one") == scores(tmp_path / "two")


def test_a_base_without_room_leaves_no_folder_behind(job: list[Any], tmp_path: Path) -> None:
    """What the message advises makes it another run, which the first must not stand against."""
    folder = tmp_path / "run"
    args = [a for a in job if a != "--no-preflight"]
    assert "does not beat the best constant answer" in fails(*args, "-o", folder)
    assert not folder.exists()
    assert run(*job, "-o", folder).returncode == 0


def test_a_working_folder_that_cannot_be_emptied_is_named(job: list[Any], tmp_path: Path) -> None:
    """A link is not followed to what it points at."""
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "run" / "work").symlink_to(tmp_path / "precious")
    # The folder of a run holds nothing else, so the link has to come after its beginning.
    assert "neither empty nor a run" in fails(*job, "-o", tmp_path / "run")
    (tmp_path / "run" / "work").unlink()
    assert run(*job, "-o", tmp_path / "run").returncode == 0
    (tmp_path / "run" / "work").symlink_to(tmp_path / "precious")
    assert f"{tmp_path / 'run' / 'work'}: " in fails(*job, "-o", tmp_path / "run")
    assert (tmp_path / "precious").exists()


def test_speeds_are_measured_one_after_another(job: list[Any], tmp_path: Path) -> None:
    """Of base and finalists, in jobs of their own: beside other engines each would be slower."""
    assert run(*job, "-o", tmp_path / "run", "--workers", "2").returncode == 0
    results = Run.open(tmp_path / "run").results
    finalists = {r["candidate"] for r in results if r["stage"] == "final"}
    timed = [r for r in results if r["stage"] == "speed"]
    assert {r["candidate"] for r in timed} == finalists
    assert [r["stage"] for r in results[-len(timed) :]] == ["speed"] * len(timed)
    for r in timed:
        assert r["measures"]["tokens_per_second"] > 0
    assert all("tokens_per_second" not in r["measures"] for r in results if r["stage"] == "final")


def test_finalists_answer_in_words_as_well(job: list[Any], tmp_path: Path) -> None:
    """With --generate: base and finalists, on the held-out items, and the verdicts rest on it."""
    done = run(*job, "--generate", "-o", tmp_path / "run", "--finalists", "1")
    assert done.returncode == 0, done.stderr
    opened = Run.open(tmp_path / "run")
    by_stage = {
        stage: {r["candidate"] for r in opened.results if r["stage"] == stage and r["n_items"]}
        for stage in ("final", "generate")
    }
    assert by_stage["generate"] == by_stage["final"]
    assert len(by_stage["generate"]) == 2
    for line in opened.items:
        in_words = line["stage"] == "generate"
        assert (line["scoring"] == "generate") == in_words == isinstance(line["response"], str)
        assert bool(line["probabilities"]) != in_words
    assert "generated answers" in done.stdout


def test_an_engine_that_dies_is_a_failed_candidate_with_its_last_words(
    job: list[Any], tmp_path: Path
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
    done = run(*job, "-o", folder, "--llama-server", script)
    assert done.returncode == 0, done.stderr
    failed = [r for r in Run.open(folder).results if r["status"] == "failed"]
    assert len(failed) == 4
    assert "exit code 9" in failed[0]["reason"]
    assert failed[0]["log"] == ["out of memory on device 7"]
    (tmp_path / "works").touch()
    run(*job, "-o", folder, "--llama-server", script)
    assert len([r for r in Run.open(folder).results if r["status"] == "failed"]) == 4
    run(*job, "-o", folder, "--llama-server", script, "--retry-failed")
    assert not [r for r in Run.open(folder).results if r["status"] == "failed"]


def test_a_full_disk_stops_the_sweep_and_loses_nothing(
    job: list[Any],
    small_disk: Path,
) -> None:
    """One message that says how to go on; with room the same command ends the sweep."""
    folder = small_disk / "run"
    room = small_disk / "filler"
    fill(small_disk)
    with room.open("r+b") as file:
        file.truncate(room.stat().st_size - (150 << 10))  # the run's lines, but no working file
    assert "free" in fails(*job, "-o", folder)
    assert not (folder / "work").exists()
    before = n_lines(folder)
    assert before >= 1  # the base needs no file
    room.unlink()
    done = run(*job, "-o", folder)
    assert done.returncode == 0, done.stderr
    results = (folder / "results.jsonl").read_text().splitlines()
    assert len(results) == len(scores(folder)) > before


def test_wrong_calls_are_one_message(job: list[Any], tmp_path: Path) -> None:
    """What cannot be a sweep is said before anything runs."""
    source = job[1]
    (tmp_path / "w.txt").write_text("3,9\n")
    assert "line 1" in fails("sweep", source, "--windows", tmp_path / "w.txt", "--suite", job[3])
    (tmp_path / "bad.jsonl").write_text('{"kind": "choice"}\n')
    assert "line 1: question" in fails("sweep", source, "--suite", tmp_path / "bad.jsonl")
    assert run("sweep", source, "--level", "9").returncode == 2
    assert run("sweep", source, "--families", "chess").returncode == 2
    assert run("sweep", source, "--sizes", "x").returncode == 2
    control = ("sweep", source, "--control", "eq", "--dry-run")
    assert "in --families as well" in run(*control).stderr
    assert "--heldout only" in run(*control, "--suite", job[3]).stderr
    assert run(*control, "--families", "math").returncode == 0
    own = Path(job[3])
    (tmp_path / "other.jsonl").write_text('{"kind": "choice", "question": "?", "answer": "no"}\n')
    held = ("sweep", source, "--suite", own, "--dry-run", "--heldout")
    assert "line-1 asks the same as line-1 of" in fails(*held, own)
    assert run(*held, tmp_path / "other.jsonl").returncode == 0
    assert "two sizes" in fails("sweep", source, "--sizes", "2", "--dry-run")
    too_long = ("sweep", source, "--plan", "map", "--sizes", "40")
    assert "the model has 5 layers, no window of 40" in fails(*too_long, "--dry-run")
    assert "the model has 5 layers, no window of 40" in fails(*too_long)


def test_a_dry_run_lists_and_writes_nothing(job: list[Any], tmp_path: Path) -> None:
    """The candidates, before anything is written or loaded."""
    before = set(tmp_path.iterdir())
    done = run(*job, "--dry-run")
    assert done.stdout.splitlines()[0] == (
        "candidates: blocks:0,2, blocks:1,3, blocks:2,4, blocks:3,5"
    )
    assert set(tmp_path.iterdir()) == before
