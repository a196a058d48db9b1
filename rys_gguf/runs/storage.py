"""The folder of a run: what was asked of which candidate, and every answer, in files that grow.

`run.json` describes the run, `suite.jsonl` and `heldout.jsonl` hold its items, `results.jsonl`
has one line for each candidate and stage, `items.jsonl` one for each candidate, stage and item.
Whatever stops a run, each line is there completely or not at all: lines are synced before
anything counts on them, and half a line at the end of a file is taken off when the run goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from msgspec.structs import replace

from rys_gguf.errors import InvalidLayerMap, RysError
from rys_gguf.files.source import reason
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.disk import (
    append,
    cut_half_line,
    is_part_of,
    read_bytes,
    read_lines,
    take_lock,
    write_whole,
)
from rys_gguf.runs.records import (
    SCHEMA,
    ItemAnswer,
    Progress,
    RunInfo,
    StageResult,
    decode,
    decode_info,
    encode,
    encode_info,
)
from rys_gguf.runs.stage import Stage, Status
from rys_gguf.runs.trial import Trial, Trials
from rys_gguf.text import printable

INFO, RESULTS, ITEMS = "run.json", "results.jsonl", "items.jsonl"
PROGRESS = "progress.json"
SUITE, HELDOUT = "suite.jsonl", "heldout.jsonl"
LOCK = "lock"
_MAX_PROGRESS = 1 << 14
_ASK_AGAIN_SECONDS = 0.2
# How messages call a line, and the line.
Line = tuple[str, bytes]


class Run:
    """A run's folder, open for reading: `info` is run.json, `trials` what came of its candidates.

    If a candidate has several results for a stage, the last one counts. Answers count only if the
    result of their stage was written and is no failure. Trials hold nothing else.
    """

    def __init__(self, folder: Path, info: RunInfo) -> None:
        self.folder = folder
        self.info = info
        self._trials: dict[str, Trial] = {}
        # All answers of the file, whether they count or not.
        self._answers: dict[str, dict[Stage, dict[str, ItemAnswer]]] = {}

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Run:
        """The run in a folder. Raises RysError, naming file and line, for anything else."""
        run = Run(Path(folder), read_info(Path(folder)))
        run.replay(_lines(run.folder / ITEMS), _lines(run.folder / RESULTS))
        return run

    @property
    def trials(self) -> Trials:
        """Every candidate by its key, in the order of the log; grows while the run is recorded.

        A trial has no results if its only one failed and was forgotten.
        """
        return MappingProxyType(self._trials)

    @property
    def base(self) -> Trial | None:
        """The trial of the model as it is, None while it has no result."""
        return self._trials.get(Candidate.base(self.info.model.n_layers).key)

    def replay(self, items: Iterable[Line], results: Iterable[Line]) -> None:
        """Replace the trials by those of the lines of both files."""
        self._trials.clear()
        self._answers.clear()
        for where, line in items:
            self._keep(decode(line, ItemAnswer, where))
        for where, line in results:
            self._add(decode(line, StageResult, where), where)

    def _keep(self, answer: ItemAnswer) -> None:
        stages = self._answers.setdefault(answer.candidate, {})
        stages.setdefault(answer.stage, {})[answer.item] = answer

    def _add(self, result: StageResult, where: str) -> None:
        trial = self._trials.get(result.candidate)
        candidate = trial.candidate if trial else self._candidate(result, where)
        _require_own(result, candidate, where)
        results = {**(trial.results if trial else {}), result.stage: result}
        self._put(candidate, results)

    def _put(self, candidate: Candidate, results: Mapping[Stage, StageResult]) -> None:
        # A stage that was interrupted before its result leaves answers in the file. If it failed
        # when it was run again, these few must not pass for all of its answers.
        by_stage = self._answers.get(candidate.key, {})
        answers = {
            stage: MappingProxyType(dict(by_stage[stage]))
            for stage, result in results.items()
            if stage in by_stage and result.status is not Status.FAILED
        }
        self._trials[candidate.key] = Trial(
            candidate, MappingProxyType(dict(results)), MappingProxyType(answers)
        )

    def _candidate(self, result: StageResult, where: str) -> Candidate:
        try:
            return Candidate.from_key(result.candidate, self.info.model.n_layers)
        except InvalidLayerMap as e:
            raise RysError(f"{where}: not what a sweep writes: candidate: {e}") from e


class OpenRun(Run):
    """A run that is being recorded; use it as a context manager.

    Entering takes the folder's lock, and then reads what was recorded before.
    """

    _lock: IO[bytes]

    def __enter__(self) -> OpenRun:
        lock = _locked(self.folder)
        try:
            for name in (RESULTS, ITEMS):
                cut_half_line(self.folder / name)
            self.replay(_lines(self.folder / ITEMS), _lines(self.folder / RESULTS))
        except BaseException:
            lock.close()
            raise
        self._lock = lock
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.close()

    @classmethod
    def start(cls, folder: Path, info: RunInfo, files: Mapping[str, str]) -> OpenRun:
        """Begin a run in a folder, or continue the one that is there.

        `run_id` and `created` are set here. `files` are written beside run.json. Raises RysError
        if the folder holds another run or something else, or if `info` is not within its bounds.
        """
        if _is_run(folder):
            require_identity(folder, info.identity)
            return cls(folder, read_info(folder))
        info = replace(info, schema=SCHEMA, run_id=run_id(info.identity), created=now())
        encoded = encode_info(info)
        # Nothing else would notice before the run is opened again, after hours of work.
        decode_info(encoded, printable(folder / INFO))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _require_empty(folder)
            # Two sweeps may begin at once in one folder: the later one finds a run there.
            with _locked(folder):
                if not _is_run(folder):
                    for name, text in files.items():
                        write_whole(folder / name, text.encode("utf-8", "surrogateescape"))
                    # Last: a folder with this file is a run.
                    write_whole(folder / INFO, encoded)
        except OSError as e:
            raise RysError(f"{printable(folder)}: {reason(e)}") from e
        require_identity(folder, info.identity)
        return cls(folder, read_info(folder))

    def record(self, result: StageResult, answers: Sequence[ItemAnswer]) -> None:
        """Write a result and its answers durably, and add them to the trials. Sets `time`.

        Answers are written first, so that a result never lacks them. The trials get what the
        written lines decode to: a run that is continued later sees the same numbers. Raises
        RysError, and writes nothing, for values that could not be read again.
        """
        where = f"{printable(result.candidate)} {result.stage}"
        lines = [encode(answer) for answer in answers]
        last = encode(replace(result, time=now()))
        kept = [decode(line, ItemAnswer, f"{where}, an answer") for line in lines]
        new = decode(last, StageResult, where)
        trial = self._trials.get(new.candidate)
        _require_own(new, trial.candidate if trial else self._candidate(new, where), where)
        append(self.folder / ITEMS, b"".join(line + b"\n" for line in lines))
        append(self.folder / RESULTS, last + b"\n")
        for answer in kept:
            self._keep(answer)
        self._add(new, where)

    def forget_failed(self, key: str | None = None) -> None:
        """Treat what failed as not tried, for one candidate or for all; the lines stay."""
        for trial in list(self._trials.values()):
            if key in (None, trial.key):
                left = {
                    stage: result
                    for stage, result in trial.results.items()
                    if result.status is not Status.FAILED
                }
                self._put(trial.candidate, left)

    def note(self, progress: Progress) -> None:
        """Tell whoever watches the run how far it is. A disk that is full stops no sweep here."""
        data = encode(replace(progress, time=now())) + b"\n"
        with contextlib.suppress(OSError):
            write_whole(self.folder / PROGRESS, data)

    def discard(self) -> None:
        """Remove the run's files, and its folder if nothing else is in it."""
        for name in (INFO, SUITE, HELDOUT, RESULTS, ITEMS, PROGRESS, LOCK):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def read_progress(folder: Path) -> Progress | None:
    """How far the run's sweep is by its own account; None if it left none, or no readable one."""
    with contextlib.suppress(OSError, RysError):
        return decode(read_bytes(folder / PROGRESS, _MAX_PROGRESS), Progress, PROGRESS)
    return None


def is_at_work(folder: Path) -> bool:
    """Whether a sweep is at work in a run's folder."""
    try:
        lock = take_lock(folder / LOCK, 0)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if lock is not None:
        lock.close()
    return lock is None


def _locked(folder: Path) -> IO[bytes]:
    """The folder's lock, held until it is closed. Raises RysError if another sweep has it."""
    try:
        lock = take_lock(folder / LOCK)
        if lock is None:
            # `is_at_work` has it for a moment, too.
            time.sleep(_ASK_AGAIN_SECONDS)
            lock = take_lock(folder / LOCK)
    except OSError as e:
        raise RysError(f"{printable(folder)}: {reason(e)}") from e
    if lock is None:
        raise RysError(f"{printable(folder)}: another sweep is running here")
    return lock


def require_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise RysError if the folder holds a run of something else; all of `identity` is compared."""
    if not _is_run(folder):
        return
    old = read_info(folder).identity
    for difference in _differences({key: old.get(key) for key in identity}, identity):
        raise RysError(
            f"{printable(folder)}: holds a different run: {difference}. Use another folder, or "
            f"the same model, suite, engine and settings to continue it"
        )


def run_id(identity: Mapping[str, Any]) -> str:
    """A run's id: the same for the same model, suite, engine and settings."""
    return digest(json.dumps(identity, sort_keys=True))


def digest(text: str) -> str:
    """The first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_info(folder: Path) -> RunInfo:
    """The content of run.json. Raises RysError if the folder is not that of a run."""
    path = folder / INFO
    try:
        data = read_bytes(path)
    except OSError as e:
        raise RysError(
            f"{printable(folder)}: no run here: expected a folder that sweep wrote, with {INFO}"
        ) from e
    return decode_info(data, printable(path))


def _is_run(folder: Path) -> bool:
    return os.path.lexists(folder / INFO)


def _require_empty(folder: Path) -> None:
    allowed = (LOCK, SUITE, HELDOUT, INFO)
    if any(not is_part_of(entry.name, allowed) for entry in folder.iterdir()):
        raise RysError(f"{printable(folder)}: is neither empty nor a run; choose another folder")


def _lines(path: Path) -> Iterator[Line]:
    for number, line in read_lines(path):
        yield f"{printable(path)}, line {number}", line


def _require_own(result: StageResult, candidate: Candidate, where: str) -> None:
    """Raise RysError if a line describes another candidate than that of its key."""
    for name, stored, right in (
        ("windows", result.windows, candidate.windows),
        ("extra_layers", result.extra_layers, candidate.n_added),
        ("is_base", result.is_base, candidate.is_base),
        ("spec", result.spec, candidate.spec),
    ):
        if stored != right:
            raise RysError(
                f"{where}: not what a sweep writes: {name} is {printable(repr(stored))}, but the "
                f"candidate is {printable(candidate.key)}: expected {printable(repr(right))}"
            )


# The options that choose the items: a suite's hash alone would tell a user nothing.
_DECIDED_BY = {
    "suite": " (--suite, --suite-size, --families, --level and --seed decide the items)",
    "heldout": " (--control and --heldout decide these items, and all that decides the others)",
}


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        # In the order of `new`: the options of the suite also decide the held-out items.
        for key in dict.fromkeys((*new, *old)):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        there, here = (printable(json.dumps(value)) for value in (old, new))
        yield f"{printable(path)} is {there} there and {here} here{_DECIDED_BY.get(path, '')}"
