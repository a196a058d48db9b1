"""Models that Ollama has pulled: a manifest names the blob that is the GGUF file.

The layout is that of Ollama's types/model/name.go and server/manifest.go:
manifests/HOST/NAMESPACE/NAME/TAG is JSON, blobs/sha256-HEX the layers that it lists.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from rys_gguf.errors import ModelUnavailable, RysError
from rys_gguf.files.text_file import read_text
from rys_gguf.hub.names import OLLAMA, listed
from rys_gguf.text import printable

_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_HUB_HOSTS = ("hf.co", "huggingface.co")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_MODEL_LAYER = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
_MAX_MANIFEST = 1 << 20


def find_pulled(text: str) -> Path:
    """The file of a model that Ollama calls `text`, after `ollama:`. Raises ModelUnavailable."""
    name, colon, tag = text.removeprefix(OLLAMA).partition(":")
    parts = [*name.split("/"), tag if colon else _TAG]
    if not 2 <= len(parts) <= 4 or not all(map(_PART.fullmatch, parts)):  # noqa: PLR2004
        raise ModelUnavailable(
            f"{printable(text)}: is not the name of a model; write ollama:NAME or ollama:NAME:TAG"
        )
    parts = [_HOST, _NAMESPACE][: 4 - len(parts)] + parts
    for root in ollama_roots():
        if blob := _blob(root, root.joinpath("manifests", *parts)):
            return blob
    command = f"ollama pull {text.removeprefix(OLLAMA)}"
    names = listed(_names())
    raise ModelUnavailable(
        f"{printable(text)}: Ollama has no such model here; get it with: {command}"
        + (f"\nit has:{names}" if names else "")
    )


def pulled_from_hub(repo: str) -> dict[str, Path]:
    """The files that Ollama has pulled from a repository of the Hub, each named TAG.gguf."""
    found: dict[str, Path] = {}
    for root in ollama_roots():
        for host in _HUB_HOSTS:
            for manifest in root.glob(f"manifests/{host}/{repo}/*"):
                if blob := _blob(root, manifest):
                    found.setdefault(f"{manifest.name}.gguf", blob)
    return found


def ollama_roots() -> list[Path]:
    """Where Ollama keeps models: the user's folder, and that of the service on Linux."""
    if given := os.environ.get("OLLAMA_MODELS"):
        return [Path(given).expanduser()]
    homes = (os.path.expanduser("~"), "/usr/share/ollama")
    return [Path(home, ".ollama", "models") for home in homes]


def _blob(root: Path, manifest: Path) -> Path | None:
    """The model's file that a manifest names, if both are there."""
    try:
        digests = _model_digests(json.loads(read_text(manifest, "the manifest", _MAX_MANIFEST)))
    except (RysError, ValueError, RecursionError):
        return None
    if len(digests) != 1 or not (match := _DIGEST.fullmatch(digests[0])):
        return None
    blob = root / "blobs" / f"sha256-{match[1]}"
    return blob if blob.is_file() else None


def _model_digests(manifest: Any) -> list[str]:
    """The digests of the layers that are GGUF files; a model in several is not served as one."""
    layers = manifest.get("layers") if isinstance(manifest, dict) else None
    return [
        str(layer.get("digest"))
        for layer in (layers if isinstance(layers, list) else ())
        if isinstance(layer, dict) and layer.get("mediaType") == _MODEL_LAYER
    ]


def _names() -> list[str]:
    """The names of what Ollama itself offers, as it shows them."""
    return [
        f"{manifest.parent.name}:{manifest.name}"
        for root in ollama_roots()
        for manifest in root.glob(f"manifests/{_HOST}/{_NAMESPACE}/*/*")
    ]
