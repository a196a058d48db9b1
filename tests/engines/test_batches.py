"""Batches compute every prompt exactly once, and shared beginnings together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.engines.live.batches import Batch, Prompt, make_batches
from rys_gguf.engines.live.context import Logits
from rys_gguf.engines.live.session import Session
from tests import tiny
from tests.live_maps import OPTIONS

# Few different tokens and long common beginnings, so that much is shared.
_TOKENS = st.lists(st.integers(0, 2), max_size=40).map(tuple)


@st.composite
def prompt_lists(draw: st.DrawFn) -> list[Prompt]:
    """Prompts of which many begin alike, some are equal, and some begin others."""
    beginnings = draw(st.lists(_TOKENS, min_size=1, max_size=3))
    one = st.tuples(st.sampled_from(beginnings), _TOKENS).map(lambda parts: parts[0] + parts[1])
    return draw(st.lists(one.filter(bool), max_size=14))


def computed(batch: Batch) -> dict[int, list[tuple[int, int]]]:
    """What is in each sequence in the end: the spans that were computed there or copied to it.

    Fails if a sequence goes on from elsewhere than its end, or with tokens of another prompt.
    """
    spans: dict[int, list[tuple[int, int]]] = {k: [] for k in range(len(batch.prompts))}
    tokens: dict[int, Prompt] = dict.fromkeys(spans, ())
    ended: set[int] = set()
    for wave in batch.waves:
        assert wave
        assert len({s.sequence for s in wave}) == len(wave)
        for s in wave:
            assert s.sequence not in ended
            assert s.start == len(tokens[s.sequence]) < s.end
            spans[s.sequence].append((s.start, s.end))
            tokens[s.sequence] += batch.prompts[s.sequence][s.start : s.end]
        for s in wave:
            assert s.ends != bool(s.copies)
            if s.ends:
                ended.add(s.sequence)
            for other in s.copies:
                # A copy replaces what is there, so nothing may have been computed beside it.
                assert tokens[other] == tokens[s.sequence][: s.start]
                tokens[other] = tokens[s.sequence]
                spans[other] = list(spans[s.sequence])
    assert ended == set(spans)
    assert list(tokens.values()) == list(batch.prompts)
    return spans


@given(prompt_lists(), st.integers(1, 120), st.integers(1, 6))
def test_every_prompt_is_computed_once_from_start_to_end(
    prompts: list[Prompt], max_tokens: int, max_sequences: int
) -> None:
    """Through its segments and copies, and each different prompt in exactly one batch."""
    batches = make_batches(prompts, max_tokens, max_sequences)
    found = [prompt for batch in batches for prompt in batch.prompts]
    assert found == sorted(set(prompts))
    for batch in batches:
        for k, spans in computed(batch).items():
            assert spans[0][0] == 0
            assert spans[-1][1] == len(batch.prompts[k])
            assert all(a[1] == b[0] for a, b in pairwise(spans))


@given(prompt_lists(), st.integers(1, 120), st.integers(1, 6))
def test_batches_keep_their_limits(
    prompts: list[Prompt], max_tokens: int, max_sequences: int
) -> None:
    """Of sequences always; of tokens unless a single prompt has more. Sharing saves tokens only."""
    for batch in make_batches(prompts, max_tokens, max_sequences):
        assert len(batch.prompts) <= max_sequences
        assert batch.n_tokens <= sum(map(len, batch.prompts))
        assert 0 < batch.n_widest <= batch.n_tokens


@given(prompt_lists(), st.integers(1, 120), st.randoms(use_true_random=False))
def test_the_order_of_prompts_does_not_matter(
    prompts: list[Prompt], max_tokens: int, random: object
) -> None:
    """Nor do prompts that are there twice."""
    shuffled = [*prompts, *prompts[:2]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert make_batches(shuffled, max_tokens, 8) == make_batches(prompts, max_tokens, 8)


def test_a_shared_beginning_is_computed_once() -> None:
    """Its tokens count once, at each level."""
    chat, topic = (9,) * 30, (8,) * 20
    prompts = [(*chat, *topic, 1), (*chat, *topic, 2), (*chat, *topic, 3), (*chat, 4)]
    (batch,) = make_batches(prompts, 512, 64)
    assert batch.n_tokens == 30 + 20 + 3 + 1
    assert len(batch.waves) == 3


@pytest.mark.parametrize("arch", ["llama", "qwen3next"])
def test_an_answer_does_not_depend_on_who_is_in_the_batch(arch: str, tmp_path: Path) -> None:
    """But for the last bits of products with weights that are not quantized."""
    path = tiny.write(tmp_path / "m.gguf", arch, 4)
    for together, alone in answers(path, range(1, 10)):
        assert together == pytest.approx(alone, abs=1e-4)


def test_a_real_models_answer_does_not_depend_on_who_is_in_the_batch(smollm2: Path) -> None:
    """Bit for bit on a CPU: its weights are quantized."""
    for together, alone in answers(smollm2, (1, 6, 9)):
        assert np.array_equal(together, alone)


def answers(path: Path, sizes: Iterable[int]) -> Iterator[tuple[Logits, Logits]]:
    """What a model answers to prompts in batches, and what it answers to each alone.

    From 64 tokens on that are computed at once llama.cpp's attention rounds otherwise, so longer
    prompts are the same only in the same batch. Source: ggml_compute_forward_flash_attn_ext_f16 in
    ggml/src/ggml-cpu/ops.cpp (b11549).
    """
    shared = (1, *range(40, 70))
    prompts = [(1, 50), *((*shared, *range(80, 80 + 3 * n)) for n in sizes)]
    session = Session(path, OPTIONS)
    try:
        session.start()
        loaded = session.base
        assert any(len(w) < len(prompts) for b in make_batches(prompts, 512, 64) for w in b.waves)
        alone = [loaded.logits([prompt])[0] for prompt in prompts]
        for group in (prompts, prompts[::-2]):
            for prompt, row in zip(group, loaded.logits(group), strict=True):
                yield row, alone[prompts.index(prompt)]
    finally:
        session.close()
