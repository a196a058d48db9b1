"""mergekit itself makes of our recipes what their maps say; skipped where it is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rys_gguf import LayerMap, Model, write_mergekit
from tests import tiny

# Of other people's packages.
pytestmark = pytest.mark.filterwarnings("default")
N_LAYERS = 6


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A Llama with random weights, as Hugging Face's transformers write it."""
    pytest.importorskip("mergekit.merge")
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=N_LAYERS, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=128,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    """A GGUF file of the same architecture."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", N_LAYERS)) as opened:
        yield opened


@pytest.mark.parametrize(
    "spec",
    [
        "blocks:2,4",
        "layers:0..3,1..1,3..5,0",
        "blocks:2,4@0.5",
        "layers:1..3@0.00001,3@0,0..5@0.75",
    ],
)
def test_every_tensor_is_that_of_its_source(
    checkpoint: Path, model: Model, tmp_path: Path, spec: str
) -> None:
    """But for those that damp: they are multiplied by the factor of their layer."""
    layer_map = LayerMap.parse(spec, N_LAYERS)
    merged, source = merge(checkpoint, model, layer_map, tmp_path), tensors(checkpoint)
    layers = [name for name in source if name.startswith("model.layers.0.")]
    assert len(layers) == 9
    assert len(merged) - len(source) == len(layers) * layer_map.n_added
    for name in source.keys() - {n for n in source if n.startswith("model.layers.")}:
        assert merged[name].equal(source[name])
    for out, n in enumerate(layer_map.sources):
        for name in layers:
            _, _, rest = name.partition(".0.")
            adds = "o_proj" in rest or "down_proj" in rest
            wanted = source[f"model.layers.{n}.{rest}"] * (layer_map.damp(out) if adds else 1)
            assert merged[f"model.layers.{out}.{rest}"].equal(wanted)


def test_the_merged_model_runs_its_layers_in_the_order_of_the_map(
    checkpoint: Path, model: Model, tmp_path: Path
) -> None:
    """Its config says how many there are, and its logits are those of the reordered layers."""
    torch: Any = pytest.importorskip("torch")
    layer_map = LayerMap.parse("layers:0..3,2..5,1", N_LAYERS)
    merge(checkpoint, model, layer_map, tmp_path)
    reordered = loaded(checkpoint)
    plain = logits(reordered)
    layers = reordered.model.layers
    reordered.model.layers = torch.nn.ModuleList([layers[n] for n in layer_map.sources])
    reordered.config.num_hidden_layers = len(layer_map)
    made = loaded(tmp_path / "merged")
    assert made.config.num_hidden_layers == len(layer_map)
    assert logits(made).equal(logits(reordered))
    assert not logits(made).equal(plain)


def test_a_copy_that_is_damped_by_zero_passes_its_input_on(
    checkpoint: Path, model: Model, tmp_path: Path
) -> None:
    """The merged model gives the bits of the checkpoint, which it does not with another factor."""
    same, other = tmp_path / "same", tmp_path / "other"
    merge(checkpoint, model, LayerMap.parse("blocks:2,4@0", N_LAYERS), same)
    merge(checkpoint, model, LayerMap.parse("blocks:2,4@0.5", N_LAYERS), other)
    wanted = logits(loaded(checkpoint))
    assert logits(loaded(same / "merged")).equal(wanted)
    assert not logits(loaded(other / "merged")).equal(wanted)


def merge(checkpoint: Path, model: Model, layer_map: LayerMap, folder: Path) -> dict[str, Any]:
    """The tensors of what mergekit makes of our recipe, in the folder `merged` there."""
    config: Any = pytest.importorskip("mergekit.config")
    options: Any = pytest.importorskip("mergekit.options")
    yaml: Any = pytest.importorskip("yaml")
    recipe = yaml.safe_load(write_mergekit(layer_map, str(checkpoint), model))
    out = folder / "merged"
    pytest.importorskip("mergekit.merge").run_merge(
        config.MergeConfiguration.model_validate(recipe), str(out),
        options.MergeOptions(copy_tokenizer=False, quiet=True),
    )  # fmt: skip
    return tensors(out)


def tensors(checkpoint: Path) -> dict[str, Any]:
    """All tensors of a checkpoint by name."""
    load: Any = pytest.importorskip("safetensors.torch").load_file
    return {k: v for path in checkpoint.glob("*.safetensors") for k, v in load(path).items()}


def loaded(checkpoint: Path) -> Any:
    """The model of a checkpoint."""
    transformers: Any = pytest.importorskip("transformers")
    return transformers.LlamaForCausalLM.from_pretrained(checkpoint)


def logits(model: Any) -> Any:
    """What a model makes of a prompt, shape (1, tokens, vocabulary)."""
    torch: Any = pytest.importorskip("torch")
    with torch.no_grad():
        return model(torch.arange(1, 20)[None], use_cache=False).logits
