"""Packages that only some commands need: checked before hours of work, loaded where they are used.

A message names packages to install, so that it can be pasted, and never an extra of this package,
whose name means nothing where it was installed from a folder.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from rys_gguf.errors import RysError

# What to install for a module, where its package has another name.
_PACKAGES = {"lm_eval": "'lm-eval[api]'", "yaml": "pyyaml"}


def require(task: str, *modules: str) -> None:
    """Raise RysError unless all of `modules` are installed. Looks for them and imports none.

    `task` is the subject of the message: "a sweep needs msgspec and scipy: pip install ...".
    """
    missing = [_package(name) for name in modules if find_spec(name.partition(".")[0]) is None]
    if missing:
        raise _needs(task, missing)


def load(task: str, module: str) -> Any:
    """Import a module of an optional package. Raises RysError if it is missing or broken."""
    try:
        return import_module(module)
    except ModuleNotFoundError as e:
        if e.name is None or e.name.partition(".")[0] == module.partition(".")[0]:
            raise _needs(task, [_package(module)]) from e
        raise RysError(f"{task} needs {module}, which does not load: {e}") from e
    except ImportError as e:
        raise RysError(f"{task} needs {module}, which does not load: {e}") from e


def _package(module: str) -> str:
    name = module.partition(".")[0]
    return _PACKAGES.get(name, name)


def _needs(task: str, packages: list[str]) -> RysError:
    packages = list(dict.fromkeys(packages))
    *others, last = (name.strip("'") for name in packages)
    names = f"{', '.join(others)} and {last}" if others else last
    return RysError(f"{task} needs {names}: pip install {' '.join(packages)}")
