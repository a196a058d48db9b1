"""The rules by themselves: what each makes of a map, without a model and without an engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gguf
import pytest

from rys_gguf import LayerMap, Refused, Schedule
from rys_gguf.formats.header import KV
from rys_gguf.layers.architectures import PER_LAYER
from rys_gguf.layers.carry import Carried, ModelRules
from rys_gguf.layers.rule import Architecture, Metadata, Rescale, Rule
from rys_gguf.layers.rules import (
    Anchored,
    BoundToPreceding,
    CountSwitch,
    Injection,
    LayerIndex,
    Leading,
    Listed,
    Looped,
    Needed,
    Periodic,
    Phase,
    Pin,
    SharedTail,
    TensorNames,
    TiedTail,
    Unsupported,
)
from tests.layers.metadata import meta, value_kv


def outcome(
    rule: Rule,
    source: Metadata,
    spec: str,
    schedule: Schedule = Schedule.PORTABLE,
    **options: Any,
) -> Carried:
    """What one rule makes of a map."""
    layer_map = LayerMap.parse(spec, source.n_trunk)
    rules = ModelRules(Architecture("a", (rule,), "", **options), source)
    return rules.carry(layer_map, schedule)


@pytest.mark.parametrize(
    ("spec", "moved"),
    [("blocks:0,1", 3), ("blocks:0,2", 4), ("blocks:2,4", 2), ("blocks:1,3", None),
     ("layers:0,2..5", 1), ("layers:2..5", 0), ("layers:2,0,1,3..5", None)],
)  # fmt: skip
def test_a_leading_count_moves_or_the_map_is_refused(spec: str, moved: int | None) -> None:
    """K becomes the number of outputs from inside, which must come first."""
    found = outcome(Leading("lead", "dense", "MoE"), meta(6, lead=2), spec)
    assert bool(found.conflicts) == (moved is None)
    if moved is not None:
        assert found.target.scalar("lead") == moved


def test_a_leading_count_beyond_the_trunk_covers_its_mtp_blocks_as_before() -> None:
    """An MTP block is no layer of the map, but llama.cpp counts it among the first K."""
    rule = Leading("lead", "dense", "MoE")
    assert outcome(rule, meta(6, 1, lead=7), "blocks:0,2").target.scalar("lead") == 9
    assert outcome(rule, meta(6, 1, lead=6), "blocks:0,2").target.scalar("lead") == 8


@pytest.mark.parametrize(
    ("spec", "legal"),
    [("blocks:2,4", True), ("blocks:0,1", False), ("blocks:1,3", False), ("layers:1..5", False)],
)
def test_anchored_layers_stay_in_place_once(spec: str, legal: bool) -> None:
    """The first two neither move nor repeat nor go."""
    assert bool(outcome(Anchored(2, "because"), meta(6), spec).conflicts) != legal


@pytest.mark.parametrize(
    ("spec", "legal"), [("blocks:0,4", True), ("blocks:3,5", False), ("layers:0..4", False)]
)
def test_a_tied_tail_stays_last(spec: str, legal: bool) -> None:
    """The last two neither move nor repeat nor go."""
    assert bool(outcome(TiedTail("tail", "because"), meta(6, tail=2), spec).conflicts) != legal


@pytest.mark.parametrize(
    ("spec", "moved"),
    [
        ("blocks:0,2", 2),
        ("blocks:2,4", 2),
        ("blocks:4,6", 4),
        ("blocks:3,4", None),
        ("blocks:3,5", None),
    ],
)
def test_a_shared_tail_moves_and_keeps_its_two_givers(spec: str, moved: int | None) -> None:
    """Layers 2 and 3 give K/V to 4 and 5, and must stay the two before them."""
    found = outcome(SharedTail("shared"), meta(6, shared=2), spec)
    assert bool(found.conflicts) == (moved is None)
    if moved is not None:
        assert found.target.scalar("shared") == moved


@pytest.mark.parametrize(
    ("spec", "legal"),
    [("blocks:2,4", True), ("blocks:3,4", True), ("blocks:0,6", True), ("blocks:1,3", False)],
)
def test_a_layer_keeps_the_chooser_before_it(spec: str, legal: bool) -> None:
    """With choosers at 0, 2 and 4 a window starts on one or holds none."""
    rule = BoundToPreceding("types", "indexer")
    found = outcome(rule, meta(6, types=[1, 0, 1, 0, 1, 0]), spec)
    assert bool(found.conflicts) != legal


def test_a_layer_named_by_number_is_followed() -> None:
    """ple.layers = [3] becomes [5] after two layers before it; a copy of it is refused."""
    rule = LayerIndex("ple__layers".replace("__", "."), "the layer with the lookup")
    source = meta(6, ple__layers=[3])
    assert outcome(rule, source, "blocks:0,2").target.array("ple.layers") == [5]
    assert outcome(rule, source, "blocks:3,4").conflicts


def test_an_mtp_block_named_by_number_stays_last() -> None:
    """It moves by as many layers as are added."""
    rule = LayerIndex("at", "the gate")
    assert outcome(rule, meta(6, 2, at=[7]), "blocks:0,2").target.array("at") == [9]


def test_lists_of_tensor_names_follow_the_map() -> None:
    """One entry per copy, its parallel value with it; names of the whole model stay."""
    names = ["blk.1.x", "output.weight", "blk.2.x", "blk.6.x"]
    source = meta(6, n_mtp=1)
    kvs = dict(source.kvs)
    kvs |= {kv.key: kv for kv in (value_kv("t.name", names), value_kv("t.value", [7, 8, 9, 10]))}
    found = outcome(TensorNames("t.name", ("t.value",)), replace(source, kvs=kvs), "blocks:1,3")
    assert found.target.kvs["t.name"].value == [
        "blk.1.x", "blk.3.x", "output.weight", "blk.2.x", "blk.4.x", "blk.8.x",
    ]  # fmt: skip
    assert found.target.kvs["t.value"].value == [7, 7, 8, 9, 9, 10]


def test_a_longer_array_keeps_its_surplus() -> None:
    """compress_ratios may be longer than the blocks; the rest stays behind the gathered ones."""
    source = meta(4, ratios=[1, 2, 3, 4, 99])
    found = outcome(Rule(), source, "blocks:1,3", longer_arrays=("ratios",))
    assert found.target.array("ratios") == [1, 2, 3, 2, 3, 4, 99]


def test_an_unsupported_architecture_says_why() -> None:
    """One sentence, and no window is named because none is legal."""
    assert outcome(Unsupported("it loops"), meta(4), "blocks:1,3").conflicts[0].text == "it loops"


def test_a_scalar_that_names_a_layer_is_followed_too() -> None:
    """The key may hold one number; without the key there is nothing to follow."""
    rule = LayerIndex("at", "the gate")
    assert outcome(rule, meta(6, at=3), "blocks:0,2").target.scalar("at") == 5
    assert outcome(rule, meta(6), "blocks:3,4").conflicts == ()


def test_lists_of_another_length_do_not_follow_the_names() -> None:
    """A parallel key must have one value per name, and names must be texts."""
    source = meta(4)
    kvs = {**source.kvs, "n": value_kv("n", ["blk.1.x"]), "v": value_kv("v", [1, 2])}
    found = outcome(TensorNames("n", ("v", "absent")), replace(source, kvs=kvs), "blocks:1,3")
    assert found.target.kvs["n"].value == ["blk.1.x", "blk.3.x"]
    assert found.target.kvs["v"].value == [1, 2]
    found = outcome(TensorNames("v"), replace(source, kvs=kvs), "blocks:1,3")
    assert found.target.kvs["v"].value == [1, 2]


# -- kinds by position ---------------------------------------------------------------------------

HYBRID = Periodic("full", "linear", 4, "interval", array="flags", array_read_by="new", whole=True)


def test_the_period_decides_which_windows_are_portable() -> None:
    """Whole periods pass; anything else is curable, and the explicit array cures it."""
    source = meta(8)
    assert outcome(HYBRID, source, "blocks:0,4").conflicts == ()
    kind, count = outcome(HYBRID, source, "blocks:1,3").conflicts
    assert "output 3 would run as full, but it comes from source 1, linear" in kind.text
    assert "10 layers are not divisible by interval 4" in count.text
    assert kind.curable
    assert count.curable
    found = outcome(HYBRID, source, "blocks:1,3", Schedule.EXPLICIT)
    assert found.conflicts == ()
    assert found.target.array("flags") == [1, 1, 1, 1, 1, 0, 1, 1, 1, 0]
    assert found.notes == ("a.flags lists each layer's kind: new",)


def test_a_period_of_zero_makes_no_layer_special() -> None:
    """As llama.cpp's set_swa_pattern(0) does."""
    assert HYBRID.kinds(meta(3, interval=0)) == ("linear",) * 3


def test_a_period_that_no_layer_reaches_makes_none_special() -> None:
    """The second of every one layer (nomic-bert-moe's i % n == 1) does not exist."""
    rule = Periodic("MoE", "dense", 0, "every", at=1)
    assert rule.kinds(meta(3, every=1)) == ("dense",) * 3
    assert rule.kinds(meta(3, every=2)) == ("dense", "MoE", "dense")


def test_a_divisor_of_zero_does_no_harm_beside_the_array() -> None:
    """llama.cpp reads the period only where no array lists the kinds."""
    source = meta(4, interval=0, flags=[1, 1, 0, 1])
    found = outcome(replace(HYBRID, divides=True), source, "blocks:1,2")
    assert found.conflicts == ()
    assert found.target.array("flags") == [1, 1, 1, 0, 1]


@pytest.mark.parametrize(("flag", "kind"), [(0, "full"), (3, "linear")])
def test_a_number_in_place_of_the_array_holds_for_every_layer(flag: int, kind: str) -> None:
    """As llama.cpp's get_key_or_arr takes it."""
    source = meta(4, flags=flag)
    assert HYBRID.kinds(source) == (kind,) * 4
    found = outcome(HYBRID, source, "blocks:1,2")
    assert found.conflicts == ()
    assert found.target.scalar("flags") == flag
    listed = outcome(HYBRID, source, "blocks:1,2", Schedule.EXPLICIT).target
    assert HYBRID.kinds(listed) == (kind,) * 5


def test_where_the_condition_fails_all_layers_are_alike() -> None:
    """Special, or whatever `otherwise` says; any window is legal."""
    rule = Periodic("full", "sliding", 4, when="window")
    assert rule.kinds(meta(5)) == ("full",) * 5
    assert replace(rule, otherwise="none").kinds(meta(5)) == ("none",) * 5
    assert rule.describe(meta(5)) == "every layer full (no window)"
    assert outcome(rule, meta(5), "blocks:1,2").conflicts == ()
    assert outcome(rule, meta(5, window=8), "blocks:1,2").conflicts


def test_an_array_shorter_than_the_model_leaves_the_tail_special() -> None:
    """llama.cpp reads it into zeroed memory without a length check."""
    source = meta(4, flags=[1, 0])
    assert HYBRID.kinds(source) == ("linear", "full", "full", "full")
    assert HYBRID.describe(source) == "a.flags lists the kind of each layer"


def test_a_source_whose_array_differs_from_its_positions_needs_no_portability() -> None:
    """It never ran on engines that do not read the array; the gathered array is enough."""
    source = meta(8, flags=[1, 0, 1, 0, 1, 0, 1, 0])
    found = outcome(HYBRID, source, "blocks:1,2")
    assert found.conflicts == ()
    assert found.target.array("flags") == [1, 0, 0, 1, 0, 1, 0, 1, 0]


def test_an_unknown_period_is_kept() -> None:
    """Each output keeps its source's phase."""
    assert outcome(Phase(2), meta(6), "blocks:2,4").conflicts == ()
    assert "a period of 2" in outcome(Phase(2), meta(6), "blocks:2,3").conflicts[0].text


# -- per-layer arrays ----------------------------------------------------------------------------


def test_listed_kinds_follow_their_array() -> None:
    """Any map is legal, unless the last output must have something that it lacks."""
    rule = Listed("kv", "attention", "recurrent")
    source = meta(4, kv=[2, 2, 0, 2])
    assert rule.kinds(source) == ("attention", "attention", "recurrent", "attention")
    assert rule.kinds(meta(4, kv=2)) is None
    assert rule.describe(meta(4, kv=2)) is None
    assert outcome(rule, source, "blocks:2,3").conflicts == ()
    at_end = replace(rule, at_end=True)
    (conflict,) = outcome(at_end, source, "layers:0..2").conflicts
    assert conflict.text == "output 2 (source 2) is recurrent and cannot be last"


@pytest.mark.parametrize("layers", ["0,1", "2,3"])
def test_a_kind_that_is_needed_may_not_go(layers: str) -> None:
    """By list or by position; a source that has no such layer needs none."""
    kind = {"0,1": "x", "2,3": "y"}[layers]
    listed = Listed("kinds", "x", "y", kept=("x", "y", "z"))
    (conflict,) = outcome(listed, meta(4, kinds=[0, 0, 1, 1]), f"layers:{layers}").conflicts
    assert (
        conflict.text == f"no layer would run as {kind} any more, and llama.cpp aborts without one"
    )
    periodic = replace(HYBRID, kept=("full", "linear"))
    source = meta(4, flags=[1, 1, 0, 0])
    (conflict,) = outcome(periodic, source, f"layers:{layers}").conflicts
    assert ("full" in conflict.text) == (layers == "0,1")
    assert outcome(periodic, source, "layers:1,2").conflicts == ()


def test_a_needed_layer_is_known_by_several_lists() -> None:
    """It has the given number in each of them."""
    rule = Needed("recurrent", (("kv", 0), ("ff", 0)))
    source = meta(4, kv=[0, 2, 0, 0], ff=[0, 0, 8, 8])
    assert outcome(rule, source, "layers:0,3").conflicts == ()
    (conflict,) = outcome(rule, source, "layers:1..3").conflicts
    assert "would run as recurrent any more" in conflict.text
    assert outcome(rule, meta(4, kv=[0] * 4, ff=8), "layers:1..3").conflicts == ()


def test_defaults_of_a_missing_array_are_written() -> None:
    """Entries that followed from the position must not follow from the new one."""
    rule = BoundToPreceding("types", "indexer", by_default=lambda m: [1, 0] * (m.n_trunk // 2))
    found = outcome(rule, meta(4), "blocks:0,2")
    assert found.target.array("types") == [1, 0, 1, 0, 1, 0]
    assert rule.kinds(meta(4)) == ("own indexer", "shared indexer") * 2
    # A scalar holds for every layer, and is not spelled out.
    assert rule.kinds(meta(4, types=1)) == ("own indexer",) * 4
    assert outcome(rule, meta(4, types=1), "blocks:0,2").target.scalar("types") == 1


def test_layers_that_take_no_part_do_not_choose() -> None:
    """Only users of the choice count, and without the condition nobody does."""
    rule = BoundToPreceding("types", "indexer", users="kv")
    source = meta(4, types=[1, 1, 0, 0], kv=[2, 0, 2, 2])
    assert outcome(rule, source, "blocks:1,2").conflicts == ()
    assert outcome(rule, source, "layers:1..3").conflicts
    idle = BoundToPreceding("types", "indexer", when="top_k")
    assert idle.kinds(source) is None
    assert idle.describe(source) is None
    assert outcome(idle, source, "layers:1..3").conflicts == ()


def test_what_is_added_to_inputs_stays_with_its_layers() -> None:
    """Copies of layer 0 get nothing; a layer that gets something cannot become layer 0."""
    rule = Injection("map")
    source = meta(4, map=[-1, 0, 1, -1])
    assert outcome(rule, source, "blocks:0,2").target.array("map") == [-1, 0, -1, 0, 1, -1]
    (conflict,) = outcome(rule, source, "layers:1..3").conflicts
    assert "source 1 is given image features" in conflict.text
    assert outcome(rule, source, "layers:3,0..2").conflicts == ()
    assert outcome(rule, meta(4), "layers:1..3").conflicts == ()


def test_what_is_added_is_read_with_a_sign() -> None:
    """-1 is 2^32 - 1 in an array of UINT32, which keeps its type."""
    nothing = 2**32 - 1
    rule, source = Injection("map"), meta(4, map=[nothing, 0, 1, nothing])
    assert outcome(rule, source, "blocks:0,1").target.array("map") == [
        nothing, nothing, 0, 1, nothing,
    ]  # fmt: skip
    assert outcome(rule, source, "layers:3,0..2").conflicts == ()
    assert outcome(rule, source, "layers:1..3").conflicts


# -- first and last layers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "key", "spec", "kind"),
    [
        (Leading("k", "dense", "MoE"), "k", "layers:2..5", "MoE"),
        (SharedTail("k"), "k", "layers:0..3", "own K/V"),
    ],
)
def test_a_count_that_becomes_zero_still_tells_the_kind(
    rule: Rule, key: str, spec: str, kind: str
) -> None:
    """A map may drop all layers of one kind; the others are still what they were."""
    values: dict[str, Any] = {key: 2}
    source = meta(6, **values)
    found = outcome(rule, source, spec)
    assert found.conflicts == ()
    assert found.target.scalar(key) == 0
    assert rule.kinds(found.target) == (kind,) * 4
    rules = ModelRules(Architecture("a", (rule,), ""), source)
    assert list(rules.deviations(found.target, LayerMap.parse(spec, 6))) == []


def test_what_does_not_hold_is_not_described() -> None:
    """A count of 0 means that the rule does not hold for this model."""
    for rule in (Leading("k", "dense", "MoE"), SharedTail("k"), Anchored("k", "because")):
        assert rule.describe(meta(4)) is None
        assert str(2 if not isinstance(rule, SharedTail) else 4) in str(rule.describe(meta(6, k=2)))
        assert outcome(rule, meta(4), "blocks:1,3").conflicts == ()


# -- the number of layers ------------------------------------------------------------------------


def test_a_count_that_changes_the_computation_is_not_crossed() -> None:
    """Neither to it nor from it, except where data can make up for it."""
    rule = CountSwitch(frozenset({6}), "everything")
    assert (
        "6 -> 8 layers would change everything"
        in outcome(rule, meta(6), "blocks:0,2").conflicts[0].text
    )
    assert outcome(rule, meta(4), "blocks:0,2").conflicts
    assert outcome(rule, meta(4), "blocks:0,1").conflicts == ()
    assert outcome(CountSwitch(None, "it"), meta(4), "blocks:0,1").conflicts
    assert outcome(CountSwitch(None, "it"), meta(4), "layers:3,2,1,0").conflicts == ()
    never = CountSwitch(frozenset({6}), "it", applies=lambda _: False)
    assert outcome(never, meta(6), "blocks:0,2").conflicts == ()


@pytest.mark.parametrize(
    ("new", "note"),
    [(False, "blk.N.q.weight multiplied by 3"), (True, "blk.N.q.weight 3 added to every layer")],
)
def test_a_repair_is_made_explicitly_only(new: bool, note: str) -> None:
    """The explicit schedule changes data; the portable one refuses and is curable."""
    rescale = Rescale("q.weight", lambda source, target: target.n_trunk / source.n_trunk * 2, new)
    rule = CountSwitch(frozenset({4}), "the scale", repair=rescale)
    (conflict,) = outcome(rule, meta(4), "blocks:0,2").conflicts
    assert conflict.curable
    found = outcome(rule, meta(4), "blocks:0,2", Schedule.EXPLICIT)
    assert (found.conflicts, dict(found.scales)) == ((), {rescale: 3.0})
    assert note in found.notes[0]
    assert rule.limit(Schedule.PORTABLE) == "not to or from 4 layers"
    assert rule.limit(Schedule.EXPLICIT) is None


@pytest.mark.parametrize(
    ("counts", "limit"),
    [
        (frozenset({26, 27}), "not to or from 26 or 27 layers"),
        (range(64, 513), "not across 64 layers"),
        (None, "same layer count"),
    ],
)
def test_the_limit_of_a_switch_names_its_counts(counts: Any, limit: str) -> None:
    """What the table shows for windows."""
    assert CountSwitch(counts, "it").limit(Schedule.PORTABLE) == limit


def test_a_derived_value_is_pinned() -> None:
    """The source's value is written where the key is missing, and only there."""
    rule = Pin("scale", gguf.GGUFValueType.FLOAT32, lambda m: 1 / m.n_trunk)
    found = outcome(rule, meta(4), "blocks:0,2")
    kv = found.target.kv("scale")
    assert kv is not None
    assert kv.value == 0.25
    assert found.notes[0].startswith("a.scale 0.25 written")
    assert outcome(rule, meta(4, scale=1.0), "blocks:0,2").notes == ()
    nothing = Pin("scale", gguf.GGUFValueType.FLOAT32, lambda _: None)
    assert outcome(nothing, meta(4), "blocks:0,2").target.kv("scale") is None


def test_a_crossed_count_is_a_deviation_of_the_file() -> None:
    """A file made without the rules is judged by its number of layers."""
    rule = CountSwitch(frozenset({6}), "the scale")
    rules = ModelRules(Architecture("a", (rule,), ""), meta(6))
    layer_map = LayerMap.parse("blocks:0,2", 6)
    (found,) = rules.deviations(meta(8), layer_map)
    assert found == ("layer count", "6 -> 8 layers would change the scale")


def test_a_rule_may_have_nothing_to_say() -> None:
    """Every question has an answer for it."""
    rule = Rule()
    assert rule.statement() is None
    assert rule.limit(Schedule.PORTABLE) is None
    assert rule.kinds(meta(4)) is None
    assert outcome(rule, meta(4), "layers:3,3,0").conflicts == ()


def test_a_looped_stack_has_slots_for_512_layers() -> None:
    """Each pass over the stack takes slots of its own."""
    assert outcome(Looped("loops"), meta(200, loops=2), "blocks:0,50").conflicts == ()
    (conflict,) = outcome(Looped("loops"), meta(200, loops=2), "blocks:0,100").conflicts
    assert "makes 600, llama.cpp stops at 512" in conflict.text


def test_mtp_blocks_count_against_the_512() -> None:
    """The engine has slots for trunk and tail together."""
    (conflict,) = outcome(Rule(), meta(500, n_mtp=3), "blocks:0,10").conflicts
    assert conflict.text == "513 blocks are more than llama.cpp's 512"


# -- metadata that no engine would load ----------------------------------------------------------


T = gguf.GGUFValueType


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (T.FLOAT32, 1.5), (T.FLOAT64, 4.0), (T.STRING, "two"), (T.INT32, -3), (T.INT32, 3),
        (T.UINT64, 3), (T.UINT8, 3), (T.BOOL, True), (T.UINT32, 2**31), (T.UINT32, 2**32 - 1),
    ],
)  # fmt: skip
def test_a_count_of_another_type_or_size_is_refused(type_: T, value: Any) -> None:
    """llama.cpp reads UINT32, partly into numbers with a sign; it does not load anything else."""
    source = meta(4).with_kv(KV.of("a.k", type_, value))
    with pytest.raises(Refused, match=rf"a\.k is {type_.name} .* expects a whole number from 0 to"):
        source.scalar("k")
    assert meta(4, k=2**31 - 1).scalar("k") == 2**31 - 1


@pytest.mark.parametrize(
    ("type_", "items"),
    [
        (T.STRING, ["x"]), (T.FLOAT32, [1.0]), (T.FLOAT32, [float("nan")]), (T.INT64, [1]),
        (T.UINT8, [1]), (T.UINT32, [0] * 513),
    ],
)  # fmt: skip
def test_an_array_of_anything_but_512_whole_numbers_is_refused(type_: T, items: list[Any]) -> None:
    """Other types, and more entries than llama.cpp has slots."""
    source = meta(4).with_kv(KV.of("a.k", T.ARRAY, items, item_type=type_))
    with pytest.raises(Refused, match="expects at most 512 numbers, as UINT32, INT32 or BOOL"):
        source.array("k")
    for right in (T.UINT32, T.INT32, T.BOOL):
        source = meta(4).with_kv(KV.of("a.k", T.ARRAY, [1, 0], item_type=right))
        assert source.array("k") == [1, 0]


FLAGS = meta(4).with_flags("k", [True, False, False, False])


@pytest.mark.parametrize(
    ("rule", "source", "message"),
    [
        (Periodic("x", "y", 4, "k", divides=True), meta(4, k=0),
         r"a\.k is 0; llama\.cpp divides by it and expects at least 1"),
        (Looped("k"), meta(4, k=0), r"a\.k is 0; llama\.cpp expects at least 1"),
        (TiedTail("k", "because"), meta(4, k=4), r"a\.k is 4; expected less than the 4 layers"),
        (SharedTail("k"), meta(4, k=3), r"a\.k is 3; of 4 layers the first two or more need K/V"),
        (SharedTail("k"), meta(4, k=9), r"a\.k is 9; of 4 layers"),
        (LayerIndex("k", "it"), meta(4, k=4), r"a\.k is 4; it names block 4, the file has 4"),
        (LayerIndex("k", "it"), meta(4, k=[-1]), r"a\.k is ARRAY\[INT32, 1\]; it names block -1"),
        (LayerIndex("k", "it"), meta(4, 1, k=[5]), "it names block 5, the file has 5 blocks"),
        (LayerIndex("k", "it"), FLAGS, r"a\.k is ARRAY\[BOOL, 4\]; expected the numbers of layers"),
        (Injection("k"), FLAGS, r"a\.k is ARRAY\[BOOL, 4\]; expected numbers, -1 for nothing"),
        (BoundToPreceding("k", "it"), meta(4, k=[1, 1]), "has 2 entries for 4 blocks"),
    ],
)  # fmt: skip
def test_a_number_that_means_nothing_is_refused(rule: Rule, source: Metadata, message: str) -> None:
    """Divisors of 0, counts of more than there is, and numbers of layers that do not exist."""
    with pytest.raises(Refused, match=message):
        outcome(rule, source, "blocks:1,2")


def test_a_short_list_of_choosers_is_named_in_a_finished_file() -> None:
    """What is judged there has not been through a map."""
    rule = BoundToPreceding("k", "indexer")
    with pytest.raises(Refused, match="expected an entry for each of 4 layers"):
        rule.kinds(meta(4, k=[1, 1]))


def test_a_per_layer_array_of_another_length_is_refused() -> None:
    """A source that is inconsistent is not carried over; a list of texts is none of ours."""
    rule = Listed("kinds", "x", "y")
    with pytest.raises(Refused, match=r"a\.kinds has 3 entries for 4 blocks"):
        outcome(rule, meta(4, kinds=[1, 0, 1]), "blocks:0,1")
    assert outcome(Rule(), meta(4, tags=["a", "b", "c", "d"]), "blocks:0,1").target.kvs[
        "a.tags"
    ].value == ["a", "b", "c", "d"]


@pytest.mark.parametrize("type_", [T.INT32, T.FLOAT32, T.UINT64])
@pytest.mark.parametrize("key", PER_LAYER)
def test_sizes_that_every_architecture_has_are_numbers(key: str, type_: T) -> None:
    """Whether a rule reads them or not: in one for all layers, and in a list."""
    value = -4 if type_ is T.INT32 else 4
    one = meta(3).with_kv(KV.of(f"a.{key}", type_, value))
    several = meta(3).with_kv(KV.of(f"a.{key}", T.ARRAY, [4, 4, value], item_type=type_))
    for source in (one, several):
        with pytest.raises(Refused, match=rf"a\.{key} is .*; llama.cpp expects"):
            outcome(Rule(), source, "blocks:0,1")


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({"arrays": ("k",)}, {5}),
        ({"longer_arrays": ("k",)}, {4, 5, 6, 7}),
        ({"arrays": ("k",), "longer_arrays": ("k",)}, {5, 6, 7}),
    ],
)
def test_the_length_of_an_array_depends_on_how_it_is_read(
    options: dict[str, Any], lengths: set[int]
) -> None:
    """Four layers and an MTP block: with its entry, without a check, with a lower bound."""
    for n in range(3, 8):
        source = meta(4, 1, k=list(range(n)))
        if n in lengths:
            found = outcome(Rule(), source, "blocks:0,1", **options)
            assert found.target.array("k") == [0, *range(n)]
        else:
            with pytest.raises(Refused, match=rf"a\.k has {n} entries for"):
                outcome(Rule(), source, "blocks:0,1", **options)


def test_choosers_are_listed_for_the_trunk_only() -> None:
    """llama.cpp reads as many entries as there are layers without MTP blocks."""
    rule = BoundToPreceding("k", "indexer")
    assert outcome(rule, meta(4, 1, k=[1] * 4), "blocks:0,1").target.array("k") == [1] * 5
    with pytest.raises(Refused, match=r"a\.k has 5 entries for 4 layers"):
        outcome(rule, meta(4, 1, k=[1] * 5), "blocks:0,1")


def test_an_array_sizes_the_model_by_its_first_entry() -> None:
    """A map may not put a layer first whose head count differs from layer 0's."""
    source = meta(3, attention__head_count=[4, 8, 4])
    (conflict,) = outcome(Rule(), source, "layers:1..2").conflicts
    assert "attention.head_count starts with 8 instead of 4" in conflict.text
    assert outcome(Rule(), source, "layers:0,2,1").conflicts == ()
