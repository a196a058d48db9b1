"""Vocabularies that llama.cpp refuses, reads otherwise, or takes with a warning."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGUFEndian, GGUFValueType

from rys_gguf import EngineFailed, InvalidGGUF, LayerMap, Model, make_plan
from rys_gguf.formats.vocabulary import require_vocabulary
from tests import tiny
from tests.disk import finish
from tests.engine import logprobs
from tests.tiny import N_VOCAB

TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))]
TYPES = [2, 3, 3, *[6] * 256]
PROMPT = [[1, 50, 60]]

# Keys in place of those of a good vocabulary, and what is said about them.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fewer types than tokens": (
        {"tokenizer.ggml.token_type": TYPES[:-1]},
        "tokenizer.ggml.token_type has 258 entries for 259 tokens",
    ),
    "fewer scores than tokens": (
        {"tokenizer.ggml.scores": [0.0] * (N_VOCAB - 1)},
        "tokenizer.ggml.scores has 258 entries for 259 tokens",
    ),
    "the same token twice": (
        {"tokenizer.ggml.tokens": [*TOKENS[:-1], "<0x41>"]},
        "tokenizer.ggml.tokens[258] is '<0x41>', like a token before it",
    ),
    "the same token up to a NUL": (
        {"tokenizer.ggml.tokens": [*TOKENS[:-2], "a\0b", "a\0c"]},
        "tokenizer.ggml.tokens[258] is 'a', like a token before it",
    ),
    "types as floats": (
        {"tokenizer.ggml.token_type": [float(t) for t in TYPES]},
        "tokenizer.ggml.token_type is ARRAY[FLOAT32, 259], llama.cpp wants ARRAY[INT32]",
    ),
    "scores as one number": (
        {"tokenizer.ggml.scores": 0.0},
        "tokenizer.ggml.scores is FLOAT32, llama.cpp wants ARRAY[FLOAT32] or ARRAY[INT32]",
    ),
    "tokens as numbers": (
        {"tokenizer.ggml.tokens": [*range(N_VOCAB)]},
        "tokenizer.ggml.tokens is ARRAY[INT32, 259], llama.cpp wants ARRAY[STRING]",
    ),
    "a special token as text": (
        {"tokenizer.ggml.eos_token_id": "</s>"},
        "tokenizer.ggml.eos_token_id is STRING, llama.cpp wants UINT32",
    ),
    "a switch as a number": (
        {"tokenizer.ggml.add_bos_token": 1},
        "tokenizer.ggml.add_bos_token is UINT32, llama.cpp wants BOOL",
    ),
}
TAKEN: dict[str, dict[str, Any]] = {
    "a special token that llama.cpp does not read": {"tokenizer.ggml.cls_token_id": "<cls>"},
    "a special token that is not there": {"tokenizer.ggml.bos_token_id": 99_999},
    "kinds that a later llama.cpp may know": {"tokenizer.ggml.token_type": [*TYPES[:-1], 9]},
    "kinds undefined": {"tokenizer.ggml.token_type": [0] * N_VOCAB},
    "no kinds": {"tokenizer.ggml.token_type": None},
    "more scores than tokens": {"tokenizer.ggml.scores": [0.0] * (N_VOCAB + 1)},
    "tokens without text": {"tokenizer.ggml.tokens": [*TOKENS[:-3], "", "", "\0"]},
}


def plan(path: Path) -> None:
    """Plan a variant of the model."""
    with Model(path) as model:
        make_plan(model, LayerMap.parse("blocks:0,2", model.n_trunk))


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_refuses_is_refused(case: str, tmp_path: Path) -> None:
    """The engine does not start on the source, and no variant of it is planned."""
    extra, message = REFUSED[case]
    path = tiny.write(tmp_path / "m.gguf", "llama", 3, extra=extra)
    with pytest.raises(EngineFailed):
        logprobs(path, PROMPT)
    with pytest.raises(InvalidGGUF) as caught:
        plan(path)
    assert str(caught.value).startswith(f"m.gguf: {message}")


@pytest.mark.parametrize("case", TAKEN)
def test_what_llama_cpp_takes_is_taken(case: str, tmp_path: Path) -> None:
    """The engine runs the source, and a variant is planned."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 3, extra=TAKEN[case])
    assert logprobs(path, PROMPT).size
    plan(path)


@pytest.mark.parametrize("value", [-1, -(2**31)])
@pytest.mark.parametrize("endianess", GGUFEndian)
def test_a_negative_kind_of_token_is_damage(
    value: int, endianess: GGUFEndian, tmp_path: Path
) -> None:
    """No llama.cpp ever had one: it would be read as undefined, whatever it was before."""
    path = tmp_path / "m.gguf"
    write_tokens(path, endianess, lambda w: w.add_token_types([1, value, 1]))
    with (
        Model(path) as model,
        pytest.raises(InvalidGGUF, match=rf"token_type\[1\] is {value}, llama.cpp knows 0..6"),
    ):
        require_vocabulary(model)


def test_a_model_without_vocabulary_has_no_faults_in_it(tmp_path: Path) -> None:
    """The arrays of a tokenizer called none are not read."""
    path = tmp_path / "m.gguf"
    write_tokens(
        path, GGUFEndian.LITTLE, lambda w: w.add_token_types([-1, -1, -1]), tokenizer="none"
    )
    with Model(path) as model:
        require_vocabulary(model)


def test_a_long_vocabulary_is_read_from_its_file(tmp_path: Path) -> None:
    """Tokens that stay in the file are compared as well."""
    texts = [f"{n:050}" for n in range(10_000)]
    for last, is_fine in (("new", True), (texts[5], False)):
        path = tmp_path / "m.gguf"
        write_tokens(path, GGUFEndian.LITTLE, partial(add_tokens, [*texts, last]))
        with Model(path) as model:
            if is_fine:
                require_vocabulary(model)
                continue
            with pytest.raises(InvalidGGUF, match=r"tokens\[10000\] is '0+5', like a token before"):
                require_vocabulary(model)


def add_tokens(tokens: list[str], writer: gguf.GGUFWriter) -> None:
    """Add the texts of the tokens."""
    writer.add_token_list(tokens)


def write_tokens(
    path: Path,
    endianess: GGUFEndian,
    add: Callable[[gguf.GGUFWriter], None],
    tokenizer: str = "llama",
) -> None:
    """A header of one layer with a vocabulary of three tokens, or what `add` makes of it."""
    writer = gguf.GGUFWriter(str(path), "llama", endianess=endianess)
    writer.add_key_value("llama.block_count", 1, GGUFValueType.UINT32)
    writer.add_tokenizer_model(tokenizer)
    add(writer)
    if "tokenizer.ggml.tokens" not in writer.kv_data[0]:
        writer.add_token_list(["a", "b", "c"])
    writer.add_tensor("blk.0.x", np.zeros(8, np.float32))
    finish(writer)
