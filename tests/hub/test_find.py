"""Models on the Hub: what a name leads to, and that only headers are fetched."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf import Model, find_model, open_model
from rys_gguf.cli.best import BestFolder
from rys_gguf.cli.prove import report_path
from rys_gguf.errors import ModelUnavailable
from rys_gguf.hub.find import RemoteModel, _chosen
from rys_gguf.hub.names import HubName, is_safe
from rys_gguf.hub.ollama import _model_digests
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.patch.plan import make_plan
from rys_gguf.patch.writer import write_plan
from tests import tiny
from tests.cli.calls import call, data, done, refused
from tests.hub.server import COMMIT, Hub
from tests.hub.test_caches import pulled, snapshot

NAME = "hf:o/r:Q4_K_M"
FILE = "o/r/m-Q4_K_M.gguf"
SHARDS = ["m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf"]


@pytest.fixture
def remote(hub: Hub, large: Path) -> Hub:
    """A Hub that holds the large model."""
    hub.files[FILE] = large.read_bytes()
    hub.files["o/r/README.md"] = b"text"
    return hub


def n_fetched(hub: Hub) -> int:
    """Bytes that were asked for at the second server."""
    spans = [r.range for r in hub.requests if r.host in hub.storage]
    assert all(spans)
    ends = [(span or "").removeprefix("bytes=").split("-") for span in spans]
    return sum(int(last) + 1 - int(first) for first, last in ends)


def test_inspect_shows_a_remote_model_as_a_local_one(remote: Hub, large: Path) -> None:
    """All but its place is the same, and its tensors are not fetched."""
    there, here = data("inspect", NAME), data("inspect", large)
    assert there.pop("model") == f"hf:{FILE}"
    assert here.pop("model") == str(large)
    assert there == here
    assert n_fetched(remote) <= 2 << 20 < large.stat().st_size / 2


def test_plan_shows_what_apply_would_write(remote: Hub, large: Path) -> None:
    """The header's changes are those of the local file, digest of the source included."""
    there, here = (data("plan", model, "--blocks", "3,6") for model in (NAME, large))
    assert there.pop("model") != here.pop("model")
    assert there == here
    text = done("apply", NAME, "--blocks", "3,6", "--dry-run").stdout
    assert "the model is not on this machine" in text
    assert n_fetched(remote) <= 2 * (2 << 20)


def test_diff_compares_a_remote_model_with_a_local_one(remote: Hub, large: Path) -> None:
    """Whether one has the current file is known without fetching it."""
    assert "no differences" in done("diff", NAME, large).stderr


def test_shards_are_read_together(hub: Hub, large: Path, tmp_path: Path) -> None:
    """Each file's header, and nothing else."""
    with Model(large) as model:
        plan = make_plan(model, LayerMap.parse("blocks:1,2", 12))
        paths = write_plan(plan, tmp_path / "s-Q4_K_M.gguf", split_max_bytes=1 << 20).paths
    assert len(paths) > 2
    hub.files |= {f"o/r/{path.name}": path.read_bytes() for path in paths}
    with open_model("hf:o/r") as there, Model(paths[0]) as here:
        assert there.header_digest() == here.header_digest()
        assert there.header == here.header
        assert there.n_bytes == here.n_bytes
    found = find_model("hf:o/r")
    assert isinstance(found, RemoteModel)
    assert found.command == f"hf download o/r --include 's-Q4_K_M-*-of-0000{len(paths)}.gguf'"


@pytest.mark.parametrize(
    "args",
    [
        ["apply", NAME, "--blocks", "3,6"],
        ["serve", NAME],
        ["smoke", NAME],
        ["align", NAME, "-o", "x.gguf"],
        ["verify", NAME, "--source", "m.gguf"],
        ["recover", "m.gguf", "--source", NAME],
    ],
)
def test_what_needs_the_tensors_says_how_to_get_them(
    remote: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    """No model is downloaded by surprise: its size is said, and the command that gets it."""
    monkeypatch.chdir(tmp_path)
    size = f"{len(remote.files[FILE]) / 2**20:.1f} MiB"
    assert refused(*args) == (
        f"Error: {NAME}: is not on this machine; get its {size} with: hf download o/r m-Q4_K_M.gguf"
    )
    assert n_fetched(remote) == 0


@pytest.mark.parametrize("names", [["m-Q4_K_M.gguf"], SHARDS], ids=["one", "shards"])
def test_the_command_that_is_named_brings_the_model(hub: Hub, home: Path, names: list[str]) -> None:
    """huggingface_hub's own program, and then the same name leads to a file."""
    hub.files |= {f"o/r/{name}": name.encode() for name in [*names, "other.gguf"]}
    found = find_model(NAME)
    assert isinstance(found, RemoteModel)
    program, *args = shlex.split(found.command)
    binary = Path(sys.executable).with_name(program)
    process = subprocess.run([binary, *args], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    path = find_model(NAME)
    assert isinstance(path, Path)
    assert sorted(p.name for p in path.parent.iterdir()) == names
    assert path.read_text() == names[0]


def test_a_variant_of_a_cached_model_goes_to_the_current_folder(
    home: Path, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache belongs to another program."""
    folder = home / ".cache" / "huggingface" / "hub" / "models--o--r" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    os.link(large, folder / "m-Q4_K_M.gguf")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    before = folder.stat().st_mtime_ns
    done("plan", NAME, "--blocks", "3,6")
    result = done("apply", NAME, "--blocks", "3,6")
    assert result.stdout == "m-rys_3-5-Q4_K_M.gguf\n"
    assert result.stderr.startswith(f"{NAME}: {folder / 'm-Q4_K_M.gguf'}\n")
    assert folder.stat().st_mtime_ns == before, "something was written there"
    done("verify", "m-rys_3-5-Q4_K_M.gguf", "--source", NAME)
    recipe = "--recipe", "recipe.yml", "--hf-model", "o/r"
    assert done("export", NAME, "--blocks", "3,6", *recipe).stdout == "recipe.yml\n"


def test_a_model_of_ollama_is_patched_under_its_own_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob's name says nothing, and what the model calls itself may be anything."""
    blob = pulled(home / ".ollama" / "models", "registry.ollama.ai/library/tiny/latest")
    tiny.write(blob, "llama", 6, extra={"general.name": "../Tiny: \x1b[2J model"})
    monkeypatch.chdir(tmp_path)
    assert done("apply", "ollama:tiny", "--blocks", "1,3").stdout == "Tiny-2J-model-rys_1-2.gguf\n"


def test_reports_of_a_cached_model_go_to_the_current_folder(home: Path) -> None:
    """As its variants do."""
    model = snapshot(home / ".cache" / "huggingface" / "hub")
    assert report_path(model) == Path(f"{model.name}.validate.json")
    assert BestFolder.of(None, model).path == Path(f"{model.name}.best")


def test_a_name_that_fits_nothing_lists_what_is_there(remote: Hub) -> None:
    """So that the right one can be typed."""
    assert refused("inspect", "hf:o/r:Q6_K").endswith(
        "there is no such model; o/r has: m-Q4_K_M.gguf"
    )
    assert refused("inspect", "hf:o/none").endswith("o/none has: no GGUF file at all")


def test_a_missing_shard_is_named(hub: Hub) -> None:
    """Half an upload is no model."""
    hub.files["o/r/m-00001-of-00002.gguf"] = b"GGUF"
    with pytest.raises(ModelUnavailable, match=r"o/r has no m-00002-of-00002\.gguf"):
        find_model("hf:o/r")


@pytest.mark.parametrize(
    "info",
    [
        b"", b"\xff", b"null", b"[]", b"{}", b"[" * 100_000, b'{"sha": 1, "siblings": []}',
        b'{"sha": "../../x", "siblings": []}', b'{"sha": "' + b"a" * 40 + b'", "siblings": [1]}',
        b'{"sha": "' + b"a" * 40 + b'", "siblings": {"a": 1}}',
        b'{"sha": "' + b"a" * 40 + b'", "siblings": [["rfilename"]]}',
    ],
)  # fmt: skip
def test_an_answer_that_is_none_of_the_hub_is_one_message(hub: Hub, info: bytes) -> None:
    """Whatever stands at the endpoint."""
    hub.info = info
    with pytest.raises(ModelUnavailable, match=r"does not answer as the Hub does|names no commit"):
        find_model(NAME)


@pytest.mark.parametrize(
    "path",
    [
        "../m-Q4_K_M.gguf", "/m-Q4_K_M.gguf", "a/../../m-Q4_K_M.gguf", "a\\m-Q4_K_M.gguf",
        "./m-Q4_K_M.gguf", "\x1b[2Jm-Q4_K_M.gguf", "\ud800m-Q4_K_M.gguf",
    ],
)  # fmt: skip
def test_a_path_that_is_not_safe_is_not_there(hub: Hub, path: str) -> None:
    """What a repository lists may be anything."""
    siblings = [{"rfilename": path, "size": 5}, {"rfilename": "x-Q4_K_M.gguf"}, {"rfilename": 5}]
    hub.info = json.dumps({"sha": COMMIT, "siblings": siblings}).encode()
    with pytest.raises(ModelUnavailable, match="has: no GGUF file at all"):
        find_model(NAME)


def test_a_hostile_path_is_quoted(hub: Hub) -> None:
    """In the address, in the command and on the terminal."""
    path = "a b;$(id)?x#y[2J-Q4_K_M.gguf"
    hub.files[f"o/r/{path}"] = b"GGUF"
    found = find_model(NAME)
    assert isinstance(found, RemoteModel)
    assert shlex.split(found.command) == ["hf", "download", "o/r", path]
    result = call("inspect", NAME)
    assert result.exit_code == 1
    assert "is shorter than a GGUF header" in result.stderr
    assert hub.requests[-1].path.endswith("/a%20b%3B%24%28id%29%3Fx%23y%5B2J-Q4_K_M.gguf")


_WORDS = st.sampled_from(["m-Q4_K_M.gguf", COMMIT, "../x.gguf", "x-00001-of-00002.gguf", "\ud800"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(("sha", "siblings", "rfilename", "size", "layers"), inner),
        )
    ),
    max_leaves=12,
)


@given(_JSON, st.sampled_from(["hf:o/r", NAME, "hf:o/r/m-Q4_K_M.gguf"]))
def test_any_list_is_a_model_or_one_message(listing: object, name: str) -> None:
    """Of whatever types its values are."""
    with contextlib.suppress(ModelUnavailable):
        found = _chosen(HubName.parse(name), json.dumps(listing).encode())
        assert all(is_safe(path) for path, _ in found.files)


@given(_JSON)
def test_any_manifest_names_digests_or_none(manifest: object) -> None:
    """Of whatever types its values are."""
    assert all(isinstance(digest, str) for digest in _model_digests(manifest))


def test_a_list_without_an_end_is_not_read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded."""
    monkeypatch.setattr("rys_gguf.hub.find._MAX_LIST_BYTES", 100)
    hub.info = b" " * 200
    with pytest.raises(ModelUnavailable, match="answers with more than the 100 bytes"):
        find_model(NAME)


def test_an_endpoint_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local file is no Hub."""
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc/")
    with pytest.raises(ModelUnavailable, match="HF_ENDPOINT is file:///etc/, expected https://"):
        find_model(NAME)


def test_completion_asks_nobody(hub: Hub) -> None:
    """The Tab key must not wait for the Hub."""
    import click

    from rys_gguf.cli.patch import inspect

    context = click.Context(inspect, resilient_parsing=True)
    assert inspect.params[0].type_cast_value(context, NAME) == Path(NAME)
    assert hub.requests == []
