"""What all tests share: real models from PyPI, a small disk, Hypothesis settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The machine may be busy; how long an example takes is no property of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# A run in the background of a shell ignores these, and so would every command the tests start.
for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

# Tests run side by side, and OpenMP's threads would wait for each other by spinning: an engine with
# two threads beside another one takes seven times as long that way.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Nor do the small matrices of statistics need a thread of numpy for each core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Containers set this. Every command that the tests start would compile the whole package again,
# which takes half of its time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parent.parent


def _real_model(name: str) -> Path:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "models.py", name], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


# Folders whose tests say enough of the parts that have a floor; tracing triples their time.
TRACED = ("files", "formats", "layers", "patch")


# A minute or two each: begun last, they would keep one process busy while the others are through.
LONG = ("test_commands.py", "test_planted.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure coverage where it counts, and begin with what takes longest."""
    for item in items:
        if item.path.relative_to(ROOT / "tests").parts[0] not in TRACED:
            item.add_marker(pytest.mark.no_cover)
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct Q4_1: arch llama, 30 layers, blocks sorted as text."""
    return _real_model("smollm2")


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """Gemma 3 270M Q4_K_M: 18 layers, 262k tokens, a period of 6 that is not in the header."""
    return _real_model("gemma3")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Which engines passed their self-test is remembered for these tests alone, and for all."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _short_texts() -> Iterator[None]:
    """Sweeps write less to see how fast a model is and whether it loops: most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rys_gguf.search.speed._N_TOKENS", 4)
        patch.setattr("rys_gguf.search.filters._LOOP_TOKENS", 16)
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, where the machine lets the tests mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
