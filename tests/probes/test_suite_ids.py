"""Generated suites never change: their ids are part of what identifies a run."""

from __future__ import annotations

import pytest

from rys_gguf.probes.draw import VERSION
from rys_gguf.probes.suite import build_suite

# The ids of levels 0 to 3, by size, split and seed. If an item has to change, VERSION must go up,
# and all of these change.
IDS = {
    "quick search 0": "f27bad1385dc0a4f 08c8f24583513f10 344609ff8dce234f ee87e50138ef6199",
    "quick search 1": "a176524a1fcabb1e 172ce402a49c9dff 951ea0b2c34a23db e6d7bb9823da36f8",
    "quick heldout 0": "4a70e0109bbe5ee9 4d915ca0960a6f0b 640403694b20c64a 6738add735fce695",
    "quick heldout 1": "b2bc40495db54578 6361c9ac28abebc2 4ad47b9c0f7a473c 797671e3bd47a720",
    "standard search 0": "7130ac62147dd4b6 a8a5eee7c906c5be 9aab58063e57ba0a 41816cf23704b58f",
    "standard heldout 0": "7b79fa651ea5c1c4 9725323ecc9ce4e5 651cbc54eca4ccb9 3c2cb64781668430",
    "validate heldout 0": "d77ad362dd43ca85 efd47f99952bae14 ea7b5658558e68e4 a3309aa89238a306",
}  # fmt: skip


@pytest.mark.parametrize("suite", IDS)
def test_a_suite_keeps_its_id(suite: str) -> None:
    """The same arguments have always given the same bytes, at every level."""
    assert VERSION == 2
    size, split, seed = suite.split()
    ids = [
        build_suite(
            size,
            levels=dict.fromkeys(("math", "eq", "reasoning"), level),
            seed=int(seed),
            split=split,
        ).suite_id
        for level in range(4)
    ]
    assert " ".join(ids) == IDS[suite]
