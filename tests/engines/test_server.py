"""A server that does not do its part raises one clear error, and never outlives its block."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from rys_gguf.engines.base import Engine, EngineOptions
from rys_gguf.engines.port import free_port
from rys_gguf.engines.server import ServerEngine
from rys_gguf.errors import EngineFailed
from tests import tiny
from tests.engine import OPTIONS
from tests.engines.stand_in import broken_server, script
from tests.listening import listening_ports


def options(binary: Path, **more: float) -> EngineOptions:
    """Options for a stand-in, with short times."""
    return EngineOptions(
        binary, load_seconds=more.get("load", 20), answer_seconds=more.get("answer", 20)
    )


def children() -> set[int]:
    """The running processes that this one has started."""
    done = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return {int(line.split()[0]) for line in done.stdout.splitlines() if " ps" not in line}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model for the server to load, or to pretend to."""
    return tiny.write(tmp_path / "m.gguf", "llama", 2)


def test_an_engine_that_exits_is_reported_at_once(model: Path, tmp_path: Path) -> None:
    """The error has its exit code and last log lines, long before any time-out."""
    binary = script(tmp_path / "server", "print('no such GPU'); raise SystemExit(3)")
    before = time.monotonic()
    with (
        pytest.raises(EngineFailed, match=r"(?s)exit code 3.*no such GPU"),
        ServerEngine(model, options(binary)),
    ):
        pass
    assert time.monotonic() - before < 60


def test_an_engine_that_a_nameless_signal_ends_is_reported(model: Path, tmp_path: Path) -> None:
    """Real-time signals have no names in Python."""
    number = signal.SIGRTMIN + 1
    binary = script(tmp_path / "server", f"import os; os.kill(os.getpid(), {number})")
    with (
        pytest.raises(EngineFailed, match=rf"ended while it loaded \(signal {number}\)"),
        ServerEngine(model, options(binary)),
    ):
        pass


def test_an_engine_that_hangs_is_stopped_after_its_time(model: Path, tmp_path: Path) -> None:
    """The error names the time-out, and the process is gone."""
    binary = script(tmp_path / "server", "import time; time.sleep(600)")
    known = children()
    with (
        pytest.raises(EngineFailed, match="within 1 s"),
        ServerEngine(model, options(binary, load=1)),
    ):
        pass
    assert children() <= known


def test_a_wrapper_script_ends_with_its_server(model: Path, tmp_path: Path) -> None:
    """If llama-server is a shell script, the program it started is stopped as well."""
    binary = tmp_path / "server"
    binary.write_text("#!/bin/sh\nsleep 4321.5\n")
    binary.chmod(0o755)
    with pytest.raises(EngineFailed), ServerEngine(model, options(binary, load=1)):
        pass
    assert subprocess.run(["pgrep", "-f", "sleep 4321.5"], capture_output=True).returncode == 1


def test_an_engine_that_ignores_sigterm_is_killed(model: Path, tmp_path: Path) -> None:
    """SIGKILL follows if SIGTERM does not end it."""
    binary = script(
        tmp_path / "server",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
    )
    known = children()
    with pytest.raises(EngineFailed), ServerEngine(model, options(binary, load=1)):
        pass
    assert children() <= known


def test_a_server_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    """The error names the model that it serves."""
    binary = broken_server(tmp_path / "server", "/other/model.gguf")
    with pytest.raises(EngineFailed, match="/other/model"), ServerEngine(model, options(binary)):
        pass


def test_a_slow_start_is_waited_for(model: Path, tmp_path: Path) -> None:
    """Status 503 while the model loads is not a failure."""
    health = "(503, {}) if time.monotonic() - START < 1 else (200, {})"
    binary = broken_server(tmp_path / "server", model, health=health)
    with ServerEngine(model, options(binary)) as engine:
        assert engine.build == "server (b1)"


def test_an_error_status_is_reported(model: Path, tmp_path: Path) -> None:
    """Status 500 raises, with what the server wrote."""
    binary = broken_server(tmp_path / "server", model)
    with (
        ServerEngine(model, options(binary)) as engine,
        pytest.raises(EngineFailed, match="status 500"),
    ):
        engine.generate("x", 1)


def test_an_answer_that_never_comes_is_reported(model: Path, tmp_path: Path) -> None:
    """The error names the time allowed."""
    binary = broken_server(tmp_path / "server", model, post="time.sleep(600)")
    with (
        ServerEngine(model, options(binary, answer=1)) as engine,
        pytest.raises(EngineFailed, match="within 1 s"),
    ):
        engine.generate("x", 1)


def test_an_engine_killed_while_it_answers_is_reported(model: Path) -> None:
    """The real engine, killed in the middle of a long answer."""
    with ServerEngine(model, OPTIONS) as engine:
        threading.Timer(0.3, os.kill, (engine.pid, signal.SIGKILL)).start()
        with pytest.raises(EngineFailed, match=r"SIGKILL|broke off"):
            _ask_for_long(engine)


def _ask_for_long(engine: Engine) -> None:
    """Ask for enough to be interrupted."""
    for _ in range(200):
        engine.speed([1, 5, 9], 200)


def test_an_engine_killed_while_it_loads_is_reported(model: Path, tmp_path: Path) -> None:
    """The error names the signal."""
    binary = script(tmp_path / "server", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(EngineFailed, match="SIGKILL"), ServerEngine(model, options(binary)):
        pass


def test_a_port_that_is_gone_is_replaced_by_another(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two engines that start at once may be given one port: the later one takes a new one."""
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        free_port = free.getsockname()[1]
        free.close()
        ports = iter([taken.getsockname()[1], free_port])
        monkeypatch.setattr("rys_gguf.engines.serving.free_port", lambda: next(ports))
        with ServerEngine(model, OPTIONS) as engine:
            assert engine.url.endswith(f":{free_port}")
            assert engine.tokenize("a")


def test_a_port_that_is_taken_is_an_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our server cannot start, and the one that holds the port is not taken for it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr("rys_gguf.engines.serving.free_port", lambda: taken.getsockname()[1])
        binary = broken_server(tmp_path / "server", model)
        with (
            pytest.raises(EngineFailed, match="ended while it loaded"),
            ServerEngine(model, options(binary)),
        ):
            pass


@pytest.mark.parametrize(
    ("post", "fault"),
    [
        ("self.send(200, b'<html>')", "not JSON"),
        ("self.answer(200, [])", "status 200"),
        ("self.answer(200, {})", "without text"),
        ("self.answer(200, {'content': 'x', 'tokens_predicted': 'y'})", "without text"),
        ("self.answer(200, {'choices': []})", "without text"),
        ("self.send(200, b'\\xff\\x1b[2J')", "not JSON"),
        ("self.send(200, b'[' * 100000)", "not JSON"),
        ('self.send(200, b\'{"content": "", "tokens_predicted": 1e999}\')', "without text"),
    ],
)
def test_a_reply_of_another_form_is_an_error(
    model: Path, tmp_path: Path, post: str, fault: str
) -> None:
    """A reply that is not llama.cpp's never counts as an answer."""
    binary = broken_server(tmp_path / "server", model, post=post)
    with ServerEngine(model, options(binary)) as engine:
        with pytest.raises(EngineFailed, match=fault) as e:
            engine.generate("x", 1)
        assert all(line.isprintable() for line in str(e.value).split("\n"))
        with pytest.raises(EngineFailed, match=fault):
            engine.chat("x", 1)


def test_numbers_of_another_form_are_an_error(model: Path, tmp_path: Path) -> None:
    """Neither tokens nor probabilities nor prompts are made up."""
    binary = broken_server(tmp_path / "server", model, post="self.answer(200, {'tokens': ['a']})")
    with ServerEngine(model, options(binary)) as engine:
        with pytest.raises(EngineFailed, match="without token ids"):
            engine.tokenize("x")
        with pytest.raises(EngineFailed, match="without a prompt"):
            engine.templated("x")
        with pytest.raises(EngineFailed, match="without probabilities"):
            engine.option_probabilities([1], [4, 5])


def test_a_token_outside_the_vocabulary_is_an_error(model: Path) -> None:
    """The caller's vocabulary is smaller than the engine's."""
    with ServerEngine(model, OPTIONS) as engine, pytest.raises(EngineFailed, match="outside"):
        engine.logprobs([1, 50], 100)


def test_speeds_that_the_server_does_not_report_are_none(model: Path, tmp_path: Path) -> None:
    """A server without timings, or with impossible ones, has no speed."""
    timings = "{'timings': {'prompt_per_second': 0, 'predicted_per_second': None}}"
    for n, reply in enumerate(("{}", timings)):
        binary = broken_server(tmp_path / f"server{n}", model, post=f"self.answer(200, {reply})")
        with ServerEngine(model, options(binary)) as engine:
            speed = engine.speed([1], 1)
        assert (speed.prompt, speed.generation) == (None, None)


# -- the connection --------------------------------------------------------------------------------

ONE_EACH = """
        self.answer(200, {"tokens": [self.client_address[1], len(self.headers["Authorization"])]})
"""


def test_requests_share_a_connection(model: Path, tmp_path: Path) -> None:
    """The port at the other end stays the same."""
    binary = broken_server(tmp_path / "server", model, post=ONE_EACH.strip())
    with ServerEngine(model, options(binary)) as engine:
        assert len({engine.tokenize("a")[0] for _ in range(5)}) == 1


def test_a_connection_that_the_server_closed_is_opened_again(model: Path, tmp_path: Path) -> None:
    """A server may close an idle connection without a word; the next request is answered."""
    post = ONE_EACH.strip() + "; self.close_connection = True"
    binary = broken_server(tmp_path / "server", model, post=post)
    with ServerEngine(model, options(binary)) as engine:
        ports = [engine.tokenize("a")[0] for _ in range(4)]
    assert len(set(ports)) == 4


def test_a_server_that_never_replies_is_asked_once_more_at_most(
    model: Path, tmp_path: Path
) -> None:
    """A server that hangs up on every question is an error and not a loop."""
    post = "print('asked', flush=True); self.connection.close(); self.close_connection = True"
    binary = broken_server(tmp_path / "server", model, post=post)
    with (
        ServerEngine(model, options(binary)) as engine,
        pytest.raises(EngineFailed, match="broke off its answer to /tokenize") as e,
    ):
        engine.tokenize("a")
    assert 1 <= sum("asked" in line for line in e.value.log) <= 2


def test_only_the_parent_may_ask(model: Path) -> None:
    """Other users of the machine, and web pages, do not know the key."""
    with ServerEngine(model, OPTIONS) as engine:
        for key in ("", engine.api_key[:-1] + "x"):
            headers = {"Authorization": f"Bearer {key}"}
            request = urllib.request.Request(f"{engine.url}/tokenize", b"{}", headers)
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(request)


@pytest.mark.skipif(OPTIONS.binary is not None, reason="a llama-server has its own rules")
def test_no_web_page_may_read_an_answer(model: Path) -> None:
    """A browser withholds answers that do not allow the page's origin."""
    with ServerEngine(model, OPTIONS) as engine:
        for origin in ("https://evil.example", "null", "http://localhost"):
            request = urllib.request.Request(f"{engine.url}/health", headers={"Origin": origin})
            with urllib.request.urlopen(request) as reply:
                allowed = reply.headers["Access-Control-Allow-Origin"]
                assert reply.headers["Access-Control-Allow-Credentials"] != "true"
            assert allowed == engine.url


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_key_is_in_no_command_line(model: Path) -> None:
    """Every user of the machine sees the arguments of a process, only its owner the environment."""
    with ServerEngine(model, OPTIONS) as engine:
        process = Path(f"/proc/{engine.pid}")
        assert str(model).encode() in (process / "cmdline").read_bytes()
        assert engine.api_key.encode() not in (process / "cmdline").read_bytes()
        assert engine.api_key.encode() in (process / "environ").read_bytes()
        listening = listening_ports(engine.pid)
    assert listening == {("127.0.0.1", int(engine.url.rpartition(":")[2]))}


def test_no_proxy_is_asked(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxies are for the world outside."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ServerEngine(model, OPTIONS) as engine:
        assert engine.tokenize("a")


def test_the_key_is_kept_until_the_server_is_known(model: Path, tmp_path: Path) -> None:
    """Whoever answers first, perhaps a stranger who took the port, gets no key."""
    health = '(500 if self.headers["Authorization"] else 200, {})'
    binary = broken_server(tmp_path / "server", model, health=health)
    with ServerEngine(model, options(binary)) as engine:
        assert engine.build == "server (b1)"


def test_a_port_of_another_user_is_not_used(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may answer just as our server would."""
    binary = broken_server(tmp_path / "server", model)
    monkeypatch.setattr("rys_gguf.engines.serving.stranger_at", lambda _port: 1234)
    with (
        pytest.raises(EngineFailed, match=r"lost its port [0-9]+ to a process of user 1234"),
        ServerEngine(model, options(binary)),
    ):
        pass


IMPOSTOR = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.path, self.headers["Authorization"], flush=True)
        data = json.dumps({"model_path": sys.argv[1], "build_info": "b1"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root can be two")
def test_an_impostor_learns_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user reads the port from our server's arguments, takes it and plays the server."""
    # Somewhere that the other user may read; -S and -E find no site-packages of ours.
    command = ["/usr/bin/env", "python3", "-S", "-E", "-c", IMPOSTOR, str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, user=65534, cwd="/") as other:
        try:
            assert other.stdout is not None
            taken = int(other.stdout.readline() or 0)
            if not taken:
                pytest.skip("another user cannot run Python here")
            ports = iter([taken, free_port()])
            monkeypatch.setattr("rys_gguf.engines.serving.free_port", lambda: next(ports))
            with ServerEngine(model, OPTIONS) as engine:
                assert not engine.url.endswith(f":{taken}")
                assert engine.tokenize("a")
        finally:
            other.kill()
        assert "Bearer" not in other.stdout.read()


def test_a_server_that_ended_is_not_asked(model: Path) -> None:
    """Its port is free for others, and a question holds the key."""
    with ServerEngine(model, OPTIONS) as engine:
        os.kill(engine.pid, signal.SIGKILL)
        while engine._server.process._process.poll() is None:
            time.sleep(0.01)
        with pytest.raises(EngineFailed, match=r"before it was asked /tokenize \(SIGKILL\)"):
            engine.tokenize("a")


def test_backends_of_the_current_folder_are_not_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A llama-server looks for them there too; beside the program they are its own."""
    (tmp_path / "bin").mkdir()
    binary = broken_server(tmp_path / "bin" / "server", model)
    for folder in (tmp_path, binary.parent):
        (folder / "libggml-cpu-evil.so").touch()
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(EngineFailed, match=r"would run libggml-cpu-evil\.so of the current folder"),
        ServerEngine(model, options(binary)),
    ):
        pass
    monkeypatch.chdir(binary.parent)
    with ServerEngine(model, options(binary)) as engine:
        assert engine.build == "server (b1)"
