"""The disk that a sweep needs is what its files take, and is looked at beforehand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from rys_gguf import Model, make_plan, write_plan
from rys_gguf.errors import OutputFailed
from rys_gguf.layers.schedule import Schedule
from rys_gguf.search import room
from rys_gguf.search.hosts.working_file import CandidateFile
from rys_gguf.search.room import bytes_free, bytes_needed, require_room
from rys_gguf.search.space import Windows, every


class Usage(NamedTuple):
    """The result of shutil.disk_usage."""

    total: int
    used: int
    free: int


def test_the_need_is_that_of_the_files(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A working file and a finalist's file of the largest window, where nothing is shared."""
    monkeypatch.setattr(room, "can_share", lambda *_: (False, "not here"))
    with Model(smollm2) as model:
        chosen = every(Windows(model, Schedule.PORTABLE), (2, 5)).candidates
        needed = bytes_needed(model, chosen, tmp_path)
        largest = max(chosen, key=lambda c: c.n_added).layer_map
        CandidateFile(model, tmp_path / "work.gguf").become(largest)
        write_plan(make_plan(model, largest), tmp_path / "written.gguf")
        taken = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert taken <= needed < taken + (1 << 20)
        layers = sum(t.n_bytes for t in model.layers[0])
        more = bytes_needed(model, chosen, tmp_path, 2) - needed
        assert more == pytest.approx(2 * 5 * layers, rel=0.2), "two of the largest together"
        monkeypatch.setattr(room, "can_share", lambda *_: (True, ""))
        shared = bytes_needed(model, chosen, tmp_path)
        assert 2 * model.header.data_offset < shared < 2 * model.header.data_offset + (1 << 20)


def test_too_little_room_is_refused_with_both_numbers(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a folder that is not there yet, too."""
    monkeypatch.setattr(room, "can_share", lambda *_: (False, "not here"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    with Model(smollm2) as model:
        chosen = every(Windows(model, Schedule.PORTABLE), (4,)).candidates
        needed = bytes_needed(model, chosen, tmp_path)
        message = rf"run: {needed} bytes needed for the working file .*, 1000 free; choose another"
        with pytest.raises(OutputFailed, match=message):
            require_room(model, chosen, tmp_path / "not" / "yet" / "run")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, needed))
        require_room(model, chosen, tmp_path / "not" / "yet" / "run")


def test_a_folder_that_cannot_be_written_to_is_refused(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the part of its path that is there; root may write anywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with Model(smollm2) as model:
        chosen = every(Windows(model, Schedule.PORTABLE), (4,)).candidates
        with pytest.raises(OutputFailed, match=rf"{tmp_path}: cannot be written to"):
            require_room(model, chosen, tmp_path / "not" / "yet")


def test_working_files_of_a_killed_sweep_count_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are removed when the sweep goes on."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 1000))
    assert bytes_free(tmp_path / "run") == 1000
    (tmp_path / "run" / "work").mkdir(parents=True)
    (tmp_path / "run" / "work" / "worker-0.gguf").write_bytes(bytes(500))
    assert bytes_free(tmp_path / "run") == 1500
