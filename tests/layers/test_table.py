"""The table of architectures: every entry by itself, in words and on random maps."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rys_gguf import LayerMap, Refused, Schedule
from rys_gguf.layers.architectures import ARCHITECTURES, PER_LAYER
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.describe import entry
from rys_gguf.layers.rule import Metadata
from rys_gguf.layers.rules import Unsupported
from tests.cli.calls import done, refused
from tests.layers.metadata import meta, value_kv

NAMES = sorted(ARCHITECTURES)
N = 12


def test_every_entry_has_a_source_and_words() -> None:
    """The table is for reading: each entry names its file in llama.cpp and says what is legal."""
    assert len(ARCHITECTURES) >= 155
    for name, arch in ARCHITECTURES.items():
        words = entry(arch)
        assert arch.source.startswith("src/models/"), name
        assert words.portable
        assert words.rules


_BERT = "after the first 1; before the last decision.block_count"
_NGRAMS = "without the layer with n-gram embeddings"
_GEMMA = "kinds of period 6 (attention.sliding_window_pattern); not to or from 62 layers"


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("llama", "any"),
        ("minimax-01", "none"),
        ("rwkv6", "none with rescale_every_n_layers"),
        ("llama4", "kinds of period 4 (attention.sliding_window_pattern); kinds of period 4; "),
        ("smollm3", "kinds of period 4"),
        ("gemma3", f"{_GEMMA}; explicit: any"),
        ("modern-bert", f"kinds of period 3 (attention.sliding_window_pattern); {_BERT}; "),
        ("modern-bert", f"; explicit: {_BERT}"),
        ("gemma4", "one side of the last attention.shared_kv_layers"),
        (
            "glm-dsa",
            "starting on a layer with its own indexer, or holding none; one side of leading_dense",
        ),
        (
            "qwen4exp",
            f"kinds of period 4 (full_attention_interval); {_NGRAMS}; explicit: {_NGRAMS}",
        ),
    ],
)
def test_what_a_window_respects_is_said_for_both_schedules(name: str, verdict: str) -> None:
    """One line per architecture; one answer where both schedules agree."""
    assert verdict in entry(ARCHITECTURES[name]).verdict


def test_the_table_is_printed() -> None:
    """All entries in one line each, one entry in full, an unknown name refused."""
    assert len(done("architectures").stdout.splitlines()) == 1 + len(ARCHITECTURES)
    shown = done("architectures", "gemma3").stdout
    assert "every 6" in shown
    assert "src/models/gemma3.cpp" in shown
    assert "not in the table" in refused("architectures", "nonesuch")


def flags(like: int = 1) -> st.SearchStrategy[list[int]]:
    """An array with an entry per layer: 0, or `like`."""
    return st.lists(st.sampled_from([0, like]), min_size=N, max_size=N)


SMALL = st.integers(0, N)
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "attention__compress_ratios": flags(4),
    "attention__head_count": st.just(4) | flags(4),
    "attention__head_count_kv": st.just(2) | flags(2),
    "attention__indexer__top_k": st.integers(0, 8),
    "attention__indexer__types": flags() | st.just(1),
    "attention__recurrent_layers": flags(),
    "attention__rope_pattern": flags(),
    "attention__shared_kv_layers": SMALL,
    "attention__sliding_window": st.integers(0, 64),
    "attention__sliding_window_pattern": SMALL | flags(),
    "context_length": st.sampled_from([4096, 1 << 20]),
    "decision__block_count": SMALL,
    "deepstack_mapping": st.lists(st.integers(-1, 2), min_size=N, max_size=N),
    "embedding_length": st.just(64),
    "feed_forward_length": st.just(64) | flags(64),
    "full_attention_interval": SMALL,
    "hash_layer_count": SMALL,
    "interleave_moe_layer_step": SMALL,
    "leading_dense_block_count": SMALL,
    "moe_every_n_layers": SMALL,
    "n_deepstack_layers": SMALL,
    "num_loops": st.integers(1, 4),
    "ple__layers": st.lists(st.integers(0, N - 1), min_size=1, max_size=2, unique=True),
}


# Those of them that may list one value per layer, and what stands beside 0 there.
LISTS = {
    "attention__compress_ratios": 4,
    "attention__head_count": 4,
    "attention__head_count_kv": 2,
    "attention__indexer__types": 1,
    "attention__recurrent_layers": 1,
    "attention__rope_pattern": 1,
    "attention__sliding_window_pattern": 1,
    "feed_forward_length": 64,
}


@st.composite
def models(draw: st.DrawFn, name: str) -> Metadata:
    """Metadata of an architecture with some of the keys that its rules know, and others."""
    keys = draw(st.lists(st.sampled_from(sorted(KEYS)), unique=True))
    values = {key: draw(KEYS[key]) for key in keys}
    return meta(N, draw(st.integers(0, 1)), name, **values)


@pytest.mark.no_cover
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(data=st.data())
def test_a_map_without_conflicts_keeps_every_kind(name: str, data: st.DataObject) -> None:
    """Whatever the rules let pass runs as its source, judged by the target's metadata alone.

    This is what the read-back of a written file relies on.
    """
    rules = ModelRules(ARCHITECTURES[name], data.draw(models(name)))
    i = data.draw(st.integers(0, N - 1))
    windows = LayerMap.from_blocks([(i, data.draw(st.integers(i + 1, N)))], N)
    paths = st.lists(st.integers(0, N - 1), min_size=1, max_size=16)
    layer_map = data.draw(st.just(windows) | paths.map(lambda s: LayerMap(N, tuple(s))))
    schedule = data.draw(st.sampled_from(Schedule))
    try:
        carried = rules.carry(layer_map, schedule)
    except Refused:
        return
    assert carried.target.scalar("block_count") == len(layer_map) + rules.meta.n_mtp
    if not carried.conflicts:
        assert list(rules.deviations(carried.target, layer_map)) == []


def random_values(rng: random.Random, n: int) -> dict[str, Any]:
    """Some keys for a model of `n` layers, drawn like those of `models`."""
    values: dict[str, Any] = {}
    for key in rng.sample(sorted(KEYS), rng.randint(0, len(KEYS))):
        if key in LISTS and rng.random() < 0.5:
            values[key] = [rng.choice([0, LISTS[key]]) for _ in range(n)]
        elif key == "deepstack_mapping":
            values[key] = [rng.randint(-1, 2) for _ in range(n)]
        elif key == "ple__layers":
            values[key] = [rng.randrange(n)]
        else:
            values[key] = rng.choice([0, 1, 2, 4, n, 4096, 1 << 20])
    return values


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
@pytest.mark.parametrize("name", NAMES)
def test_the_rules_have_an_answer_for_every_number_of_layers(name: str) -> None:
    """Many rules depend on the count: none fails at 1 layer, or around a count of its own."""
    rng = random.Random(name)
    n_legal = 0
    for n in (*range(1, 41), *range(41, 131, 7)):
        rules = ModelRules(ARCHITECTURES[name], meta(n, n % 2, name, **random_values(rng, n)))
        i = rng.randrange(n)
        window = LayerMap.from_blocks([(i, rng.randint(i + 1, n))], n)
        path = LayerMap(n, tuple(rng.randrange(n) for _ in range(rng.randint(1, n + 8))))
        for layer_map in (LayerMap.identity(n), window, path):
            schedule = rng.choice(list(Schedule))
            try:
                carried = rules.carry(layer_map, schedule)
                target = carried.target
                assert len(rules.kinds) == n
                assert len(replace(rules, meta=target).kinds) == len(layer_map)
                assert all(rules.in_words)
                found = list(rules.deviations(target, layer_map))
            except Refused as e:
                assert str(e).startswith(f"{name}"), e  # noqa: PT017 - it names a key
                continue
            if not carried.conflicts:
                assert found == []
                n_legal += 1
            other = LayerMap(n, (*layer_map.sources, 0)[-512:])
            ((subject, _),) = rules.deviations(target, other)
            assert subject == "layer count"
    final = any(isinstance(rule, Unsupported) for rule in ARCHITECTURES[name].rules)
    assert n_legal > 20 or final


@pytest.mark.parametrize("name", NAMES)
def test_the_identity_is_always_legal(name: str) -> None:
    """A map that changes nothing has no conflict, unless none is possible."""
    rules = ModelRules(ARCHITECTURES[name], meta(N, 0, name))
    carried = rules.carry(LayerMap.identity(N), Schedule.PORTABLE)
    assert all(conflict.final for conflict in carried.conflicts)
    assert all(rules.in_words)
    assert len(rules.kinds) == N


@pytest.mark.parametrize("key", ["token_ids_activate", "token_ids_substitute"])
def test_as_many_adapters_as_layers_are_no_array_per_layer(key: str) -> None:
    """A graniteswitch model lists a token per adapter, and a map leaves the adapters alone."""
    source = meta(N, 0, "graniteswitch", **{f"adapters__{key}": list(range(N))})
    carried = ModelRules(ARCHITECTURES["graniteswitch"], source).carry(
        LayerMap.parse("blocks:3,5", N), Schedule.PORTABLE
    )
    assert carried.target.array(f"adapters.{key}") == list(range(N))


# -- values that follow from the number of layers ------------------------------------------------


def pinned(name: str, n: int, spec: str, n_vocab: int = 0, **values: Any) -> Metadata:
    """The metadata that a map gives an architecture of `n` layers."""
    source = meta(n, 0, name, **values)
    if n_vocab:
        source = source.with_kv(value_kv("tokenizer.ggml.tokens", [0] * n_vocab))
    rules = ModelRules(ARCHITECTURES[name], source)
    return rules.carry(LayerMap.parse(spec, n), Schedule.PORTABLE).target


@pytest.mark.parametrize(
    ("n", "n_vocab", "gating"),
    [(47, 154_880, 2), (48, 154_880, 2), (46, 154_880, 1), (46, 5, None)],
)
def test_the_router_of_glm_flash_is_written(n: int, n_vocab: int, gating: int | None) -> None:
    """deepseek2 derives it from the count for that vocabulary; the source's is kept."""
    target = pinned("deepseek2", n, "blocks:4,6", n_vocab, attention__q_lora_rank=8)
    assert target.scalar("expert_gating_func") == gating


@pytest.mark.parametrize(("n", "n_vocab", "rank"), [(27, 5, 0), (48, 128_256, 0), (48, 5, None)])
def test_a_lite_model_keeps_q_in_one_piece(n: int, n_vocab: int, rank: int | None) -> None:
    """27 layers mean deepseek2-lite: the rank that its file lacks is written as 0."""
    assert pinned("deepseek2", n, "blocks:4,6", n_vocab).scalar("attention.q_lora_rank") == rank


def test_the_residual_scale_of_minicpm_is_written() -> None:
    """1.4 / sqrt(layers), of the source's layers."""
    kv = pinned("minicpm", 49, "blocks:4,6").kv("residual_scale")
    assert kv is not None
    assert kv.value == pytest.approx(0.2)


def test_the_indexers_of_long_glm_dsa_follow_its_table() -> None:
    """With a context of 1M llama.cpp has a table; the output has its own array instead."""
    array = pinned("glm-dsa", 80, "blocks:2,6", context_length=1 << 20).array(
        "attention.indexer.types"
    )
    assert array is not None
    assert array[:12] == [1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0]
    assert array[-2:] == [0, 0]
    assert pinned("glm-dsa", 80, "blocks:2,6").kv("attention.indexer.types") is None


@pytest.mark.parametrize("embedding_length", [0, 64])
def test_a_scale_without_widths_is_refused(embedding_length: int) -> None:
    """No factor undoes a change that llama.cpp itself could not compute."""
    values: dict[str, Any] = {"embedding_length": embedding_length, "attention__key_length": 0}
    if not embedding_length:
        values["attention__key_length"] = 32
    source = meta(62, 0, "gemma3", attention__head_count=4, **values)
    rules = ModelRules(ARCHITECTURES["gemma3"], source)
    with pytest.raises(Refused, match="the attention scale cannot be worked out"):
        rules.carry(LayerMap.parse("blocks:0,6", 62), Schedule.EXPLICIT)


def test_the_scale_of_gemma_is_undone_by_its_inverse() -> None:
    """sqrt(key_length / (embedding_length / head_count)), either way across the count."""
    widths: dict[str, Any] = {"embedding_length": 64, "attention__key_length": 64}
    for n, spec, factor in ((62, "blocks:0,6", 2.0), (56, "blocks:0,6", 0.5)):
        source = meta(n, 0, "gemma3", attention__head_count=4, **widths)
        rules = ModelRules(ARCHITECTURES["gemma3"], source)
        (scale,) = rules.carry(LayerMap.parse(spec, n), Schedule.EXPLICIT).scales.values()
        assert scale == factor


@pytest.mark.parametrize(("template", "is_legal"), [(False, False), (True, True)])
def test_forty_tekken_layers_need_a_template(template: bool, is_legal: bool) -> None:
    """llama.cpp guesses mistral-v7-tekken by the count, in every architecture."""
    source = meta(40, 0, "llama").with_kv(value_kv("tokenizer.ggml.pre", "tekken"))
    if template:
        source = source.with_kv(value_kv("tokenizer.chat_template", "x"))
    rules = ModelRules(ARCHITECTURES["llama"], source)
    carried = rules.carry(LayerMap.parse("blocks:1,2", 40), Schedule.PORTABLE)
    assert (not carried.conflicts) == is_legal


def test_the_keys_of_the_strategy_are_those_of_the_table() -> None:
    """A key that no rule reads any more would test nothing."""
    known = set(PER_LAYER)
    for arch in ARCHITECTURES.values():
        known |= {*arch.arrays, *arch.longer_arrays}
        for rule in arch.rules:
            known |= {str(getattr(rule, field, "")) for field in type(rule).__dataclass_fields__}  # type: ignore[attr-defined]
    used = {key.replace("__", ".") for key in KEYS} - {"context_length", "embedding_length"}
    assert used <= known
