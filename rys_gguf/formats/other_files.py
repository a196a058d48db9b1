"""Files that are no GGUF models: what each seems to be, and what to do about it."""

from __future__ import annotations

from gguf.constants import GGUFValueType

from rys_gguf.formats.header import Header
from rys_gguf.text import printable

_CONVERT = "convert it with llama.cpp's convert_hf_to_gguf.py first"
# By the bytes at the start of the file.
_BY_START: dict[tuple[bytes, ...], str] = {
    (b"version https://git-l",): "a Git LFS pointer, not the model; fetch it with `git lfs pull`",
    (b"PK", b"\x80\x02"): f"a PyTorch checkpoint or another archive, not a GGUF; {_CONVERT}",
    # ggml, ggmf, ggjt and ggla, which were written as numbers, the last byte first.
    (b"lmgg", b"fmgg", b"tjgg", b"algg"): "a ggml file from before GGUF; get a GGUF of the model",
    # gzip, xz, zstd, bzip2, 7z.
    (b"\x1f\x8b", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"BZh", b"7z\xbc\xaf"): (
        "compressed; unpack it first"
    ),
}
# By general.type, as llama.cpp's converters and tools write it.
_BY_TYPE = {
    "adapter": "a LoRA adapter; give the model it belongs to",
    "mmproj": "a multimodal projector; give the language model it belongs to",
    "imatrix": "an importance matrix, not a model; give the model it was measured on",
    "vocab": "a vocabulary without weights; give the model it belongs to",
}
# By general.architecture: tools/mtmd/clip-impl.h and tools/cvector-generator (b11549).
_BY_ARCHITECTURE = {
    "clip": _BY_TYPE["mmproj"],
    "controlvector": (
        "a control vector, not a model; give the model it was made for. Its directions go by "
        "layer number, so it does not fit a variant"
    ),
}


_TEXT = frozenset(b"\t\n\r") | frozenset(range(32, 127))


def what_it_is(start: bytes) -> str:
    """What a file that starts so, without the GGUF magic, seems to be, for a message."""
    for starts, what in _BY_START.items():
        if start.startswith(starts):
            return f"is {what}"
    if not start:
        return "is empty"
    if not start.strip(b"\0"):
        return "starts with zeros; the download is incomplete"
    if start.lstrip()[:1] == b"<":
        return "is a web page, not a model; the download went wrong"
    if start[8:10] in (b'{"', b"{ "):
        return f"is a safetensors file; {_CONVERT}"
    if all(byte in _TEXT for byte in start):
        shown = printable(" ".join(start.decode("ascii").split()))
        return f"is text, not a model ({shown}...); the download went wrong"
    magic = printable(start[:4].decode("latin-1"))
    return f"is not a GGUF file: it starts with '{magic}' instead of 'GGUF'"


def companion(header: Header) -> str | None:
    """What the file is, with an article and a remedy, if it only belongs to a model."""
    kind, architecture = (_text(header, f"general.{key}") for key in ("type", "architecture"))
    if what := _BY_TYPE.get(kind) or _BY_ARCHITECTURE.get(architecture):
        return what
    if header.get("adapter.type"):
        return _BY_TYPE["adapter"]
    if not header.tensors and header.get("tokenizer.ggml.tokens"):
        return _BY_TYPE["vocab"]
    return None


def _text(header: Header, key: str) -> str:
    kv = header.get(key)
    return str(kv.value) if kv and kv.type == GGUFValueType.STRING else ""
