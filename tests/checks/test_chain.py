"""Variants of variants in the engine: each layer runs as that of the original model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf import (
    LayerMap,
    Model,
    Schedule,
    VariantPair,
    apply,
    plan_undo,
    prove,
    resolve_layer_map,
    unapply,
)
from rys_gguf.engines.base import LIVE
from tests import tiny
from tests.engine import OPTIONS, direct_proof

P, E = Schedule.PORTABLE, Schedule.EXPLICIT


@pytest.mark.parametrize(
    ("arch", "n_layers", "steps"),
    [
        ("llama", 6, [("blocks:1,3", P), ("layers:0..2,5..7,1..2", P)]),
        ("gemma3", 6, [("blocks:2,4", E), ("blocks:1,4", P)]),
        ("qwen35", 8, [("blocks:3,5", E), ("layers:0..4,7..9", P)]),
    ],
)
def test_a_chain_is_proved_against_the_original_and_between(
    tmp_path: Path, arch: str, n_layers: int, steps: list[tuple[str, Schedule]]
) -> None:
    """The composed map says what runs, whatever the steps wrote into the header."""
    chain = [tiny.write(tmp_path / "base.gguf", arch, n_layers, extra={".context_length": 4096})]
    for n, (spec, schedule) in enumerate(steps):
        out = tmp_path / f"step{n}.gguf"
        apply(chain[-1], spec, out, schedule=schedule)
        chain.append(out)
    for source in chain[:-1]:
        with Model(chain[-1]) as variant, Model(source) as model:
            layer_map = resolve_layer_map(variant, model)
        pair = VariantPair(chain[-1], source, layer_map)
        assert direct_proof(pair).holds(), source.name
        assert prove(pair, replace(OPTIONS, kind=LIVE)).holds(), source.name


def test_what_comes_back_with_another_header_runs_as_the_source(tmp_path: Path) -> None:
    """The header was edited since; the layers are those of the source."""
    base = tiny.write(tmp_path / "base.gguf", "gemma3", 6, extra={".context_length": 4096})
    out, back = tmp_path / "out.gguf", tmp_path / "back.gguf"
    apply(base, "blocks:2,4", out, schedule=E)
    raw = out.read_bytes()
    key = b"tokenizer.ggml.eos_token_id\x04\x00\x00\x00"
    at = raw.index(key) + len(key)
    out.write_bytes(raw[:at] + b"\x03" + raw[at + 1 :])
    with Model(out) as model:
        unapply(plan_undo(model, exact=False), back)
    assert back.read_bytes() != base.read_bytes()
    assert direct_proof(VariantPair(back, base, LayerMap.identity(6))).holds()
