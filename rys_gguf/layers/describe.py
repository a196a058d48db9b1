"""Models and architectures in words: the facts behind `inspect` and `architectures`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rys_gguf.formats.model import Model
from rys_gguf.layers.architectures import ARCHITECTURES, CHECKED_AGAINST
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.rule import Architecture
from rys_gguf.layers.schedule import Schedule
from rys_gguf.layers.windows import legal_windows

# One letter per layer in the strip; a kind that is not listed here shows its first letter.
_LETTERS = {"full attention": "F", "linear attention": "l", "sliding-window attention": "s"}
MTP_LETTER = "M"
# A bound on the work for hundreds of layers; the longest published models, of 126, stay below it.
_MAX_OUTPUTS = 1_400_000


@dataclass(frozen=True, slots=True)
class LegalLengths:
    """How many windows of each length (in layers) are legal under one schedule.

    Lengths up to `n_possible` exist; those up to `n_tried` were counted.
    """

    schedule: Schedule
    n_windows: dict[int, int]
    n_tried: int
    n_possible: int


@dataclass(frozen=True, slots=True)
class Description:
    """A model's layers, quantisation and rules.

    `source` is a file and its lines in the build `llama_cpp`; that is None where the rules were
    inferred. `types` gives for each tensor type the number of tensors and of bytes.
    """

    architecture: str
    n_trunk: int
    n_mtp: int
    kinds: tuple[str, ...]
    rules: tuple[str, ...]
    source: str
    llama_cpp: str | None
    types: dict[str, tuple[int, int]]
    layer_bytes: tuple[int, ...]
    global_bytes: int
    legal: tuple[LegalLengths, ...]

    @property
    def strip(self) -> str:
        """One letter per block: F full, l linear, s sliding-window, M multi-token prediction."""
        return "".join(letter(kind) for kind in self.kinds) + MTP_LETTER * self.n_mtp


def read_from(arch: Architecture) -> str | None:
    """The build of llama.cpp that rules were read from; None if they were inferred from a file."""
    return CHECKED_AGAINST if arch.name in ARCHITECTURES else None


def where_read(source: str, llama_cpp: str | None) -> str:
    """Where rules were read, in words: the build of llama.cpp, the file and its lines."""
    return f"llama.cpp {llama_cpp}, {source}" if llama_cpp else source


def letter(kind: str) -> str:
    """The strip's letter for a kind of layer; `.` where all layers are alike."""
    return _LETTERS.get(kind, kind[:1]) if kind else "."


def describe(model: Model) -> Description:
    """Everything `inspect` shows. Raises Refused for an architecture without rules."""
    rules = ModelRules.of(model)
    # Trying windows checks the lengths of arrays, which the kinds below rely on.
    legal = tuple(_legal_lengths(rules, schedule) for schedule in Schedule)
    types: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in model.header.tensors:
        types[tensor.type_name] += 1
        sizes[tensor.type_name] += tensor.n_bytes
    return Description(
        model.architecture,
        model.n_trunk,
        model.n_mtp,
        _shown_kinds(rules),
        rules.in_words,
        rules.arch.source,
        read_from(rules.arch),
        {name: (n, sizes[name]) for name, n in types.most_common()},
        tuple(sum(t.n_bytes for t in layer) for layer in model.layers),
        sum(t.n_bytes for t in model.globals),
        legal,
    )


def _shown_kinds(rules: ModelRules) -> tuple[str, ...]:
    """Each trunk layer's kinds, joined; a rule that does not hold for this model adds none."""
    holding = tuple(rule for rule in rules.arch.rules if rule.describe(rules.meta))
    arch = Architecture(rules.arch.name, holding, rules.arch.source)
    return tuple(", ".join(kinds) for kinds in ModelRules(arch, rules.meta).kinds)


def _legal_lengths(rules: ModelRules, schedule: Schedule) -> LegalLengths:
    n_layers = rules.meta.n_trunk
    n_tried = _n_lengths(n_layers)
    counts = {n: sum(1 for _ in legal_windows(rules, schedule, n)) for n in range(1, n_tried + 1)}
    legal = {n: n_legal for n, n_legal in counts.items() if n_legal}
    return LegalLengths(schedule, legal, n_tried, n_layers)


def _n_lengths(n_layers: int) -> int:
    """Up to which length all windows can be tried in reasonable time."""
    n_outputs = 0
    for n in range(1, n_layers + 1):
        n_outputs += (n_layers - n + 1) * (n_layers + n)
        if n_outputs > _MAX_OUTPUTS:
            return n - 1
    return n_layers


@dataclass(frozen=True, slots=True)
class Entry:
    """One architecture of the table: its rules, and what a window respects under each schedule.

    `source` is a file and its lines in the build `llama_cpp`. `dampers` are the tensors of a layer
    that damp it, read in the lines of `damping`; there are none where no layer can be damped.
    """

    name: str
    rules: tuple[str, ...]
    portable: str
    explicit: str
    source: str
    llama_cpp: str
    unprovable: str
    dampers: tuple[str, ...]
    damping: str

    @property
    def verdict(self) -> str:
        """Both schedules in one line."""
        if self.portable == self.explicit:
            return self.portable
        return f"{self.portable}; explicit: {self.explicit}"


def entry(arch: Architecture) -> Entry:
    """What the table says of one architecture, in words."""
    statements = tuple(text for rule in arch.rules if (text := rule.statement()))
    return Entry(
        arch.name,
        statements or ("every layer alike",),
        _limits(arch, Schedule.PORTABLE),
        _limits(arch, Schedule.EXPLICIT),
        arch.source,
        CHECKED_AGAINST,
        arch.unprovable,
        tuple(damper.tensor for damper in arch.dampers),
        arch.damping,
    )


def _limits(arch: Architecture, schedule: Schedule) -> str:
    limits = [text for rule in arch.rules if (text := rule.limit(schedule))]
    if "none" in limits:
        return "none"
    return "; ".join(dict.fromkeys(limits)) or "any"
