"""Where other programs keep the models of the Hub: their folders, and a repository's files there.

| program | folder | layout |
| --- | --- | --- |
| huggingface_hub, llama.cpp since 2026 | HF_HUB_CACHE | models--OWNER--REPO/snapshots/COMMIT/FILE |
| llama.cpp before | LLAMA_CACHE | OWNER_REPO_FILE |
| LM Studio | ~/.lmstudio/models | OWNER/REPO/FILE |
| Ollama | OLLAMA_MODELS | see `ollama` |

llama.cpp's folders are those of fs_get_cache_directory (common/common.cpp) and of
get_cache_directory (common/hf-cache.cpp) in b11549.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rys_gguf.errors import RysError
from rys_gguf.files.text_file import read_text
from rys_gguf.hub.environment import hub_home
from rys_gguf.hub.ollama import ollama_roots, pulled_from_hub

_MAX_REF = 1 << 10
_REPO_PREFIX = "models--"


def cached_files(repo: str) -> Iterator[dict[str, Path]]:
    """What is here of a repository: paths in it and on disk, for each place where some are."""
    places = (*_snapshots(repo), *_flat(repo), *_lm_studio(repo), pulled_from_hub(repo))
    return (place for place in places if place)


def outside_caches(path: Path) -> Path:
    """Where to write what would go to `path`: the current folder where that is a cache.

    The program that owns a cache does not know of such a file, and deletes it with the rest. A
    folder of plain files that the user chose does not count as a cache here.
    """
    folder = Path(os.path.abspath(path.parent))
    owned = [Path(os.path.abspath(root), "blobs") for root in ollama_roots()]
    if not os.environ.get("LLAMA_CACHE"):
        owned += _flat_roots()
    for root in map(Path, map(os.path.abspath, _hub_roots())):
        if folder.is_relative_to(root):
            owned += [
                root / p for p in folder.relative_to(root).parts[:1] if p.startswith(_REPO_PREFIX)
            ]
    return Path(path.name) if any(map(folder.is_relative_to, owned)) else path


def _hub_roots() -> list[Path]:
    """Folders in huggingface_hub's layout. llama.cpp looks into LLAMA_CACHE before the rest."""
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    roots = [os.environ.get("LLAMA_CACHE"), hub or os.path.join(hub_home(), "hub")]
    return [Path(os.path.expanduser(root)) for root in roots if root]


def _flat_roots() -> list[Path]:
    """Folders in the layout of older llama.cpp."""
    if given := os.environ.get("LLAMA_CACHE"):
        return [Path(given).expanduser()]
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        return [Path(home, "Library", "Caches", "llama.cpp")]
    return [Path(os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"), "llama.cpp")]


def _snapshots(repo: str) -> Iterator[dict[str, Path]]:
    """The files of each commit that is here: of `main` first, then of the newest."""
    for root in _hub_roots():
        folder = root / f"{_REPO_PREFIX}{repo.replace('/', '--')}"
        # A link in a snapshot leads to the repository's blobs, whatever it is named.
        real = os.path.realpath(root)
        commits = sorted(_entries(folder / "snapshots"), key=_modified, reverse=True)
        main = _main_commit(folder)
        for commit in sorted(commits, key=lambda path: path.name != main):
            yield {
                name: path
                for name, path in _files_below(commit)
                if Path(os.path.realpath(path)).is_relative_to(real)
            }


def _flat(repo: str) -> Iterator[dict[str, Path]]:
    start = repo.replace("/", "_") + "_"
    for root in _flat_roots():
        yield {
            path.name.removeprefix(start): path
            for path in _entries(root)
            if path.name.startswith(start) and path.is_file()
        }


def _lm_studio(repo: str) -> Iterator[dict[str, Path]]:
    for home in (".lmstudio", os.path.join(".cache", "lm-studio")):
        yield dict(_files_below(Path(os.path.expanduser("~"), home, "models", repo)))


def _main_commit(folder: Path) -> str | None:
    ref = folder / "refs" / "main"
    try:
        return read_text(ref, "a commit", _MAX_REF).strip()
    except RysError:
        return None


def _files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files below a folder, by their paths in it; no link to a folder is followed."""
    for top, _, names in os.walk(folder):
        for name in names:
            path = Path(top, name)
            if path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0
