"""Names of suites: their sums, and that they import nothing heavy."""

from __future__ import annotations

import subprocess
import sys

from rys_gguf.probes.names import FAMILIES, SIZES, n_items
from rys_gguf.probes.suite import GENERATORS


def test_sizes_add_up() -> None:
    """Every size has all families, and every family has a generator."""
    assert [n_items(size) for size in SIZES] == [136, 312, 616]
    assert all(tuple(counts) == FAMILIES for counts in SIZES.values())
    assert tuple(GENERATORS) == FAMILIES


def test_the_names_cost_no_import_of_a_model() -> None:
    """The command line needs the names for --help, which must be quick."""
    code = (
        "import sys, rys_gguf.probes.names, rys_gguf.probes.suite; "
        "print({'numpy', 'gguf', 'msgspec'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
