"""Small models and suites for the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama of 6 layers with room for the items of a suite; not to be written to."""
    path = tmp_path_factory.mktemp("llama") / "m.gguf"
    return tiny.write(path, "llama", 6, extra={".context_length": 4096})


@pytest.fixture
def model(llama: Path, tmp_path: Path) -> Path:
    """The tiny llama in a folder of its own."""
    path = tmp_path / "m.gguf"
    path.write_bytes(llama.read_bytes())
    return path


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite of four items."""
    path = tmp_path / "own.jsonl"
    path.write_text(
        '{"kind": "choice", "question": "Is fire hot?", "answer": "yes"}\n'
        '{"kind": "choice", "question": "Is ice hot?", "answer": "no"}\n'
        '{"kind": "choice", "question": "Is snow hot?", "answer": "no"}\n'
        '{"kind": "choice", "question": "Is lava hot?", "answer": "yes"}\n'
    )
    return path
