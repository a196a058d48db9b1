"""A variant gives back what it was made from, byte for byte, or says what it lacks."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rys_gguf import (
    InvalidGGUF,
    InvalidLayerMap,
    LayerMap,
    Model,
    OutputFailed,
    Refused,
    RysError,
    Schedule,
    align,
    apply,
    find_problems,
    make_plan,
    plan_undo,
    resolve_layer_map,
    unapply,
    write_plan,
)
from rys_gguf.formats.header import KV, Header, padded
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.patch.provenance import LAYERS_KEY, recorded_map
from rys_gguf.patch.undo import n_compared_bytes
from tests import tiny
from tests.strategies import values

P, E = Schedule.PORTABLE, Schedule.EXPLICIT


def undo(variant: Path, *, to_base: bool = False, exact: bool = True) -> bytes:
    """The bytes of the file that a variant gives back."""
    out = variant.with_name("undone.gguf")
    done: list[int] = []
    with Model(variant) as model:
        planned = plan_undo(model, to_base=to_base, exact=exact)
        total = n_compared_bytes(planned) + planned.n_bytes
        unapply(planned, out, force=True, progress=done.append)
    assert sum(done) == total
    return out.read_bytes()


def refusal(variant: Path, *, to_base: bool = False, exact: bool = True) -> str:
    """Why a variant gives nothing back."""
    with Model(variant) as model, pytest.raises(Refused) as caught:
        plan_undo(model, to_base=to_base, exact=exact)
    assert str(caught.value).startswith(model.name)
    return str(caught.value)


def rewritten(path: Path, out: Path, *changes: KV, drop: tuple[str, ...] = ()) -> Path:
    """The file with some values of its header replaced, added or (by how they begin) dropped."""
    new = {kv.key: kv for kv in changes}
    with Model(path) as model:
        old = model.header
        kvs = [new.pop(kv.key, kv) for kv in old.kvs if not kv.key.startswith(drop or ("\0",))]
        header = Header(old.version, old.byteorder, (*kvs, *new.values()), old.tensors)
        data = path.read_bytes()[old.data_offset :]
        encoded = b"".join(
            piece if isinstance(piece, bytes) else b"".join(model.read(piece))
            for piece in header.encode()
        )
    out.write_bytes(encoded + data)
    return out


# -- any map on any architecture -----------------------------------------------------------------

# With an array, a count that moves, tensors of the whole model, MTP blocks, keys that are written.
ARCHITECTURES: list[tuple[str, int, dict[str, Any]]] = [
    ("llama", 6, {}),
    ("apertus", 4, {}),
    ("minicpm", 4, {"residual_scale": None}),
    ("gemma2", 6, {}),
    ("gemma3", 12, {}),
    ("cohere2", 8, {"pattern": True}),
    ("deepseek2", 6, {"expert_gating_func": None}),
    ("jamba", 8, {}),
    ("gemma4", 8, {"shared_kv_layers": 2}),
    ("qwen35", 8, {"n_mtp": 1}),
    ("qwen35moe", 8, {"n_mtp": 2, "recurrent_layers": True}),
    ("qwen3next", 8, {}),
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One model of each of these architectures."""
    folder = tmp_path_factory.mktemp("bases")
    return [
        tiny.write(
            folder / f"{n}-{arch}.gguf",
            arch,
            n_layers,
            extra={"general.name": "Tiny", "general.size_label": "1K"},
            **options,
        )
        for n, (arch, n_layers, options) in enumerate(ARCHITECTURES)
    ]


@st.composite
def maps(draw: st.DrawFn, n: int) -> LayerMap:
    """Windows, or now and then any path."""
    if draw(st.integers(0, 3)):
        i = draw(st.integers(0, n - 1))
        return LayerMap.from_blocks([(i, draw(st.integers(i + 1, n)))], n)
    return LayerMap(n, tuple(draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n + 3))))


def variants(data: st.DataObject, base: Path, folder: Path) -> Iterator[Path]:
    """Variants by random legal maps, each of the one before it, up to three."""
    path = base
    for step in range(data.draw(st.integers(1, 3))):
        out = folder / f"step{step}.gguf"
        with Model(path) as model:
            layer_map = data.draw(maps(model.n_trunk))
            schedule = data.draw(st.sampled_from(Schedule))
            try:
                plan = make_plan(model, layer_map, schedule=schedule)
            except RysError:
                # What the rules refuse is not at issue here; a permutation of nothing always works.
                plan = make_plan(model, LayerMap.identity(model.n_trunk))
            write_plan(plan, out)
        yield out
        path = out


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
@settings(max_examples=15)
@given(data=st.data())
def test_any_chain_verifies_and_comes_back(bases: list[Path], data: st.DataObject) -> None:
    """Each verifies against every model before it, and gives it back or says what it lacks."""
    base = data.draw(st.sampled_from(bases))
    with tempfile.TemporaryDirectory() as folder:
        chain = [base]
        for variant in variants(data, base, Path(folder)):
            for source in chain:
                assert find_problems(variant, source) == []
            for source, to_base in ((chain[-1], False), (base, True)):
                with Model(variant) as out, Model(source) as model:
                    held = set(resolve_layer_map(out, model).sources)
                    missing = [n for n in range(model.n_trunk) if n not in held]
                if all(_has_twin(source, n, held) for n in missing):
                    assert undo(variant, to_base=to_base) == source.read_bytes()
                else:
                    assert "the map drops its layer" in refusal(variant, to_base=to_base)
            chain.append(variant)


def _has_twin(path: Path, layer: int, others: set[int]) -> bool:
    """Whether one of the other layers of a model is a copy of the same layer of its base."""
    with Model(path) as model:
        recorded = recorded_map(model.header, MAX_LAYERS)
    return recorded is not None and any(recorded[n] == recorded[layer] for n in others)


# -- what makes it hard --------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A llama of six layers with a name."""
    return tiny.write(tmp_path / "base.gguf", "llama", 6, extra={"general.name": "Tiny"})


@pytest.fixture
def variant(base: Path) -> Path:
    """blocks:1,4 of it."""
    out = base.with_name("variant.gguf")
    apply(base, "blocks:1,4", out)
    return out


def test_bytes_after_the_last_tensor_come_back(base: Path) -> None:
    """A single variant keeps them."""
    base.write_bytes(base.read_bytes() + b"more" * 5)
    out = base.with_name("variant.gguf")
    apply(base, "blocks:1,4", out)
    assert undo(out) == base.read_bytes()
    apply(base, "blocks:1,4", base.with_name("s.gguf"), split_max_bytes=100_000)
    assert "it ended with bytes" in refusal(next(base.parent.glob("s-00001-of-*")))


def test_padding_that_is_not_zero_comes_back(base: Path) -> None:
    """It is copied with the tensor in front of it."""
    with Model(base) as model:
        offset, alignment = model.header.data_offset, model.header.alignment
        gaps = [
            offset + t.offset + t.n_bytes
            for t in model.header.tensors
            if t.n_bytes != padded(t.n_bytes, alignment)
        ]
    raw = bytearray(base.read_bytes())
    for gap in gaps:
        raw[gap] = 0x5A
    base.write_bytes(raw)
    out = base.with_name("variant.gguf")
    apply(base, "blocks:1,4", out)
    assert undo(out) == raw


def test_a_record_between_other_keys_comes_back(base: Path, tmp_path: Path) -> None:
    """Keys keep their order, those of an earlier record as well."""
    first = tmp_path / "first.gguf"
    apply(base, "blocks:1,3", first)
    more = KV.of("general.note", gguf.GGUFValueType.STRING, "after the record")
    moved = rewritten(first, tmp_path / "moved.gguf", more)
    out = tmp_path / "out.gguf"
    apply(moved, "blocks:0,1", out)
    assert undo(out) == moved.read_bytes()


def test_a_record_of_another_tool_comes_back(tmp_path: Path) -> None:
    """Whatever it says."""
    extra = {"rys.layer_map": "mine", "rys.parent.x": 1, "rys.was.general.name": "n", "rys.z": [1]}
    base = tiny.write(tmp_path / "base.gguf", "llama", 4, extra=extra)
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    apply(base, "blocks:1,3", first)
    apply(first, "blocks:1,3", second)
    assert undo(first) == base.read_bytes()
    assert undo(second) == first.read_bytes()
    assert undo(second, to_base=True) == base.read_bytes()


@pytest.mark.parametrize("n_bytes", [60_000, 200_000])
def test_shards_come_back_as_shards(base: Path, n_bytes: int) -> None:
    """A split source has as many files again, each with the same bytes."""
    folder = base.with_name("split")
    folder.mkdir()
    apply(base, "layers:0,2,1,3..5", folder / "m.gguf", split_max_bytes=n_bytes)
    shards = sorted(folder.iterdir())
    assert len(shards) > 1
    out = base.with_name("variant.gguf")
    apply(shards[0], "blocks:1,4", out)
    with Model(out) as model:
        written = unapply(plan_undo(model), base.with_name("back.gguf"))
    assert [path.read_bytes() for path in written.paths] == [s.read_bytes() for s in shards]


def test_shards_of_one_tensor_each_come_back(base: Path, tmp_path: Path) -> None:
    """Also of a variant that is split itself."""
    apply(base, "blocks:1,4", tmp_path / "v.gguf", split_max_bytes=1)
    first = next(tmp_path.glob("v-00001-of-*.gguf"))
    assert undo(first) == base.read_bytes()


def test_an_aligned_base_comes_back(base: Path, tmp_path: Path) -> None:
    """With its alignment."""
    aligned, out = tmp_path / "aligned.gguf", tmp_path / "out.gguf"
    with Model(base) as model:
        align(model, aligned)
    apply(aligned, "blocks:1,4", out)
    assert undo(out) == aligned.read_bytes()


@pytest.mark.parametrize("alignment", [1, 8, 16, 64])
def test_an_alignment_that_was_raised_is_lowered_again(tmp_path: Path, alignment: int) -> None:
    """A variant has at least 32; the source's own alignment comes back, after two steps too."""
    extra = {"general.alignment": alignment}
    base = tiny.write(tmp_path / "base.gguf", "llama", 4, extra=extra)
    apply(base, "blocks:1,3", tmp_path / "once.gguf")
    apply(tmp_path / "once.gguf", "blocks:2,4", tmp_path / "twice.gguf")
    assert find_problems(tmp_path / "once.gguf", base) == []
    assert find_problems(tmp_path / "twice.gguf", base) == []
    assert undo(tmp_path / "once.gguf") == base.read_bytes()
    assert undo(tmp_path / "twice.gguf", to_base=True) == base.read_bytes()


def test_a_variant_that_was_aligned_later_gives_back_its_source(
    base: Path, variant: Path, tmp_path: Path
) -> None:
    """The source's alignment is tried as well."""
    with Model(variant) as model:
        align(model, tmp_path / "aligned.gguf")
    assert undo(tmp_path / "aligned.gguf") == base.read_bytes()


def test_vectors_that_were_rescaled_do_not_come_back(tmp_path: Path) -> None:
    """They were rounded; tensors that were added are taken out again."""
    base = tiny.write(tmp_path / "gemma3.gguf", "gemma3", 62)
    out = tmp_path / "out.gguf"
    apply(base, "blocks:0,6", out, schedule=E)
    assert "multiplied blk.N.attn_q_norm.weight" in refusal(out)
    assert "multiplied blk.N.attn_q_norm.weight" in refusal(out, exact=False)
    base = tiny.write(tmp_path / "gemma2.gguf", "gemma2", 46)
    apply(base, "blocks:0,2", tmp_path / "first.gguf", schedule=E)
    apply(tmp_path / "first.gguf", "blocks:0,2", tmp_path / "second.gguf")
    assert undo(tmp_path / "first.gguf") == base.read_bytes()
    assert undo(tmp_path / "second.gguf") == (tmp_path / "first.gguf").read_bytes()
    assert undo(tmp_path / "second.gguf", to_base=True) == base.read_bytes()


def test_dropped_layers_are_named(base: Path, tmp_path: Path) -> None:
    """By number, ranges in short."""
    out = tmp_path / "out.gguf"
    apply(base, "layers:0,4,4", out)
    assert "base.gguf cannot be given back: the map drops its layers 1..3, 5," in refusal(out)
    assert "drops its layers 1..3, 5," in refusal(out, exact=False)


def test_a_copy_stands_in_for_a_dropped_one(base: Path, tmp_path: Path) -> None:
    """The immediate source had the layer twice, and the variant has it once."""
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    apply(base, "blocks:1,3", first)
    apply(first, "layers:0,3..7", second)
    assert undo(second) == first.read_bytes()
    assert undo(second, to_base=True) == base.read_bytes()


def test_twins_come_back_in_the_order_in_which_the_file_had_them(
    base: Path, tmp_path: Path
) -> None:
    """A step that exchanges two copies writes the second before the first."""
    first, second, third = (tmp_path / f"{n}.gguf" for n in range(3))
    apply(base, "blocks:0,1", first)
    apply(first, "layers:1,0,2..6", second)
    apply(second, "layers:0,2..6", third)
    assert undo(third) == second.read_bytes()
    apply(base, "layers:0,0,0,0,1", first, force=True)
    apply(first, "layers:0,1,4", second, force=True)
    assert undo(second) == first.read_bytes()


# -- what is not as it was -----------------------------------------------------------------------


def test_a_model_without_a_record_has_nothing_to_undo(base: Path, tmp_path: Path) -> None:
    """A base, and a variant made without provenance."""
    assert "records no source" in refusal(base)
    apply(base, "blocks:1,4", tmp_path / "out.gguf", provenance=False)
    assert "records no source" in refusal(tmp_path / "out.gguf")


def test_a_changed_header_is_told_from_the_source(base: Path, variant: Path) -> None:
    """A header that means the same is written only if asked for."""
    string = gguf.GGUFValueType.STRING
    changed = rewritten(
        variant, variant.with_name("changed.gguf"), KV.of("general.author", string, "me")
    )
    assert "base.gguf cannot be given back byte for byte" in refusal(changed)
    back = undo(changed, exact=False)
    assert back != base.read_bytes()
    (changed.with_name("back.gguf")).write_bytes(back)
    with Model(changed.with_name("back.gguf")) as model, Model(base) as old:
        assert model.header.tensors == old.header.tensors
        extra = {kv.key for kv in model.header.kvs} - {kv.key for kv in old.header.kvs}
    assert extra == {"general.author"}


def test_a_changed_array_does_not_run_as_the_source_did(tmp_path: Path) -> None:
    """Not even a header that means the same can be had."""
    base = tiny.write(tmp_path / "base.gguf", "qwen35", 8, recurrent_layers=True)
    out = tmp_path / "out.gguf"
    apply(base, "blocks:4,8", out)
    key = "rys.was.qwen35.attention.recurrent_layers"
    wrong = KV.of(key, gguf.GGUFValueType.ARRAY, [True] * 8, item_type=gguf.GGUFValueType.BOOL)
    changed = rewritten(out, tmp_path / "changed.gguf", wrong)
    assert "does not record how base.gguf ran: layer 3 " in refusal(changed, exact=False)


@pytest.mark.parametrize(
    ("arch", "n_layers", "options", "spec", "schedule"),
    [
        ("llama", 6, {}, "blocks:1,4", P),
        ("qwen35", 8, {"n_mtp": 1}, "blocks:3,5", E),
        ("qwen35moe", 8, {"recurrent_layers": True}, "blocks:0,4", P),
        ("deepseek2", 6, {}, "blocks:0,1", P),
        ("minicpm", 4, {"residual_scale": None}, "blocks:1,3", P),
        ("gemma4", 8, {}, "blocks:4,8", P),
    ],
)
def test_a_file_of_version_0_1_0_comes_back(
    tmp_path: Path, arch: str, n_layers: int, options: dict[str, Any], spec: str, schedule: Schedule
) -> None:
    """It has no old values: the way back through the map leads to the header, which is proved."""
    base = tiny.write(
        tmp_path / "base.gguf", arch, n_layers, extra={"general.name": "Tiny"}, **options
    )
    new, old = tmp_path / "new.gguf", tmp_path / "old.gguf"
    apply(base, spec, new, schedule=schedule)
    rewritten(new, old, drop=("rys.was.", "rys.added", LAYERS_KEY))
    assert find_problems(old, base) == []
    assert undo(old) == base.read_bytes()
    assert undo(old, exact=False) == base.read_bytes()
    # And a variant of it leads back to it, and to the original.
    again = tmp_path / "again.gguf"
    with Model(old) as model:
        write_plan(make_plan(model, LayerMap.identity(model.n_trunk)), again)
    assert find_problems(again, base) == []
    assert undo(again) == old.read_bytes()
    assert "undo one step after the other" in refusal(again, to_base=True)


def test_version_0_1_0_did_not_record_how_many_layers_were_dropped(tmp_path: Path) -> None:
    """Then not even a model that runs the same can be made."""
    base = tiny.write(tmp_path / "base.gguf", "llama", 6)
    new, old = tmp_path / "new.gguf", tmp_path / "old.gguf"
    apply(base, "layers:0..3,3", new)
    rewritten(new, old, drop=("rys.was.", "rys.added", LAYERS_KEY))
    assert "another SHA-256" in refusal(old)
    assert "does not record how many layers base.gguf had" in refusal(old, exact=False)
    again = tmp_path / "again.gguf"
    apply(old, "blocks:0,1", again)
    assert find_problems(again, base) == []
    assert undo(again) == old.read_bytes()


def test_copies_that_differ_are_named(base: Path, variant: Path) -> None:
    """Which of the two is the source's nobody knows."""
    tensor = next(t for t in gguf.GGUFReader(variant).tensors if t.name == "blk.5.ffn_up.weight")
    raw = bytearray(variant.read_bytes())
    raw[tensor.data_offset + 7] ^= 1
    variant.write_bytes(raw)
    out = variant.with_name("undone.gguf")
    with Model(variant) as model, pytest.raises(InvalidGGUF, match=r"blk\.2\.ffn_up.* byte 7"):
        unapply(plan_undo(model), out)
    assert not out.exists()
    assert sorted(p.name for p in base.parent.iterdir()) == ["base.gguf", "variant.gguf"]


def test_a_faulty_record_is_refused(variant: Path, tmp_path: Path) -> None:
    """With the name of the file and the key."""
    types = gguf.GGUFValueType
    for sources, error, message in (
        ([0, 1], Refused, "has 9 layers, the map on record makes 2"),
        ([-1] * 9, InvalidLayerMap, r"changed.gguf: rys.layer_map: output 0"),
    ):
        kv = KV.of("rys.layer_map", types.ARRAY, sources, item_type=types.INT32)
        changed = rewritten(variant, tmp_path / "changed.gguf", kv)
        with Model(changed) as model, pytest.raises(error, match=message):
            plan_undo(model)


@pytest.mark.parametrize("values", [[-1, 64], [10**6, 1], []])
def test_a_false_number_of_shards_is_no_shards(
    base: Path, variant: Path, values: list[int]
) -> None:
    """The header that results is not the source's."""
    types = gguf.GGUFValueType
    kv = KV.of("rys.shards", types.ARRAY, values, item_type=types.INT32)
    changed = rewritten(variant, variant.with_name("changed.gguf"), kv)
    assert undo(changed) == base.read_bytes()


RECORD = [
    "rys.spec", "rys.layer_map", "rys.source", "rys.source_layers", "rys.step.layer_map",
    "rys.step.source", "rys.parent.layer_map", "rys.parent.source", "rys.added", "rys.shards",
    "rys.was.llama.block_count", "rys.was.general.name", "rys.was.general.alignment",
    "rys.was.llama.nextn_predict_layers", "rys.was.general.architecture",
    "rys.parent.was.llama.block_count", "general.name", "general.size_label",
]  # fmt: skip


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A variant of a variant."""
    folder = tmp_path_factory.mktemp("twice")
    base = tiny.write(folder / "base.gguf", "llama", 4, extra={"general.name": "Tiny"})
    apply(base, "blocks:1,3", folder / "once.gguf")
    apply(folder / "once.gguf", "blocks:0,2", folder / "twice.gguf")
    return folder / "twice.gguf"


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
@settings(max_examples=30)
@given(
    record=st.dictionaries(st.sampled_from(RECORD), values("<"), min_size=1, max_size=4),
    to_base=st.booleans(),
    exact=st.booleans(),
)
def test_a_record_of_somebody_else_is_judged_not_believed(
    twice: Path, record: dict[str, tuple[gguf.GGUFValueType, bytes]], to_base: bool, exact: bool
) -> None:
    """Whatever it holds, the outcome is the source's bytes or a message."""
    with tempfile.TemporaryDirectory() as folder:
        kvs = [KV(key, type_, raw) for key, (type_, raw) in record.items()]
        changed = rewritten(twice, Path(folder) / "changed.gguf", *kvs)
        source = twice.with_name("base.gguf" if to_base else "once.gguf")
        with contextlib.suppress(RysError), Model(changed) as model:
            planned = plan_undo(model, to_base=to_base, exact=exact)
            (written,) = unapply(planned, Path(folder) / "out.gguf").paths
            if exact and "rys.source" not in record and "rys.step.source" not in record:
                assert written.read_bytes() == source.read_bytes()
        with contextlib.suppress(RysError):
            assert isinstance(find_problems(changed, source), list)
        with contextlib.suppress(RysError):
            apply(changed, "blocks:0,1", Path(folder) / "again.gguf")


@pytest.mark.parametrize("alignment", [0, 48, 1 << 31])
def test_a_false_alignment_is_refused(base: Path, variant: Path, alignment: int) -> None:
    """It would be that of the output."""
    types = gguf.GGUFValueType
    aligned = variant.with_name("aligned.gguf")
    kvs = [
        KV.of("general.alignment", types.UINT32, 32),
        KV.of("rys.was.general.alignment", types.UINT32, alignment),
    ]
    rewritten(variant, aligned, *kvs)
    assert "another SHA-256" in refusal(aligned)
    assert "general.alignment" in refusal(aligned, exact=False)
    assert base.exists()


@pytest.mark.parametrize(
    ("recorded", "name"),
    [
        ("base.gguf", "base.gguf"),
        ("../../etc/base.gguf", "base.gguf"),
        ("..", "source.gguf"),
        ("a\0b", "source.gguf"),
        ("", "source.gguf"),
    ],
)
def test_a_recorded_name_never_leads_into_another_folder(
    variant: Path, recorded: str, name: str
) -> None:
    """It comes from a file of somebody else."""
    types = gguf.GGUFValueType
    with Model(variant) as model:
        kv = model.header.get("rys.source")
        assert kv is not None
        value = [recorded, *kv.value[1:]]
    kv = KV.of("rys.source", types.ARRAY, value, item_type=types.STRING)
    changed = rewritten(variant, variant.with_name("changed.gguf"), kv)
    with Model(changed) as model:
        assert plan_undo(model).file_name == name


def test_the_variant_is_not_replaced_by_its_source(variant: Path) -> None:
    """Not even with force; another file only with it."""
    with Model(variant) as model:
        planned = plan_undo(model)
        with pytest.raises(OutputFailed, match="is the source model itself"):
            unapply(planned, variant, force=True)
        other = variant.with_name("other.gguf")
        shutil.copy(variant, other)
        with pytest.raises(OutputFailed, match="exists already"):
            unapply(planned, other)
        unapply(planned, other, force=True)


def test_real_models_come_back(smollm2: Path, tmp_path: Path) -> None:
    """Twice patched, blocks sorted as text, quantised."""
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    apply(smollm2, "blocks:8,12", first)
    apply(first, "blocks:10,14", second)
    assert undo(second, to_base=True) == smollm2.read_bytes()
    assert undo(second) == first.read_bytes()
