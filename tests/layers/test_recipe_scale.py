"""Factors of mergekit on weights: read where they damp layers, and refused where they do not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rys_gguf import Model
from rys_gguf.errors import InvalidLayerMap, Refused
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.mergekit import read_mergekit
from tests import tiny
from tests.layers.mergekit_scale import NAMES, factor_of

pytest.importorskip("yaml")  # comes with gguf

# As block expansion is published: each copy adds nothing before it is trained.
EXPANSION = """\
slices:
- sources:
  - model: meta-llama/Llama-2-7b-hf
    layer_range: [0, 4]
- sources:
  - model: meta-llama/Llama-2-7b-hf
    layer_range: [3, 4]
    parameters: &silent
      scale:
      - filter: o_proj
        value: 0.0
      - filter: down_proj
        value: 0.0
      - value: 1.0
- sources:
  - model: meta-llama/Llama-2-7b-hf
    layer_range: [4, 8]
- sources:
  - model: meta-llama/Llama-2-7b-hf
    layer_range: [7, 8]
    parameters: *silent
merge_method: passthrough
dtype: bfloat16
"""
BOTH = "[{filter: o_proj, value: 0.5}, {filter: down_proj, value: 0.5}]"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a recipe lies."""
    return tmp_path / "recipe.yml"


def recipe(source: str = "", output: str = "", root: str = "") -> str:
    """A recipe of one slice with parameters on three levels; that of the source is on line 3."""
    return (
        f"merge_method: passthrough\nslices:\n"
        f"- sources: [{{model: a, layer_range: [0, 8]{source and ', parameters: ' + source}}}]\n"
        f"{output and '  parameters: ' + output}\n{root and 'parameters: ' + root}\n"
    )


def scaled(scale: str) -> str:
    """A recipe whose source has this scale, on line 3."""
    return recipe(f"{{scale: {scale}}}")


def test_block_expansion_is_a_map_of_damped_copies(file: Path) -> None:
    """Copies that add nothing are what LLaMA Pro begins with."""
    file.write_text(EXPANSION)
    spec = read_mergekit(file).spec
    assert spec == "layers:[0..3,3..3@0,4..7,7..7@0]"
    assert LayerMap.parse(spec, 8) == LayerMap.parse("blocks:3,4@0;7,8@0", 8)


@pytest.mark.parametrize(
    ("scale", "damp"),
    [
        (BOTH, 0.5),
        (BOTH.replace("0.5", "'0.5'"), 0.5),
        (BOTH.replace("0.5", ".5"), 0.5),
        (BOTH.replace("0.5", "+5.0e-1"), 0.5),
        (BOTH.replace("0.5", "5e-1"), 0.5),
        (BOTH.replace("0.5", "0."), 0),
        (BOTH.replace("0.5", "1e-999999999999"), 0),
        (BOTH.replace("0.5", "0." + "3" * 10_000), 1 / 3),
        (BOTH.replace("0.5", "!!float 0"), 0),
        (BOTH.replace("0.5", "[0.5, 0.50]"), 0.5),
        (BOTH.replace("o_proj", "self_attn.o_proj").replace("down", "mlp.down"), 0.5),
        (BOTH.replace("}]", "}, {filter: '*', value: 1}, {filter: mlp, value: 0}]"), 0.5),
        (BOTH.replace("[{", "[{filter: q_proj, value: 1}, {"), 0.5),
        (BOTH.replace("[{", "[{filter: o_proj, value: 0}, {filter: down_proj, value: 0}, {"), 0),
        ("1", 1),
        ("'1.0'", 1),
        ("[1, 1.0, 1]", 1),
        ("{value: 1}", 1),
        ("{value: 1, filter: }", 1),
        ("[]", 1),
        ("[{filter: mlp, value: 1}, {filter: layers.3., value: 1}, {value: [1, 1]}]", 1),
        ("[{filter: '', value: 1}, {filter: mlp, value: 0.5}]", 1),
        ("[{filter: mlp, value: 1}, {filter: mlp.gate, value: 0.5}]", 1),
        (BOTH.replace("0.5", "1"), 1),
    ],
)
def test_one_factor_on_both_projections_damps(file: Path, scale: str, damp: float) -> None:
    """However it is written; a recipe with nothing but ones is undamped."""
    file.write_text(scaled(scale))
    spec, _, factor = read_mergekit(file).spec.strip("]").partition("@")
    assert spec == "layers:[0..7"
    assert float(factor or 1) == damp


@pytest.mark.parametrize(
    ("source", "output", "root", "damp"),
    [
        ("", f"{{scale: {BOTH}}}", "", 0.5),
        ("", "", f"{{scale: {BOTH}}}", 0.5),
        ("{scale: 1}", f"{{scale: {BOTH}}}", "", 1),
        ("{scale: 1}", "{scale: 0.5}", "{scale: 0.5}", 1),
        (f"{{scale: {BOTH}}}", "{scale: 1}", "{scale: 1}", 0.5),
        (f"{{scale: {BOTH}}}", f"{{scale: {BOTH.replace('0.5', '0.25')}}}", "", 0.5),
        ("", f"{{scale: {BOTH}}}", f"{{scale: {BOTH.replace('0.5', '0.25')}}}", 0.5),
        ("{scale: [{filter: o_proj, value: 0.5}]}", "", f"{{scale: {BOTH}}}", 0.5),
        (
            "{scale: {filter: o_proj, value: 0}}",
            "{scale: {filter: down_proj, value: 0}}",
            "{scale: 1}",
            0,
        ),
        ("{scale: []}", "{}", f"{{scale: {BOTH}}}", 0.5),
    ],
)
def test_the_source_goes_before_the_slice_and_that_before_the_root(
    file: Path, source: str, output: str, root: str, damp: float
) -> None:
    """What no entry of a level takes is asked of the next, as in mergekit."""
    file.write_text(recipe(source, output, root))
    assert float(read_mergekit(file).spec.strip("]").partition("@")[2] or 1) == damp


def test_levels_hold_for_their_slices_only(file: Path) -> None:
    """A root's scale reaches the slices that say nothing themselves."""
    source = "- sources: [{{model: a, layer_range: [{}]{}}}]\n"
    file.write_text(
        f"merge_method: passthrough\nparameters: {{scale: {BOTH}}}\nslices:\n"
        + source.format("0, 4", ", parameters: {scale: 1}")
        + source.format("2, 6", "")
        + source.format("5, 8", "")
        + "  parameters: {scale: {value: 1}}\n"
    )
    assert read_mergekit(file).spec == "layers:[0..3,2..5@0.5,5..7]"


@pytest.mark.parametrize(
    ("scale", "what"),
    [
        ("0.5", "scales all weights by 0.5; rys-gguf reads a scale only if it damps layers"),
        ("[0.5, 0.5]", "scales all weights by 0.5; "),
        ("{value: 0.5}", "scales all weights by 0.5; "),
        (BOTH.replace("}]", "}, {value: 0.5}]"), "scales all weights by 0.5; "),
        ("[0.0, 1.0]", "has a gradient, a list of numbers over the layers; give each layer a"),
        (BOTH.replace("0.5}]", "[0.5, 1]}]"), "scale has a gradient"),
        (BOTH.replace("down_proj", "mlp"), "the filter 'mlp', value 0.5, may take other weights"),
        ("{filter: self_attn, value: 0}", "the filter 'self_attn', value 0.0, may take other"),
        (BOTH.replace("down_proj", "down"), "the filter 'down', value 0.5, may take"),
        (BOTH.replace("down_proj", "dwon_proj"), "the filter 'dwon_proj', value 0.5, may take"),
        (BOTH.replace("down", "experts.down"), "the filter 'experts.down_proj', value 0.5, may"),
        (BOTH.replace("}]", "}, {filter: q_proj, value: 0}]"), "the filter 'q_proj', value 0.0"),
        (BOTH.replace("down_proj", "model.layers.3."), "may pick layers by their numbers; give"),
        (BOTH.replace("[{", "[{filter: s.3, value: 1}, {"), "'s.3' may pick layers by their"),
        ("{filter: o_proj, value: 0.5}", "scales o_proj by 0.5 and down_proj by 1.0; "),
        ("{filter: down_proj, value: 0}", "scales o_proj by 1.0 and down_proj by 0.0; "),
        (BOTH.replace("0.5}]", "0.25}]"), "scales o_proj by 0.5 and down_proj by 0.25; "),
        (BOTH.replace("[{", "[{filter: mlp, value: 1}, {"), "o_proj by 0.5 and down_proj by 1.0"),
        (
            BOTH.replace("_proj", "_proj.weight"),
            "scales weights and their biases by different numbers",
        ),
        ("{filter: o_proj}", "an entry of scale without value"),
        ("{filter: o_proj, value: }", "an entry of scale without value"),
        ("{filter: o_proj, value: []}", "an entry of scale without value"),
        ("{fliter: o_proj, value: 0}", "has filter and value, and no 'fliter'"),
        ("{filter: [o_proj], value: 0}", "filter is not a text"),
        ("{filter: true, value: 0}", "filter is not a text"),
        (f"{{filter: {'o_proj' * 99}, value: 0}}", "filter is not a text of up to 200 characters"),
        ("[0.5, {filter: o_proj, value: 0.5}]", "expected an entry of scale with filter and value"),
        ("[[0.5]]", "expected an entry of scale with filter and value"),
        ("{<<: {value: 1}}", "<< is not supported"),
        ("&s [*s]", "expected an entry of scale with filter and value"),
    ],
)
def test_what_is_not_damping_is_refused(file: Path, scale: str, what: str) -> None:
    """The message says where it stands, what it is and what would be read."""
    file.write_text(scaled(scale))
    with pytest.raises(InvalidLayerMap) as caught:
        read_mergekit(file)
    assert str(caught.value).startswith(f"{file}, line 3: ")
    assert what in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "2", "-1", "1.5", "-0.5", "-0.0", "1e400", "1.0e+400", "9" * 5_000, ".nan", ".inf",
        "-.inf", "nan", "inf", "1_0", "0_1", "0x1", "0b1", "010", "01", "0o1", "1:30", "true",
        "off", "~", "half", "'1_0'", "'0x1'", "' 1'", "'1 '", "''", "!!int 0.5", "!!bool 1",
        "!!python/name:os.system x", "!x 1", "2026-11-27", "\u0661", "\u00bd", "{a: 1}", "[[1]]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["{}", "{{value: {}}}", "[1, {}]", "[{{value: [1, {}]}}]"])
def test_only_decimals_from_0_to_1_are_factors(file: Path, value: str, where: str) -> None:
    """Nothing is guessed of other notations, and the message is short enough to read."""
    file.write_text(scaled(where.format(value)), encoding="utf-8")
    with pytest.raises(InvalidLayerMap) as caught:
        read_mergekit(file)
    message = str(caught.value).removeprefix(f"{file}, line 3: ")
    assert message != str(caught.value)
    assert message.isprintable()
    assert len(message) < 300


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ("{weight: 1}", "weight"),
        ("{scale: 1, density: 0.5, t: 1}", "density, t"),
        ("{residual_weight: 1}", "residual_weight"),
        (f"{{{', '.join(f'p{n}: 1' for n in range(9_999))}}}", "p0, p1, "),
        ('{"sc\\e[2J": 1}', r"sc\x1b[2J"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("level", ["source", "output", "root"])
def test_other_parameters_are_refused(file: Path, parameters: str, names: str, level: str) -> None:
    """On every level, by name."""
    file.write_text(recipe(**{level: parameters}))
    line = {"source": 3, "output": 4, "root": 5}[level]
    with pytest.raises(InvalidLayerMap) as caught:
        read_mergekit(file)
    message = str(caught.value).removeprefix(f"{file}, line {line}: ")
    assert message.startswith(f"has parameters ({names}")
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize("value", ["0.5", "1", "[]"])
def test_a_residual_weight_is_refused(file: Path, value: str) -> None:
    """It computes new weights; without a value it is none."""
    text = recipe().replace("- sources", "- residual_weight: VALUE\n  sources")
    file.write_text(text.replace("VALUE", value))
    with pytest.raises(InvalidLayerMap, match=r"line 3: has parameters \(residual_weight\)"):
        read_mergekit(file)
    file.write_text(text.replace("VALUE", "~"))
    assert read_mergekit(file).spec == "layers:[0..7]"


filters = st.sampled_from([
    None, "*", "", "o_proj", "down_proj", "self_attn.o_proj", "mlp.down_proj", "o_proj.weight",
    "down_proj.bias", "self_attn", "mlp", "proj", "q_proj", "gate", "norm", "lm_head",
])  # fmt: skip
entries = st.fixed_dictionaries(
    {"value": st.sampled_from([1, 1, 0.5, 0.5, 0.25])}, optional={"filter": filters}
)
levels = st.one_of(st.lists(entries, max_size=4), entries, st.sampled_from([1, 0.5]))
both = [{"filter": "o_proj", "value": 0.5}, {"filter": "down_proj", "value": 0.5}]


@given(st.lists(levels, max_size=3))
@example([both, 1])
@example([[{"filter": "mlp", "value": 1}, *both], 1])
@example([[{"filter": "mlp", "value": 1}, {"filter": "mlp", "value": 0.5}]])
@example([[*both, {"value": 1}], 0.5])
@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_recipe_is_read_if_mergekit_damps_layers_by_it_and_does_nothing_else(
    file: Path, chain: list[Any]
) -> None:
    """Whatever weights with other names there are in the checkpoint."""
    factors = {name: factor_of(name, chain) for name in NAMES}
    adds = {factors[name] for name in NAMES if "o_proj" in name or "down_proj" in name}
    others = {factors[name] for name in NAMES if "o_proj" not in name and "down_proj" not in name}
    file.write_text(recipe(*(json.dumps({"scale": scale}) for scale in chain)))
    if len(adds) > 1 or others != {1}:
        with pytest.raises(InvalidLayerMap):
            read_mergekit(file)
    else:
        assert {float(read_mergekit(file).spec.strip("]").partition("@")[2] or 1)} == adds


def test_many_entries_take_no_time(file: Path) -> None:
    """Aliases could make of 256 KiB a walk over billions of them."""
    start = time.process_time()
    file.write_text(scaled(f"[{'{filter: o_proj, value: 0}, ' * 1000}]"))
    with pytest.raises(InvalidLayerMap, match="line 3: scale has 1000 entries; at most 32 are"):
        read_mergekit(file)
    file.write_text(scaled(f"[{'1, ' * 80_000}]"))
    with pytest.raises(InvalidLayerMap, match="line 3: scale has 80000 entries; at most 32 are"):
        read_mergekit(file)
    head = f"e: &e {{filter: mlp, value: 1}}\np: &p {{scale: [{'*e, ' * 32}]}}\nparameters: *p\n"
    entry = "s: &s {sources: [{model: a, layer_range: [0, 1], parameters: *p}], parameters: *p}\n"
    tail = f"slices: [{'*s, ' * 512}]\nmerge_method: passthrough\n"
    file.write_text(head + entry + tail)
    assert read_mergekit(file).spec.count("0..0") == 512
    file.write_text(head + entry + tail.replace("[", "[*s, "))
    with pytest.raises(InvalidLayerMap, match=r"takes 513 slices; llama\.cpp stops at 512 layers"):
        read_mergekit(file)
    assert time.process_time() - start < 60


@pytest.mark.parametrize(
    ("arch", "what"),
    [("gemma2", "'post_attention_norm'"), ("qwen3moe", "'ffn_down_exps'"), ("llada", "'llada'")],
)
def test_factors_that_do_not_damp_the_layers_of_a_model_are_refused(
    tmp_path: Path, file: Path, arch: str, what: str
) -> None:
    """A norm behind the projections would undo them; a map with @ would be another model."""
    file.write_text(EXPANSION)
    with Model(tiny.write(tmp_path / "m.gguf", arch, 8)) as model:
        with pytest.raises(Refused, match=f"m.gguf: a recipe of mergekit can damp .* {what}"):
            read_mergekit(file, model)
        file.write_text(EXPANSION.replace("0.0", "1"))
        assert read_mergekit(file, model).spec == "layers:[0..3,3..3,4..7,7..7]"


def test_factors_that_damp_the_layers_of_a_model_are_read(tmp_path: Path, file: Path) -> None:
    """A llama adds the products of the two projections and nothing else."""
    file.write_text(EXPANSION)
    with Model(tiny.write(tmp_path / "m.gguf", "llama", 8)) as model:
        assert read_mergekit(file, model) == read_mergekit(file)
