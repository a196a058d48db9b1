"""Repeat layers of a GGUF model, prove the result in llama.cpp, and search for the best window.

Everything that the command line does is here. To write a variant and check it:

    import rys_gguf

    written = rys_gguf.apply("model.gguf", "blocks:10,14", "deeper.gguf")
    problems = rys_gguf.find_problems("deeper.gguf", "model.gguf")

    with rys_gguf.Model("model.gguf") as model:
        layer_map = rys_gguf.LayerMap.parse("layers:0..13,10..23", model.n_trunk)
        plan = rys_gguf.make_plan(model, layer_map)
        print(plan.n_bytes, plan.memory.weights)

Functions raise `RysError` for everything that can go wrong with files, models and engines; any
other exception is a bug. Those that run llama.cpp take `EngineOptions`, and need the package
xllamacpp or a llama-server. Sweeps, and everything that reads their runs, also need msgspec;
statistics need scipy, reports matplotlib and jinja2, cards huggingface_hub. An error names the
packages that are missing.

The names in `__all__` and the way they are called are stable: anything that changes keeps working
for one more minor release, with a DeprecationWarning. The format of run folders carries its own
number (`schema` in run.json), and later versions read earlier ones. Everything else may change in
any release: the modules that these names come from, the words of messages, the layout of reports,
and the results of `run_sweep` for the same seed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rys_gguf._version import __version__

if TYPE_CHECKING:
    from rys_gguf.checks.ladder import Report as Validation
    from rys_gguf.checks.ladder import validate
    from rys_gguf.checks.prove import Proof, prove
    from rys_gguf.checks.self_test import choose_kind
    from rys_gguf.checks.smoke import LoopVerdict, Reply, run_smoke
    from rys_gguf.checks.smoke import compare as judge_smoke
    from rys_gguf.checks.types import find_type_problems
    from rys_gguf.checks.variant import VariantPair
    from rys_gguf.checks.verify import Problem, find_problems
    from rys_gguf.engines.base import Engine, EngineOptions, Generation
    from rys_gguf.engines.conversation import Conversation
    from rys_gguf.engines.find import find_engine, open_engine
    from rys_gguf.engines.stock import StockServer
    from rys_gguf.errors import (
        EngineFailed,
        InvalidGGUF,
        InvalidLayerMap,
        InvalidOptions,
        InvalidSuite,
        ModelUnavailable,
        OutputFailed,
        Refused,
        RysError,
        Unsuitable,
    )
    from rys_gguf.formats.model import Model
    from rys_gguf.hub.find import RemoteModel, find_model, open_model
    from rys_gguf.layers.architectures import ARCHITECTURES
    from rys_gguf.layers.describe import Description, describe
    from rys_gguf.layers.layer_map import LayerMap
    from rys_gguf.layers.mergekit import MergekitRecipe, read_mergekit, write_mergekit
    from rys_gguf.layers.schedule import Schedule
    from rys_gguf.patch.align import align
    from rys_gguf.patch.apply import apply
    from rys_gguf.patch.companion import Companion
    from rys_gguf.patch.diff import HeaderDiff, diff_models
    from rys_gguf.patch.naming import default_output
    from rys_gguf.patch.plan import Plan, make_plan
    from rys_gguf.patch.provenance import resolve_layer_map
    from rys_gguf.patch.recover import Recovery, recover
    from rys_gguf.patch.remap import Variant
    from rys_gguf.patch.tensor_types import tensor_type_file
    from rys_gguf.patch.undo import Undo, plan_undo, unapply
    from rys_gguf.patch.writer import Written, write_plan
    from rys_gguf.probes.choose import SuiteOptions, choose_suites
    from rys_gguf.probes.levels import FamilyLevel, find_levels
    from rys_gguf.probes.run import run_probe
    from rys_gguf.probes.suite import Suite, build_suite
    from rys_gguf.probes.summary import summarise
    from rys_gguf.report.card import make_card
    from rys_gguf.report.model_files import modelfile, server_preset
    from rys_gguf.report.optuna_study import export_study
    from rys_gguf.report.terminal import text_report
    from rys_gguf.report.watch import watch as watch_report
    from rys_gguf.report.write import write_report
    from rys_gguf.runs.scan import PriorEffect, Scan, encode_scan, prior_effects, read_scan
    from rys_gguf.runs.storage import Run
    from rys_gguf.search.dry_run import dry_lines as describe_sweep
    from rys_gguf.search.executors.local import factory as local_executor
    from rys_gguf.search.executors.ray_cluster import factory as ray_executor
    from rys_gguf.search.settings import Settings as SweepSettings
    from rys_gguf.search.settings import SweepPlan, SweepRequest
    from rys_gguf.search.study import Watcher, run_sweep
    from rys_gguf.serve.variant import serve_file, serve_plan
    from rys_gguf.stats.compare import Comparison, compare
    from rys_gguf.stats.evidence import Evidence
    from rys_gguf.stats.scan import scan_of
    from rys_gguf.stats.verdict import Verdict, verdicts

# Where each name comes from: "module", or "module:its name there".
_HOMES = {
    "ARCHITECTURES": "layers.architectures",
    "Companion": "patch.companion",
    "Comparison": "stats.compare",
    "Conversation": "engines.conversation",
    "Description": "layers.describe",
    "Engine": "engines.base",
    "EngineFailed": "errors",
    "EngineOptions": "engines.base",
    "Evidence": "stats.evidence",
    "FamilyLevel": "probes.levels",
    "Generation": "engines.base",
    "HeaderDiff": "patch.diff",
    "InvalidGGUF": "errors",
    "InvalidLayerMap": "errors",
    "InvalidOptions": "errors",
    "InvalidSuite": "errors",
    "LayerMap": "layers.layer_map",
    "LoopVerdict": "checks.smoke",
    "MergekitRecipe": "layers.mergekit",
    "Model": "formats.model",
    "ModelUnavailable": "errors",
    "OutputFailed": "errors",
    "Plan": "patch.plan",
    "PriorEffect": "runs.scan",
    "Problem": "checks.verify",
    "Proof": "checks.prove",
    "Recovery": "patch.recover",
    "Refused": "errors",
    "RemoteModel": "hub.find",
    "Reply": "checks.smoke",
    "Run": "runs.storage",
    "RysError": "errors",
    "Scan": "runs.scan",
    "Schedule": "layers.schedule",
    "StockServer": "engines.stock",
    "Suite": "probes.suite",
    "SuiteOptions": "probes.choose",
    "SweepPlan": "search.settings",
    "SweepRequest": "search.settings",
    "SweepSettings": "search.settings:Settings",
    "Undo": "patch.undo",
    "Unsuitable": "errors",
    "Validation": "checks.ladder:Report",
    "Variant": "patch.remap",
    "VariantPair": "checks.variant",
    "Verdict": "stats.verdict",
    "Watcher": "search.study",
    "Written": "patch.writer",
    "align": "patch.align",
    "apply": "patch.apply",
    "build_suite": "probes.suite",
    "choose_kind": "checks.self_test",
    "choose_suites": "probes.choose",
    "compare": "stats.compare",
    "default_output": "patch.naming",
    "describe": "layers.describe",
    "describe_sweep": "search.dry_run:dry_lines",
    "diff_models": "patch.diff",
    "encode_scan": "runs.scan",
    "export_study": "report.optuna_study",
    "find_engine": "engines.find",
    "find_levels": "probes.levels",
    "find_model": "hub.find",
    "find_problems": "checks.verify",
    "find_type_problems": "checks.types",
    "judge_smoke": "checks.smoke:compare",
    "local_executor": "search.executors.local:factory",
    "make_card": "report.card",
    "make_plan": "patch.plan",
    "modelfile": "report.model_files",
    "open_engine": "engines.find",
    "open_model": "hub.find",
    "plan_undo": "patch.undo",
    "prior_effects": "runs.scan",
    "prove": "checks.prove",
    "ray_executor": "search.executors.ray_cluster:factory",
    "read_mergekit": "layers.mergekit",
    "read_scan": "runs.scan",
    "recover": "patch.recover",
    "resolve_layer_map": "patch.provenance",
    "run_probe": "probes.run",
    "run_smoke": "checks.smoke",
    "run_sweep": "search.study",
    "scan_of": "stats.scan",
    "serve_file": "serve.variant",
    "serve_plan": "serve.variant",
    "server_preset": "report.model_files",
    "summarise": "probes.summary",
    "tensor_type_file": "patch.tensor_types",
    "text_report": "report.terminal",
    "unapply": "patch.undo",
    "validate": "checks.ladder",
    "verdicts": "stats.verdict",
    "watch_report": "report.watch:watch",
    "write_mergekit": "layers.mergekit",
    "write_plan": "patch.writer",
    "write_report": "report.write",
}

__all__ = [
    "ARCHITECTURES",
    "Companion",
    "Comparison",
    "Conversation",
    "Description",
    "Engine",
    "EngineFailed",
    "EngineOptions",
    "Evidence",
    "FamilyLevel",
    "Generation",
    "HeaderDiff",
    "InvalidGGUF",
    "InvalidLayerMap",
    "InvalidOptions",
    "InvalidSuite",
    "LayerMap",
    "LoopVerdict",
    "MergekitRecipe",
    "Model",
    "ModelUnavailable",
    "OutputFailed",
    "Plan",
    "PriorEffect",
    "Problem",
    "Proof",
    "Recovery",
    "Refused",
    "RemoteModel",
    "Reply",
    "Run",
    "RysError",
    "Scan",
    "Schedule",
    "StockServer",
    "Suite",
    "SuiteOptions",
    "SweepPlan",
    "SweepRequest",
    "SweepSettings",
    "Undo",
    "Unsuitable",
    "Validation",
    "Variant",
    "VariantPair",
    "Verdict",
    "Watcher",
    "Written",
    "__version__",
    "align",
    "apply",
    "build_suite",
    "choose_kind",
    "choose_suites",
    "compare",
    "default_output",
    "describe",
    "describe_sweep",
    "diff_models",
    "encode_scan",
    "export_study",
    "find_engine",
    "find_levels",
    "find_model",
    "find_problems",
    "find_type_problems",
    "judge_smoke",
    "local_executor",
    "make_card",
    "make_plan",
    "modelfile",
    "open_engine",
    "open_model",
    "plan_undo",
    "prior_effects",
    "prove",
    "ray_executor",
    "read_mergekit",
    "read_scan",
    "recover",
    "resolve_layer_map",
    "run_probe",
    "run_smoke",
    "run_sweep",
    "scan_of",
    "serve_file",
    "serve_plan",
    "server_preset",
    "summarise",
    "tensor_type_file",
    "text_report",
    "unapply",
    "validate",
    "verdicts",
    "watch_report",
    "write_mergekit",
    "write_plan",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # Names load on first use, so that `import rys_gguf` costs nothing and needs no extra package.
    if name not in _HOMES:
        raise AttributeError(f"module 'rys_gguf' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    try:
        value = getattr(import_module(f"rys_gguf.{module}"), attribute or name)
    except ModuleNotFoundError as e:
        package = (e.name or "").partition(".")[0]
        raise ImportError(f"rys_gguf.{name} needs {package}: pip install {package}") from e
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
