"""As many held-out items as the wanted gain takes, and what the chosen ones can show."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rys_gguf.errors import InvalidOptions, RysError
from rys_gguf.probes.choose import SuiteOptions
from rys_gguf.probes.suite import Suite, build_suite
from rys_gguf.search.settings import SweepRequest
from rys_gguf.stats.looks import look_ends, looks_at
from rys_gguf.stats.power import ALIKE, Sight, sight

# Of each family: nobody waits for more.
_MOST_ITEMS = 5000
_FEWEST_ITEMS = 16


def require_generated(options: SuiteOptions) -> None:
    """Raise InvalidOptions if the items are a user's own, whose number is given."""
    if options.suite is not None:
        raise InvalidOptions(
            "--detect sizes generated items; with --suite, put as many items into --heldout"
        )


def sized(heldout: Suite, gain: float, n_finalists: int, seed: int) -> Suite:
    """Held-out items like these, and as many as show a true overall gain, a fraction of 1.

    Raises RysError if no number of them does.
    """
    levels = {item.family: item.level for item in heldout.items}
    families = heldout.families
    n, n_before = _FEWEST_ITEMS, 0
    while True:
        suite = build_suite(
            levels=levels, seed=seed, split="heldout", families=families,
            counts=dict.fromkeys(families, n),
        )  # fmt: skip
        seen = _seen(suite, n_finalists)
        if seen.overall <= gain:
            return suite
        if n >= _MOST_ITEMS or len(suite.items) == n_before:
            raise RysError(
                f"--detect {100 * gain:g}: {len(suite.items):,} held-out items show no less than "
                f"{100 * seen.overall:.1f} points, and there are no more; ask for a larger gain, "
                f"judge fewer windows (--finalists 1), or ask harder items (--level)"
            )
        n_before = len(suite.items)
        n = min(_MOST_ITEMS, math.ceil(n * max(1.02, (seen.overall / gain) ** 2)))


def sight_lines(request: SweepRequest) -> Iterator[str]:
    """What the held-out items of a sweep can show, for its user."""
    suite, looks = request.suites[1], request.settings.looks
    n_finalists = request.settings.n_finalists
    seen = sight(suite.items, n_finalists, looks)
    apart = [f"{100 * x:.1f} in {f}" for f, x in seen.families.items()] * (len(seen.families) > 1)
    ends = [f"{end:,}" for end in look_ends(len(suite.items), looks)]
    if len(ends) > 1:
        yield (
            f"looks: after {', '.join(ends[:-1])} and {ends[-1]} held-out items; clear cases stop "
            f"early"
        )
    yield (
        f"sees: in four sweeps out of five a true gain of "
        f"{' or '.join([f'{100 * seen.overall:.1f} points overall', *apart])}"
    )
    alike = sight(suite.items, n_finalists, looks, alike=ALIKE)
    yield (
        f"sees: {100 * alike.overall:.1f} points overall if items of one template or event are "
        f"alike (correlation {ALIKE}), and {100 * alike.least:.1f} with any number of them"
    )


def _seen(suite: Suite, n_finalists: int) -> Sight:
    return sight(suite.items, n_finalists, looks_at(len(suite.items)))
