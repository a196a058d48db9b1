"""llama.cpp itself confirms that the tiny models are what the other tests assume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from rys_gguf.engines.find import open_engine
from rys_gguf.errors import EngineFailed
from tests import engine, tiny

GENERATING = sorted(tiny.ARCHITECTURES.keys() - tiny.WITHOUT_NEXT_TOKEN)
SLIDING = ["afmoe", "cohere2", "gemma2", "gemma3", "gemma4", "gpt-oss", "mellum", "olmo2", "plamo3"]
QWEN35 = ["qwen35", "qwen35moe", "qwen3next"]
SHORT, LONG = [1, 50, 60, 70], [1, *range(40, 60)]
N_LAYERS = 8
Run = Callable[..., npt.NDArray[np.float64]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Write a model and run it on a prompt within the window and on one past it."""

    def run(arch: str, n_layers: int = N_LAYERS, **options: Any) -> npt.NDArray[np.float64]:
        path = tiny.write(tmp_path / "m.gguf", arch, n_layers, **options)
        return engine.logprobs(path, [SHORT, LONG], tiny.N_VOCAB)

    return run


@pytest.mark.parametrize("arch", GENERATING)
def test_llama_cpp_runs_every_architecture(run: Run, arch: str) -> None:
    """Every generating model gives finite probabilities that add up to one."""
    logprobs = run(arch)
    assert np.isfinite(logprobs).all()
    assert np.exp(logprobs).sum(axis=1) == pytest.approx(1, abs=1e-4)
    assert logprobs.std(axis=1).min() > 0.1


def test_llama_cpp_loads_the_embedding_model(tmp_path: Path) -> None:
    """BERT generates nothing, but llama.cpp takes it for a model."""
    path = tiny.write(tmp_path / "m.gguf", "bert", 4)
    with open_engine(path, engine.OPTIONS) as running:
        assert running.build


@pytest.mark.parametrize("arch", SLIDING)
def test_sliding_layers_are_where_the_array_says(run: Run, arch: str) -> None:
    """A wider window matters only for a prompt past it; listing the layers changes nothing."""
    narrow, wide = run(arch), run(arch, window=100)
    assert np.array_equal(narrow[0], wide[0])
    assert np.abs(narrow[1] - wide[1]).max() > 0.1
    if arch != "gemma4":  # its array is no option
        assert np.array_equal(narrow, run(arch, pattern=True))


@pytest.mark.parametrize("arch", QWEN35)
@pytest.mark.parametrize("interval", [None, 3])
def test_arrays_and_mtp_blocks_change_nothing(
    run: Run, tmp_path: Path, arch: str, interval: int | None
) -> None:
    """The array agrees with the interval; the MTP block is last, loaded and not run."""
    plain = run(arch, full_attention_interval=interval)
    assert np.array_equal(
        plain, run(arch, full_attention_interval=interval, recurrent_layers=True, n_mtp=1)
    )
    names = {t.name for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert f"blk.{N_LAYERS}.nextn.eh_proj.weight" in names


@pytest.mark.parametrize("arch", ["llama", "apertus", "jamba", "gemma4"])
def test_sources_decide_what_layers_are_made_of(run: Run, arch: str) -> None:
    """The identity changes nothing; two layers of one kind in exchanged order do."""
    plain = run(arch)
    assert np.array_equal(run(arch, sources=range(N_LAYERS)), plain)
    swapped = run(arch, sources=[0, 1, 2, 3, 5, 4, 6, 7])
    assert np.abs(swapped - plain).max(axis=1).min() > 0.1


def test_equal_sources_have_equal_weights(tmp_path: Path) -> None:
    """A repeated layer has its source's tensors, bit for bit, and not its neighbours'."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 4, sources=[0, 1, 1, 3])
    ups = [t.data for t in gguf.GGUFReader(path).tensors if t.name.endswith("ffn_up.weight")]
    assert len(ups) == 4
    assert np.array_equal(ups[1], ups[2])
    assert not np.array_equal(ups[0], ups[1])


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_64_layers_stay_below_10_mb(tmp_path: Path, arch: str) -> None:
    """Deep models are cheap."""
    n_mtp = 1 if tiny.ARCHITECTURES[arch].mtp else 0
    path = tiny.write(tmp_path / "m.gguf", arch, 64, n_mtp=n_mtp)
    assert path.stat().st_size < 10_000_000


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    """A model depends on its arguments alone, and on the seed."""
    first, again, other = (
        tiny.write(tmp_path / f"{n}.gguf", "qwen35", 4, seed=seed).read_bytes()
        for n, seed in enumerate([0, 0, 1])
    )
    assert first == again != other


def test_matrices_can_be_quantized(run: Run, tmp_path: Path) -> None:
    """Option quantize sets the type of the matrices, and llama.cpp runs the result."""
    assert np.isfinite(run("llama", quantize=gguf.GGMLQuantizationType.Q8_0)).all()
    types = {t.name: t.tensor_type for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert types["blk.0.ffn_up.weight"] == gguf.GGMLQuantizationType.Q8_0
    assert types["blk.0.attn_norm.weight"] == gguf.GGMLQuantizationType.F32


def test_an_option_nobody_reads_is_refused(tmp_path: Path) -> None:
    """A misspelt option does not go unnoticed."""
    with pytest.raises(TypeError, match="llama has no option pattern"):
        tiny.write(tmp_path / "m.gguf", "llama", 2, pattern=True)


def test_the_engine_tells_why_it_failed(tmp_path: Path) -> None:
    """A model that does not load, and one that aborts the process, raise llama.cpp's message."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"nonsense")
    with pytest.raises(EngineFailed, match="invalid magic characters"):
        engine.logprobs(path, [SHORT], options=engine.OPTIONS)
    tiny.write(path, "llama", 2, extra={".block_count": 0})
    with pytest.raises(EngineFailed, match=r"(?s)SIGABRT.*GGML_ASSERT"):
        engine.logprobs(path, [SHORT], options=engine.OPTIONS)


def test_the_engine_shows_nan(tmp_path: Path) -> None:
    """NaN probabilities reach the caller as NaN."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 2)
    norm = next(t for t in gguf.GGUFReader(path).tensors if t.name == "output_norm.weight")
    with path.open("r+b") as file:
        file.seek(int(norm.data_offset))
        file.write(np.full(tiny.N_EMBD, np.nan, "<f4").tobytes())
    assert not np.isfinite(engine.logprobs(path, [SHORT], tiny.N_VOCAB)).any()
