"""What a header says of where its model comes from."""

from __future__ import annotations

import re

from gguf.constants import GGUFValueType

from rys_gguf.formats.model import Model

_REPOSITORY = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)/?", re.ASCII)


def header_text(model: Model, key: str) -> str | None:
    """A string of the header; None if it is missing, empty or of another type."""
    kv = model.header.get(key)
    if kv is None or kv.type != GGUFValueType.STRING or not isinstance(kv.raw, bytes):
        return None
    return str(kv.value) or None


def hub_repository(origin: Model) -> str | None:
    """The repository that the source came from, by the most direct key of the header."""
    # Not general.base_model.*: the source itself was made from that one.
    for key in ("general.source.repo_url", "general.repo_url"):
        match = _REPOSITORY.fullmatch(header_text(origin, key) or "")
        if match:
            return match[1]
    return None
