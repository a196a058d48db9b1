"""Repeat layers of a GGUF model: one map from output layer to source layer decides everything.

from rys_gguf import LayerMap, Model, find_problems, make_plan, write_plan

with Model("model.gguf") as model:
    plan = make_plan(model, LayerMap.parse("blocks:10,14", model.n_trunk))
    write_plan(plan, "deeper.gguf")
problems = find_problems("deeper.gguf", "model.gguf")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rys_gguf._version import __version__

if TYPE_CHECKING:
    from rys_gguf.checks.verify import Problem, find_problems
    from rys_gguf.errors import InvalidGGUF, InvalidLayerMap, OutputFailed, Refused, RysError
    from rys_gguf.formats.model import Model
    from rys_gguf.layers.layer_map import LayerMap
    from rys_gguf.layers.schedule import Schedule
    from rys_gguf.patch.diff import HeaderDiff, diff_models
    from rys_gguf.patch.plan import Plan, default_output, make_plan
    from rys_gguf.patch.writer import write_plan

_HOMES = {
    "checks.verify": ("Problem", "find_problems"),
    "errors": ("InvalidGGUF", "InvalidLayerMap", "OutputFailed", "Refused", "RysError"),
    "formats.model": ("Model",),
    "layers.layer_map": ("LayerMap",),
    "layers.schedule": ("Schedule",),
    "patch.diff": ("HeaderDiff", "diff_models"),
    "patch.plan": ("Plan", "default_output", "make_plan"),
    "patch.writer": ("write_plan",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "HeaderDiff",
    "InvalidGGUF",
    "InvalidLayerMap",
    "LayerMap",
    "Model",
    "OutputFailed",
    "Plan",
    "Problem",
    "Refused",
    "RysError",
    "Schedule",
    "__version__",
    "default_output",
    "diff_models",
    "find_problems",
    "make_plan",
    "write_plan",
]


def __getattr__(name: str) -> Any:
    # Names load on first use: `rys-gguf --help` must not pay for numpy and gguf.
    if name in _HOME_OF:
        return getattr(import_module(f"rys_gguf.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'rys_gguf' has no attribute {name!r}")
