"""mergekit itself makes of recipes what their maps say; skipped where it is not installed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rys_gguf import LayerMap, Model, read_mergekit, write_mergekit
from rys_gguf.errors import InvalidLayerMap
from tests import tiny
from tests.layers.mergekit_scale import NAMES, factor_of

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
    merged = merge(checkpoint, model, layer_map, tmp_path)
    demand_layers(merged, tensors(checkpoint), layer_map)


BOTH = "[{filter: o_proj, value: 0.5}, {filter: down_proj, value: 0.5}]"
LAST = "{filter: o_proj, value: 0.0}, {filter: down_proj, value: 0.0}, {value: 1.0}"


@pytest.mark.parametrize(
    ("source", "output", "root", "spec"),
    [
        (f"[{LAST}]", "", "", "layers:0..5,2..3@0"),
        ("", BOTH, "", "layers:0..5,2..3@0.5"),
        ("", BOTH, f"[{LAST}]", "layers:0..5@0,2..3@0.5"),
        ("1", BOTH, BOTH, "layers:0..5@0.5,2..3"),
        ("{filter: o_proj, value: 0.25}", "1", BOTH, ""),
        ("{filter: mlp.down_proj, value: 0.5}", BOTH, "[1, 1]", "layers:0..5,2..3@0.5"),
        ("[{filter: '*', value: [1, 1]}, {filter: mlp, value: 0}]", "", "", "layers:0..5,2..3"),
    ],
)
def test_a_recipe_that_is_read_is_what_mergekit_makes_of_it(
    checkpoint: Path, tmp_path: Path, source: str, output: str, root: str, spec: str
) -> None:
    """Parameters of a source go before those of its slice, and these before those of the root."""
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(
        f"merge_method: passthrough\n{root and f'parameters: {{scale: {root}}}'}\nslices:\n"
        f"- sources: [{{model: {checkpoint}, layer_range: [0, {N_LAYERS}]}}]\n"
        f"- sources: [{{model: {checkpoint}, layer_range: [2, 4]"
        f"{source and f', parameters: {{scale: {source}}}'}}}]\n"
        f"{output and f'  parameters: {{scale: {output}}}'}\n"
    )
    if not spec:
        with pytest.raises(InvalidLayerMap):
            read_mergekit(recipe)
        return
    layer_map = LayerMap.parse(read_mergekit(recipe).spec, N_LAYERS)
    assert layer_map == LayerMap.parse(spec, N_LAYERS)
    demand_layers(merge_text(recipe.read_text(), tmp_path), tensors(checkpoint), layer_map)


def test_mergekit_evaluates_scales_as_the_tests_do() -> None:
    """The oracle of the tests that need no mergekit, for all chains of a few entries."""
    config: Any = pytest.importorskip("mergekit.config")
    resolver: Any = pytest.importorskip("mergekit.parameter_resolver")
    spec: Any = pytest.importorskip("mergekit.merge_methods").get("passthrough").spec
    (scale,) = spec.input_parameters
    filters = (None, "*", "", "o_proj", "self_attn", "norm", "5.mlp")
    levels = [[], 0.25, {"filter": "proj", "value": 0.5}] + [
        [{"filter": first, "value": 0.5}, {"filter": second, "value": 0.75}]
        for first, second in itertools.product(filters, repeat=2)
    ]
    for chain in itertools.product(levels, repeat=2):
        settings = [
            config.OutputSliceDefinition.model_validate(
                {"sources": [], "parameters": {"scale": level}}
            ).parameters
            for level in chain
        ]
        for name in NAMES:
            found = resolver.resolve_parameter(scale, settings, tensor_name=name)
            assert (1 if found is None else found) == factor_of(name, chain)


def demand_layers(merged: dict[str, Any], source: dict[str, Any], layer_map: LayerMap) -> None:
    """Every tensor is that of the map, times its factor where it writes to the residual stream."""
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
    return merge_text(write_mergekit(layer_map, str(checkpoint), model), folder)


def merge_text(text: str, folder: Path) -> dict[str, Any]:
    """The same of any recipe."""
    config: Any = pytest.importorskip("mergekit.config")
    options: Any = pytest.importorskip("mergekit.options")
    yaml: Any = pytest.importorskip("yaml")
    recipe = yaml.safe_load(text)
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
