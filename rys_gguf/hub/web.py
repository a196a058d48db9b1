"""One request to the Hub, with the standard library: bounded, in time, and no token astray."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rys_gguf._version import __version__
from rys_gguf.errors import ModelUnavailable
from rys_gguf.files.text_file import read_text
from rys_gguf.hub.environment import hub_home
from rys_gguf.text import printable

TIMEOUT_SECONDS = 30
_PARTIAL = 206
_TOKEN = re.compile(r"[!-~]{1,1024}", re.ASCII)
_MAX_TOKEN_FILE = 1 << 12

# What a status means, and what to do about it.
_STATUS = {
    401: "wants a token, or has no such repository; check the name, or set HF_TOKEN",
    403: "gives no access; accept the model's terms on its page, or set HF_TOKEN to another token",
    404: "has no such repository or file; check the name",
    416: "has a shorter file than it said; run again",
    429: "has had too many requests; wait a few minutes",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    headers: HTTPMessage
    body: bytes


class _Redirects(HTTPRedirectHandler):
    """Follows redirects on the web, and takes the token along to the same server only."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """The request that follows. Raises URLError for one that is not safe."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
            fp.close()
            raise URLError(f"sends on to {new.scheme}://{_host(new)}, which is not safe to follow")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if request is not None and token and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            request.add_unredirected_header("Authorization", token)
        return request


_OPENER = build_opener(_Redirects)


def get(url: str, what: str, limit: int, span: range | None = None) -> Answer:
    """The answer to a GET request, of at most `limit` bytes; the user's token is sent along.

    `span` asks for these bytes of the file alone. Raises ModelUnavailable, which calls what is
    asked for `what`.
    """
    headers = {"User-Agent": f"rys-gguf/{__version__}", "Accept-Encoding": "identity"}
    if span is not None:
        headers["Range"] = f"bytes={span[0]}-{span[-1]}"
    request = Request(url, headers=headers)  # noqa: S310 - `endpoint` checks the scheme
    if token := _token():
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    fault = f"{printable(what)}: {_host(urlsplit(url))}"
    try:
        with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as answer:
            if span is not None and answer.status != _PARTIAL:
                raise ModelUnavailable(f"{fault} sends whole files only, not the bytes asked for")
            body, fields = answer.read(limit + 1), answer.headers
    except HTTPError as e:
        e.close()
        raise ModelUnavailable(f"{fault} {_STATUS.get(e.code, f'answers HTTP {e.code}')}") from e
    except (OSError, HTTPException, ValueError) as e:
        raise ModelUnavailable(f"{fault} cannot be read: {_reason(e)}") from e
    if len(body) > limit:
        raise ModelUnavailable(
            f"{fault} answers with more than the {limit} bytes that were asked for"
        )
    length = printable(fields.get("Content-Length", ""))
    if length and length != str(len(body)):
        raise ModelUnavailable(f"{fault} broke off after {len(body)} of {length} bytes; run again")
    return Answer(fields, body)


def _token() -> str:
    """The user's token, where `hf auth login` or the environment has it, or nothing."""
    token = os.environ.get("HF_TOKEN", "").strip()
    path = os.environ.get("HF_TOKEN_PATH") or os.path.join(hub_home(), "token")
    if not token and os.path.isfile(path):
        token = read_text(path, "the token", _MAX_TOKEN_FILE).strip()
    if token and not _TOKEN.fullmatch(token):
        raise ModelUnavailable(
            "the token in HF_TOKEN or HF_TOKEN_PATH is not a token: expected up to "
            "1,024 ASCII characters without spaces"
        )
    return token


def _host(parts: SplitResult) -> str:
    return printable(parts.netloc.rpartition("@")[2])


def _reason(error: Exception) -> str:
    """What went wrong on the way, in few words: urllib wraps the system's."""
    inner = getattr(error, "reason", error)
    return printable(getattr(inner, "strerror", None) or str(inner) or type(inner).__name__)
