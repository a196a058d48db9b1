"""Arguments of llama.cpp's server say where it listens; the rest goes to it as it is."""

from __future__ import annotations

import os
import socket
import tempfile
import time

import pytest

from rys_gguf.engines.live.arguments import gpu_arguments
from rys_gguf.engines.process import EngineProcess
from rys_gguf.engines.stock import Address
from rys_gguf.errors import EngineFailed, InvalidOptions


@pytest.mark.parametrize(
    ("arguments", "url", "left"),
    [
        ([], "http://127.0.0.1:8080", ()),
        (["--port", "81", "-c", "9"], "http://127.0.0.1:81", ("-c", "9")),
        (["--port", "81", "--port", "82"], "http://127.0.0.1:82", ()),
        (["--host", "0.0.0.0"], "http://127.0.0.1:8080", ()),
        (["--host", "::1, 127.0.0.1"], "http://[::1]:8080", ()),
        (["--api_prefix", "/a"], "http://127.0.0.1:8080/a", ("--api_prefix", "/a")),
        (["--ssl-key-file", "k"], "https://127.0.0.1:8080", ("--ssl-key-file", "k")),
    ],
)
def test_an_address_is_that_of_the_arguments(
    arguments: list[str], url: str, left: tuple[str, ...]
) -> None:
    """Underscores are hyphens, and of two values the last one counts, as in llama.cpp."""
    address = Address.of(arguments)
    assert (address.url, address.arguments) == (url, left)


def test_port_0_is_any_that_is_free() -> None:
    """It is chosen here, so that it can be told."""
    port = Address.of(["--port", "0"]).port
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "other.gguf"], "-m after --: the model to serve is the one before it"),
        (["--hf_repo", "a/b"], "--hf_repo after --"),
        (["--port"], "--port after -- needs a value"),
        (["--port", "http"], "--port http: expected a number"),
        (["--port", "65536"], "--port 65536: expected a number"),
        (["--host", "/tmp/a.sock"], "--host: expected an address"),
        (["--host", " "], "--host: expected an address"),
    ],
)
def test_what_cannot_be_served_is_refused(arguments: list[str], message: str) -> None:
    """One message names the argument."""
    with pytest.raises(InvalidOptions, match=message):
        Address.of(arguments)


@pytest.mark.parametrize("arguments", [[], ["--host", "localhost"], ["--host", "0.0.0.0"]])
def test_an_address_is_free_or_not(arguments: list[str]) -> None:
    """Whatever the address is called; and two servers may share a port if they are told to."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        given = [*arguments, "--port", str(other.getsockname()[1])]
        with pytest.raises(EngineFailed, match="is taken"):
            Address.of(given).require_free()
        Address.of([*given, "--reuse-port"]).require_free()
    Address.of(given).require_free()


def test_an_address_of_another_machine_is_not_free() -> None:
    """It cannot be listened at."""
    with pytest.raises(EngineFailed, match="or the address is not this machine's"):
        Address.of(["--host", "192.0.2.1"]).require_free()


def test_a_log_takes_little_room_however_long_it_gets() -> None:
    """What comes after it was trimmed is there, and nothing else."""
    script = "head -c 300000 /dev/urandom; echo; echo first; read line < $0; echo last; sleep 60"
    with tempfile.TemporaryDirectory() as folder:
        pipe = os.path.join(folder, "pipe")
        os.mkfifo(pipe)
        process = EngineProcess(["sh", "-c", script, pipe], {}, "engine", "model")
        try:
            wait_for(process, "first")
            process.trim_log(1 << 20)
            assert process.last_lines()[-1] == "first"
            process.trim_log(1000)
            assert not process.last_lines()
            with open(pipe, "w") as go_on:
                go_on.write("\n")
            wait_for(process, "last")
            assert process.last_lines() == ["last"]
        finally:
            process.stop()


def wait_for(process: EngineProcess, line: str) -> None:
    """Wait until a process has logged a line."""
    deadline = time.monotonic() + 20
    while line not in process.last_lines():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_self_test_gets_the_arguments_on_gpus() -> None:
    """And no others."""
    given = ["--port", "1", "-ngl", "20", "--jinja", "--n-gpu-layers=all"]
    assert gpu_arguments(given) == ("-ngl", "20", "--n-gpu-layers", "all")
