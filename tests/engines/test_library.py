"""llama.cpp's library is found where the llama-server that somebody names was built."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from rys_gguf.engines.live.library import find_library
from rys_gguf.errors import EngineFailed


def made(path: Path) -> Path:
    """An empty file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A folder with a server and its library, as in a release."""
    made(tmp_path / "build" / "llama-server")
    return made(tmp_path / "build" / "libllama.so").parent


def test_it_lies_beside_the_server(build: Path) -> None:
    """Its folder is also where the backends are looked for."""
    library = find_library(build / "llama-server")
    assert library.path == build / "libllama.so"
    assert library.backends == build
    assert library.name == "llama-server"


def test_a_link_to_the_server_leads_to_it(build: Path, tmp_path: Path) -> None:
    """As package managers put links into a folder of programs."""
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "my-server"
    link.symlink_to(build / "llama-server")
    library = find_library(link)
    assert library.path == build / "libllama.so"
    assert library.name == "my-server"


def test_a_library_beside_the_link_is_found(tmp_path: Path) -> None:
    """Where only the program was moved elsewhere."""
    program = made(tmp_path / "store" / "llama-server")
    library = made(tmp_path / "here" / "libllama.so")
    (tmp_path / "here" / "llama-server").symlink_to(program)
    assert find_library(tmp_path / "here" / "llama-server").path == library


def test_it_lies_in_lib_beside_bin(tmp_path: Path) -> None:
    """As `cmake --install` puts it; the library may be a link to one with its version."""
    server = made(tmp_path / "usr" / "bin" / "llama-server")
    real = made(tmp_path / "usr" / "lib" / "libllama.so.0.1")
    (tmp_path / "usr" / "lib" / "libllama.so").symlink_to("libllama.so.0.1")
    library = find_library(server)
    assert library.path == real
    assert library.backends == tmp_path / "usr" / "lib"


def test_without_one_the_message_names_the_server(tmp_path: Path) -> None:
    """And says what kind of build has one."""
    server = made(tmp_path / "bin" / "llama-server\x1b[2J")
    (tmp_path / "bin" / "libllama.so").mkdir()
    with pytest.raises(EngineFailed, match=r"no libllama\.so beside .*shared libraries") as e:
        find_library(server)
    assert str(e.value).isprintable()


def test_the_package_has_one() -> None:
    """It needs no backends of its own folder."""
    library = find_library(None)
    assert library.path.is_file()
    assert library.backends is None
    assert library.name.startswith("xllamacpp 20")


def test_a_missing_package_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setattr("rys_gguf.engines.live.library.find_spec", lambda _name: None)
    assert importlib.util.find_spec("xllamacpp") is not None
    with pytest.raises(EngineFailed, match="pip install xllamacpp"):
        find_library(None)


def test_windows_has_no_live_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its libraries have no function that lists the tensors."""
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(EngineFailed, match="Windows"):
        find_library(None)
