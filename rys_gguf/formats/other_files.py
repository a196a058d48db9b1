"""Files that are no GGUF models: what each seems to be, and what to do about it."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

from gguf.constants import GGUFValueType

from rys_gguf.errors import InvalidGGUF
from rys_gguf.files.source import SourceFile
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


class Kind(Enum):
    """What belongs to a model, as messages call it."""

    LORA = "a LoRA adapter"
    MMPROJ = "a multimodal projector"
    IMATRIX = "an importance matrix"
    VOCABULARY = "a vocabulary without weights"
    CONTROL_VECTOR = "a control vector"
    DRAFT = "a draft model"


# By general.type, as llama.cpp's converters and tools write it.
_BY_TYPE = {
    "adapter": Kind.LORA,
    "mmproj": Kind.MMPROJ,
    "imatrix": Kind.IMATRIX,
    "vocab": Kind.VOCABULARY,
}
# By general.architecture: tools/mtmd/clip-impl.h and tools/cvector-generator (b11549).
_BY_ARCHITECTURE = {"clip": Kind.MMPROJ, "controlvector": Kind.CONTROL_VECTOR}
# What to do with a file that was given as a model.
_REMEDIES = {
    Kind.LORA: "give the model it belongs to",
    Kind.MMPROJ: "give the language model it belongs to",
    Kind.IMATRIX: "not a model; give the model it was measured on",
    Kind.VOCABULARY: "give the model it belongs to",
    Kind.CONTROL_VECTOR: "not a model; give the model it was made for",
}
# Of a draft model that reads hidden states of its target (LLM_KV_TARGET_LAYERS in
# src/llama-arch.cpp, b11549).
TARGET_LAYERS = "target_layers"

# The architectures that have such a key.
DRAFTS = ("eagle3", "dflash")

_GLANCE_BYTES = 1 << 12
# general.type and general.architecture as they are stored: key, type 8 (a string), length, text.
_GENERAL = re.compile(rb"general\.(type|architecture)\x08\0\0\0(.\0\0\0\0\0\0\0)", re.DOTALL)
# The number of entries, and the first name with its length; see formats/old_imatrix.py.
_OLD_IMATRIX = re.compile(rb"..\0\0.\0\0\0(blk\.[0-9]+\.|output|token_embd)", re.DOTALL)

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
        return f"is text, not a model ({shown}...); name the .gguf file, or download it again"
    magic = printable(start[:4].decode("latin-1"))
    return f"is not a GGUF file: it starts with '{magic}' instead of 'GGUF'"


def companion(header: Header) -> str | None:
    """What the file is, with an article and a remedy, if it only belongs to a model."""
    kind = kind_of(header)
    if kind is None or kind not in _REMEDIES:
        return None
    remedy = _REMEDIES[kind]
    return f"{kind.value}{',' if remedy.startswith('not') else ';'} {remedy}"


def kind_of(header: Header) -> Kind | None:
    """What the file is to a model, None for a model of its own."""
    type_, architecture = (_text(header, f"general.{key}") for key in ("type", "architecture"))
    if kind := _BY_TYPE.get(type_) or _BY_ARCHITECTURE.get(architecture):
        return kind
    if header.get("adapter.type"):
        return Kind.LORA
    if header.get(f"{architecture}.{TARGET_LAYERS}"):
        return Kind.DRAFT
    if not header.tensors and header.get("tokenizer.ggml.tokens"):
        return Kind.VOCABULARY
    return None


def kind_at_a_glance(path: Path) -> tuple[Kind | None, str]:
    """What a file seems to be to a model by its first bytes, and its architecture.

    None for whatever is not to be read, and for what a longer look may still find.
    """
    try:
        with SourceFile(path) as file:
            start = file.read(0, min(_GLANCE_BYTES, file.n_bytes))
    except InvalidGGUF:
        return None, ""
    if start[:4] != b"GGUF":
        return (Kind.IMATRIX if _OLD_IMATRIX.match(start) else None), ""
    found = {}
    for match in _GENERAL.finditer(start):
        n = int.from_bytes(match[2], "little")
        found[match[1]] = start[match.end() : match.end() + n].decode("utf-8", "replace")
    architecture = found.get(b"architecture", "")
    kind = _BY_TYPE.get(found.get(b"type", "")) or _BY_ARCHITECTURE.get(architecture)
    return kind or (Kind.DRAFT if architecture in DRAFTS else None), architecture


def _text(header: Header, key: str) -> str:
    kv = header.get(key)
    return str(kv.value) if kv and kv.type == GGUFValueType.STRING else ""
