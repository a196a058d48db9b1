"""Options that choose the items a model is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rys_gguf.cli.options import FILE, Decorator, Parsed, handing_over
from rys_gguf.errors import RysError
from rys_gguf.formats.model import Model
from rys_gguf.probes.preflight import level_for
from rys_gguf.probes.suite import FAMILIES, LEVELS, SIZES, Suite, build_suite
from rys_gguf.text import printable


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """Which items: those of the file `suite`, or generated ones."""

    suite: Path | None
    suite_size: str
    families: tuple[str, ...]
    levels: tuple[tuple[tuple[str, ...], int], ...]
    seed: int


def families(text: str) -> tuple[str, ...]:
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
        raise ValueError(f"{text!r} is not 0 to 3, or FAMILY=0 to 3")
    return (family,) if equals else tuple(FAMILIES), int(level)


def suite_options(default_size: str) -> Decorator[Any]:
    """The options of SuiteOptions."""
    counts = ", ".join(f"{name} {sum(SIZES[name].values())}" for name in SIZES)
    return handing_over(
        "asked",
        SuiteOptions,
        click.option(
            "--suite", type=FILE,
            help="Your own items, one JSON object a line, instead of generated ones.",
        ),
        click.option(
            "--suite-size", type=click.Choice(list(SIZES)), default=default_size,
            show_default=True, help=f"Number of generated items: {counts}.",
        ),
        click.option(
            "--families", type=Parsed("names", families), default=",".join(FAMILIES),
            show_default=True, help="Families of generated items.",
        ),
        click.option(
            "--level", "levels", type=Parsed("level", _level), multiple=True,
            help="Difficulty 0 to 3, of all families or of one (math=2).  [default: by the "
            "model's number of parameters]",
        ),
        click.option(
            "--seed", type=click.IntRange(0), default=0, show_default=True,
            help="Other numbers give other items of the same kinds.",
        ),
    )  # fmt: skip


preflight_option: Decorator[Any] = click.option(
    "--no-preflight", is_flag=True,
    help="Go on although the suite cannot show a difference on this model.",
)  # fmt: skip


def build_suites(
    model: Path,
    asked: SuiteOptions,
    heldout: Path | None = None,
    controls: tuple[str, ...] = (),
) -> tuple[Suite, Suite]:
    """The items to search with, and those held out, which alone hold the families `controls`."""
    if asked.suite is not None:
        if controls:
            raise click.UsageError(
                "--control is of generated items; with --suite, put the family into --heldout only"
            )
        return _own_suites(asked.suite, heldout)
    if heldout is not None:
        raise click.UsageError("--heldout goes with --suite")
    if both := set(asked.families) & set(controls):
        raise click.UsageError(
            f"--control {','.join(sorted(both))}: is in --families as well, so the search asks it"
        )
    with Model(model) as opened:
        auto = level_for(sum(t.n_elements for t in opened.header.tensors))
    names = (*asked.families, *controls)
    levels = dict.fromkeys(names, auto)
    for members, level in asked.levels:
        levels |= dict.fromkeys((n for n in members if n in names), level)
    search, held = (
        build_suite(asked.suite_size, levels=levels, seed=asked.seed, split=split, families=chosen)
        for split, chosen in (("search", asked.families), ("heldout", names))
    )
    return search, held


def _own_suites(path: Path, heldout: Path | None) -> tuple[Suite, Suite]:
    own = Suite.read(path)
    if heldout is None:
        if len(own.items) < 2:  # noqa: PLR2004 - one for each
            raise RysError(f"{printable(path)}: one item cannot be divided; add some, or --heldout")
        return own.halves()
    held = Suite.read(heldout)
    known = {item.prompt(): item.id for item in own.items}
    for item in held.items:
        if item.prompt() in known:
            raise RysError(
                f"{printable(heldout)}: item {printable(item.id)} asks what "
                f"{printable(known[item.prompt()])} of {printable(path)} does; held-out items "
                f"judge only if no choice was made by them"
            )
    return own, held
