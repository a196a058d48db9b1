"""The rules of an architecture that is not in the table, as far as its file shows them."""

from __future__ import annotations

from rys_gguf.formats.model import Model
from rys_gguf.layers.rule import Architecture
from rys_gguf.layers.rules import Phase
from rys_gguf.text import printable


def infer(model: Model, *, assume_uniform: bool) -> Architecture:
    """An architecture inferred from the shapes of the file's tensors.

    Raises Refused if the layers do not show how they depend on their position, unless
    `assume_uniform` takes all of them to be alike.
    """
    name = printable(model.architecture)
    for tensor in model.globals:
        if tensor.name.startswith(("enc.", "dec.")):
            raise model.refuse(
                f"architecture '{name}' has more than one stack of layers "
                f"({printable(tensor.name)}); only one is repeated here"
            )
    source = "inferred from the file's tensors"
    if assume_uniform:
        return Architecture(model.architecture, (), source)
    period = _period(model)
    if 1 < period <= model.n_trunk // 2:
        return Architecture(model.architecture, (Phase(period),), source)
    shown = "look alike" if period == 1 else "differ without a period"
    raise model.refuse(
        f"architecture '{name}' is not in the table of layer rules. Its layers {shown}, but the "
        f"engine may run them by position: a wrong guess would load and compute something else.\n"
        f"  --assume-uniform treats all layers as alike; `rys-gguf prove` then tells if they are"
    )


def _period(model: Model) -> int:
    """The least period with which names and shapes of the layers' tensors repeat."""
    # Numbered, so that finding the period compares numbers: it may compare all pairs of layers.
    numbers: dict[frozenset[tuple[str, tuple[int, ...]]], int] = {}
    shapes = [
        numbers.setdefault(frozenset((t.name.split(".", 2)[2], t.ne) for t in layer), len(numbers))
        for layer in model.layers[: model.n_trunk]
    ]
    n = len(shapes)
    return next(p for p in range(1, n + 1) if all(shapes[i] == shapes[i % p] for i in range(n)))
