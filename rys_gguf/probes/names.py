"""The names a suite is chosen by, and how many items each size has; cheap to import."""

from __future__ import annotations

FAMILIES = ("math", "eq", "reasoning")
SIZES: dict[str, dict[str, int]] = {
    "quick": {"math": 32, "eq": 24, "reasoning": 80},
    "standard": {"math": 64, "eq": 48, "reasoning": 200},
    "validate": {"math": 120, "eq": 96, "reasoning": 400},
}
# Items that judge the finalists. The mean over families is most certain with as many of each.
HELDOUT_SIZES: dict[str, dict[str, int]] = {
    "quick": SIZES["quick"],
    "standard": dict.fromkeys(FAMILIES, 400),
    "validate": dict.fromkeys(FAMILIES, 900),
}
SPLITS = ("search", "heldout", "audit")
LEVELS = tuple(range(8))
# Characters in the name of an item, a family, a topic or an option. The path of 512 layers, which
# names a candidate in the same files of a run, has 2,100 at most.
MAX_NAME = 4096


def n_items(size: str) -> int:
    """The number of items in a suite of that size with all families.

    n_items("quick") == 136
    """
    return sum(SIZES[size].values())
