"""Variants of other tools, rewritten with gguf-py: what recover finds is what the others take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import pytest

from rys_gguf import LayerMap
from tests import tiny
from tests.cli.calls import ONE_THREAD, call, data, done, refused

URL = {"general.repo_url": "https://huggingface.co/somebody/base"}


def rewritten(source: Path, sources: Sequence[int], out: Path) -> Path:
    """What a tool writes that knows of layers nothing but their names and their number.

    Its keys and tensors are in an order of their own, and no map is on record.
    """
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, arch)
    for name, field in sorted(reader.fields.items()):
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = len(sources) if name == f"{arch}.block_count" else field.contents()
        writer.add_key_value(name, value, field.types[0], field.types[-1])
    for tensor in reader.tensors:
        names = [tensor.name]
        if tensor.name.startswith("blk."):
            layer, name = tensor.name.removeprefix("blk.").split(".", 1)
            names = [f"blk.{out}.{name}" for out, n in enumerate(sources) if n == int(layer)]
        for name in names:
            writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def made(folder: Path, arch: str, spec: str, n: int = 8) -> tuple[Path, Path, list[str]]:
    """A variant, its source, and what names its map: the option that recover prints."""
    source = tiny.write(folder / "m.gguf", arch, n, extra=URL)
    variant = rewritten(source, LayerMap.parse(spec, n).sources, folder / "v.gguf")
    option = done("recover", variant, "--source", source).stdout.split()
    assert option == f"--{spec.replace(':', ' ')}".split()
    return variant, source, ["--source", str(source), *option]


@pytest.mark.parametrize(
    ("arch", "spec"),
    [("llama", "blocks:2,4"), ("llama", "layers:0..3,1,6..7"), ("qwen35", "blocks:0,4"),
     ("qwen3moe", "blocks:3,7"), ("gemma3", "blocks:0,6")],
)  # fmt: skip
def test_a_foreign_variant_is_proved(tmp_path: Path, arch: str, spec: str) -> None:
    """Bit for bit, as one of ours is; under another map than its own it is not."""
    variant, source, named = made(tmp_path, arch, spec)
    assert "nothing else changed" in done("verify", variant, *named).stdout
    assert data("prove", variant, *named, *ONE_THREAD)["ok"] is True
    other = LayerMap.parse(spec, 8)
    moved = [*other.sources[:-1], (other[-1] + 3) % 8]
    wrong = "--layers", ",".join(map(str, moved)), "--source", source
    result = call("prove", variant, *wrong, *ONE_THREAD)
    assert result.exit_code == 1


def test_layers_that_run_as_another_kind_are_seen(tmp_path: Path) -> None:
    """The bytes are right and recover names the map; prove and the card say what is wrong."""
    variant, _, named = made(tmp_path, "gemma3", "blocks:2,5", 12)
    result = call("prove", variant, *named, *ONE_THREAD)
    assert result.exit_code == 1
    assert "outputs 5 (source 2), 8 (source 5), 11 (source 8), 14 (source 11)" in result.stderr
    card = done("card", variant, *named).stdout
    assert "**The map does not respect this rule of llama.cpp" in card
    assert "some layers run as another kind than their source.**" in card


def test_a_card_claims_nothing_that_the_file_does_not_say(tmp_path: Path) -> None:
    """It was not made with rys-gguf, and its map is not on record; the rest is as of ours."""
    variant, source, named = made(tmp_path, "llama", "blocks:2,4")
    card = done("card", variant, *named).stdout
    assert "base_model: somebody/base" in card
    assert "`m.gguf` with repeated layers (RYS): layers 2 to 3 run twice. 8 layers became" in card
    assert "- Map: `blocks:2,4` (named by the author; the file records none)" in card
    assert "Made with" not in card
    own = done("apply", source, "--blocks", "2,4", "-o", tmp_path / "own.gguf").stdout.strip()
    ours = done("card", own, "--source", source).stdout
    assert "- Map: `blocks:2,4`\n" in ours
    assert "- Made with rys-gguf " in ours
    assert "records no layer map; " in refused("card", variant, "--source", source)


def test_a_foreign_variant_is_validated(tmp_path: Path) -> None:
    """All rungs, and the card takes their report."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 6, extra={".context_length": 4096})
    sources = LayerMap.parse("blocks:2,4", 6).sources
    variant = rewritten(source, sources, tmp_path / "v.gguf")
    named = "--source", source, "--blocks", "2,4"
    done("validate", variant, *named, *ONE_THREAD)
    card = done("card", variant, *named).stdout
    for rung in ("verify", "load", "prove", "smoke"):
        assert f"| {rung} | passed |" in card
