"""Every engine there is keeps the contract."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf.engines.base import LIVE, Engine, EngineOptions
from rys_gguf.engines.find import find_engine, open_engine
from rys_gguf.engines.live.engine import LiveEngine
from rys_gguf.engines.server import ServerEngine
from tests.engines.contract import EngineContract, wait_until
from tests.engines.stand_in import working_server

OPTIONS = EngineOptions(n_ctx=256, n_threads=1, load_seconds=60, answer_seconds=60)


class ServerContract(EngineContract):
    """The contract for a server in a process."""

    def options(self) -> EngineOptions:
        """The server to run."""
        return OPTIONS

    def open(self, model: Path) -> Engine:
        """The engine that the options name."""
        return open_engine(model, self.options())

    def crash(self, engine: Engine) -> None:
        """Kill the process and wait until it is gone."""
        assert isinstance(engine, (ServerEngine, LiveEngine))
        os.kill(engine.pid, signal.SIGKILL)
        stat = Path(f"/proc/{engine.pid}/stat")
        assert wait_until(lambda: not stat.exists() or ") Z" in stat.read_text())


class TestXllamacpp(ServerContract):
    """The prebuilt package, in a child of this Python."""

    def test_its_build_names_the_package(self, engine: Engine) -> None:
        """A run that is resumed with another version of the package can tell."""
        from importlib.metadata import version

        assert engine.build.startswith(f"xllamacpp {version('xllamacpp')} (")


class TestLive(ServerContract):
    """The package's library in a child of its own."""

    def options(self) -> EngineOptions:
        """The library of xllamacpp."""
        return replace(OPTIONS, kind=LIVE)

    def test_its_build_names_the_package_and_the_way(self, engine: Engine) -> None:
        """A run that is resumed in another way can tell."""
        from importlib.metadata import version

        assert engine.build.startswith(f"xllamacpp {version('xllamacpp')} (")
        assert " live on " in engine.build


class TestBinary(ServerContract):
    """A program with llama-server's command line; here a stand-in that xllamacpp serves for."""

    binary: Path

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _binary(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.binary = working_server(tmp_path_factory.mktemp("bin") / "llama-server")

    def options(self) -> EngineOptions:
        """The stand-in."""
        return replace(OPTIONS, binary=self.binary)

    def test_its_build_names_the_program(self, engine: Engine) -> None:
        """The program's name stands before what it calls itself."""
        assert engine.build.startswith("llama-server (")


if "LLAMA_SERVER" in os.environ:

    class TestLlamaServer(ServerContract):
        """The real llama-server, on machines whose environment names one."""

        def options(self) -> EngineOptions:
            """The binary that LLAMA_SERVER names."""
            return replace(OPTIONS, binary=find_engine())
