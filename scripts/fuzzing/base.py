"""The protocol of targets, and mutations of JSON that keep it JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from rys_gguf.text import harmless

# libFuzzer's own mutation of bytes: data and the largest size of the result.
Bytes = Callable[[bytes, int], bytes]


class Target(Protocol):
    """A part of the package and the promise that is held against any bytes.

    It is made with a folder for its files.
    """

    @property
    def limits(self) -> tuple[str, ...]:
        """Options of libFuzzer: memory and seconds of one input, and its length."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The modules and folders of the package that it is about: their coverage is shown."""

    def seeds(self) -> Iterator[tuple[str, bytes]]:
        """The first inputs, by name."""

    def __call__(self, data: bytes) -> None:
        """Raise any exception if the promise is broken."""

    def mutate(self, data: bytes, max_size: int, dice: random.Random, by_bytes: Bytes) -> bytes:
        """Another input, of at most `max_size` bytes."""


def require_harmless(lines: Iterable[str]) -> None:
    """Each line can be printed as it is: the guard in front of the terminal finds nothing."""
    for line in lines:
        assert harmless(line) == line, f"prints control characters: {line!a}"


# -- JSON ----------------------------------------------------------------------------------------

_HALF = "\ud83d"
EDGES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 31, 512, 513, 2**31, 2**53 + 1, 2**63, -(2**63), 10**400,
    0.5, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), "", "0", "0-29", "blocks:1,3",
    "layers:0..2", "base", "x" * 5000, "a\x1b[2Jb", "=1+1", "<script>", "`|*_[x](javascript:y)",
    "\u202eabc", "a\nb", _HALF, "round1", "final", "generate", "speed", "ok", "failed", "dropped",
    [], {}, [[]], [0, 1], {"": 0}, {"math": 1}, {"math": None},
)  # fmt: skip


# Above it no fraction can be added.
_LARGE = 1e300
# How often a change is made further inside, where there is an inside.
_INSIDE = 0.9


def other_json(value: Any, dice: random.Random) -> Any:
    """The value with one change somewhere inside: dropped, doubled, nested, or an edge case."""
    if value and isinstance(value, dict | list) and dice.random() < _INSIDE:
        return _other_field(value, dice) if isinstance(value, dict) else _other_entry(value, dice)
    if isinstance(value, int | float) and abs(value) < _LARGE and dice.randrange(2):
        return value + dice.choice([-1, 1, 0.5, value])
    if dice.randrange(40):
        return dice.choice(EDGES)
    for _ in range(dice.choice([3, 70, 900])):
        value = [value]
    return value


def _other_field(value: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    key = dice.choice(list(value))
    others: dict[str, Any] = {k: v for k, v in value.items() if k != key}
    choices: list[Callable[[], dict[str, Any]]] = [
        lambda: others,
        lambda: {**value, dice.choice(list(value)): value[key]},
        lambda: {**value, str(dice.choice(EDGES)): value[key]},
        *[lambda: {**value, key: other_json(value[key], dice)}] * 5,
    ]
    return dice.choice(choices)()


def _other_entry(value: list[Any], dice: random.Random) -> list[Any]:
    at = dice.randrange(len(value))
    choices: list[Callable[[], list[Any]]] = [
        lambda: value[:at] + value[at + 1 :],
        lambda: value[: at + 1] + value[at:],
        *[lambda: [*value[:at], other_json(value[at], dice), *value[at + 1 :]]] * 4,
    ]
    return dice.choice(choices)()


def other_line(line: bytes, dice: random.Random) -> bytes:
    """A line of JSON with one change inside; what is no JSON becomes an empty object."""
    try:
        value = other_json(json.loads(line), dice)
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return b"{}"


def other_lines(data: bytes, max_size: int, dice: random.Random, by_bytes: Bytes) -> bytes:
    """Lines of JSON with one changed, dropped, doubled or moved; in one of four as bytes."""
    if dice.randrange(4) == 0:
        return by_bytes(data, max_size)
    lines = data.split(b"\n")
    at, to = dice.randrange(len(lines)), dice.randrange(len(lines))
    action = dice.randrange(8)
    if action == 0:
        del lines[at]
    elif action == 1:
        lines.insert(to, lines[at])
    elif action == 2:  # noqa: PLR2004
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines[at] = other_line(lines[at], dice)
    return b"\n".join(lines)[:max_size]
