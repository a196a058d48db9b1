"""The caches of other programs, in the layouts that these programs write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

from rys_gguf.errors import ModelUnavailable
from rys_gguf.hub.caches import outside_caches
from rys_gguf.hub.find import find_model
from tests.hub.server import Hub

NAME = "hf:own-er/re.po:Q4_K_M"
FILE = "m-Q4_K_M.gguf"


def put(path: Path, content: bytes = b"model") -> Path:
    """A file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def snapshot(root: Path, commit: str = "c" * 40, ref: str = "main", file: str = FILE) -> Path:
    """A file as huggingface_hub stores it: a link in a snapshot to a blob."""
    folder = root / "models--own-er--re.po"
    blob = put(folder / "blobs" / f"{commit[:1]}{file.replace('/', '_')}")
    if ref:
        put(folder / "refs" / ref, commit.encode())
    link = folder / "snapshots" / commit / file
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


def pulled(models: Path, manifest: str, digest: str = "sha256:" + "a" * 64) -> Path:
    """A model as Ollama stores it."""
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "b" * 64},
        {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 5},
    ]
    put(models / "manifests" / manifest, json.dumps({"layers": layers}).encode())
    return put(models / "blobs" / f"sha256-{'a' * 64}")


PLACES: dict[str, Callable[[Path], Path]] = {
    "hub": lambda home: snapshot(home / ".cache" / "huggingface" / "hub"),
    "llama.cpp": lambda home: put(home / ".cache" / "llama.cpp" / f"own-er_re.po_{FILE}"),
    "LM Studio": lambda home: put(home / ".lmstudio" / "models" / "own-er" / "re.po" / FILE),
    "older LM Studio": lambda home: put(
        home / ".cache" / "lm-studio" / "models" / "own-er" / "re.po" / FILE
    ),
    "Ollama": lambda home: pulled(home / ".ollama" / "models", "hf.co/own-er/re.po/Q4_K_M"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_model_is_found_where_other_programs_keep_it(home: Path, place: str) -> None:
    """Nothing is asked of the Hub, which cannot be reached here."""
    path = PLACES[place](home)
    assert find_model(NAME) == path


@pytest.mark.parametrize("name", ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
def test_the_environment_of_the_hub_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As huggingface_hub does."""
    monkeypatch.setenv(name, str(tmp_path / "there"))
    link = snapshot(tmp_path / "there" / ("hub" if name == "HF_HOME" else ""))
    assert find_model(NAME) == link


def test_llama_cache_may_have_both_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old builds put files there under their names, new ones in huggingface_hub's layout."""
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "there"))
    old = put(tmp_path / "there" / f"own-er_re.po_{FILE}")
    assert find_model(NAME) == old
    new = snapshot(tmp_path / "there")
    assert find_model(NAME) == new


def test_the_cache_is_that_of_huggingface_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its own function finds in a cache is what is found here."""
    link = snapshot(tmp_path / "hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    found = huggingface_hub.try_to_load_from_cache("own-er/re.po", FILE, cache_dir=tmp_path / "hub")
    assert str(find_model(NAME)) == found == str(link)


def test_the_main_branch_goes_before_other_commits(home: Path) -> None:
    """Else the newest; a commit without a branch is taken, too."""
    root = home / ".cache" / "huggingface" / "hub"
    other = snapshot(root, "b" * 40, ref="")
    assert find_model(NAME) == other
    main = snapshot(root, "c" * 40)
    os.utime(main.parent, (1, 1))
    assert find_model(NAME) == main


def test_a_file_in_a_folder_of_the_repository_is_found(home: Path) -> None:
    """Publishers of many quantisations keep each in a folder."""
    link = snapshot(home / ".cache" / "huggingface" / "hub", file=f"Q4/{FILE}")
    assert find_model(NAME) == find_model(f"hf:own-er/re.po/Q4/{FILE}") == link


def test_a_link_out_of_the_cache_is_not_followed(home: Path) -> None:
    """A snapshot links to blobs of the same cache, and to nothing else."""
    link = snapshot(home / ".cache" / "huggingface" / "hub")
    link.unlink()
    link.symlink_to(put(home / "secret.gguf"))
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        find_model(NAME)


def test_a_model_of_which_shards_are_missing_is_not_here(home: Path) -> None:
    """The message tells what is."""
    root = home / ".cache" / "huggingface" / "hub"
    first = snapshot(root, file="m-Q4_K_M-00001-of-00002.gguf")
    with pytest.raises(ModelUnavailable, match=r"on this machine:\n  m-Q4_K_M-00001-of-00002"):
        find_model(NAME)
    snapshot(root, file="m-Q4_K_M-00002-of-00002.gguf")
    assert find_model(NAME) == first


def test_nothing_is_asked_where_the_user_is_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_HUB_OFFLINE is huggingface_hub's switch."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailable, match="not on this machine, and HF_HUB_OFFLINE is set"):
        find_model(NAME)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        ("ollama:llama3.2", "registry.ollama.ai/library/llama3.2/latest"),
        ("ollama:llama3.2:1b", "registry.ollama.ai/library/llama3.2/1b"),
        ("ollama:me/own:x", "registry.ollama.ai/me/own/x"),
        ("ollama:hf.co/o/r:Q4_0", "hf.co/o/r/Q4_0"),
    ],
)
def test_a_name_of_ollama_leads_to_its_blob(home: Path, name: str, manifest: str) -> None:
    """Host, namespace and tag may be left out as in Ollama."""
    blob = pulled(home / ".ollama" / "models", manifest)
    assert find_model(name) == blob


@pytest.mark.parametrize(
    "name", ["ollama:", "ollama:../x", "ollama:/etc", "ollama:a/../../b:c", "ollama:m:..",
             "ollama:m:", "ollama:m:a/b", "ollama:a/b/c/d:e", "ollama:m\x1b[2J"],
)  # fmt: skip
def test_what_is_no_name_of_ollama_is_said(name: str) -> None:
    """No part of a name may leave the folder of manifests."""
    with pytest.raises(
        ModelUnavailable, match="is not the name of a model; write ollama:NAME"
    ) as e:
        find_model(name)
    assert str(e.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b'{"layers": 1}', b'{"layers": [1, {"mediaType": "x"}]}',
        b"\xff", b"[" * 100_000, b"{" + b" " * (2 << 20) + b"}",
    ],
)  # fmt: skip
def test_a_manifest_that_names_no_model_is_none(home: Path, content: bytes) -> None:
    """What is pulled is listed, and how to pull the model."""
    models = home / ".ollama" / "models"
    put(models / "manifests" / "registry.ollama.ai" / "library" / "m" / "latest", content)
    with pytest.raises(ModelUnavailable, match=r"(?s)get it with: ollama pull m\n.*  m:latest"):
        find_model("ollama:m")


@pytest.mark.parametrize(
    "digest",
    ["sha256:../../../secret", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "/etc/passwd", ""],
)
def test_a_digest_is_a_digest(home: Path, digest: str) -> None:
    """It becomes a file's name."""
    pulled(home / ".ollama" / "models", "registry.ollama.ai/library/m/latest", digest)
    with pytest.raises(ModelUnavailable, match="has no such model here"):
        find_model("ollama:m")


def test_nothing_is_written_into_a_cache(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would stand beside such a model stands in the current folder."""
    paths = {name: place(home).with_name("variant.gguf") for name, place in PLACES.items()}
    for name in ("hub", "llama.cpp", "Ollama"):
        assert outside_caches(paths[name]) == Path("variant.gguf")
    hub = home / ".cache" / "huggingface" / "hub"
    for path in (tmp_path / "v.gguf", hub / "v.gguf", paths["LM Studio"], Path("v.gguf")):
        assert outside_caches(path) == path
    # A folder of models that the user has chosen.
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path))
    assert outside_caches(tmp_path / "v.gguf") == tmp_path / "v.gguf"
