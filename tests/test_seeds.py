"""Every input that once broke a promise keeps it now, and so do the seeds that fuzzing starts from.

`scripts/fuzz.py` finds such inputs; this test needs no fuzzer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.fuzz import NAMES, kept, target
from scripts.fuzzing.base import Target

# Changes of each seed: enough to notice a target that is broken, a second's work.
N_CHANGES = 3


def inputs(name: str, called: Target) -> Iterator[bytes]:
    """Everything that is kept, the seeds, and a few changes of each seed."""
    for path in kept(name):
        yield path.read_bytes()
    dice = random.Random(name)
    for _, seed in called.seeds():
        yield seed
        for _ in range(N_CHANGES):
            yield called.mutate(seed, len(seed), dice, lambda data, n: data[: n // 2])


@pytest.mark.parametrize("name", NAMES)
def test_promises_are_kept(name: str, tmp_path: Path) -> None:
    """Of whatever was found by fuzzing, of the seeds, and of their nearest relatives."""
    called = target(name, tmp_path)
    n = 0
    for n, data in enumerate(inputs(name, called), 1):  # noqa: B007 - counted
        called(data)
    assert n
