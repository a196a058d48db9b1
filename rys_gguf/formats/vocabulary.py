"""Values of the tokenizer that are indices or names of kinds, and of which llama.cpp takes not all.

A vocabulary is copied as it is, so what llama.cpp refuses in a source it refuses in every variant.
A special token outside the vocabulary is no fault: llama.cpp warns and takes its default.

Source: llama_vocab::impl::load in src/llama-vocab.cpp (b11549).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from weakref import WeakSet

import numpy as np
from gguf.constants import GGUFValueType

from rys_gguf.formats.header import KV, decode_text
from rys_gguf.formats.model import Model
from rys_gguf.text import quoted

_T = GGUFValueType
_PREFIX = "tokenizer.ggml."
_TOKENS, _TYPES, _SCORES = (_PREFIX + name for name in ("tokens", "token_type", "scores"))
_ITEMS: dict[str, tuple[GGUFValueType, ...]] = {
    _TOKENS: (_T.STRING,),
    _TYPES: (_T.INT32,),
    _SCORES: (_T.FLOAT32, _T.INT32),
    _PREFIX + "suppress_tokens": (_T.INT32,),
}
_SPECIAL = (
    *("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask"),
    *("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"),
    *("prefix", "suffix", "middle"),
)
_SCALARS: dict[str, GGUFValueType] = {
    **{f"{_PREFIX}{name}_token_id": _T.UINT32 for name in _SPECIAL},
    **{f"{_PREFIX}add_{name}_token": _T.BOOL for name in ("bos", "eos", "sep")},
    _PREFIX + "add_space_prefix": _T.BOOL,
    _PREFIX + "remove_extra_whitespaces": _T.BOOL,
}
_NO_VOCABULARY = ("none", "no_vocab")
# enum llama_token_type in include/llama.h ends at BYTE; a later llama.cpp may know more.
_LAST_TYPE = 6
_SOUND: WeakSet[Model] = WeakSet()


def n_tokens(model: Model) -> int | None:
    """The number of tokens in the vocabulary; None if the file has none."""
    tokens = model.header.get(_TOKENS)
    return tokens.n_items if tokens is not None and tokens.is_array else None


def require_vocabulary(model: Model) -> None:
    """Raise InvalidGGUF, naming key and entry, unless llama.cpp can take the vocabulary.

    A file without one is left to llama.cpp. A model is looked through once, because its file may
    not change while it is open, and a sweep plans hundreds of variants.
    """
    if model in _SOUND:
        return
    kvs = {kv.key: kv for kv in model.header.kvs if kv.key.startswith(_PREFIX)}
    kind = kvs.get(_PREFIX + "model")
    if kind and kind.type == _T.STRING and kind.value in _NO_VOCABULARY:
        return
    if fault := next(_type_faults(kvs), None) or next(_value_faults(model, kvs), None):
        raise model.invalid(fault)
    _SOUND.add(model)


def _type_faults(kvs: dict[str, KV]) -> Iterator[str]:
    for key, kv in kvs.items():
        if key in _ITEMS and (not kv.is_array or kv.item_type not in _ITEMS[key]):
            wanted = " or ".join(f"ARRAY[{t.name}]" for t in _ITEMS[key])
            yield f"{key} is {kv.type_name}, llama.cpp wants {wanted}"
        wanted_type = _SCALARS.get(key)
        if wanted_type is not None and kv.type != wanted_type:
            yield f"{key} is {kv.type_name}, llama.cpp wants {wanted_type.name}"


def _value_faults(model: Model, kvs: dict[str, KV]) -> Iterator[str]:
    tokens = kvs.get(_TOKENS)
    if tokens is None:
        return
    for key in (_SCORES, _TYPES):
        kv = kvs.get(key)
        if kv is not None and kv.n_items < tokens.n_items:
            yield f"{key} has {kv.n_items} entries for {tokens.n_items} tokens"
    if types := kvs.get(_TYPES):
        values = np.frombuffer(_raw(model, types), types.byteorder + "i4", offset=12)
        for token in np.flatnonzero(values < 0):
            yield (
                f"{_TYPES}[{token}] is {values[token]}, llama.cpp knows 0..{_LAST_TYPE}: "
                f"the file is damaged"
            )
    yield from _repeated(model, tokens)


def _repeated(model: Model, tokens: KV) -> Iterator[str]:
    """Tokens with the text of an earlier one, cut at NULs and named if empty as llama.cpp does."""
    raw = _raw(model, tokens)
    if not _may_repeat(raw, tokens):
        return
    seen: set[bytes] = set()
    for token, whole in enumerate(_texts(raw, tokens)):
        text = whole.partition(b"\0")[0] or b"[EMPTY_%d]" % token
        if text in seen:
            shown = quoted(decode_text(text))
            yield f"{_TOKENS}[{token}] is {shown}, like a token before it: llama.cpp would abort"
        seen.add(text)


def _may_repeat(raw: bytes, tokens: KV) -> bool:
    """Whether a closer look is worth while. A quarter of a million texts are hashed, not kept."""
    hashes = np.fromiter(map(hash, _texts(raw, tokens)), np.int64, tokens.n_items)
    hashes.sort()
    # The length of a text below 256 bytes has seven zeros; any others may be NULs in texts.
    has_odd_zeros = raw.count(b"\0", 12) != 7 * tokens.n_items
    return has_odd_zeros or bool((hashes[1:] == hashes[:-1]).any())


def _texts(raw: bytes, tokens: KV) -> Iterator[bytes]:
    """The text of each token as it is stored."""
    length = struct.Struct(tokens.byteorder + "Q").unpack_from
    pos = 12
    for _ in range(tokens.n_items):
        end = pos + 8 + length(raw, pos)[0]
        yield raw[pos + 8 : end]
        pos = end


def _raw(model: Model, kv: KV) -> bytes:
    return b"".join(model.raw(kv))
