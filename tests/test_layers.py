"""The layout tells the story: one direction through the folders, and a rule for each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rys_gguf"
# Data flows through these from left to right; a folder imports from those before it only.
FOLDERS = (
    "files", "formats", "hub", "layers", "patch", "engines", "checks", "serve",
    "probes", "runs", "stats", "report", "search", "cli",
)  # fmt: skip
# Modules that anything may import: they import nothing of the package but each other.
CELLAR = ("_version", "errors", "extras", "text")
# What each folder does without, though the order would allow it.
RULES: dict[str, dict[str, tuple[str, ...]]] = {
    "files": {"knows no format": ("gguf", "numpy", "click", "tqdm")},
    "formats": {"knows no rule": ("rys_gguf.layers", "click", "tqdm")},
    "hub": {"knows no rule and no screen": ("rys_gguf.files.output", "click", "tqdm")},
    "layers": {
        "writes nothing": ("rys_gguf.files.output", "rys_gguf.files.copying", "click", "tqdm"),
    },
    "patch": {"knows no screen": ("click", "tqdm")},
    "engines": {"knows no rule and no plan": ("rys_gguf.layers", "rys_gguf.patch", "click")},
    "checks": {"knows no screen": ("click", "tqdm")},
    "serve": {"knows no screen": ("click", "tqdm")},
    "probes": {"does not patch": ("rys_gguf.patch", "rys_gguf.checks", "click", "tqdm")},
    "runs": {"asks nothing": ("rys_gguf.engines", "rys_gguf.patch", "rys_gguf.checks", "click")},
    "stats": {
        "knows no screen and no engine": (
            "rys_gguf.engines", "rys_gguf.patch", "rys_gguf.checks", "click", "tqdm", "matplotlib",
        ),
    },
    "report": {"asks nothing": ("rys_gguf.engines", "rys_gguf.checks", "rys_gguf.probes", "click")},
    "search": {"shows nothing": ("rys_gguf.report", "click", "tqdm")},
}  # fmt: skip


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, as a dotted name; names of packages count as modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(folder: str) -> list[Path]:
    """The modules of a folder."""
    return sorted((PACKAGE / folder).rglob("*.py"))


def test_the_order_names_every_folder() -> None:
    """A folder that is not in the order would be free of every rule."""
    there = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert there == set(FOLDERS)
    files = {p.stem for p in PACKAGE.glob("*.py")}
    assert files == {*CELLAR, "__init__", "__main__"}


@pytest.mark.parametrize("name", CELLAR)
def test_the_cellar_stands_on_nothing(name: str) -> None:
    """Version, errors and printable text may be imported from everywhere."""
    for module in imports(PACKAGE / f"{name}.py"):
        if module.startswith("rys_gguf."):
            assert module.split(".")[1] in CELLAR


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_import_goes_up(folder: str) -> None:
    """A folder imports from the folders before it, from itself and from the cellar."""
    allowed = {*CELLAR, *FOLDERS[: FOLDERS.index(folder) + 1]}
    for path in modules(folder):
        for module in imports(path):
            assert module != "rys_gguf", f"{path}: the package's face is for users"
            if module.startswith("rys_gguf."):
                assert module.split(".")[1] in allowed, f"{path} imports {module}"


@pytest.mark.parametrize(
    ("folder", "rule"), [(folder, rule) for folder, rules in RULES.items() for rule in rules]
)
def test_folders_keep_their_rules(folder: str, rule: str) -> None:
    """No folder imports the modules that its rule forbids."""
    for path in modules(folder):
        for module in imports(path):
            for banned in RULES[folder][rule]:
                assert module != banned, f"{path}: {folder} {rule}"
                assert not module.startswith(banned + "."), f"{path}: {folder} {rule}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_goes_round_in_a_circle(folder: str) -> None:
    """Inside a folder, too, imports have one direction."""
    graph = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): set(imports(path))
        for path in modules(folder)
    }
    graph = {name: uses & graph.keys() for name, uses in graph.items()}
    while graph:
        free = {name for name, uses in graph.items() if not uses - {name}}
        assert free, f"these import each other: {sorted(graph)}"
        graph = {name: uses - free for name, uses in graph.items() if name not in free}
