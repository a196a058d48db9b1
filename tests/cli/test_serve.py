"""The command `serve` tells its address, serves until it is signalled, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from rys_gguf.cli import main
from tests import tiny
from tests.command import command, run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that loads at once."""
    return tiny.write(tmp_path / "m.gguf", "llama", 4)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_serves_until_it_is_signalled(
    model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """No process is left, and after a signal that can be handled no file."""
    place = tmp_path / "tmp"
    place.mkdir()
    process = subprocess.Popen(
        command("serve", model, "--blocks", "1,3", "--threads", "1", "--", "--port", "0"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(place)},
    )  # fmt: skip
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    others = [t.read_text().split() for t in Path(f"/proc/{process.pid}/task").glob("*/children")]
    children += [pid for pids in others for pid in pids]
    assert children
    with urllib.request.urlopen(url + "/health", timeout=10) as reply:
        assert reply.status == 200
    process.send_signal(number)
    _, messages = process.communicate(timeout=20)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if number != signal.SIGKILL:
        assert not list(place.iterdir())
        assert messages.splitlines()[-1] == (
            f"Stopped by {number.name}; the server has ended, and nothing was left behind."
        )
    assert messages.splitlines()[0] == (
        "6 layers instead of 4; they cost +128 B KV cache per token (f16)"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="changes need Linux")
def test_it_is_asked_and_told_at_rys(model: Path) -> None:
    """The address is on stderr; what was served as it is serves a variant after a request."""
    process = subprocess.Popen(
        command(
            "serve", model, "--threads", "1", "--control", "0", "--allow-changes",
            "--", "--port", "0", "--api-key", "secret",
        ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = process.stdout.readline().strip()
        process.stderr.readline()
        where = process.stderr.readline().strip()
        assert where.startswith("what is served, and changes of it: http://127.0.0.1:")
        control = where.rpartition(" ")[2]
        headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
        for data, layers in ((None, [0, 1, 2, 3]), (b'{"blocks": "1,3"}', [0, 1, 2, 1, 2, 3])):
            request = urllib.request.Request(control, data, headers)
            with urllib.request.urlopen(request, timeout=20) as reply:
                about = json.load(reply)
            assert (about["layer_map"], about["server"]) == (layers, url)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(control, timeout=20)
    finally:
        process.send_signal(signal.SIGTERM)
        _, messages = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert messages.startswith("Stopped by SIGTERM")
    assert messages.count("\n") == 1


def test_what_cannot_be_served_is_refused_in_one_message(model: Path) -> None:
    """A factor without layers, layers that are not there, and a model behind the dashes."""
    assert "say which layers" in refused(2, model, "--damp", "0.5")
    assert "say which layers" in refused(2, model, "--damp", "0.5", "--control", "0")
    assert "--allow-changes needs --control" in refused(2, model, "--allow-changes")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"port {port} of 127.0.0.1 is taken" in refused(1, model, "--control", port)
    assert "m.gguf: " in refused(1, model, "--blocks", "1,9")
    for map_ in ([], ["--blocks", "1,3"]):
        assert "-m after --" in refused(2, model, *map_, "--", "-m", "b.gguf")


@pytest.mark.parametrize("command_name", ["serve", "chat"])
@pytest.mark.parametrize("layer_map", [(), ("--blocks", "1,3")], ids=["as it is", "a map"])
def test_what_is_no_model_is_one_line(
    tmp_path: Path, command_name: str, layer_map: tuple[str, ...]
) -> None:
    """The server does not get to see it, so its log is not shown."""
    wrong = tmp_path / "no.gguf"
    missing = refused(1, wrong, *layer_map, command=command_name)
    wrong.write_text("hello")
    text = refused(1, wrong, *layer_map, command=command_name)
    for message, reason in ((missing, "No such file"), (text, "is text")):
        assert message.startswith("Error: ")
        assert f"no.gguf: {reason}" in message
        assert message.count("\n") == 1


def test_a_chat_answers_line_by_line(model: Path) -> None:
    """Nothing but the answers is on stdout, whatever a model writes; empty lines ask nothing."""
    done = run(
        "chat", model, "--blocks", "1,3", "--threads", "1", "--", "--temp", "0", "-n", "6",
        input="a\n\nb\n",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= 2
    assert done.stdout.replace("\n", "").isprintable()
    assert done.stderr.splitlines()[1].startswith("no copy of any weights: ")


def refused(code: int, *arguments: str | Path, command: str = "serve") -> str:
    """The message of a call that must end with `code`."""
    done = CliRunner().invoke(main, [command, *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output
