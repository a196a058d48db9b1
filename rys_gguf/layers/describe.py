"""What a model is and what may be repeated in it: the facts behind `rys-gguf inspect`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rys_gguf.formats.model import Model
from rys_gguf.layers.carry import architecture_of, kinds_of, legal_windows, metadata_of
from rys_gguf.layers.schedule import Schedule

# One letter a layer in the strip; what is not listed here shows its own first letter.
_LETTERS = {"full attention": "F", "linear attention": "l", "sliding-window attention": "s"}
MTP_LETTER = "M"
# A bound on work for hundreds of layers; the longest models there are, of 126, stay below it.
_MAX_OUTPUTS = 1_400_000


@dataclass(frozen=True, slots=True)
class LegalLengths:
    """Windows under one schedule: how many of which length (in layers) are legal.

    Only lengths up to `n_tried` were looked at; up to `n_possible` there are.
    """

    schedule: Schedule
    n_windows: dict[int, int]
    n_tried: int
    n_possible: int


@dataclass(frozen=True, slots=True)
class Description:
    """A model's layers, quantisation and rules."""

    architecture: str
    n_trunk: int
    n_mtp: int
    kinds: tuple[str, ...]
    rules: tuple[str, ...]
    source: str
    types: dict[str, tuple[int, int]]
    layer_bytes: tuple[int, ...]
    global_bytes: int
    legal: tuple[LegalLengths, ...]

    @property
    def strip(self) -> str:
        """One letter per block: F full, l linear, s sliding-window, M multi-token prediction."""
        return "".join(letter(kind) for kind in self.kinds) + MTP_LETTER * self.n_mtp


def letter(kind: str) -> str:
    """The strip's letter for a kind of layer; `.` where all layers are alike."""
    return _LETTERS.get(kind, kind[:1]) if kind else "."


def describe(model: Model) -> Description:
    """Everything `inspect` shows. Raises Refused for an architecture without rules."""
    arch = architecture_of(model)
    meta = metadata_of(model)
    types: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in model.header.tensors:
        types[tensor.type_name] += 1
        sizes[tensor.type_name] += tensor.n_bytes
    rules = [text for rule in arch.rules if (text := rule.describe(meta))]
    legal = []
    n_tried = _n_lengths(model.n_trunk)
    for schedule in Schedule:
        counts = {
            n: n_legal
            for n in range(1, n_tried + 1)
            if (n_legal := sum(1 for _ in legal_windows(arch, meta, schedule, n)))
        }
        legal.append(LegalLengths(schedule, counts, n_tried, model.n_trunk))
    return Description(
        model.architecture,
        model.n_trunk,
        model.n_mtp,
        tuple(", ".join(kinds) for kinds in kinds_of(arch, meta)),
        tuple(rules) or ("every layer alike",),
        arch.source,
        {name: (n, sizes[name]) for name, n in types.most_common()},
        tuple(sum(t.n_bytes for t in layer) for layer in model.layers),
        sum(t.n_bytes for t in model.globals),
        tuple(legal),
    )


def _n_lengths(n_layers: int) -> int:
    """Up to which length all windows can be tried in reasonable time."""
    n_outputs = 0
    for n in range(1, n_layers + 1):
        n_outputs += (n_layers - n + 1) * (n_layers + n)
        if n_outputs > _MAX_OUTPUTS:
            return n - 1
    return n_layers
