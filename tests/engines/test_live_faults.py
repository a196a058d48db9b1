"""What goes wrong in the live engine's child ends as one message, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rys_gguf import LayerMap, Model, make_plan
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.live import link
from rys_gguf.engines.live.library import find_library
from rys_gguf.engines.live.loaded import Loaded
from rys_gguf.engines.live.session import HollowFile, Session
from rys_gguf.errors import EngineFailed
from tests import tiny
from tests.engines.contract import wait_until
from tests.live_maps import OPTIONS, hollow_file

ROOT = Path(__file__).parents[2]
# A shared library that is neither llama.cpp's nor a libstdc++.
OTHER_LIBRARY = next(Path(np.__file__).parent.rglob("_multiarray_umath*.so"))
PROMPTS = [(1, 50, 60), (1, 50, 61, 62)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with four layers."""
    return tiny.write(tmp_path / "m.gguf", "llama", 4)


@pytest.fixture
def variant(model: Path, tmp_path: Path) -> HollowFile:
    """A variant of it."""
    with Model(model) as source:
        plan = make_plan(source, LayerMap.parse("blocks:1,3", 4))
        return hollow_file(plan, tmp_path / "hollow.gguf")


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process and no temporary file, whatever the test did."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    before = children()
    yield
    assert wait_until(lambda: not children() - before)
    assert not list(folder.iterdir())


def children() -> set[int]:
    """The ids of the processes that this one started."""
    task = Path(f"/proc/{os.getpid()}/task")
    return {int(pid) for t in task.iterdir() for pid in (t / "children").read_text().split()}


@contextlib.contextmanager
def session_of(model: Path, options: EngineOptions = OPTIONS) -> Iterator[Session]:
    """A session that was started."""
    session = Session(model, options)
    try:
        session.start()
        yield session
    finally:
        session.close()


def failure_of(model: Path, options: EngineOptions = OPTIONS) -> EngineFailed:
    """The error of a session that does not start, which closes itself."""
    before = children()
    session = Session(model, options)
    try:
        with pytest.raises(EngineFailed) as e:
            session.start()
        assert not children() - before
    finally:
        session.close()
    assert "Traceback" not in str(e.value)
    assert str(e.value).count(model.name) == 1
    return e.value


def keep_busy(loaded: Loaded) -> None:
    """Ask without end."""
    while True:
        loaded.logits([(1, *range(40 + n, 140 + n)) for n in range(60)])


# -- the process ----------------------------------------------------------------------------------


def test_a_killed_child_is_one_message_and_a_restart_goes_on(
    model: Path, variant: HollowFile
) -> None:
    """In the middle of a batch; variants are opened anew after it."""
    with session_of(model) as session:
        want = session.base.logits(PROMPTS)
        with session.variant(variant) as loaded:
            theirs = loaded.logits(PROMPTS)
        threading.Timer(0.5, os.kill, (session.pid, signal.SIGKILL)).start()
        with pytest.raises(EngineFailed, match="SIGKILL"), session.variant(variant) as loaded:
            keep_busy(loaded)
        with pytest.raises(EngineFailed, match="ended"):
            session.base.logits(PROMPTS)
        session.restart()
        assert all(map(np.array_equal, session.base.logits(PROMPTS), want))
        with session.variant(variant) as loaded:
            assert all(map(np.array_equal, loaded.logits(PROMPTS), theirs))


def test_a_killed_parent_leaves_no_child(model: Path) -> None:
    """Even when it had no time to say so, and the child computes."""
    code = """
    import sys
    from rys_gguf.engines.live.session import Session
    from tests.engines.test_live_faults import keep_busy
    from tests.live_maps import OPTIONS
    session = Session(sys.argv[1], OPTIONS)
    session.start()
    print(session.pid, flush=True)
    keep_busy(session.base)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(model)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert parent.stdout is not None
    child = Path(f"/proc/{int(parent.stdout.readline())}/stat")
    assert child.exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not child.exists() or ") Z" in child.read_text())


# -- memory ---------------------------------------------------------------------------------------


def limit_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    """Let children have as much address space."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({n_bytes}, {n_bytes}))\n"
    first = "from __future__ import annotations\n"
    use_child(tmp_path, monkeypatch, "__main__.py", first, first + limit)


def test_too_little_memory_for_a_context_is_one_message(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With llama.cpp's reason; the base is there still, and answers what takes less."""
    limit_memory(tmp_path, monkeypatch, 1 << 30)
    with session_of(model, replace(OPTIONS, n_ctx=1 << 30)) as session:
        want = session.base.logits(PROMPTS)
        with pytest.raises(EngineFailed, match="no context can be made, for want of memory") as e:
            session.base.write(PROMPTS[:1], [1 << 22], lambda _n, _row: None)
        assert any("failed to allocate" in line for line in e.value.log)
        assert all(map(np.array_equal, session.base.logits(PROMPTS), want))


def test_a_prompt_longer_than_the_context_is_one_message(model: Path) -> None:
    """It names both lengths, and the session goes on."""
    with session_of(model) as session:
        with pytest.raises(EngineFailed, match="161 tokens, and the context 160"):
            session.base.logits([PROMPTS[0], (1, *[50] * 160)])
        assert len(session.base.logits([(1, *[50] * 159)])) == 1


# -- the library ----------------------------------------------------------------------------------


def use_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str
) -> None:
    """Let sessions start a child with a changed module."""
    folder = tmp_path / "child"
    shutil.copytree(link._CHILD, folder)
    text = (folder / name).read_text()
    assert text.count(old) == 1
    (folder / name).write_text(text.replace(old, new))
    monkeypatch.setattr(link, "_CHILD", folder)


def library_in(folder: Path) -> Path:
    """The llama-server that stands for a build whose library lies in the folder."""
    folder.mkdir()
    binary = folder / "llama-server"
    binary.touch()
    return binary


def test_a_library_without_the_list_of_tensors_runs_no_variant(
    model: Path, variant: HollowFile, tmp_path: Path
) -> None:
    """It says so, and the base can be asked all the same."""
    binary = library_in(tmp_path / "build")
    content = find_library(None).path.read_bytes()
    renamed = content.replace(b"llama_internal_get_tensor_map", b"llama_internal_get_tensor_mop")
    assert renamed != content
    (tmp_path / "build" / "libllama.so").write_bytes(renamed)
    with session_of(model, replace(OPTIONS, binary=binary)) as session:
        assert not session.about["lists_tensors"]
        with (
            pytest.raises(EngineFailed, match="does not export llama_internal_get_tensor_map"),
            session.variant(variant),
        ):
            pass
        assert len(session.base.logits(PROMPTS)) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("_EXTRA = 8, 16, 248, 256, 320", "_EXTRA = 8, 16, 248, 264, 320", "another layout"),
        ("_DEFAULTS = (512, 2048, 512, 1)", "_DEFAULTS = (512, 2048, 512, 2)", "context_params"),
        ("{-1, 0, 999}", "{7}", "model_params begin with something else"),
        ("else 16", "else 24", "layout|ended while it was asked to point"),
    ],
    ids=["name", "context", "model", "pair"],
)
def test_another_layout_is_seen_before_anything_is_written(
    model: Path,
    variant: HollowFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
    message: str,
) -> None:
    """A tensor that does not bear its name where we look, parameters that begin otherwise."""
    use_child(tmp_path, monkeypatch, "llama.py", old, new)
    with (
        pytest.raises(EngineFailed, match=message),
        session_of(model) as session,
        session.variant(variant) as loaded,
    ):
        loaded.logits(PROMPTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no library", "file too short|invalid ELF header"),
        (None, "undefined symbol|cannot open shared object"),
    ],
    ids=["text", "another library"],
)
def test_a_file_that_is_no_llama_cpp_is_one_message(
    model: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    """The linker's reason is in it."""
    binary = library_in(tmp_path / "build")
    library = tmp_path / "build" / "libllama.so"
    if content is None:
        shutil.copy(OTHER_LIBRARY, library)
    else:
        library.write_bytes(content)
    error = failure_of(model, replace(OPTIONS, binary=binary))
    assert re.search(message, str(error))


@pytest.mark.parametrize("name", ["LD_LIBRARY_PATH", "LD_PRELOAD"])
def test_another_libstdcxx_is_one_message(model: Path, tmp_path: Path, name: str) -> None:
    """One that lacks what llama.cpp was linked with, found first or loaded before it."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    stub = folder / "libstdc++.so.6"
    shutil.copy(OTHER_LIBRARY, stub)
    value = str(folder if name == "LD_LIBRARY_PATH" else stub)
    options = replace(OPTIONS, environment=((name, value),))
    assert ".so" in str(failure_of(model, options))


# -- replies --------------------------------------------------------------------------------------

_HOSTILE = """
import json, os, socket, struct, sys, time
print("log: the child is up", flush=True)
connection = socket.socket(fileno=json.loads(sys.argv[1])["socket"])
def receive(n):
    data = b""
    while len(data) < n:
        more = connection.recv(n - len(data))
        if not more:
            os._exit(0)
        data += more
    return data
def send(text, raw=b"", n_json=None, n_raw=None):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    lengths = struct.pack("<QQ", len(text) if n_json is None else n_json,
                          len(raw) if n_raw is None else n_raw)
    connection.sendall(lengths + text + raw)
GOOD = {
    "about": {"build": "b1", "devices": [{"name": "CPU", "type": 0}]},
    "load": {"model": 1, "n_vocab": 259, "n_embd": 32, "recurrent": False},
    "context": {"context": 2, "n_ctx_seq": 256, "has_memory": True},
    "tokenize": {"tokens": [1, 2]},
    "pieces": {"pieces": [["61", False]]},
    "tensors": {"token_embd.weight": [True]},
}
while True:
    n_json, n_raw = struct.unpack("<QQ", receive(16))
    message = json.loads(receive(n_json))
    payload = receive(n_raw)
    do = message["do"]
    if do == "@DO@":
        @REPLY@
    elif do == "decode":
        n = len(message["outputs"]) * 259
        if message["ids"] is not None:
            n = sum(map(len, message["ids"]))
        send({}, struct.pack(f"<{n}f", *range(n)))
    else:
        send(GOOD.get(do, {}))
"""

_ANY = [
    'send(b"[1, 2]")',
    'send(b"null")',
    'send(b"not JSON")',
    'send(b"\\xff\\xfe")',
    'send(b"[" * 100000)',
    "send({}, n_json=1 << 40)",
    "send({}, n_raw=1 << 63)",
    "send({}, b'abc', n_raw=1000); os._exit(3)",
    "connection.sendall(b'abc'); os._exit(3)",
    "os._exit(3)",
    "connection.close(); time.sleep(60)",
    'send({"error": 3, "log": 7})',
    'send({"error": {"a": ["\\x1b[2J"]}, "log": [1, None, "\\x1b[2J"]})',
    'send({"error": "no", "log": {"a": 1}})',
]
_BY_MESSAGE = {
    "about": [
        "send({})",
        'send({"build": [], "devices": 3})',
        'send({"build": 1, "devices": [1]})',
    ],
    "load": [
        "send({})",
        'send({"model": "x", "n_vocab": 259, "recurrent": 0})',
        'send({"model": 1, "n_vocab": -1, "recurrent": 0})',
        'send({"model": 1, "n_vocab": 1e999, "recurrent": 0})',
        'send({"model": [], "n_vocab": None, "recurrent": 0})',
    ],
    "context": ["send({})", 'send({"context": None, "has_memory": 1})'],
    "decode": ["send({})", "send({}, bytes(4))", "send({}, bytes(4 * 259 * 9 + 1))"],
    "tokenize": ["send({})", 'send({"tokens": 3})', 'send({"tokens": [1e999, "a"]})'],
    "pieces": ["send({})", 'send({"pieces": [["xyz", 1]]})', 'send({"pieces": [[3, 1], 2]})'],
    "tensors": ['send({"token_embd.weight": 3})'],
}


def use_hostile_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, do: str, reply: str) -> None:
    """Let sessions start a child that answers as ours, but for one message."""
    folder = tmp_path / "child"
    folder.mkdir()
    code = _HOSTILE.replace("@DO@", do).replace("@REPLY@", reply)
    (folder / "__main__.py").write_text(code)
    monkeypatch.setattr(link, "_CHILD", folder)


def ask_everything(session: Session) -> None:
    """Have each kind of message sent."""
    session.tokenize("a")
    session.piece(97)
    session.holds_embedding_twice()
    assert len(session.base.logits(PROMPTS)) == 2
    assert len(session.base.logits(PROMPTS, [[3], [4, 5]])) == 2
    session.base.write(PROMPTS, [3, 3], lambda _n, row: int(np.argmax(row)))


def test_the_hostile_child_works_without_its_reply(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is the reply that each of the next tests is about."""
    use_hostile_child(tmp_path, monkeypatch, "nothing", "pass")
    with session_of(model) as session:
        ask_everything(session)


@pytest.mark.parametrize(
    ("do", "reply"),
    [
        *(("about", reply) for reply in _ANY),
        *(("decode", reply) for reply in _ANY),
        *((do, reply) for do, replies in _BY_MESSAGE.items() for reply in replies),
    ],
)
def test_no_reply_is_more_than_an_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, do: str, reply: str
) -> None:
    """Whatever the child says: one message, printable, with its last log lines or its own words."""
    use_hostile_child(tmp_path, monkeypatch, do, reply)
    with (
        pytest.raises(EngineFailed) as e,
        session_of(model, replace(OPTIONS, answer_seconds=5, load_seconds=5)) as session,
    ):
        ask_everything(session)
    message = str(e.value)
    assert model.name in message
    assert all(line.isprintable() for line in message.split("\n"))
    assert '"error"' in reply or "the child is up" in message


def test_a_child_that_does_not_answer_is_ended(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would say too late is not taken for the answer to another question."""
    use_hostile_child(tmp_path, monkeypatch, "tensors", "time.sleep(2); send({})")
    with session_of(model, replace(OPTIONS, answer_seconds=0.5)) as session:
        with pytest.raises(EngineFailed, match=r"did not answer within 0\.5 s"):
            session.holds_embedding_twice()
        with pytest.raises(EngineFailed, match="did not answer"):
            session.tokenize("a")
        session.restart()
        assert session.tokenize("a") == [1, 2]
