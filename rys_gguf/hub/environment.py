"""What the environment says about the Hub, in the variables of huggingface_hub."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from rys_gguf.errors import ModelUnavailable
from rys_gguf.text import printable

_DEFAULT_ENDPOINT = "https://huggingface.co"


def endpoint() -> str:
    """Where the Hub is, without a slash at the end: HF_ENDPOINT, or huggingface.co."""
    url = os.environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ModelUnavailable(f"HF_ENDPOINT is {printable(url)}, expected https://HOST")
    return url.rstrip("/")


def is_offline() -> bool:
    """Whether the user wants nothing to be asked, as huggingface_hub's HF_HUB_OFFLINE says it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def hub_home() -> str:
    """The folder in which huggingface_hub keeps its cache and its token."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.expanduser(os.environ.get("HF_HOME") or os.path.join(cache, "huggingface"))
