"""The commands that run a variant in llama.cpp: prove, smoke, validate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from rys_gguf.checks.ladder import Report, Rung, n_steps
from rys_gguf.checks.ladder import validate as climb
from rys_gguf.checks.prove import (
    BIT_FOR_BIT,
    Proof,
    describe_difference,
    n_passes,
    runs_as,
)
from rys_gguf.checks.prove import prove as run_proof
from rys_gguf.checks.self_test import choose_kind
from rys_gguf.checks.smoke import PROMPTS, run_smoke
from rys_gguf.checks.smoke import compare as compare_replies
from rys_gguf.checks.smoke_report import as_json as smoke_json
from rys_gguf.checks.smoke_report import smoke_lines
from rys_gguf.checks.variant import VariantPair
from rys_gguf.cli.options import (
    FILE,
    MODEL,
    LayerSpec,
    ProofOptions,
    engine_options,
    force_option,
    handing_over,
    json_option,
    layer_options,
    log_option,
    proof_options,
)
from rys_gguf.cli.output import TextOutput, echo, echo_json, plain, say
from rys_gguf.cli.progress import Progress
from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import RysError
from rys_gguf.formats.model import Model
from rys_gguf.hub.caches import outside_caches
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.patch.provenance import resolve_layer_map
from rys_gguf.text import printable


@click.command()
@click.argument("variant", type=MODEL)
@click.option("--source", type=MODEL, required=True, help="The model it was made from.")
@layer_options
@proof_options
@engine_options
@json_option
def prove(
    variant: Path,
    source: Path,
    layers: LayerSpec,
    proof_options: ProofOptions,
    engine: EngineOptions,
    as_json: bool,
) -> None:
    """Prove in llama.cpp that every layer runs as its source.

    Silences the copies, then the originals, so that what remains computes the same as the source,
    and compares the distributions. This catches what reading the file cannot: rules missing from
    the table, and keys that the engine ignores.
    """
    pair = _pair(variant, source, layers)
    tolerance = proof_options.tolerance
    with Progress() as progress:
        engine = choose_kind(source, engine, progress.say)
        progress.begin("prove", n_passes(pair), "pass")
        proof = run_proof(
            pair,
            engine,
            tolerance=tolerance,
            workdir=proof_options.workdir,
            say=progress.say,
            progress=progress.advance,
        )
    if as_json:
        echo_json({"ok": proof.holds(tolerance), **proof.as_json()})
    else:
        echo(_proof_lines(proof, pair.layer_map, tolerance))
    if not proof.holds(tolerance):
        fault = describe_difference(proof, pair.layer_map, tolerance)
        raise RysError(f"{printable(variant.name)}: {fault}")


@click.command()
@click.argument("variant", type=MODEL)
@click.option("--source", type=MODEL, help="Judge relative to this model's own answers.")
@engine_options
@json_option
def smoke(variant: Path, source: Path | None, engine: EngineOptions, as_json: bool) -> None:
    """Test a model for loops and garbage.

    Asks it to answer prompts that demand structure, greedily and with thinking off. Small models
    loop even unmodified: with --source the variant fails only where it is clearly worse than its
    source. The offending text is printed.
    """
    models = [variant] if source is None else [variant, source]
    with Progress() as progress:
        engine = choose_kind(variant, engine, progress.say)
        progress.begin("smoke", len(models) * len(PROMPTS), "prompt")
        replies = [
            run_smoke(model, engine, progress=lambda _reply: progress.advance()) for model in models
        ]
    verdict = compare_replies(*replies)
    if as_json:
        echo_json(smoke_json(verdict))
    else:
        echo(smoke_lines(verdict))
    if not verdict.passed:
        raise RysError(f"{printable(variant.name)}: {verdict.reasons[0]}")


@dataclass(frozen=True, slots=True)
class _ReportOptions:
    """Where `validate` writes its report."""

    report: Path | None
    force: bool

    def output(self, variant: Path, source: Path) -> TextOutput:
        """The file to write; one that `validate` named itself may be replaced by the next run."""
        default = report_path(variant)
        inputs = [variant, source]
        if self.report is None:
            return TextOutput.default(default, inputs, _is_report, force=self.force)
        return TextOutput.named(self.report, inputs, force=self.force, default=default)


def report_path(variant: Path) -> Path:
    """Where `validate` writes its report if the user names no file, and `card` looks for it."""
    return outside_caches(variant.with_name(variant.name + ".validate.json"))


def _is_report(head: bytes) -> bool:
    return re.match(rb'\{\s*"rys_gguf":', head) is not None


@click.command()
@click.argument("variant", type=MODEL)
@click.option("--source", type=MODEL, required=True, help="The model it was made from.")
@layer_options
@proof_options
@handing_over(
    "report",
    _ReportOptions,
    click.option(
        "--report", type=FILE, help="File for the report.  [default: VARIANT.validate.json]"
    ),
    force_option,
)
@log_option
@engine_options
@json_option
def validate(
    variant: Path,
    source: Path,
    layers: LayerSpec,
    proof_options: ProofOptions,
    report: _ReportOptions,
    log_file: Path | None,
    engine: EngineOptions,
    as_json: bool,
) -> None:
    """Run verify, load, prove and smoke in order.

    Stops at the first failure, and saves what every step showed as JSON.
    """
    pair = _pair(variant, source, layers)
    output = report.output(variant, source)
    output.require()
    with Progress(log_file) as progress:
        engine = choose_kind(source, engine, progress.say)
        progress.begin("validate", n_steps(pair), "step")
        climbed = climb(
            pair,
            engine,
            tolerance=proof_options.tolerance,
            workdir=proof_options.workdir,
            done=lambda rung: progress.say(rung_line(rung)),
            progress=progress.advance,
        )
    output.write(climbed.dump())
    _show_validation(climbed, output.path, as_json=as_json)
    if not climbed.passed:
        last = climbed.rungs[-1]
        raise RysError(f"{printable(variant.name)}: {last.name} failed: {last.shows}")
    say(
        "next: compare it with the source on your own tasks, in the quantisation you will "
        "distribute"
    )


def _pair(variant: Path, source: Path, layers: LayerSpec) -> VariantPair:
    with Model(variant) as out, Model(source) as base:
        return VariantPair(variant, source, resolve_layer_map(out, base, layers.of(base)))


def rung_line(rung: Rung) -> str:
    """A step of a validation as a line."""
    return f"{rung.name:7} {rung.outcome:6} {rung.seconds:6.1f} s  {rung.shows}"


def _show_validation(climbed: Report, path: Path, *, as_json: bool) -> None:
    if as_json:
        echo_json({"ok": climbed.passed, **plain(climbed)})
    else:
        echo([str(path)])


def _proof_lines(proof: Proof, layer_map: LayerMap, tolerance: float) -> Iterator[str]:
    """Each comparison, and the sentence on the whole if it holds."""
    for result in proof.results:
        exact = "bit-exact" if result.exact else f"{result.max_difference:.3g} nats apart"
        silenced = ", ".join(map(str, result.ablated)) or "none"
        yield f"silenced {silenced}: {exact}"
    if damped := proof.damped:
        exact = "bit-exact" if damped.exact else f"{damped.max_difference:.3g} nats apart"
        yield f"damped by 0 instead of silenced, {', '.join(map(str, damped.ablated))}: {exact}"
    if proof.holds(tolerance):
        precision = proof.precision(tolerance)
        within = "" if precision == BIT_FOR_BIT else f" {precision}"
        yield (
            f"every one of {len(layer_map)} outputs {runs_as(layer_map)}{within} "
            f"({proof.n_positions} positions, up to {proof.longest} tokens)"
        )
