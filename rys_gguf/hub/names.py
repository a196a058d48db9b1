"""Names of models: hf:OWNER/REPO[:QUANT], hf:OWNER/REPO/FILE.gguf and ollama:NAME[:TAG].

Which file of a repository a name means follows llama.cpp's -hf (common/download.cpp,
find_best_model, in b11549), so that both take the same one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from rys_gguf.errors import ModelUnavailable
from rys_gguf.text import printable

HUB = "hf:"
OLLAMA = "ollama:"

# llama.cpp's is_valid_repo_id (common/hf-cache.cpp): no dot, hyphen or slash beside another one.
_PART = r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_REPO = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_MAX_REPO = 256
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.ASCII | re.DOTALL)
# gguf_filename_is_model: what else lies in a repository of models.
_NO_MODEL = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
_DEFAULT_TAGS = ("Q4_K_M", "Q8_0")


@dataclass(frozen=True, slots=True)
class HubName:
    """A model of a repository: the file at `path` in it, or the one that `tag` means.

    `text` is the name as it was given. Without a path and a tag it is llama.cpp's default.
    """

    text: str
    repo: str
    tag: str = ""
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> HubName:
        """The name after `hf:`. Raises ModelUnavailable for anything else."""
        *ends, last = text.removeprefix(HUB).split("/", 2)
        if len(ends) == 2:  # noqa: PLR2004 - owner, repository, path
            name = cls(text, "/".join(ends), path=last)
            is_right = is_safe(last) and last.endswith(".gguf")
        else:
            repo, colon, tag = "/".join((*ends, last)).partition(":")
            name = cls(text, repo, tag)
            is_right = not colon or _TAG.fullmatch(tag) is not None
        if is_right and _REPO.fullmatch(name.repo) and len(name.repo) <= _MAX_REPO:
            return name
        raise ModelUnavailable(
            f"{printable(text)}: is not the name of a model; write hf:OWNER/REPO, "
            f"hf:OWNER/REPO:QUANT or hf:OWNER/REPO/FILE.gguf"
        )

    def choose(self, paths: Collection[str]) -> str | None:
        """The model's path among those of the repository's files, of several shards the first."""
        if self.path:
            return self.path if self.path in paths else None
        models = [path for path in sorted(paths) if _is_model(path)]
        for tag in (self.tag,) if self.tag else _DEFAULT_TAGS:
            pattern = re.compile(re.escape(tag) + "[.-]", re.IGNORECASE)
            if found := next(filter(pattern.search, models), None):
                return found
        return models[0] if models and not self.tag else None


def is_name(text: str) -> bool:
    """Whether `text` names a model instead of a path to it."""
    return text.startswith((HUB, OLLAMA))


def is_safe(path: str) -> bool:
    """Whether a path from a stranger's list stays below its folder, and can be shown and typed."""
    is_below = not any(part in ("", ".", "..") for part in path.split("/"))
    return is_below and "\\" not in path and path.isprintable()


def shards_of(path: str) -> list[str]:
    """The paths of all files of the model that `path` belongs to."""
    match = _SHARD.fullmatch(path)
    if match is None:
        return [path]
    count = int(match[3])
    return [f"{match[1]}-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1)]


def listed(paths: Collection[str], most: int = 20) -> str:
    """Names of files for a message, a line for each."""
    lines = [f"\n  {printable(path)}" for path in sorted(paths)[:most]]
    more = f"\n  and {len(paths) - most} more" if len(paths) > most else ""
    return "".join(lines) + more


def _is_model(path: str) -> bool:
    """Whether a model may be in the file, and starts there."""
    name = path.rpartition("/")[2]
    match = _SHARD.fullmatch(path)
    is_later = match is not None and int(match[2]) != 1
    return name.endswith(".gguf") and not is_later and not any(word in name for word in _NO_MODEL)
