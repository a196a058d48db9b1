"""The folder of a run: what was asked of what, and every answer, in files that only grow.

`run.json` says what the run is, `suite.jsonl` and `heldout.jsonl` hold its items, `results.jsonl`
has one line per candidate and stage, `items.jsonl` one per candidate, stage and item. Whatever
stops a run, a line is there whole or not at all: appended lines are synced before anything counts
on them, and half a line at the end of a file is taken off when the run goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from rys_gguf.errors import RysError
from rys_gguf.files.source import lock_file
from rys_gguf.text import printable

SCHEMA = 1
INFO, RESULTS, ITEMS = "run.json", "results.jsonl", "items.jsonl"
SUITE, HELDOUT = "suite.jsonl", "heldout.jsonl"
# The stages a candidate goes through; round1, round2, ... stand after the first.
DAMAGE, LOOPS, FINAL, GENERATE, SPEED = "damage", "loops", "final", "generate", "speed"
LOCK = "lock"
_PART = ".part"

Line = dict[str, Any]


class Run:
    """A run's folder, open for reading. `results` and `items` are lists of lines, in order.

    Of several result lines for one candidate and stage the last counts, and items count only if
    their candidate's result line was written, and says no failure: both lists hold nothing else.
    Raises RysError, naming the file, if the folder is not that of a run.
    """

    def __init__(self, folder: Path, info: Line) -> None:
        self.folder = folder
        self.info = info
        self._results: dict[tuple[str, str], Line] = {}
        self._items: dict[tuple[str, str], dict[str, Line]] = {}
        for line in _lines(folder / RESULTS, ("candidate", "stage", "status")):
            self._results[line["candidate"], line["stage"]] = line
        for line in _lines(folder / ITEMS, ("candidate", "stage", "item")):
            self._keep(line)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Run:
        """The run in that folder."""
        folder = Path(folder)
        return cls(folder, read_info(folder))

    @property
    def results(self) -> list[Line]:
        """The lines of results.jsonl that count."""
        return list(self._results.values())

    @property
    def items(self) -> list[Line]:
        """The lines of items.jsonl that count."""
        return [line for key in self._items for line in self.items_of(*key)]

    def result(self, candidate: str, stage: str) -> Line | None:
        """The result of a candidate in a stage, or None."""
        return self._results.get((candidate, stage))

    def items_of(self, candidate: str, stage: str) -> list[Line]:
        """The answers of a candidate in a stage."""
        # Those of a stage that was cut off before its result are still in the file; had it failed
        # when it was run again, they would be taken for an answer to every question.
        if (self.result(candidate, stage) or {"status": "failed"})["status"] == "failed":
            return []
        return list(self._items.get((candidate, stage), {}).values())

    def _keep(self, item: Line) -> None:
        self._items.setdefault((item["candidate"], item["stage"]), {})[item["item"]] = item


class OpenRun(Run):
    """A run that is going on: the only one in its folder. Use it as a context manager."""

    def __enter__(self) -> OpenRun:
        self._lock = (self.folder / LOCK).open("w")
        try:
            self._require_lock()
            for name in (RESULTS, ITEMS):
                _take_off_half_a_line(self.folder / name)
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.close()

    def _require_lock(self) -> None:
        if not lock_file(self._lock.fileno()):
            raise RysError(f"{printable(self.folder)}: another sweep is at work here")

    @classmethod
    def start(cls, folder: Path, info: Line, files: dict[str, str]) -> OpenRun:
        """Begin a run in a folder, or go on with the one that is there.

        `files` are written beside run.json. Raises RysError if the folder holds another run or
        something else.
        """
        identity = info["identity"]
        info = {"schema": SCHEMA, "run_id": run_id(identity), **info, "created": now()}
        if (folder / INFO).exists():
            require_identity(folder, identity)
            return cls(folder, read_info(folder))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _require_empty(folder)
            for name, text in files.items():
                write_whole(folder / name, text)
            # Last: a folder with this file is a run.
            write_whole(folder / INFO, json.dumps(info, indent=2) + "\n")
        except OSError as e:
            raise RysError(f"{printable(folder)}: {e.strerror or e}") from e
        return cls(folder, info)

    def forget_failed(self, candidate: str | None = None) -> None:
        """Do as if what failed had not been tried, of one candidate or of all.

        The lines stay in the file.
        """
        for key, line in list(self._results.items()):
            if line["status"] == "failed" and candidate in (None, line["candidate"]):
                del self._results[key]

    def discard(self) -> None:
        """Remove the run's files, and its folder if nothing else is in it."""
        for name in (INFO, SUITE, HELDOUT, RESULTS, ITEMS, LOCK):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def record(self, result: Line, items: Sequence[Line]) -> None:
        """Write a result and its items, durably: the items first, so that a result is complete."""
        result = {**result, "time": now()}
        _append(self.folder / ITEMS, items)
        _append(self.folder / RESULTS, [result])
        for item in items:
            self._keep(item)
        self._results[result["candidate"], result["stage"]] = result


def require_identity(folder: Path, identity: Line) -> None:
    """Raise RysError if the folder holds a run of something else; all of `identity` is compared."""
    if not (folder / INFO).exists():
        return
    old = read_info(folder)["identity"]
    for difference in _differences({key: old.get(key) for key in identity}, identity):
        raise RysError(
            f"{printable(folder)}: is a run of other things: {difference}. Use another folder, or "
            f"the same model, suite, engine and settings to go on with it"
        )


def _require_empty(folder: Path) -> None:
    if any(
        entry.name.removesuffix(_PART) not in (LOCK, SUITE, HELDOUT, INFO)
        for entry in folder.iterdir()
    ):
        raise RysError(f"{printable(folder)}: is neither empty nor a run; use a folder of its own")


def run_id(identity: Line) -> str:
    """What a run is: the same for the same model, suite, engine and settings."""
    return digest(json.dumps(identity, sort_keys=True))


def digest(text: str) -> str:
    """The first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_info(folder: Path) -> Line:
    """What run.json says. Raises RysError if the folder is not that of a run."""
    path = folder / INFO
    try:
        info = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as e:
        raise RysError(
            f"{printable(folder)}: no run here: expected a folder that sweep wrote, with {INFO}"
        ) from e
    except OSError as e:
        raise RysError(f"{printable(path)}: {e.strerror or e}") from e
    except ValueError as e:
        raise RysError(f"{printable(path)}: not JSON: {printable(str(e))}") from e
    if not isinstance(info, dict) or "identity" not in info:
        raise RysError(f"{printable(path)}: not what a sweep writes: identity is missing")
    if info.get("schema") != SCHEMA:
        raise RysError(
            f"{printable(path)}: schema is {printable(str(info.get('schema')))}, expected {SCHEMA}:"
            f" another version of rys-gguf wrote it"
        )
    return info


# What a user changes to get other items: hashes of suites say nothing by themselves.
_DECIDED_BY = {
    "suite": " (--suite, --suite-size, --families, --level and --seed decide the items)",
    "heldout": " (--control and --heldout decide these items, and all that decides the others)",
}


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        # In the order in which they were decided: held-out items follow from the suite's options.
        for key in dict.fromkeys((*new, *old)):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        there, here = (printable(json.dumps(value)) for value in (old, new))
        yield f"{path} is {there} there and {here} here{_DECIDED_BY.get(path, '')}"


def _lines(path: Path, keys: Sequence[str]) -> Iterator[Line]:
    """The complete lines of a JSONL file; a last one without its end never happened."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as e:
        raise RysError(f"{printable(path)}: {e.strerror or e}") from e
    complete = raw[: raw.rfind(b"\n") + 1]
    for number, line in enumerate(complete.splitlines(), 1):
        try:
            value = json.loads(line)
            if not all(isinstance(value.get(key), str) for key in keys):
                raise ValueError(f"expected {', '.join(keys)}")  # noqa: TRY301 - said in one place
        except (ValueError, AttributeError) as e:
            raise RysError(
                f"{printable(path)}, line {number}: not what a sweep writes: {printable(str(e))}"
            ) from e
        yield value


def _take_off_half_a_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        raw = file.read()
        file.truncate(raw.rfind(b"\n") + 1)


def _append(path: Path, lines: Iterable[Line]) -> None:
    """Append lines; on any failure the file is as long as it was."""
    data = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
    if not data:
        return
    try:
        with path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                _write_synced(file, data)
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(before)
                raise
    except OSError as e:
        raise RysError(
            f"{printable(path)}: {e.strerror or e}; run the same command again to go on"
        ) from e


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    part = path.with_name(path.name + _PART)
    try:
        with part.open("wb", buffering=0) as file:
            _write_synced(file, text.encode("utf-8", "surrogateescape"))
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _write_synced(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    os.fsync(file.fileno())
