"""A served variant of pointers answers as its written file does, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rys_gguf import LayerMap, Model, make_plan, write_plan
from rys_gguf.engines import stock
from rys_gguf.engines.base import AUTO, LIVE, SERVER, EngineOptions
from rys_gguf.engines.find import find_engine
from rys_gguf.engines.port import free_port
from rys_gguf.engines.stock import NotPointed, StockServer
from rys_gguf.errors import EngineFailed
from rys_gguf.serve import variant
from rys_gguf.serve.variant import serve_file, serve_plan
from tests import tiny

Json = dict[str, Any]

PROMPT = [1, *(3 + n * 37 % 250 for n in range(20))]


def options(kind: str = LIVE, *arguments: str) -> EngineOptions:
    """A small server on a port of its own."""
    small = ("--port", str(free_port()), "-c", "512", "--parallel", "1", "--no-warmup")
    return EngineOptions(find_engine(), (*small, *arguments), kind, n_threads=1)


def ask(server: StockServer, path: str, body: Json | None = None) -> Json:
    """The reply to a request."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.address.url + path, data, headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        found: Json = json.load(reply)
    return found


def answers(server: StockServer) -> list[Any]:
    """What a server writes after a prompt and in a chat, with the probabilities of every token."""
    written = ask(
        server,
        "/completion",
        {"prompt": PROMPT, "n_predict": 4, "n_probs": 20, "temperature": 0, "ignore_eos": True},
    )
    said = ask(
        server,
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "max_tokens": 4,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 20,
        },
    )
    assert written["completion_probabilities"]  # tokens that are parts of a character are joined
    assert said["choices"][0]["logprobs"]["content"]
    return [
        written["content"],
        written["completion_probabilities"],
        said["choices"],
        said["model"],
    ]


def require_same(source: Path, spec: str, folder: Path, damp: float = 1) -> None:
    """The variant served from pointers answers as the one that is written."""
    told: list[str] = []
    with Model(source) as model:
        layer_map = LayerMap.parse(spec, model.n_trunk)
        plan = make_plan(model, layer_map if damp == 1 else layer_map.damped(damp))
        with serve_plan(plan, options(), told.append) as server:
            ours = answers(server)
        written = write_plan(plan, folder / ours[3]).paths[0]
    with serve_file(written, options()) as server:
        assert answers(server) == ours
    assert len(told) == 1
    assert told[0].startswith("no copy of any weights: ")


def test_a_served_variant_answers_as_its_file(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts and every log-probability are the same; this shows more than the self-test does."""
    monkeypatch.setattr(variant, "require_live", lambda *_: None)
    require_same(smollm2, "blocks:10,14", tmp_path)


@pytest.mark.parametrize(
    ("arch", "n", "spec", "damp"),
    [("lfm2", 6, "layers:0..2,1..5", 1), ("gemma4", 8, "blocks:0,4", 0.3)],
)
def test_so_does_one_of_another_architecture(
    tmp_path: Path, arch: str, n: int, spec: str, damp: float
) -> None:
    """A hybrid of attention and convolutions; windows of sliding attention, damped."""
    require_same(tiny.write(tmp_path / "m.gguf", arch, n), spec, tmp_path, damp)


# -- where pointers do not work -------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model that loads at once."""
    return tiny.write(tmp_path / "m.gguf", "llama", 4)


def test_otherwise_it_is_written_to_a_file(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says why, one what it takes; the file is gone in the end."""

    def fail(*_: object) -> None:
        raise EngineFailed("the self-test failed\nand more")

    monkeypatch.setattr(variant, "require_live", fail)
    told: list[str] = []
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 4))
        with pytest.raises(NotPointed, match="self-test"), serve_plan(plan, options()):
            pass
        with serve_plan(plan, options(AUTO), told.append) as server:
            assert ask(server, "/v1/models")["data"][0]["id"] == "m-rys_1-2.gguf"
    assert told[0] == ("note: not made of pointers but written to a file: the self-test failed")
    assert told[1].startswith("a temporary file of ")
    assert len(told) == 2
    assert {p.name for p in source.parent.iterdir()} == {"m.gguf"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"pairs": [["blk.0.attn_q.weight", "blk.0.ffn_up.weight"]]}, "differ in type or shape"),
        ({"pairs": [["blk.0.attn_q.weight", "blk.9.attn_q.weight"]]}, r"no blk\.9\.attn_q\.weight"),
    ],
)
def test_a_variant_that_gets_no_weights_is_never_served(
    source: Path, monkeypatch: pytest.MonkeyPatch, fault: Json, message: str
) -> None:
    """Whatever goes wrong in the server's process is the reason that is given here."""
    headers = variant._headers
    monkeypatch.setattr(variant, "require_live", lambda *_: None)
    monkeypatch.setattr(
        variant, "_headers", lambda *given: [replace(h, **fault) for h in headers(*given)]
    )
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 4))
        with pytest.raises(NotPointed, match=message), serve_plan(plan, options()):
            pass


@pytest.mark.parametrize(
    ("file", "right", "wrong", "message"),
    [
        ("stock", "_LOAD = ", '_LOAD = "no" + ', "does not take nollama_model_load_from_file"),
        ("stock", "_FREE = ", '_FREE = "no" + ', "does not take nollama_model_free"),
        ("stock", "_WAIT = (", '_WAIT = "no" + (', "undefined symbol: no_ZN"),
        ("stock", "if not map_lazily", "if map_lazily", "would fill a variant's holes"),
        ("llama", "_NO_VOCABULARY = 0", "_NO_VOCABULARY = 9", "has a vocabulary of its own"),
        ("llama", "ctypes.memmove(ours, theirs, 8)", "pass", "vocabularies have another layout"),
        ("change", "_STOP = ", '_STOP = "no" + ', "undefined symbol: no_ZN22"),
        ("change", "_CLOCK = ", '_CLOCK = "a64l" or ', "does not call a64l, which changes need"),
    ],
)
def test_a_library_that_is_made_in_another_way_is_noticed(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    right: str,
    wrong: str,
    message: str,
) -> None:
    """What is not where it is looked for is the reason that is given, and nothing is served."""
    child = tmp_path / "child"
    shutil.copytree(stock._CHILD, child)
    path = child / f"{file}.py"
    text = path.read_text()
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong))
    monkeypatch.setattr(stock, "_CHILD", child)
    monkeypatch.setattr(variant, "require_live", lambda *_: None)
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 4))
        package = replace(options(), binary=None)
        with (
            pytest.raises(NotPointed, match=message),
            serve_plan(plan, package, changeable=file == "change"),
        ):
            pass


def test_a_server_that_has_slept_answers_as_before(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has given its model back, and gets it again."""
    monkeypatch.setattr(variant, "require_live", lambda *_: None)
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 4))
        with serve_plan(plan, options(LIVE, "--sleep-idle-seconds", "1")) as server:
            before = answers(server)
            deadline = time.monotonic() + 20
            while not ask(server, "/props")["is_sleeping"]:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert answers(server) == before


def test_a_port_that_is_taken_is_named_before_anything_is_made(source: Path) -> None:
    """In every way to serve."""
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as other, Model(source) as model:
        port = str(other.getsockname()[1])
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 4))
        for kind in (AUTO, LIVE, SERVER):
            taken = replace(options(kind), arguments=("--port", port))
            with (
                pytest.raises(EngineFailed, match=f"^port {port} of 127.0.0.1 is taken"),
                serve_plan(plan, taken, told.append),
            ):
                pass
            with pytest.raises(EngineFailed, match="is taken"), serve_file(source, taken):
                pass
    assert not told


def test_arguments_reach_the_server(source: Path) -> None:
    """Such as a key without which it answers nothing, and a name."""
    given = options(SERVER, "--api-key", "secret", "--alias", "mine")
    with serve_file(source, given) as server:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(server, "/props")
        headers = {"Authorization": "Bearer secret"}
        request = urllib.request.Request(server.address.url + "/v1/models", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert json.load(reply)["data"][0]["id"] == "mine"


def test_a_wrong_argument_ends_with_what_llama_cpp_says(source: Path) -> None:
    """The last lines of its log are in the message."""
    with (
        pytest.raises(EngineFailed, match=r"(?s)ended while it loaded.*--nonesuch"),
        serve_file(source, options(SERVER, "--nonesuch")),
    ):
        pass


def test_the_files_are_private(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in a folder that only this user may look into, and no second copy of the weights."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,3", 4))
        with serve_plan(plan, options()):
            (folder,) = place.iterdir()
            assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(place.iterdir())
