"""Choose the items of a search, and those held out to judge its finalists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rys_gguf.errors import InvalidOptions, RysError
from rys_gguf.probes.names import FAMILIES, HELDOUT_SIZES, SIZES
from rys_gguf.probes.suite import Suite, build_suite
from rys_gguf.text import printable


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """Which items to ask: those of the file `suite`, or generated ones.

    `levels` pairs families with a level; later pairs win, and every generated family needs one.
    `heldout` is a file as well and needs `suite`. `controls` are families that only the held-out
    suite holds.
    """

    suite: Path | None = None
    suite_size: str = "standard"
    families: tuple[str, ...] = FAMILIES
    levels: tuple[tuple[tuple[str, ...], int], ...] = ()
    seed: int = 0
    heldout: Path | None = None
    controls: tuple[str, ...] = ()

    @property
    def level_of(self) -> dict[str, int]:
        """The levels by family."""
        return {name: level for names, level in self.levels for name in names}

    @property
    def without_level(self) -> tuple[str, ...]:
        """The families whose items are generated and whose level is still to be found."""
        generated = (*self.families, *self.controls) if self.suite is None else ()
        return tuple(family for family in generated if family not in self.level_of)

    def with_levels(self, found: Mapping[str, int]) -> SuiteOptions:
        """The same with these levels for the families that have none."""
        new = [((family,), found[family]) for family in self.without_level if family in found]
        return replace(self, levels=(*self.levels, *new))


def choose_suites(options: SuiteOptions) -> tuple[Suite, Suite]:
    """The suite to search with and the held-out one, which share no question.

    Raises InvalidOptions if options do not go together or a family has no level, RysError if a
    file has unusable items.
    """
    if options.suite is not None:
        if options.controls:
            raise InvalidOptions(
                "--control asks generated items; with --suite, put the family into --heldout only"
            )
        return _own_suites(options.suite, options.heldout)
    if options.heldout is not None:
        raise InvalidOptions("--heldout goes with --suite")
    if both := set(options.families) & set(options.controls):
        raise InvalidOptions(
            f"--control {','.join(sorted(both))}: is in --families as well, so the search asks it"
        )
    return _generated_suites(options)


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
                f"{printable(heldout)}: item {printable(item.id)} asks the same as "
                f"{printable(known[item.prompt()])} of {printable(path)}; held-out items must play "
                f"no part in the search they judge"
            )
    return own, held


def _generated_suites(options: SuiteOptions) -> tuple[Suite, Suite]:
    if options.without_level:
        raise InvalidOptions(
            f"no level of {', '.join(options.without_level)}: give one, or take what find_levels "
            f"finds for the model"
        )
    everything = (*options.families, *options.controls)
    search, heldout = (
        build_suite(
            levels=options.level_of, seed=options.seed, split=split, families=families,
            counts=counts,
        )
        for split, families, counts in (
            ("search", options.families, SIZES[options.suite_size]),
            ("heldout", everything, HELDOUT_SIZES[options.suite_size]),
        )
    )  # fmt: skip
    return search, heldout
