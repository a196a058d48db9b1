"""The proof finds what is wrong and where; the engine's failures are one message each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf import LayerMap, Model, make_plan, write_plan
from rys_gguf.checks.prove import covering_paths, prove, residual_writers, silenced_copy
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.find import find_engine
from rys_gguf.engines.server import Engine
from rys_gguf.errors import EngineFailed, RysError
from tests import tiny
from tests.command import command, leftovers, run
from tests.engine import OPTIONS

maps = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.integers(0, n - 1), min_size=1, max_size=20).map(
        lambda sources: LayerMap(n, tuple(sources))
    )
)


@given(maps)
def test_paths_ascend_and_cover_every_output(layer_map: LayerMap) -> None:
    """Whatever the map, each output speaks in some path, and sources ascend along each."""
    paths = covering_paths(layer_map)
    assert {out for path in paths for out in path} == set(range(len(layer_map)))
    for path in paths:
        assert list(path) == sorted(path)
        sources = [layer_map[out] for out in path]
        assert sources == sorted(set(sources))


@pytest.mark.parametrize(
    ("spec", "n"), [("blocks:2,4", 2), ("blocks:2,4;2,4", 3), ("blocks:0,6", 2)]
)
def test_a_window_needs_a_path_per_pass(spec: str, n: int) -> None:
    """Originals, copies, copies of copies: each path is the whole source again."""
    paths = covering_paths(LayerMap.parse(spec, 6))
    assert len(paths) == n
    assert all(len(path) == 6 for path in paths)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A Gemma 3 of 12 layers and its legal variant."""
    source = tiny.write(tmp_path / "source.gguf", "gemma3", 12)
    out = tmp_path / "out.gguf"
    with Model(source) as model:
        write_plan(make_plan(model, LayerMap.parse("blocks:3,9", 12)), out)
    return out, source


def test_prove_passes_on_what_apply_writes(pair) -> None:
    """The command says so, names the positions, and leaves nothing."""
    out, source = pair
    done = run("prove", out, "--source", source, "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "every one of 18 outputs runs as its source" in done.stdout
    assert f"need {out.stat().st_size} bytes" in done.stderr
    assert leftovers(out.parent, [out, source]) == set()
    report = json.loads(run("prove", out, "--source", source, "--json").stdout)
    assert report["ok"] is True
    assert len(report["results"]) == 2


def test_prove_names_the_outputs_that_differ(tmp_path: Path) -> None:
    """A copy by renaming alone: exactly the outputs whose kind changed are named."""
    source = tiny.write(tmp_path / "m.gguf", "gemma3", 12)
    naive = tiny.write(tmp_path / "naive.gguf", "gemma3", 12, sources=[*range(8), *range(4, 12)])
    message = fails_with_output("prove", naive, "--source", source, "--blocks", "4,8")
    # Full attention stands at 5 and 11; sources 5 and 11 are full. Outputs 9, 11 and 15 are wrong.
    assert (
        "outputs 9 (source 5), 11 (source 7), 15 (source 11) do not run as their sources" in message
    )


def fails_with_output(*args: object) -> str:
    """The message of a command that reports on stdout and ends with 1."""
    done = run(*args)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("spec", ["layers:0..3,6..11", "layers:5,4,3", "layers:0..11,0"])
def test_maps_that_skip_or_reorder_are_proven_against_a_silenced_source(
    tmp_path: Path, spec: str
) -> None:
    """Layers the map drops are silenced in the source; reordered ones are shown one by one."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 12)
    layer_map = LayerMap.parse(spec, 12)
    with Model(source) as model:
        write_plan(make_plan(model, layer_map), tmp_path / "out.gguf")
    assert prove(tmp_path / "out.gguf", source, layer_map, OPTIONS).holds()


def test_what_cannot_be_proven_is_named_as_such(tmp_path: Path) -> None:
    """Gemma 4 adds an embedding in every layer: never "passed"."""
    source = tiny.write(tmp_path / "m.gguf", "gemma4", 8)
    out = tmp_path / "out.gguf"
    assert run("apply", source, "--blocks", "2,4", "-o", out).returncode == 0
    assert "not provable this way" in fails_with_output("prove", out, "--source", source)


def test_a_silenced_copy_writes_zeros_where_the_residual_is_fed(pair) -> None:
    """Attention output and FFN down of that layer are zero, everything else is as it was."""
    out, _ = pair
    with Model(out) as model:
        names = {t.name for t in residual_writers(model.layers[4])}
        with silenced_copy(model, [4], out.parent) as path, Model(path) as silent:
            for a, b in zip(model.header.tensors, silent.header.tensors, strict=True):
                before, after = (
                    b"".join(m.read(m.data(t).span)) for m, t in ((model, a), (silent, b))
                )
                assert after == (bytes(len(before)) if a.name in names else before)
        assert not path.exists()
    assert names == {"blk.4.attn_output.weight", "blk.4.ffn_down.weight"}


def test_a_full_disk_while_silencing_is_one_message(pair, small_disk: Path) -> None:
    """Nothing is left on it."""
    out, source = pair
    (small_disk / "fill").write_bytes(bytes(63 << 20))
    free = os.statvfs(small_disk)
    (small_disk / "more").write_bytes(bytes(free.f_bavail * free.f_frsize - (1 << 20) // 2))
    message = fails_with_output("prove", out, "--source", source, "--workdir", small_disk)
    assert "--workdir" in message or "No space left" in message
    assert leftovers(small_disk, [small_disk / "fill", small_disk / "more"]) == set()


# -- an engine that does not do its part ----------------------------------------------------------


def script(path: Path, body: str) -> Path:
    """An executable Python script in place of llama-server."""
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(body)}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


SERVER = """
import http.server, json, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1])
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, data):
        raw = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
    def do_GET(self):
        if self.path == "/health":
            self.answer(*@HEALTH@)
        else:
            self.answer(200, {"model_path": @MODEL@, "build_info": "b1"})
    def do_POST(self):
        @POST@
    def log_message(self, *args):
        print("log:", *args, flush=True)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def stand_in(path: Path, model: str, *, health: str = "(200, {})", post: str = "") -> Path:
    """A server that answers like llama-server, but for what the test wants of it."""
    body = SERVER.replace("@HEALTH@", health).replace("@MODEL@", repr(model))
    return script(path, body.replace("@POST@", post or "self.answer(500, {'error': 'no'})"))


def options(binary: Path, **more: float) -> EngineOptions:
    """Options for a stand-in, impatient."""
    return EngineOptions(
        binary, load_seconds=more.get("load", 20), answer_seconds=more.get("answer", 20)
    )


def children() -> set[int]:
    """Processes this one has started that still run."""
    done = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return {int(line.split()[0]) for line in done.stdout.splitlines() if " ps" not in line}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model for stand-ins to serve."""
    return tiny.write(tmp_path / "m.gguf", "llama", 2)


def test_an_engine_that_exits_is_reported_at_once(model: Path, tmp_path: Path) -> None:
    """Its exit code and its last words, long before any time-out."""
    binary = script(tmp_path / "server", "print('no such GPU'); raise SystemExit(3)")
    before = time.monotonic()
    with (
        pytest.raises(EngineFailed, match=r"(?s)exit code 3.*no such GPU"),
        Engine(model, options(binary)),
    ):
        pass
    assert time.monotonic() - before < 15


def test_an_engine_that_hangs_is_stopped_after_its_time(model: Path, tmp_path: Path) -> None:
    """The time-out is named, and the process is gone."""
    binary = script(tmp_path / "server", "import time; time.sleep(600)")
    known = children()
    with pytest.raises(EngineFailed, match="within 1 s"), Engine(model, options(binary, load=1)):
        pass
    assert children() <= known


def test_a_wrapper_script_takes_its_server_along(model: Path, tmp_path: Path) -> None:
    """What a script in place of llama-server started is stopped with it."""
    binary = tmp_path / "server"
    binary.write_text("#!/bin/sh\nsleep 4321.5\n")
    binary.chmod(0o755)
    with pytest.raises(EngineFailed), Engine(model, options(binary, load=1)):
        pass
    assert subprocess.run(["pgrep", "-f", "sleep 4321.5"], capture_output=True).returncode == 1


def test_an_engine_that_ignores_sigterm_is_killed(model: Path, tmp_path: Path) -> None:
    """Asked first, made to in the end."""
    binary = script(
        tmp_path / "server",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
    )
    known = children()
    with pytest.raises(EngineFailed), Engine(model, options(binary, load=1)):
        pass
    assert children() <= known


def test_an_engine_that_serves_another_model_is_not_believed(model: Path, tmp_path: Path) -> None:
    """The model it names is in the message."""
    binary = stand_in(tmp_path / "server", "/other/model.gguf")
    with pytest.raises(EngineFailed, match="/other/model"), Engine(model, options(binary)):
        pass


def test_a_slow_start_is_waited_for(model: Path, tmp_path: Path) -> None:
    """503 while loading is no failure."""
    health = "(503, {}) if time.monotonic() - START < 1 else (200, {})"
    binary = stand_in(tmp_path / "server", str(model), health=f"({health})")
    binary.write_text(binary.read_text().replace("port = ", "START = time.monotonic()\nport = ", 1))
    with Engine(model, options(binary)) as engine:
        assert engine.build == "server (b1)"


def test_an_error_status_is_reported(model: Path, tmp_path: Path) -> None:
    """500 is an error with the server's text, never a score."""
    binary = stand_in(tmp_path / "server", str(model))
    with Engine(model, options(binary)) as engine, pytest.raises(EngineFailed, match="status 500"):
        engine.complete("x")


def test_an_answer_that_never_comes_is_reported(model: Path, tmp_path: Path) -> None:
    """The time allowed is named."""
    binary = stand_in(tmp_path / "server", str(model), post="time.sleep(600)")
    with (
        Engine(model, options(binary, answer=1)) as engine,
        pytest.raises(EngineFailed, match="within 1 s"),
    ):
        engine.complete("x")


def test_an_engine_killed_while_it_answers_is_reported(model: Path) -> None:
    """The real engine, killed in the middle of a long answer."""
    with Engine(model, OPTIONS) as engine:
        assert engine._process is not None
        pid = engine._process.pid
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(EngineFailed, match=r"SIGKILL|broke off"):
            _ask_for_long(engine)


def _ask_for_long(engine: Engine) -> None:
    """Answers enough to be interrupted."""
    for _ in range(200):
        engine.complete([1, 5, 9], n_predict=200, ignore_eos=True)


def test_an_engine_killed_while_it_loads_is_reported(model: Path, tmp_path: Path) -> None:
    """The signal is named."""
    binary = script(tmp_path / "server", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(EngineFailed, match="SIGKILL"), Engine(model, options(binary)):
        pass


def test_a_port_somebody_takes_is_an_error(model: Path, tmp_path: Path, monkeypatch) -> None:
    """A server on our port that is not ours is not believed, or ours cannot start."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr("rys_gguf.engines.server._free_port", lambda: taken.getsockname()[1])
        binary = stand_in(tmp_path / "server", str(model))
        with (
            pytest.raises(EngineFailed, match="ended while it loaded"),
            Engine(model, options(binary)),
        ):
            pass


def test_a_program_that_is_none_is_named() -> None:
    """--llama-server with a path that is not there."""
    with pytest.raises(EngineFailed, match="/no/such: not a program"):
        find_engine("/no/such")


def test_a_program_in_this_folder_is_found(pair, tmp_path: Path) -> None:
    """--llama-server ./server is the one here, not one on PATH; its failure is told."""
    out, source = pair
    script(tmp_path / "server", "print('no such GPU'); raise SystemExit(3)")
    done = run("prove", out, "--source", source, "--llama-server", "./server", cwd=tmp_path)
    assert done.returncode == 1
    assert "exit code 3" in done.stderr
    assert "no such GPU" in done.stderr
    assert leftovers(out.parent, [out, source, tmp_path / "server"]) == set()


def test_arguments_after_the_dashes_need_a_server(pair) -> None:
    """They are llama-server's; without one the call is wrong."""
    out, source = pair
    env = {k: v for k, v in os.environ.items() if k != "LLAMA_SERVER"}
    done = run("prove", out, "--source", source, "--", "--gpu-layers", "99", env=env)
    assert done.returncode == 2


def engine_on_a_silenced_copy(process: subprocess.Popen[bytes], folder: Path) -> int:
    """The pid of the engine that a running `prove` has started, once its copy is written."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for pid in children.read_text().split():
            # Before exec it is a copy of the run itself, which waits for it.
            try:
                started = b"child.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
            except FileNotFoundError:
                continue
            if started and list(folder.glob(".rys-*")):
                return int(pid)
        time.sleep(0.001)
    raise AssertionError("no engine was seen")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_takes_its_engine_along(pair, number: signal.Signals) -> None:
    """Neither the engine nor (but for SIGKILL) a silenced copy outlives the command."""
    out, source = pair
    for _ in range(4):
        with subprocess.Popen(
            command("prove", out, "--source", source),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            # Held still, the run cannot come to its end before our signal does.
            with contextlib.suppress(ProcessLookupError):
                os.kill(engine_on_a_silenced_copy(process, out.parent), signal.SIGSTOP)
            process.send_signal(number)
            process.communicate(timeout=60)
        time.sleep(0.3)
        running = subprocess.run(
            ["pgrep", "-f", str(out.parent)], capture_output=True, text=True
        ).stdout
        assert running == ""
        if number != signal.SIGKILL:
            assert leftovers(out.parent, [out, source]) == set()
        if process.returncode:  # else that engine was the last, and the run was through
            break
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)


def test_a_model_without_numbers_is_no_proof(tmp_path: Path) -> None:
    """Two models that both give NaN are not equal."""
    import gguf
    import numpy as np

    source = tiny.write(tmp_path / "m.gguf", "llama", 4)
    norm = next(t for t in gguf.GGUFReader(source).tensors if t.name == "output_norm.weight")
    with source.open("r+b") as file:
        file.seek(int(norm.data_offset))
        file.write(np.full(tiny.N_EMBD, np.nan, "<f4").tobytes())
    layer_map = LayerMap.parse("blocks:1,2", 4)
    with Model(source) as model:
        write_plan(make_plan(model, layer_map), tmp_path / "out.gguf")
    with pytest.raises(RysError, match="not numbers"):
        prove(tmp_path / "out.gguf", source, layer_map, OPTIONS)
