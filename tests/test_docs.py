"""README and help say what is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest

import rys_gguf
from rys_gguf.cli import main
from tests.cli import run

ROOT = Path(__file__).parent.parent
# Arrows point down: a module imports only from levels below its own.
LEVELS = [
    {"errors", "__init__", "probes.__init__", "search.__init__"},
    {"layer_map", "files", "engine", "header"},
    {"reader", "rules", "embedded"},
    {"shards", "architectures", "catalogue"},
    {"model"},
    {"schedule", "provenance"},
    {"plan", "describe", "prove", "smoke"},
    {"diff", "writer"},
    {"verify", "align", "report"},
    {"validate"},
    # Probes: an item knows how it is asked, a suite is items, asking needs an engine.
    {"probes.random", "probes.words", "probes.extract"},
    {"probes.item"},
    {"probes.score", "probes.math", "probes.emotions", "probes.reasoning"},
    {"probes.suite", "probes.ask"},
    {"probes.preflight"},
    {"probes.session"},
    # The search: a file, a worker, a pool of them, the sweep that tells them what to do.
    {"search.run", "search.slots", "search.candidates", "search.ranking", "search.harness"},
    {"search.worker"},
    {"search.pool", "search.ray_pool"},
    {"search.sweep"},
    {"search.session"},
    # What a run showed.
    {"search.statistics", "search.assets"},
    {"search.evidence"},
    {"search.verdict"},
    {"search.heatmap"},
    {"search.page", "search.compare", "search.card"},
    {"search.report"},
    {"terminal"},
    {"cli_search"},
    {"cli"},
    {"__main__"},
]


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_command_is_in_the_readme_and_has_help(name: str) -> None:
    """A command nobody can find is not there."""
    assert f"| `{name} " in (ROOT / "README.md").read_text()
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert len(command.help or "") > 40
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_every_public_name_resolves() -> None:
    """The names in __all__ load on first use."""
    for name in rys_gguf.__all__:
        assert getattr(rys_gguf, name) is not None
    with pytest.raises(AttributeError):
        _ = rys_gguf.nonesuch


def test_the_table_of_architectures_in_the_readme_is_current() -> None:
    """It is written by a script from the table the tool uses."""
    script = ROOT / "scripts" / "update_readme.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_and_version_import_neither_numpy_nor_gguf() -> None:
    """They answer at once; and the parts that need no arrays never load them."""
    for flag in ("--help", "--version"):
        code = (
            "import sys; sys.argv = ['rys-gguf', sys.argv[1]]\n"
            "from rys_gguf.cli import main\n"
            "try: main()\n"
            "finally: print([m for m in ('numpy', 'gguf', 'tqdm') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]", done.stdout


def test_modules_import_only_from_below() -> None:
    """The layout tells the story: spec, map, plan, write, verify; then probe, sweep, report."""
    level = {name: n for n, names in enumerate(LEVELS) for name in names}
    package = ROOT / "rys_gguf"
    for path in sorted(package.rglob("*.py")):
        importer = ".".join(path.relative_to(package).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or importer.endswith("__init__"):
                continue
            module = (node.module or "").split(".")
            if module[0] != "rys_gguf":
                continue
            name = ".".join(module[1:])
            names = [name] if name in level else [f"{name}.{a.name}" for a in node.names]
            for imported in names if name else ():
                assert level[imported] < level[importer], f"{importer} imports {imported}"


@pytest.mark.parametrize("args", [["plan"], ["nonesuch"], ["plan", "x", "--blokcs", "1,2"], []])
def test_a_wrong_call_is_told_with_code_2(args: list[str]) -> None:
    """Typos get click's usage message, not a traceback."""
    done = run(*args)
    assert done.returncode == 2
    assert "Usage: rys-gguf" in done.stderr
