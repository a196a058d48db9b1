"""Python code beside a model is never run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rys_gguf import LayerMap, Model, make_plan, write_plan
from rys_gguf.engines.interpreter import python_file, python_module
from tests import tiny

ROOT = Path(__file__).parents[2]
NAMES = (
    *("json", "os", "re", "runpy", "signal", "numpy", "gguf", "xllamacpp", "sitecustomize"),
    *("llama", "mapping", "stock", "ctypes", "array", "socket", "struct", "threading", "select"),
)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file in which code of the hostile folder would leave a trace."""
    return tmp_path / "executed"


@pytest.fixture
def hostile(tmp_path: Path, mark: Path) -> Path:
    """A folder whose modules take the names of those that the package imports."""
    folder = tmp_path / "models"
    (folder / "rys_gguf" / "engines").mkdir(parents=True)
    code = f"open({str(mark)!r}, 'a').write(__file__ + '\\n')\n"
    for name in NAMES:
        (folder / f"{name}.py").write_text(code)
    for name in ("__init__", "__main__", "engines/__init__", "engines/child"):
        (folder / "rys_gguf" / f"{name}.py").write_text(code)
    return folder


@pytest.fixture
def environment() -> dict[str, str]:
    """This environment, with the package found through PYTHONPATH alone."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def test_the_hostile_folder_is_one(hostile: Path, mark: Path, environment: dict[str, str]) -> None:
    """Without protection `python -m` runs what lies there, so these tests can fail."""
    subprocess.run([sys.executable, "-m", "json.tool", "--help"], cwd=hostile, env=environment)
    assert "json.py" in mark.read_text()


def test_a_module_is_run_without_the_current_folder(
    hostile: Path, mark: Path, environment: dict[str, str]
) -> None:
    """It gets its arguments and its input, and imports the real modules."""
    command = python_module("json.tool", "--compact")
    done = subprocess.run(
        command, cwd=hostile, env=environment, input="[1, 2]", capture_output=True, text=True
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[1,2]\n", "", 0)
    assert not mark.exists()


def test_a_file_is_run_without_the_current_folder(
    hostile: Path, mark: Path, environment: dict[str, str]
) -> None:
    """It is __main__, gets its arguments, and imports neither from here nor from its own folder."""
    path = hostile / "program.py"
    path.write_text("import json, sys; print(__name__, json.dumps(sys.argv[1:]), sys.path[0])")
    for folder in (hostile, hostile.parent):
        done = subprocess.run(
            python_file(path, "a b", "--c"),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f'__main__ ["a b", "--c"] {ROOT}\n'
    assert not mark.exists()


@pytest.mark.parametrize(
    "arguments",
    [("prove", "out.gguf", "--source", "m.gguf"), ("smoke", "m.gguf"), ("inspect", "m.gguf")],
    ids=lambda arguments: arguments[0],
)
def test_commands_run_nothing_that_lies_beside_a_model(
    hostile: Path, mark: Path, environment: dict[str, str], arguments: tuple[str, ...]
) -> None:
    """An installed rys-gguf, called in the folder, imports from where it is installed."""
    source = tiny.write(hostile / "m.gguf", "llama", 4)
    with Model(source) as model:
        write_plan(make_plan(model, LayerMap.parse("blocks:1,3", 4)), hostile / "out.gguf")
    script = hostile.parent / "bin" / "rys-gguf"
    script.parent.mkdir()
    script.write_text("import runpy; runpy.run_module('rys_gguf', run_name='__main__')")
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=hostile,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert not mark.exists(), mark.read_text()
    assert "Traceback" not in done.stderr
    # The tiny model writes gibberish, which smoke reports.
    assert done.returncode == (1 if arguments[0] == "smoke" else 0), done.stderr


def test_the_live_engines_child_imports_nothing_from_the_current_folder(
    hostile: Path, mark: Path, environment: dict[str, str]
) -> None:
    """Neither its own modules nor those of Python."""
    model = tiny.write(hostile / "m.gguf", "llama", 2)
    script = hostile.parent / "ask.py"
    script.write_text(
        "import sys\n"
        "from rys_gguf.engines.base import LIVE, EngineOptions\n"
        "from rys_gguf.engines.find import open_engine\n"
        "with open_engine(sys.argv[1], EngineOptions(kind=LIVE, n_ctx=64)) as engine:\n"
        "    print(len(engine.top_logprobs([1, 50], 3)))\n"
    )
    done = subprocess.run(
        [sys.executable, script, model],
        cwd=hostile,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert not mark.exists(), mark.read_text()
    assert (done.stdout, done.stderr, done.returncode) == ("3\n", "", 0)
