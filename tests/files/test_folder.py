"""A temporary folder is private while it is used, and gone afterwards, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rys_gguf.files import held
from rys_gguf.files.folder import beside, private_folder
from rys_gguf.files.held import held_prefix

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks folders")

HOLD = """
import sys
from pathlib import Path
from rys_gguf.files.folder import beside, private_folder
with private_folder(beside(Path(sys.argv[1]))) as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file in a folder that can be written."""
    path = tmp_path / "m.gguf"
    path.touch()
    return path


def test_what_a_killed_process_left_is_removed_by_the_next(model: Path) -> None:
    """Not before it has been killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with private_folder(beside(model)) as ours:
            assert ours.parent == theirs.parent == model.parent
            assert ours.stat().st_mode & 0o777 == 0o700
            assert (theirs / "file").exists()
        other.send_signal(signal.SIGKILL)
    assert (theirs / "file").exists()
    with private_folder(beside(model)):
        assert not theirs.exists()
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.parametrize("works", [True, False])
def test_nothing_is_removed_where_locks_mean_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    """Nor what has another name, as on another machine, is a link to somewhere else, or a pipe."""
    if not works:
        monkeypatch.setattr(held, "lock_file", lambda _: True)
    names = f"{held_prefix()}a", ".rys-held-00000000-a", ".rys-other", "mine"
    others = [model.parent / name for name in names]
    for other in others:
        other.mkdir()
    link = model.parent / f"{held_prefix()}link"
    link.symlink_to(others[3])
    pipe = model.parent / f"{held_prefix()}pipe"
    os.mkfifo(pipe)
    with private_folder(beside(model)) as first, private_folder(beside(model)) as second:
        assert first.exists()
        assert second.exists()
    assert [other.exists() for other in others] == [not works, True, True, True]
    assert link.exists()
    assert pipe.exists()


def test_a_folder_may_be_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a model, or beside one where nothing can be written, it is where the system says."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("os.access", lambda *_: False)
    for place in (None, beside(Path("/m.gguf"))):
        with private_folder(place) as folder:
            assert folder.parent == tmp_path
    assert not list(tmp_path.iterdir())
