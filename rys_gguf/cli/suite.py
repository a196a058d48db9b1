"""Options that choose the items a model is asked; they are handed over as SuiteOptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rys_gguf.cli.options import FILE, Decorator, Parsed, handing_over
from rys_gguf.probes.choose import SuiteOptions
from rys_gguf.probes.names import FAMILIES, LEVELS, SIZES, n_items

Levels = tuple[tuple[tuple[str, ...], int], ...]


def _families(text: str) -> tuple[str, ...]:
    """Names of families, comma-separated."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in FAMILIES:
            raise ValueError(f"{name!r} is none of {', '.join(FAMILIES)}")
    return names


def _level(text: str) -> tuple[tuple[str, ...], int]:
    """Families and their level: all of them for 1, one for math=2."""
    family, equals, level = text.rpartition("=")
    if level not in map(str, LEVELS) or (equals and family not in FAMILIES):
        raise ValueError(f"{text!r} is not 0 to {LEVELS[-1]}, or FAMILY=0 to {LEVELS[-1]}")
    return (family,) if equals else FAMILIES, int(level)


def _suite_options(default_size: str) -> tuple[Decorator[Any], ...]:
    counts = ", ".join(f"{name} {n_items(name)}" for name in SIZES)
    return (
        click.option(
            "--suite", type=FILE,
            help="Your own items, one JSON object a line, instead of generated ones.",
        ),
        click.option(
            "--suite-size", type=click.Choice(list(SIZES)), default=default_size,
            show_default=True, help=f"Number of generated items: {counts}.",
        ),
        click.option(
            "--families", type=Parsed("names", _families), default=",".join(FAMILIES),
            show_default=True, help="Families of generated items.",
        ),
        click.option(
            "--level", "levels", type=Parsed("level", _level), multiple=True,
            help=f"Difficulty 0 to {LEVELS[-1]}, of all families or of one (math=2).  "
            "[default: where the model is right about half of the time]",
        ),
        click.option(
            "--seed", type=click.IntRange(0), default=0, show_default=True,
            help="Other numbers give other items of the same kinds.",
        ),
    )  # fmt: skip


def _items_of_a_probe(
    suite: Path | None, suite_size: str, families: tuple[str, ...], levels: Levels, seed: int
) -> SuiteOptions:
    return SuiteOptions(suite, suite_size, families, levels, seed)


def _items_of_a_sweep(
    suite: Path | None,
    suite_size: str,
    families: tuple[str, ...],
    levels: Levels,
    seed: int,
    heldout: Path | None,
    controls: tuple[str, ...] | None,
) -> SuiteOptions:
    return SuiteOptions(suite, suite_size, families, levels, seed, heldout, controls or ())


probe_suite_options: Decorator[Any] = handing_over(
    "items", _items_of_a_probe, *_suite_options("quick")
)
sweep_suite_options: Decorator[Any] = handing_over(
    "items",
    _items_of_a_sweep,
    *_suite_options("standard"),
    click.option(
        "--heldout", type=FILE,
        help="Your own items for the finalists.  [default: half of --suite]",
    ),
    click.option(
        "--control", "controls", type=Parsed("names", _families),
        help="Families of generated items that only the finalists are asked. As they play no part "
        "in the choice, they show side effects.",
    ),
)  # fmt: skip

preflight_option: Decorator[Any] = click.option(
    "--no-preflight", is_flag=True,
    help="Continue even if the suite cannot show a difference on this model.",
)  # fmt: skip


def thinking_option(text: str) -> Decorator[Any]:
    """How many tokens a model may think for, with this help; 0 if it is not to think."""
    option: Decorator[Any] = click.option(
        "--thinking", type=click.IntRange(0), default=0, metavar="TOKENS",
        help=f"{text}  [default: no thoughts]",
    )  # fmt: skip
    return option
