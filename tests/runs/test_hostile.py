"""A run folder of somebody else: whatever it holds is one message, and nothing is written to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rys_gguf.errors import RysError
from rys_gguf.runs import disk
from rys_gguf.runs.storage import HELDOUT, INFO, ITEMS, LOCK, RESULTS, SUITE, OpenRun, Run

GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1.0"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a run."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "run"))


def deep(n: int) -> str:
    """JSON of lists inside lists."""
    return "[" * n + "]" * n


def put(line: str, path: str, value: str) -> str:
    """A line of JSON with the value of one field replaced by a piece of text."""
    plain = json.loads(line)
    *outer, last = path.split(".")
    at = plain
    for key in outer:
        at = at[int(key) if key.isdecimal() else key]
    at[last] = "@@"
    return json.dumps(plain).replace('"@@"', value)


HUGE = "1" + "0" * 400
BAD = [
    *((RESULTS, f"measures.{name}", value) for name in ("kl", "x") for value in (
        HUGE, "1e308", "-1e300", "NaN", "Infinity", '"9"', "[]", "true")),
    *((RESULTS, name, value)
      for name in ("n_items", "bytes_written", "bytes_shared")
      for value in ("-1", HUGE, "1.5", "1e300", "null", '"4"', "9007199254740993")),
    *((RESULTS, "engine_seconds", value) for value in ("-0.1", "1e300", HUGE, "NaN", "null")),
    *((RESULTS, "seconds.load", value) for value in ("-1", "1e10", "{}")),
    *((RESULTS, f"{name}.math", value)
      for name in ("scores", "credits") for value in ("1.01", "-301", HUGE, "null", "NaN")),
    *((RESULTS, "stage", value) for value in (
        '"round' + "9" * 5000 + '"', '"round0"', '"round"', '"round01"', '"final02"', '"x"', "7",
        '"round\u0661"', "null")),
    *((RESULTS, "status", value) for value in ('"fine"', "null", "0")),
    *((RESULTS, "candidate", value) for value in (
        '"0-99999"', '"0-30"', '"5-2"', '""', '"base"', "1", '"0-0,1-29"', f'"{"9" * 5000}"',
        '"' + "0-29," * 40 + '0-29"')),
    *((RESULTS, "windows", value) for value in (
        "[[0,9]]", "[]", "[[0,30]]", "[[0,31]]", "[[8,0]]", "[[-1,8]]", "[[0,999]]", "[[0]]", "3",
        f"[[0,{HUGE}]]", "[[0,8.5]]")),
    *((RESULTS, "spec", value) for value in ('"blocks:0,9"', '"base; rm"', "0", '"layers:x"')),
    *((RESULTS, "extra_layers", value) for value in ("7", "-600", HUGE, "0.5")),
    *((RESULTS, "is_base", value) for value in ("true", "0")),
    *((RESULTS, "reason", value) for value in ("3", f'"{"x" * 70_000}"')),
    *((RESULTS, "log", value) for value in ('"x"', "[1]")),
    *((ITEMS, name, value)
      for name in ("score", "credit") for value in ("1.5", "-301", HUGE, "1e308", "NaN", '"1"')),
    *((ITEMS, "score", value) for value in ("-1.0", "0.5")),  # of right-or-wrong items
    *((ITEMS, name, value)
      for name in ("family", "item", "candidate") for value in ("null", "1", f'"{"x" * 5000}"')),
    *((ITEMS, "probabilities", value) for value in (
        '[{"A":1.5}]', '[{"A":-0.1}]', '[{"A":NaN}]', '{"A":1}', "[1]", "null")),
    *((ITEMS, "n_tokens", value) for value in ("-3", HUGE, "1.5")),
    *((ITEMS, "seconds", value) for value in ("-3", "1e300")),
    *((ITEMS, "status", value) for value in ('"error"', "null")),
    *((ITEMS, "parsed", value) for value in (deep(900), deep(100_000), "1" + "0" * 5000)),
    *((ITEMS, "gold", value) for value in (deep(65),)),
    (ITEMS, "response", f'"{"x" * ((1 << 20) + 1)}"'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "field", "value"), BAD, ids=[f"{n}-{f}-{v[:12]}" for n, f, v in BAD]
)
def test_a_field_out_of_bounds_is_named(folder: Path, name: str, field: str, value: str) -> None:
    """File and line stand in the message, which is short and of one line."""
    path = folder / name
    content = path.read_text().splitlines()
    at = 3 if name == RESULTS else 5
    content[at] = put(content[at], field, value)
    path.write_text("\n".join(content) + "\n")
    with pytest.raises(RysError, match=rf"{name}, line {at + 1}: not what a sweep writes: ") as e:
        Run.open(folder)
    message = str(e.value)
    assert "\n" not in message
    assert len(message) < len(str(folder)) + 700


def without(name: str) -> Change:
    """Removes a key."""
    return lambda info: info.pop(name)


def changed(path: str, value: Any) -> Change:
    """Sets a nested value."""

    def change(info: dict[str, Any]) -> None:
        *outer, last = path.split(".")
        for key in outer:
            info = info[key]
        info[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("identity"), "identity is missing"),
        (without("model"), "model"),
        (without("schema"), "schema is None, expected 1"),
        (changed("schema", 99), "schema is 99, expected 1"),
        (changed("schema", "1"), "schema is '1', expected 1"),
        (changed("identity", []), "identity"),
        (changed("model", 3), "model"),
        (changed("model.n_layers", 0), "n_layers"),
        (changed("model.n_layers", 10**400), "n_layers"),
        (changed("model.n_layers", True), "n_layers"),
        (changed("model.n_layers", 513), "n_layers"),
        (changed("model.n_layers", 29), "layer_bytes has 30 numbers for 29 layers"),
        (changed("model.n_bytes", -1), "n_bytes"),
        (changed("model.n_bytes", 1e308), "n_bytes"),
        (changed("model.layer_bytes", [1]), "layer_bytes has 1 numbers for 30 layers"),
        (changed("model.layer_bytes", [-1] * 30), "layer_bytes"),
        (changed("model.name", "x" * 70_000), "name"),
        (changed("floors", {"math": 0.5}), "floors"),
        (changed("floors", {"math": {"constant": 2.0}}), "constant"),
        (changed("illegal", {"spec": 3}), "illegal"),
        (changed("illegal", [{"spec": 3}]), "illegal"),
        (changed("provenance", ["x"]), "provenance"),
        (changed("families", "math"), "families"),
        (changed("identity.settings.x", json.loads(deep(900))), "nested too deep"),
        (changed("plan.sizes", [-4]), "sizes"),
        (changed("n_threads", "\ud83d"), "half a surrogate pair"),
        (changed("\ud83d", 1), "half a surrogate pair"),
    ],
)
def test_a_run_json_out_of_bounds_is_named(folder: Path, change: Change, message: str) -> None:
    """The field stands in the message."""
    info = json.loads((folder / INFO).read_text())
    change(info)
    (folder / INFO).write_text(json.dumps(info))
    with pytest.raises(RysError, match=message) as e:
        Run.open(folder)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (INFO, b"{", "not JSON"),
        (INFO, b"\xff\xfe", "not JSON"),
        (INFO, b"[]", "identity is missing"),
        (INFO, b"[" * 100_000, "not JSON"),
        (INFO, b'{"identity": {}, "schema": ' + b"9" * 5000 + b"}", "not JSON"),
        (RESULTS, b"[1]\n", "line 1: not what a sweep writes"),
        (RESULTS, b"\n", "line 1: not what a sweep writes"),
        (RESULTS, b'{"candidate": "0-29"}\n', "line 1: .*spec"),
        (ITEMS, b'{"candidate": 1}\n', "line 1: .*candidate"),
        (ITEMS, b'{"candidate": "\xff"}\n', "line 1: "),
        (ITEMS, b"x" * ((16 << 20) + 2), "line 1: is longer than 16.0 MiB"),
    ],
)
def test_files_of_others_are_named(folder: Path, name: str, content: bytes, message: str) -> None:
    """A broken file is one message with its name and line."""
    (folder / name).write_bytes(content)
    with pytest.raises(RysError, match=rf"{name}.*{message}"):
        Run.open(folder)


@pytest.mark.parametrize("name", [INFO, RESULTS, ITEMS])
def test_a_huge_file_is_not_read(folder: Path, name: str) -> None:
    """A sparse file of terabytes takes neither memory nor time."""
    os.truncate(folder / name, 1 << 42)
    with pytest.raises(RysError, match=rf"{name}: has 4\.0 TiB, expected at most"):
        Run.open(folder)


@pytest.mark.parametrize("name", [INFO, RESULTS, ITEMS, LOCK])
@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "folder", "device"])
def test_only_regular_files_are_opened(folder: Path, name: str, kind: str) -> None:
    """A planted link leads nowhere, a pipe holds nobody up; the victim keeps its bytes."""
    victim = folder.parent / "victim"
    victim.write_bytes(b"precious, without an end")
    info = Run.open(folder).info
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling link":
        path.symlink_to(folder.parent / "new")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    message = rf"{name}: (is a symbolic link|is not a regular file|Is a directory)"
    if name != LOCK:
        with pytest.raises(RysError, match=message):
            Run.open(folder)
    with pytest.raises(RysError, match=message), OpenRun.start(folder, info, {}):
        pass
    assert victim.read_bytes() == b"precious, without an end"
    assert not (folder.parent / "new").exists()


def test_a_link_planted_while_a_sweep_runs_is_not_written_to(folder: Path) -> None:
    """Every append opens the file anew, and looks again."""
    victim = folder.parent / "victim"
    victim.write_bytes(b"precious\n")
    with OpenRun.start(folder, Run.open(folder).info, {}) as run:
        result = next(iter(run.trials["0-29"].results.values()))
        for name in (RESULTS, ITEMS):
            kept = (folder / name).read_bytes()
            (folder / name).unlink()
            (folder / name).symlink_to(victim)
            with pytest.raises(RysError, match=f"{name}: is a symbolic link"):
                run.record(result, list(run.trials["0-29"].answers[result.stage].values()))
            (folder / name).unlink()
            (folder / name).write_bytes(kept)
    assert victim.read_bytes() == b"precious\n"


@pytest.mark.parametrize("name", [RESULTS, ITEMS, LOCK])
def test_a_file_with_another_name_is_not_written_to(folder: Path, name: str) -> None:
    """An archive can hold hard links too. Reading does no harm."""
    info = Run.open(folder).info
    victim = folder.parent / "victim"
    victim.write_bytes((folder / name).read_bytes() if name != LOCK else b"")
    victim.write_bytes(before := victim.read_bytes() + b'{"half a line')
    (folder / name).unlink(missing_ok=True)
    os.link(victim, folder / name)
    assert Run.open(folder).trials
    with (
        pytest.raises(RysError, match=rf"{name}: has another name \(a hard link\)"),
        OpenRun.start(folder, info, {}),
    ):
        pass
    assert victim.read_bytes() == before


def test_links_in_a_new_folder_are_replaced(tmp_path: Path) -> None:
    """What an interrupted start may have left can be planted as well."""
    info = Run.open(GOLDEN).info
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (SUITE, f"{SUITE}.part", HELDOUT, f"{INFO}.part"):
        (folder / name).symlink_to(victim)
    with OpenRun.start(folder, info, {SUITE: "{}\n", HELDOUT: "{}\n"}):
        pass
    assert victim.read_bytes() == b"precious"
    assert (folder / SUITE).read_text() == "{}\n"
    assert not (folder / SUITE).is_symlink()


def test_what_is_appended_after_a_failure_is_taken_off(tmp_path: Path) -> None:
    """A file is as long as it was."""
    path = tmp_path / "lines"
    disk.append(path, b"one\n")
    with pytest.MonkeyPatch.context() as patch:

        def full(_fd: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(RysError, match="lines: No space left on device; run the same command"):
            disk.append(path, b"two\n")
    assert path.read_bytes() == b"one\n"


@pytest.mark.parametrize("n", [0, 1, 5, 65_535, 65_536, 65_537, 200_000])
def test_half_a_line_of_any_length_is_cut(tmp_path: Path, n: int) -> None:
    """Also where it is longer than what is read at once, and where there is no line before it."""
    path = tmp_path / "lines"
    for before in (b"", b"one\n", b"one\n\n"):
        path.write_bytes(before + b"x" * n)
        disk.cut_half_line(path)
        assert path.read_bytes() == before
