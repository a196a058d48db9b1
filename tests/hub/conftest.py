"""A user without any cache, a Hub on this machine, and a model that it may hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.hub.server import Hub, serving

_VARIABLES = (
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH",
    "HF_HUB_OFFLINE", "LLAMA_CACHE", "OLLAMA_MODELS", "XDG_CACHE_HOME",
    "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY",
)  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home, with nothing in it; a Hub that nobody can reach."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return path


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub that the environment names."""
    with serving(Hub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of more than 4 MiB, of which the header is a small part; not to be written to."""
    path = tmp_path_factory.mktemp("large") / "m-Q4_K_M.gguf"
    # Every tensor takes at least 64 KiB of the file.
    return tiny.write(path, "llama", 12, extra={"general.alignment": 1 << 16})
