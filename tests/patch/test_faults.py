"""Files stay safe when things go wrong: nothing is lost, and no file is left half-written."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from subprocess import PIPE, Popen

import numpy as np
import pytest
from numpy.random import Generator

from rys_gguf import LayerMap, Model, OutputFailed, make_plan, write_plan
from tests.cli.calls import done, refused
from tests.command import command, fails, leftovers, run
from tests.disk import digest, write_llama

ARGS = ("--blocks", "1,3")
BIG_FLOATS = 4_000_000
# Of the tensors of the big model's variant: what a temporary file has when it is complete.
BIG_BYTES = 10 * 4 * BIG_FLOATS


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model in a folder of its own."""
    folder = tmp_path / "models"
    folder.mkdir()
    return write_llama(folder / "m.gguf")


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 MB, so that a write takes long enough to be interrupted."""
    return write_llama(tmp_path_factory.mktemp("big") / "big.gguf", 8, BIG_FLOATS)


def test_an_existing_output_is_kept(model: Path) -> None:
    """Without --force the old file stays as it was; with it the new one takes its place."""
    out = model.with_name("out.gguf")
    out.write_text("precious")
    assert "--force" in refused("apply", model, *ARGS, "-o", out)
    assert out.read_text() == "precious"
    done("apply", model, *ARGS, "-o", out, "--force")
    done("verify", out, "--source", model)
    assert leftovers(model.parent, [model, out]) == set()


def _same_path(model: Path) -> Path:
    return model


def _symlink(model: Path) -> Path:
    link = model.with_name("link.gguf")
    link.symlink_to(model)
    return link


def _hard_link(model: Path) -> Path:
    link = model.with_name("hard.gguf")
    os.link(model, link)
    return link


def _dotted(model: Path) -> Path:
    return model.parent / ".." / model.parent.name / model.name


def _linked_folder(model: Path) -> Path:
    link = model.parent.with_name("linked")
    link.symlink_to(model.parent)
    return link / model.name


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("alias", [_same_path, _symlink, _hard_link, _dotted, _linked_folder])
def test_the_source_is_never_the_output(
    model: Path, alias: Callable[[Path], Path], force: list[str]
) -> None:
    """The source stays unchanged under whatever name it is given as the output."""
    before, info = digest(model), model.stat()
    message = refused("apply", model, *ARGS, "-o", alias(model), *force)
    assert "source model itself" in message
    assert digest(model) == before
    assert model.stat().st_mtime_ns == info.st_mtime_ns


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_only_regular_files_are_replaced(model: Path, kind: str, force: list[str]) -> None:
    """A FIFO, socket or device is refused as output at once, and stays."""
    out = model.with_name("out.gguf")
    with contextlib.ExitStack() as stack:
        if kind == "fifo":
            os.mkfifo(out)
        elif kind == "socket":
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(out))
        else:
            out.symlink_to("/dev/null")
        before = out.lstat().st_mode
        assert "not a regular file" in fails("apply", model, *ARGS, "-o", out, *force)
        assert out.lstat().st_mode == before


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "missing", "empty"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    """Inputs that are no files with bytes are named as such, without waiting for them."""
    path = tmp_path / "in.gguf"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "empty":
        path.touch()
    message = fails("plan", path, *ARGS)
    expected = {"missing": "No such file", "empty": "is empty"}.get(kind, "not a regular file")
    assert expected in message


def test_a_read_only_folder_is_named(model: Path) -> None:
    """The message names the folder that cannot be written to."""
    folder = model.parent / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):  # root may write anywhere but here
        folder = Path("/proc")
    assert str(folder) in refused("apply", model, *ARGS, "-o", folder / "out.gguf")


def test_a_missing_folder_is_named(model: Path) -> None:
    """No missing folder is created."""
    message = refused("apply", model, *ARGS, "-o", model.parent / "no" / "o.gguf")
    assert "no such folder" in message


def test_a_file_size_limit_leaves_nothing_behind(model: Path, big: Path) -> None:
    """RLIMIT_FSIZE, which looks like a quota, ends in one message and no file."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    out = model.with_name("out.gguf")
    assert "nothing was written" in fails("apply", big, *ARGS, "-o", out, preexec_fn=limit)
    assert leftovers(model.parent, [model]) == set()


def test_a_disk_too_small_is_refused_before_writing(big: Path, small_disk: Path) -> None:
    """The free-space check names the bytes needed and the bytes free."""
    message = refused("apply", big, *ARGS, "-o", small_disk / "out.gguf")
    assert "free" in message
    assert leftovers(small_disk, []) == set()


def test_a_disk_that_fills_up_leaves_nothing_behind(
    big: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC half-way, when another program writes too, gives a message and no file."""
    usage = shutil.disk_usage(small_disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 40))
    with Model(big) as opened:
        plan = make_plan(opened, LayerMap.parse("blocks:1,3", 8))
        with pytest.raises(OutputFailed, match="No space left"):
            write_plan(plan, small_disk / "out.gguf")
    assert leftovers(small_disk, []) == set()


def held_half_way(
    args: Sequence[str | Path],
    folder: Path,
    delay: float,
    ignored: Container[signal.Signals] = (),
) -> Popen[str] | None:
    """A run that is stopped (SIGSTOP) with its temporary file there and incomplete.

    Held still, it cannot outrun the test. None if it was faster than `delay`.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def heed() -> None:
        for number in signals:  # whoever runs the tests may ignore them: nohup, a shell's jobs
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    process = Popen(command(*args), stdout=PIPE, stderr=PIPE, text=True, preexec_fn=heed)  # noqa: PLW1509
    while process.poll() is None and not any(folder.glob(".rys-*")):
        time.sleep(0.001)
    time.sleep(delay)
    if process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if any(path.stat().st_size < BIG_BYTES for path in folder.glob(".rys-*")):
            return process
        process.send_signal(signal.SIGCONT)
    process.communicate(timeout=30)
    return None


def each_half_way(args: Sequence[str | Path], out: Path, rng: Generator) -> Iterator[Popen[str]]:
    """Three runs, each held at another random moment of its write."""
    longest = 0.05
    for _ in range(3):
        while (process := held_half_way(args, out.parent, rng.uniform(0, longest))) is None:
            out.unlink()
            longest /= 2
        with process:
            yield process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_half_way_leaves_nothing_behind(
    big: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Whenever the signal arrives, the temporary file is removed and no output appears."""
    out = tmp_path / "out.gguf"
    rng = np.random.default_rng(number)
    for process in each_half_way(["apply", big, *ARGS, "-o", out], out, rng):
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        assert errors.strip() == f"Stopped by {number.name}; nothing was left behind."
        assert leftovers(tmp_path, []) == set()


def test_a_second_signal_does_not_stop_the_cleaning_up(big: Path, tmp_path: Path) -> None:
    """Several signals at once, such as Ctrl-C while a terminal hangs up, leave the folder clean."""
    out = tmp_path / "out.gguf"
    rng = np.random.default_rng(0)
    for process in each_half_way(["apply", big, *ARGS, "-o", out], out, rng):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode > 128
        assert errors.count("\n") == 1
        assert "nothing was left behind" in errors
        assert leftovers(tmp_path, []) == set()


def test_a_run_under_nohup_goes_on(big: Path, tmp_path: Path) -> None:
    """A signal that the caller had ignored stays ignored."""
    out = tmp_path / "out.gguf"
    args: list[str | Path] = ["apply", big, *ARGS, "-o", out]
    while (process := held_half_way(args, tmp_path, 0, {signal.SIGHUP})) is None:
        out.unlink()
    with process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert out.stat().st_size > BIG_BYTES


def test_after_sigkill_a_rerun_works(big: Path, tmp_path: Path) -> None:
    """After SIGKILL the output's name is still free and the source is intact."""
    before = digest(big)
    out = tmp_path / "out.gguf"
    rng = np.random.default_rng(9)
    for process in each_half_way(["apply", big, *ARGS, "-o", out], out, rng):
        process.kill()
        process.wait(timeout=30)
        assert not out.exists()
        for stray in tmp_path.glob(".rys-*"):
            stray.unlink()  # what the next run waits for
    done("apply", big, *ARGS, "-o", out)
    done("verify", out, "--source", big)
    assert digest(big) == before


def test_what_sigkill_left_is_removed_by_the_next_run(big: Path, tmp_path: Path) -> None:
    """It may be as long as a model, under a name that nobody knows."""
    out = tmp_path / "out.gguf"
    for process in each_half_way(["apply", big, *ARGS, "-o", out], out, np.random.default_rng(10)):
        process.kill()
        process.wait(timeout=30)
        break
    assert len(leftovers(tmp_path, [])) == 1
    other = tmp_path / "other.gguf"
    done("apply", big, *ARGS, "-o", other)
    assert leftovers(tmp_path, [other]) == set()


def test_of_two_runs_at_one_output_one_wins_whole(big: Path, tmp_path: Path) -> None:
    """The slower run reports that the file exists; the file is entirely the faster run's."""
    out = tmp_path / "out.gguf"
    runs = [
        subprocess.Popen(
            command("apply", big, "--blocks", blocks, "-o", out),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for blocks in ("1,3", "2,4")
    ]
    ends = [(p.communicate(timeout=120)[1], p.returncode) for p in runs]
    assert sorted(code for _, code in ends) == [0, 1]
    loser = next(text for text, code in ends if code == 1)
    assert "exists" in loser or "meanwhile" in loser
    done("verify", out, "--source", big)
    assert leftovers(tmp_path, [out]) == set()


def test_a_source_cut_while_it_is_copied_is_an_error(big: Path, tmp_path: Path) -> None:
    """A source that shrinks leads to an error message, not to SIGBUS, and nothing is left."""
    source = tmp_path / "source" / "cut.gguf"
    source.parent.mkdir()
    shutil.copy(big, source)
    out = tmp_path / "out.gguf"
    with Model(source) as opened:
        plan = make_plan(opened, LayerMap.parse("blocks:1,3", 8))
        os.truncate(source, source.stat().st_size // 2)
        with pytest.raises(Exception, match="ends at byte") as caught:
            write_plan(plan, out)
    assert type(caught.value).__name__ == "InvalidGGUF"
    assert leftovers(tmp_path, [source.parent]) == set()


def test_a_source_touched_while_it_is_copied_is_an_error(model: Path, tmp_path: Path) -> None:
    """A source that changed during the run is refused: its bytes may be of two versions."""
    with Model(model) as opened:
        plan = make_plan(opened, LayerMap.parse("blocks:1,3", 4))
        os.utime(model, ns=(1, 1))
        with pytest.raises(Exception, match="changed while it was read"):
            write_plan(plan, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_mode_is_the_umasks(model: Path, mask: int) -> None:
    """The output has the permissions of any file the user creates."""
    out = model.with_name("out.gguf")
    assert run("apply", model, *ARGS, "-o", out, umask=mask).returncode == 0
    assert out.stat().st_mode & 0o777 == 0o666 & ~mask


def test_output_names_of_any_bytes_work(model: Path) -> None:
    """A name of 255 bytes that is not UTF-8 is a file name like any other."""
    name = os.fsdecode(b"\xff\x1b[2J" + b"n" * 245 + b".gguf")
    out = model.with_name(name)
    ended = subprocess.run(
        command("apply", model, *ARGS, "-o", out), capture_output=True, env={"LC_ALL": "C"}
    )
    assert ended.returncode == 0, ended.stderr
    assert out.exists()


def test_a_closed_stdout_is_no_traceback(model: Path) -> None:
    """`rys-gguf plan | head -1` ends quietly."""
    shell = f"{' '.join(command('plan', model, *ARGS, '--full'))} | head -1"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert ended.stdout.startswith("m.gguf")
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("args", [("plan", "{}", *ARGS), ("inspect", "{}"), ("--help",)])
def test_a_full_stdout_is_no_traceback(model: Path, args: tuple[str, ...]) -> None:
    """`rys-gguf plan > FILE` on a full disk is one message."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            command(*(arg.format(model) for arg in args)),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 1
    assert ended.stderr == "Error: printing: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_end_up_in_the_output(model: Path, closed: str) -> None:
    """With closed streams nothing is printed into the output file."""
    out, usual = model.with_name("out.gguf"), model.with_name("usual.gguf")
    shell = " ".join(command("apply", model, *ARGS, "-o", out))
    assert subprocess.run(["bash", "-c", f"{shell} {closed}"]).returncode == 0
    done("apply", model, *ARGS, "-o", usual)
    assert digest(out) == digest(usual)


@pytest.mark.parametrize("missing", [(), ("copy_file_range",), ("copy_file_range", "sendfile")])
def test_every_way_of_copying_writes_the_same_bytes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    """Platforms without copy_file_range or sendfile get the same file."""
    for name in missing:
        monkeypatch.delattr(os, name)
    with Model(model) as opened:
        plan = make_plan(opened, LayerMap.parse("blocks:1,3", 4))
        write_plan(plan, tmp_path / "a.gguf")
    monkeypatch.undo()
    done("apply", model, *ARGS, "-o", tmp_path / "b.gguf")
    assert digest(tmp_path / "a.gguf") == digest(tmp_path / "b.gguf")


def test_short_transfers_are_continued(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a system call that does less than asked, the rest is done by another."""
    real = os.copy_file_range
    monkeypatch.setattr(os, "copy_file_range", lambda a, b, n, at: real(a, b, min(n, 7), at))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    with Model(model) as opened:
        write_plan(make_plan(opened, LayerMap.parse("blocks:1,3", 4)), tmp_path / "a.gguf")
    monkeypatch.undo()
    done("verify", tmp_path / "a.gguf", "--source", model)
