"""From a model's name to its file, or to its header on the Hub where it is not on this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rys_gguf.errors import ModelUnavailable
from rys_gguf.formats.model import Model
from rys_gguf.formats.reader import HeaderReader
from rys_gguf.formats.shards import Shards
from rys_gguf.hub.caches import cached_files
from rys_gguf.hub.environment import endpoint, is_offline
from rys_gguf.hub.names import HUB, OLLAMA, HubName, is_safe, listed, shards_of
from rys_gguf.hub.ollama import find_pulled
from rys_gguf.hub.ranges import RangedFile
from rys_gguf.text import printable, size

_MAX_LIST_BYTES = 32 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model that is on the Hub and not on this machine, at one commit.

    `files` are the paths of its shards in the repository, with their sizes in bytes.
    """

    name: HubName
    commit: str
    files: tuple[tuple[str, int], ...]

    @property
    def n_bytes(self) -> int:
        """The size of all its files."""
        return sum(n for _, n in self.files)

    @property
    def command(self) -> str:
        """The command that fetches it, as it can be pasted; then its name leads to the file."""
        what = [self.files[0][0]]
        if len(self.files) > 1:
            what = ["--include", re.sub("-[0-9]{5}(?=-of-[0-9]{5}.gguf$)", "-*", what[0])]
        return shlex.join(["hf", "download", self.name.repo, *what])

    def open(self) -> Shards:
        """Its headers, read in ranges. Raises ModelUnavailable where they cannot be."""
        readers = []
        for path, n_bytes in self.files:
            where = f"{self.name.repo}/resolve/{self.commit}/{quote(path)}"
            file = RangedFile(f"{endpoint()}/{where}", n_bytes, f"{HUB}{self.name.repo}/{path}")
            readers.append(HeaderReader(file))
        return Shards(readers)

    def absent(self) -> ModelUnavailable:
        """A ModelUnavailable with the command that brings the model to this machine."""
        return ModelUnavailable(
            f"{printable(self.name.text)}: is not on this machine; get its {size(self.n_bytes)} "
            f"with: {printable(self.command, 600)}"
        )


def find_model(name: str) -> Path | RemoteModel:
    """What a name means: a file of a cache on this machine, or else a model on the Hub.

    Names are `hf:OWNER/REPO[:QUANT]`, `hf:OWNER/REPO/FILE.gguf` and `ollama:NAME[:TAG]`; any other
    is a path. Raises ModelUnavailable for a name that leads nowhere, and says what there is.
    """
    if name.startswith(OLLAMA):
        return find_pulled(name)
    if not name.startswith(HUB):
        return Path(name)
    wanted = HubName.parse(name)
    here: set[str] = set()
    for files in cached_files(wanted.repo):
        path = wanted.choose(files)
        if path is not None and all(shard in files for shard in shards_of(path)):
            return files[path]
        here.update(path for path in files if path.endswith(".gguf"))
    try:
        return _on_hub(wanted)
    except ModelUnavailable as e:
        if not here:
            raise
        raise ModelUnavailable(f"{e}\non this machine:{listed(here)}") from e


def open_model(model: str | os.PathLike[str] | RemoteModel) -> Model:
    """Open a model for reading by its path, by its name or as `find_model` gave it.

    Of a model on the Hub only what is read is fetched, 1 MiB at a time.
    """
    found = find_model(model) if isinstance(model, str) else model
    return Model(found.open() if isinstance(found, RemoteModel) else found)


def _on_hub(wanted: HubName) -> RemoteModel:
    from rys_gguf.hub.web import get  # takes longer to import than a local model to inspect

    if is_offline():
        raise ModelUnavailable(
            f"{printable(wanted.text)}: is not on this machine, and HF_HUB_OFFLINE is set"
        )
    url = f"{endpoint()}/api/models/{wanted.repo}/revision/main?blobs=true"
    return _chosen(wanted, get(url, wanted.text, _MAX_LIST_BYTES).body)


def _chosen(wanted: HubName, listing: bytes) -> RemoteModel:
    """The model among the files that the Hub lists. Raises ModelUnavailable if it is not there."""
    text = printable(wanted.text)
    try:
        info = json.loads(listing)
        commit = info["sha"]
        files = dict(filter(None, map(_file, info["siblings"])))
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ModelUnavailable(f"{text}: {endpoint()} does not answer as the Hub does") from e
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise ModelUnavailable(f"{text}: {endpoint()} names no commit")
    path = wanted.choose(files)
    if path is None:
        there = listed(files) or " no GGUF file at all"
        raise ModelUnavailable(f"{text}: there is no such model; {wanted.repo} has:{there}")
    shards = shards_of(path)
    if missing := [shard for shard in shards if shard not in files]:
        raise ModelUnavailable(f"{text}: {wanted.repo} has no {printable(missing[0])}")
    return RemoteModel(wanted, commit, tuple((shard, files[shard]) for shard in shards))


def _file(entry: Any) -> tuple[str, int] | None:
    """Path and size of a GGUF file that a repository lists, if its path is one to use."""
    path, n_bytes = entry["rfilename"], entry.get("size")
    is_model = isinstance(path, str) and path.endswith(".gguf") and is_safe(path)
    return (path, n_bytes) if is_model and type(n_bytes) is int and n_bytes > 0 else None
