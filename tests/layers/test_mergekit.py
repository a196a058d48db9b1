"""Recipes of mergekit: those that put layers of one model into another order, or damp them."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rys_gguf import Model
from rys_gguf.errors import InvalidLayerMap, InvalidOptions, Refused, RysError
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.mergekit import read_mergekit, write_mergekit
from tests import tiny

yaml: Any = pytest.importorskip("yaml")  # comes with gguf

# As they are published: in block style, in flow style, and with aliases for what repeats.
BLOCK_STYLE = """\
slices:
- sources:
  - model: psmathur/orca_mini_v3_13b
    layer_range: [0, 24]
- sources:
  - model: psmathur/orca_mini_v3_13b
    layer_range:
    - 20
    - 40
merge_method: passthrough
dtype: float16
"""
FLOW_STYLE = """\
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 9]}]
  - sources: [{layer_range: [8, 9], model: a}]
  - sources: [{model: 'a', layer_range: ['8', 40], parameters: }]
parameters: {}
"""
WITH_ALIASES = """\
# a self-merge
const_tag: &MODEL somebody/base
const_tag: &END 40
dtype: bfloat16
merge_method: passthrough
tokenizer_source: union
slices:
  - sources:
    - model: *MODEL
      revision: main
      layer_range: [0, 40]
  - sources:
    - model: *MODEL
      revision: main
      layer_range: [30, *END]
"""
RECIPES = [
    (BLOCK_STYLE, [*range(24), *range(20, 40)], "psmathur/orca_mini_v3_13b"),
    (FLOW_STYLE, [*range(9), 8, *range(8, 40)], "a"),
    (WITH_ALIASES, [*range(40), *range(30, 40)], "somebody/base@main"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a recipe lies."""
    return tmp_path / "recipe.yml"


@pytest.mark.parametrize(("text", "sources", "model"), RECIPES)
def test_slices_follow_one_another(file: Path, text: str, sources: list[int], model: str) -> None:
    """Their ends are exclusive; what else a recipe says does not change a layer."""
    file.write_text(text)
    recipe = read_mergekit(file)
    assert list(LayerMap.parse(recipe.spec, 40).sources) == sources
    assert recipe.model == model


slices = st.lists(
    st.tuples(st.integers(0, 39), st.integers(1, 40)).filter(lambda ends: ends[0] < ends[1]),
    min_size=1,
    max_size=12,
)


@given(slices)
@example([(0, 1), (0, 1)])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_recipe_gives_the_layers_mergekit_takes(
    file: Path, slices: list[tuple[int, int]]
) -> None:
    """Layer `layer_range[0] + offset` of each slice in turn, as in mergekit's plan.py."""
    file.write_text(
        "merge_method: passthrough\nslices:\n"
        + "".join(f"- sources: [{{model: m, layer_range: [{a}, {b}]}}]\n" for a, b in slices)
    )
    taken = [a + offset for a, b in slices for offset in range(b - a)]
    if taken != list(range(40)):
        assert list(LayerMap.parse(read_mergekit(file).spec, 40).sources) == taken


ONE = "slices: [{sources: [{model: a, layer_range: [0, 8]}]}]\n"
GOOD = f"merge_method: passthrough\n{ONE}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"recipe\.yml: is empty; expected a mergekit recipe"),
        ("8,12\n", "line 1: expected a mergekit recipe, a mapping"),
        ("{", "line 1: cannot be read as YAML"),
        ("\x00", "cannot be read as YAML"),
        ('a: "\\UFFFFFFFF"', "cannot be read as YAML"),
        (f"{GOOD}---\n{GOOD}", "line 3: cannot be read as YAML: expected a single document"),
        ("[" * 1_000, "cannot be read as YAML"),
        (ONE, "expected a mergekit recipe with merge_method; this one has none"),
        ("merge_method: passthrough\n", "with slices; this one has none"),
        ("merge_method: passthrough\nmodels: [{model: a}]", "slices; this one has models instead"),
        ("merge_method: passthrough\nmodules: {}", "with slices; this one has modules instead"),
        (f"merge_method: slerp\n{ONE}", "line 1: merge_method is slerp, which computes new"),
        (f"merge_method: []\n{ONE}", "line 1: merge_method is not a plain value"),
        ("merge_method: passthrough\nslices: 8\n", "line 2: slices is not a list"),
        ("merge_method: passthrough\nslices: []\n", "line 2: slices is empty"),
        ("merge_method: passthrough\nslices: [0]\n", "line 2: expected a slice, a mapping"),
        ("merge_method: passthrough\nslices: [{}]\n", "line 2: a slice without sources"),
        (GOOD.replace("[0, 8]", "[0]"), "line 2: layer_range is not a pair"),
        (GOOD.replace("[0, 8]", "[0, 8, 9]"), "line 2: layer_range is not a pair"),
        (GOOD.replace("[0, 8]", "[-1, 8]"), "line 2: layer_range is not a pair"),
        (GOOD.replace("[0, 8]", "[0, 010]"), "line 2: layer_range is not a pair"),
        (GOOD.replace("[0, 8]", "[0, [8]]"), "line 2: layer_range is not a pair"),
        (GOOD.replace("[0, 8]", "[0, 9999999999]"), "line 2: layer_range is not a pair"),
        (GOOD.replace("[0, 8]", "8"), "line 2: layer_range is not a list"),
        (GOOD.replace("[0, 8]", "[8, 8]"), r"layer_range \[8, 8\] is empty: it ends before"),
        (GOOD.replace("model: a, ", ""), "line 2: a source without model"),
        (GOOD.replace(", layer_range: [0, 8]", ""), "line 2: a source without layer_range"),
        (GOOD.replace("model: a", "model: {path: a}"), "line 2: model is not a plain value"),
        (GOOD.replace("}]}", "}, {model: b, layer_range: [0, 8]}]}"), "has one source, not 2"),
        (GOOD.replace("model: a", "<<: {model: a}"), "line 2: << is not supported"),
        (f"{GOOD}parameters: {{scale: 0.5}}\n", "line 3: scales all weights by 0.5"),
        (
            f"{GOOD}parameters: {{weight: 0.5}}\n",
            r"line 3: has parameters \(weight\), which may change",
        ),
        (
            GOOD.replace("{sources", "{residual_weight: 0.5, sources"),
            r"line 2: has parameters \(residual_weight\)",
        ),
        (GOOD.replace("{sources", "{parameters: 3, sources"), "line 2: expected parameters, a map"),
    ],
)
def test_what_is_more_than_an_order_of_layers_is_refused(
    file: Path, text: str, message: str
) -> None:
    """The message names the file, the line and what is in the way."""
    file.write_text(text)
    with pytest.raises(InvalidLayerMap, match=message) as caught:
        read_mergekit(file)
    assert str(caught.value).startswith(str(file))


def test_layers_of_two_models_are_refused_by_name(file: Path) -> None:
    """A revision makes a model another one."""
    two = "  - sources: [{{model: {}, layer_range: [0, 8]}}]\n"
    head = "merge_method: passthrough\nslices:\n"
    file.write_text(head + two.format("b/two") + two.format("a/one"))
    with pytest.raises(InvalidLayerMap, match=r"layers of 2 models \(a/one, b/two\)"):
        read_mergekit(file)
    file.write_text(head + two.format("a") + two.format("a, revision: v2"))
    with pytest.raises(InvalidLayerMap, match=r"layers of 2 models \(a, a@v2\)"):
        read_mergekit(file)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file, a folder, another encoding, and one that is no recipe by its size."""
    with pytest.raises(InvalidLayerMap, match="cannot read the mergekit recipe: No such file"):
        read_mergekit(tmp_path / "none.yml")
    with pytest.raises(
        InvalidLayerMap, match="cannot read the mergekit recipe: not a regular file"
    ):
        read_mergekit(tmp_path)
    (tmp_path / "latin").write_bytes(b"# \xe4\xf6")
    with pytest.raises(InvalidLayerMap, match="is not UTF-8 text"):
        read_mergekit(tmp_path / "latin")
    (tmp_path / "big").write_text(f"{GOOD}#" + " " * (1 << 18))
    with pytest.raises(InvalidLayerMap, match=r"at most 256\.0 KiB are read"):
        read_mergekit(tmp_path / "big")


def test_aliases_cannot_make_a_recipe_grow(file: Path) -> None:
    """Nine levels of nine aliases are half a billion items, which nothing may build or print."""
    bomb = "l0: &l0 x\n" + "".join(
        f"l{k}: &l{k} [{', '.join([f'*l{k - 1}'] * 9)}]\n" for k in range(1, 10)
    )
    start = time.process_time()
    file.write_text(f"{bomb}{GOOD}")
    assert read_mergekit(file).spec == "layers:[0..7]"
    file.write_text(f"{bomb}merge_method: passthrough\nslices: *l9\n")
    with pytest.raises(InvalidLayerMap, match="expected a slice, a mapping"):
        read_mergekit(file)
    file.write_text(f"{bomb}merge_method: *l9\n{ONE}")
    with pytest.raises(InvalidLayerMap, match="merge_method is not a plain value"):
        read_mergekit(file)
    file.write_text("a: &a {<<: *a}\nslices: *a\nmerge_method: passthrough\n")
    with pytest.raises(InvalidLayerMap, match="slices is not a list"):
        read_mergekit(file)
    assert time.process_time() - start < 60


@given(
    st.one_of(
        st.text(),
        st.text("-:[]{}&*<>!|'\"\\%#, \nab019"),
        st.tuples(st.integers(0, len(GOOD)), st.text(max_size=4), st.integers(0, 9)).map(
            lambda t: GOOD[: t[0]] + t[1] + GOOD[t[0] + t[2] :]
        ),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_recipe_or_an_error(file: Path, text: str) -> None:
    """Nothing else comes out, and the message can be printed."""
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    spec, error = None, ""
    try:
        spec = read_mergekit(file).spec
    except InvalidLayerMap as e:
        error = str(e)
    assert error.isprintable()
    assert spec is None or spec.startswith("layers:[")


def test_yaml_is_named_where_it_is_missing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes with gguf; should that change, the message says what to install."""
    file.write_text(GOOD)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(RysError, match="a mergekit recipe needs pyyaml: pip install pyyaml"):
        read_mergekit(file)


@given(
    sources=st.lists(st.integers(0, 39), min_size=1, max_size=20),
    name=st.text(min_size=1, max_size=20).filter(str.isprintable),
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_written_recipe_reads_back(file: Path, sources: list[int], name: str) -> None:
    """The same map for the same checkpoint, whatever that is called."""
    layer_map = LayerMap(40, tuple(sources))
    file.write_text(write_mergekit(layer_map, name), encoding="utf-8")
    recipe = read_mergekit(file)
    assert recipe.model == name
    if not layer_map.is_identity:
        assert LayerMap.parse(recipe.spec, 40) == layer_map


@given(
    st.lists(
        st.tuples(st.integers(0, 39), st.one_of(st.floats(0, 1), st.sampled_from([0.5, 1.0]))),
        min_size=1,
        max_size=20,
    )
)
@example([(0, 5e-324), (0, 1.0), (1, 1.0), (1, 0.0), (2, 0.0), (2, 1e-05), (3, 1 - 2**-53)])
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_written_recipe_of_a_damped_map_reads_back(
    file: Path, tmp_path: Path, layers: list[tuple[int, float]]
) -> None:
    """The same layers with the same factors, bit for bit."""
    layer_map = LayerMap(40, tuple(n for n, _ in layers), tuple(damp for _, damp in layers))
    if not (path := tmp_path / "m.gguf").exists():
        tiny.write(path, "llama", 2)
    with Model(path) as model:
        file.write_text(write_mergekit(layer_map, "a", model))
        assert LayerMap.parse(read_mergekit(file, model).spec, 40) == layer_map


def test_a_damped_recipe_has_factors(tmp_path: Path) -> None:
    """On the two weights that add to the residual stream, for the damped slices only."""
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 6)) as model:
        text = write_mergekit(LayerMap.parse("blocks:2,4@0.5", 6), "a", model)
    plain, damped, rest = yaml.safe_load(text)["slices"]
    assert plain["sources"] == [{"model": "a", "layer_range": [0, 4]}]
    assert rest["sources"] == [{"model": "a", "layer_range": [4, 6]}]
    (source,) = damped["sources"]
    assert source.pop("parameters") == {
        "scale": [{"filter": "o_proj", "value": 0.5}, {"filter": "down_proj", "value": 0.5}]
    }
    assert source == {"model": "a", "layer_range": [2, 4]}
    assert "factors on its weights named o_proj and down_proj" in text


@given(st.floats(0, 1, exclude_max=True))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_factor_is_the_same_number_in_yaml(file: Path, damp: float) -> None:
    """YAML takes 1e-05 for a text."""
    if not file.exists():
        tiny.write(file, "llama", 2)
    with Model(file) as model:
        text = write_mergekit(LayerMap(2, (0, 0, 1), (1, damp, 1)), "a", model)
    scale = yaml.safe_load(text)["slices"][1]["sources"][0]["parameters"]["scale"]
    assert [entry["value"] for entry in scale] == [damp, damp]


@pytest.mark.parametrize(
    ("arch", "what"),
    [("gemma2", "'post_attention_norm'"), ("qwen3moe", "'ffn_down_exps'"), ("llada", "'llada'")],
)
def test_a_recipe_damps_only_where_two_weights_add_everything(
    tmp_path: Path, arch: str, what: str
) -> None:
    """A norm behind them would undo the factor, and experts have other names."""
    with Model(tiny.write(tmp_path / "m.gguf", arch, 6)) as model:
        layer_map = LayerMap.parse("blocks:2,4", 6)
        assert "scale" not in write_mergekit(layer_map, "a", model)
        with pytest.raises(Refused, match=f"m.gguf: a recipe of mergekit can damp .* {what}"):
            write_mergekit(layer_map.damped(0.5), "a", model)


def test_experts_of_a_known_architecture_are_seen(tmp_path: Path) -> None:
    """Mixtral is a llama, but its experts are not named down_proj."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 4)
    with Model(path) as model:
        model.layers[3] = [
            replace(t, name=t.name.replace("ffn_down.", "ffn_down_exps.")) for t in model.layers[3]
        ]
        with pytest.raises(Refused, match="not known of tensors 'ffn_down_exps'"):
            write_mergekit(LayerMap.parse("blocks:1,2@0.5", 4), "a", model)


def test_a_damped_map_needs_a_model() -> None:
    """Which weights damp a layer depends on the architecture."""
    with pytest.raises(Refused, match=r"damps layers.*name the model as well"):
        write_mergekit(LayerMap.parse("blocks:2,4@0.5", 6), "a")


def test_a_name_with_a_line_break_is_none() -> None:
    """It would end the string, or reach a terminal."""
    with pytest.raises(InvalidOptions, match=r"a\\nb' is not the name of a checkpoint"):
        write_mergekit(LayerMap.parse("blocks:2,4", 6), "a\nb")
