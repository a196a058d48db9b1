"""The map of a variant that records none is found from its bytes, and never guessed."""

from __future__ import annotations

import random
from pathlib import Path

import gguf
import pytest

from rys_gguf import LayerMap, Model, Refused, make_plan, write_plan
from rys_gguf.patch.recover import recover
from scripts.naive import naive_plan
from tests import tiny
from tests.cli.calls import data, done, refused

N = 8
ARCHITECTURES = ("llama", "gemma3", "qwen3moe", "deepseek2", "qwen35")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_maps_of_random_variants_are_found(tmp_path: Path, arch: str) -> None:
    """Ten variants of each architecture, as a tool writes them that knows no rule."""
    source = tiny.write(tmp_path / "m.gguf", arch, N)
    rng = random.Random(arch)
    with Model(source) as base:
        for n in range(10):
            sources = tuple(rng.randrange(N) for _ in range(rng.randint(1, 14)))
            layer_map = LayerMap(N, sources)
            path = tmp_path / f"{n}.gguf"
            write_plan(naive_plan(base, layer_map), path)
            with Model(path) as variant:
                assert "rys." not in "".join(kv.key for kv in variant.header.kvs)
                found = recover(variant, base)
            assert found.layer_map == layer_map
            assert found.notes == ()
            path.unlink()


def test_layers_that_are_alike_are_said_to_be(tmp_path: Path) -> None:
    """Of two equal layers the map takes the one that follows the layer before."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 4, sources=[0, 1, 1, 3])
    out = tmp_path / "v.gguf"
    with Model(source) as base:
        write_plan(make_plan(base, LayerMap.parse("blocks:2,4", 4), provenance=False), out)
        with Model(out) as variant:
            found = recover(variant, base)
    assert found.layer_map.spec == "blocks:2,4"
    assert found.candidates == ((0,), (1, 2), (1, 2), (3,), (1, 2), (3,))
    assert found.notes == (
        "source layers 1, 2 are alike byte for byte: outputs 1, 2, 4 may be any of them",
    )


def test_weights_that_were_quantised_anew_are_not_guessed(tmp_path: Path) -> None:
    """The norms name a map, which the user may trust or not."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 4)
    out = tiny.write(
        tmp_path / "v.gguf", "llama", 4, sources=[0, 1, 2, 1, 2, 3],
        quantize=gguf.GGMLQuantizationType.Q8_0,
    )  # fmt: skip
    with Model(source) as base, Model(out) as variant:
        message = r"quantised anew \(Q8_0 here, F32 there\)\. .* are those of blocks:1,3; "
        with pytest.raises(Refused, match=message):
            recover(variant, base)
    other = tiny.write(tmp_path / "o.gguf", "llama", 4, seed=1)
    with (
        Model(source) as base,
        Model(other) as variant,
        pytest.raises(Refused, match=r"layers 0, 1, 2, 3 of 4 are not m\.gguf's byte for byte$"),
    ):
        recover(variant, base)


def test_the_option_that_is_printed_is_taken(tmp_path: Path) -> None:
    """With it verify finds nothing wrong with a foreign variant under its map."""
    source = tiny.write(tmp_path / "m.gguf", "llama", N)
    out = tmp_path / "v.gguf"
    for spec in (("--blocks", "2,4", "--blocks", "5,6"), ("--layers", "0..3,1..1,4..7")):
        done("apply", source, *spec, "--no-provenance", "-o", out, "--force")
        option = done("recover", out, "--source", source).stdout.split()
        assert "nothing else changed" in done("verify", out, "--source", source, *option).stdout
    assert data("recover", out, "--source", source)["layer_map"]["sources"][4] == 1
    assert "no map to name" in done("recover", source, "--source", source).stderr
    wide = tiny.write(tmp_path / "q.gguf", "qwen2", N)
    assert "is of the architecture qwen2" in refused("recover", wide, "--source", source)
