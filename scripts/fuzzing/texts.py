"""Targets `spec`, `recipe`, `suite`, `windows` and `validation`: texts that a user names or types.

The promise: any text is either taken or refused with a RysError. What is taken says the same when
it is written and read again, and what is made of it holds no control characters.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from rys_gguf import LayerMap, Model, make_plan, write_plan
from rys_gguf.cli.card import read_validation
from rys_gguf.errors import InvalidLayerMap, InvalidSuite, RysError
from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.layers.mergekit import read_mergekit
from rys_gguf.layers.schedule import Schedule
from rys_gguf.probes.item import dump
from rys_gguf.probes.item_file import load
from rys_gguf.probes.score import best_constant, score_text
from rys_gguf.probes.suite import Suite, build_suite
from rys_gguf.probes.tables import suite_lines
from rys_gguf.report.card import make_card
from rys_gguf.runs.candidate import Candidate
from rys_gguf.search.space import Windows, listed
from scripts.fuzzing.base import Bytes, other_json, other_lines, require_harmless
from tests import tiny

_LIMITS = ("-rss_limit_mb=1024", "-timeout=10", "-max_len=8192")
_FILE_NAME = re.compile(r"rys_[\w.-]+", re.ASCII)
# What specs and recipes are made of, in every notation that is taken or answered with a hint.
_WORDS = (
    b"blocks:", b"layers:", b"0", b"1", b"2", b"5", b"8", b"9", b"11", b"512", b"9999999999", b",",
    b";", b":", b"..", b"...", b"-", b"x", b"x3", b"*", b"(", b")", b"[", b"]", b" ", b"\n", b"#",
    b"+", b"=", b"0..3", b"(2,5)", b"[2,5]", b"2-5", b"2:5", b"..4", b"4..", b"\xc2\xb2",
    b"\xe2\x80\xa6", b"slices:\n", b"- sources:\n", b"  layer_range: [0, 8]\n", b"model: m\n",
    b"merge_method: passthrough\n", b"&x ", b"*x", b"<<: ", b"{", b"}", b"!!python/name:os.system ",
    b"parameters: {scale: 0}\n", b"? ", b"| ", b"'", b'"', b"~", b"---\n", b"%YAML 1.1\n", b"\t",
)  # fmt: skip


class Spec:
    """A layer spec; the first byte is the number of layers."""

    limits = ("-rss_limit_mb=512", "-timeout=5", "-max_len=4096")
    parts = ("layers/layer_map.py", "layers/notations.py", "runs/candidate.py")

    def __init__(self, folder: Path) -> None:
        pass  # a spec needs no file

    def __call__(self, data: bytes) -> None:
        """Parse it; any exception but InvalidLayerMap is a finding."""
        n_layers = 1 + (data[0] if data else 0)
        text = data[1:].decode("utf-8", "surrogateescape")
        try:
            layer_map = LayerMap.parse(text, n_layers)
        except InvalidLayerMap as e:
            require_harmless(str(e).split("\n"))
            return
        _require_sound(layer_map)

    def seeds(self) -> Iterator[tuple[str, bytes]]:
        """A spec of each notation."""
        specs = (
            "blocks:3,7", "blocks:2,4;6,8", "layers:0..7,4..11", "layers:0,0,1..11", "3,7",
            "layers:..7,4..", "layers:0..3,4..7x3,8..", "blocks:(3,7)", "layers:[0,1,2,1,2]", "0-7",
            "3,6x3", "[0,8],[4,12]", "0:8,4:12", "0,1,...,9", "blocks:3-6", "layers:0..11,11..2",
        )  # fmt: skip
        for n, spec in enumerate(specs):
            yield f"spec-{n}", b"\x0b" + spec.encode()

    def mutate(self, data: bytes, max_size: int, dice: random.Random, by_bytes: Bytes) -> bytes:
        """A word more or less."""
        return other_words(data, max_size, dice, by_bytes)


def other_words(data: bytes, max_size: int, dice: random.Random, by_bytes: Bytes) -> bytes:
    """A word more or less, or in one of three bytes as libFuzzer changes them."""
    if dice.randrange(3) == 0:
        return by_bytes(data, max_size)
    at = dice.randrange(len(data) + 1)
    end = at + dice.choice([0, 0, 1, 2, 5])
    return (data[:at] + dice.choice(_WORDS) + data[end:])[:max_size]


def _require_sound(layer_map: LayerMap) -> None:
    n = layer_map.n_source
    assert 0 < len(layer_map) <= MAX_LAYERS
    assert all(0 <= source < n for source in layer_map.sources)
    assert LayerMap.parse(layer_map.spec, n) == layer_map
    assert _FILE_NAME.fullmatch(layer_map.label)
    candidate = Candidate(layer_map)
    assert Candidate.from_key(candidate.key, n) == candidate


class _Text:
    """One file that takes each text in turn."""

    limits = _LIMITS

    def __init__(self, folder: Path) -> None:
        self.path = folder / "text"


class Items(_Text):
    """A file of items, for `--suite` and `--heldout`."""

    parts = ("probes/",)

    def __call__(self, data: bytes) -> None:
        """Read it, and do all that is done without an engine."""
        self.path.write_bytes(data)
        try:
            items = load(self.path)
        except InvalidSuite as e:
            require_harmless(str(e).split("\n"))
            return
        suite = Suite(items)
        require_harmless(suite_lines(suite.statistics()))
        assert suite.baselines.keys() == suite.generated_baselines.keys()
        suite.halves()
        baseline = best_constant(items)
        for item in items:
            assert item.requests()
            for text in (item.prompt(), str(item.gold), "yes", "A) 7", "9" * 50, ""):
                assert score_text(item, text, baseline=baseline).score <= 1
        self.path.write_text(dump(items), encoding="utf-8")
        assert load(self.path) == items, "reads differently when it is written"

    def seeds(self) -> Iterator[tuple[str, bytes]]:
        """Generated items, and the short form of users."""
        for level in (0, 2):
            suite = build_suite("quick", levels={"math": level, "eq": level, "reasoning": level})
            for start in range(0, 40, 8):
                yield f"items-{level}-{start}", dump(suite.items[start : start + 8]).encode()
        yield (
            "short",
            (
                b'{"kind": "choice", "question": "Is fire hot?", "answer": "yes"}\n'
                b'{"kind": "number", "question": "2 + 2?", "answer": 4, "partial": true}\n'
                b'{"kind": "choice", "question": "?", "texts": ["a", "b"], "answer": "A"}\n'
            ),
        )

    def mutate(self, data: bytes, max_size: int, dice: random.Random, by_bytes: Bytes) -> bytes:
        """One line changed."""
        return other_lines(data, max_size, dice, by_bytes)


class Recipe(_Text):
    """A recipe of mergekit, for `--mergekit`."""

    parts = ("layers/mergekit.py", "layers/recipe_")

    def __call__(self, data: bytes) -> None:
        """Read it; any exception but InvalidLayerMap is a finding."""
        self.path.write_bytes(data)
        try:
            recipe = read_mergekit(self.path)
            _require_sound(LayerMap.parse(recipe.spec, 12))
        except InvalidLayerMap as e:
            require_harmless(str(e).split("\n"))

    def seeds(self) -> Iterator[tuple[str, bytes]]:
        """The usual form, the short one, a damped one, and what must be refused."""
        entry = "  - sources:\n    - model: a/b\n      layer_range: [{}, {}]\n"
        slices = "slices:\n" + entry.format(0, 8) + entry.format(4, 12)
        yield "usual", f"{slices}merge_method: passthrough\ndtype: bfloat16\n".encode()
        short = (
            "{merge_method: passthrough, slices: [{sources: [{model: m, layer_range: [0, 4]}]}]}"
        )
        yield "short", short.encode()
        anchor = (
            "x: &x {model: m, layer_range: [0, 3]}\nslices:\n- sources: [*x]\n- sources: [*x]\n"
        )
        yield "anchor", f"{anchor}merge_method: passthrough\n".encode()
        scale = "[{filter: o_proj, value: 0.5}, {filter: down_proj, value: 5e-1}, {value: 1.0}]"
        damped = f"{slices}    parameters:\n      scale: {scale}\nparameters: {{scale: [1, 1]}}\n"
        yield "damped", f"{damped}merge_method: passthrough\n".encode()
        yield "slerp", f"{slices}merge_method: slerp\nparameters: {{t: 0.5}}\n".encode()

    def mutate(self, data: bytes, max_size: int, dice: random.Random, by_bytes: Bytes) -> bytes:
        """A word more or less."""
        return other_words(data, max_size, dice, by_bytes)


class WindowList(_Text):
    """A list of windows, for `--windows`."""

    parts = ("layers/", "search/space.py")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        path = tiny.write(self.path.with_name("g.gguf"), "gemma3", 12)
        with Model(path) as model:
            self._windows = Windows(model, Schedule.PORTABLE)

    def __call__(self, data: bytes) -> None:
        """Read it, and sort it into candidates and illegal windows."""
        self.path.write_bytes(data)
        try:
            selection = listed(self._windows, self.path)
        except RysError as e:
            require_harmless(str(e).split("\n"))
            return
        for candidate in selection.candidates:
            _require_sound(candidate.layer_map)
        require_harmless(f"{x.spec}: {x.rule}" for x in selection.illegal)

    def seeds(self) -> Iterator[tuple[str, bytes]]:
        """A list with every notation in it."""
        yield "list", b"# legal\n0,6\nblocks:2,8\nlayers:0..11,6..11\n\n3,7 # illegal\n"

    def mutate(self, data: bytes, max_size: int, dice: random.Random, by_bytes: Bytes) -> bytes:
        """A word more or less."""
        return other_words(data, max_size, dice, by_bytes)


class Validation(_Text):
    """What `validate` saved, for `card --validation`."""

    parts = ("cli/card.py", "report/card.py", "report/front_matter.py", "report/markup.py")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        source = tiny.write(self.path.with_name("m.gguf"), "llama", 4)
        variant = self.path.with_name("out.gguf")
        self._map = LayerMap.parse("blocks:1,3", 4)
        with Model(source) as model:
            write_plan(make_plan(model, self._map), variant)
        self._variant = Model(variant)
        self._source = Model(source)

    def __call__(self, data: bytes) -> None:
        """Put it into a card."""
        self.path.write_bytes(data)
        try:
            validation = read_validation(self.path)
            card = make_card(self._variant, self._source, self._map, None, validation)
        except RysError as e:
            require_harmless(str(e).split("\n"))
            return
        require_harmless(card.split("\n"))
        assert "javascript:" not in re.sub(r"`[^`]*`", "", card)
        assert "<script" not in card

    def seeds(self) -> Iterator[tuple[str, bytes]]:
        """A report of all steps."""
        names = ("verify", "load", "prove", "smoke")
        rungs = [
            {"name": n, "outcome": "passed", "shows": "it holds", "seconds": 0.1, "details": {}}
            for n in names
        ]
        rungs[1]["details"] = {"build": "xllamacpp (b1)"}
        report = {"rys_gguf": "0.1.0", "spec": "blocks:1,3", "rungs": rungs}
        yield "validation", json.dumps(report).encode()

    def mutate(self, data: bytes, max_size: int, dice: random.Random, by_bytes: Bytes) -> bytes:
        """One value changed."""
        if dice.randrange(4) == 0:
            return by_bytes(data, max_size)
        try:
            changed = json.dumps(other_json(json.loads(data), dice)).encode()
        except (ValueError, RecursionError):
            return by_bytes(data, max_size)
        return changed[:max_size]
