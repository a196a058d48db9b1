"""The command that measures one model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from rys_gguf.checks.self_test import choose_kind
from rys_gguf.cli.levels import ask_levels, assume_levels, assumption
from rys_gguf.cli.options import (
    FILE,
    MODEL,
    engine_options_with_context,
    force_option,
    handing_over,
    json_option,
    log_option,
)
from rys_gguf.cli.output import TextOutput, echo, echo_json, say
from rys_gguf.cli.progress import Progress
from rys_gguf.cli.suite import preflight_option, probe_suite_options, thinking_option
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.live.kept import sessions_kept
from rys_gguf.errors import InvalidOptions, RysError
from rys_gguf.hub.caches import outside_caches
from rys_gguf.probes.ask import Answer
from rys_gguf.probes.choose import SuiteOptions, choose_suites
from rys_gguf.probes.item import dump
from rys_gguf.probes.lm_eval import run_harness
from rys_gguf.probes.preflight import room_notes
from rys_gguf.probes.run import dump_answers, run_probe
from rys_gguf.probes.suite import Suite
from rys_gguf.probes.summary import summarise
from rys_gguf.probes.tables import row_lines, suite_lines, thought_lines
from rys_gguf.text import printable


@dataclass(frozen=True, slots=True)
class _Method:
    """How the items are asked."""

    heldout: bool
    generate: bool
    thinking: int
    no_preflight: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class _ProbeOutput:
    """What is written, and how it is printed."""

    save_suite: Path | None
    output: Path | None
    force: bool
    as_json: bool

    def answers(self, inputs: Sequence[Path]) -> TextOutput:
        """The file for all answers of the model that is the first input, once it can be written."""
        default = outside_caches(inputs[0].with_name(inputs[0].name + ".probe.jsonl"))
        if self.output is None:
            output = TextOutput.default(default, inputs, _is_answers, force=self.force)
        else:
            output = TextOutput.named(self.output, inputs, force=self.force, default=default)
        output.require()
        return output

    def items(self, inputs: Sequence[Path]) -> TextOutput | None:
        """The file for the items, if there is to be one, once it can be written."""
        if self.save_suite is None:
            return None
        output = TextOutput.named(self.save_suite, inputs, force=self.force)
        output.require()
        return output

    def show(self, model: Path, suite: Suite, answers: Sequence[Answer], path: Path) -> None:
        """Print the table of scores."""
        rows = summarise(suite, answers)
        if self.as_json:
            echo_json(
                {
                    "model": model.name,
                    "suite": suite.suite_id,
                    "answers": str(path),
                    "rows": [row.as_json() for row in rows],
                }
            )
        else:
            echo(row_lines(rows))
            echo(thought_lines(answers))
            say(f"every answer: {printable(path)}")


def _is_answers(head: bytes) -> bool:
    try:
        first = json.loads(head.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and {"scoring", "item", "score"} <= first.keys()


@dataclass(frozen=True, slots=True)
class _Harness:
    """Tasks of lm-evaluation-harness to run instead."""

    tasks: str | None
    task_arguments: tuple[str, ...]


@click.command()
@click.argument("model", type=MODEL)
@probe_suite_options
@handing_over(
    "method",
    _Method,
    click.option(
        "--heldout", is_flag=True, help="Ask the items that a sweep keeps for its finalists."
    ),
    click.option(
        "--generate",
        is_flag=True,
        help="Let the model answer in its own words, instead of reading probabilities.",
    ),
    thinking_option("Let the model think for up to so many tokens before it answers."),
    preflight_option,
    click.option("--dry-run", is_flag=True, help="Show what would be asked, and stop."),
)
@handing_over(
    "write",
    _ProbeOutput,
    click.option("--save-suite", type=FILE, help="Write the items to this file as well."),
    click.option(
        "-o",
        "--output",
        type=FILE,
        help="File or folder for all answers.  [default: MODEL.probe.jsonl]",
    ),
    force_option,
    json_option,
)
@handing_over(
    "harness",
    _Harness,
    click.option(
        "--lm-eval",
        "tasks",
        metavar="TASK,...",
        help="Run these tasks of lm-evaluation-harness instead (only those that generate).",
    ),
    click.option(
        "--lm-eval-arg",
        "task_arguments",
        multiple=True,
        metavar="ARG",
        help="An argument for lm_eval. Repeat the option for more.",
    ),
)
@log_option
@engine_options_with_context
def probe(
    model: Path,
    items: SuiteOptions,
    method: _Method,
    write: _ProbeOutput,
    harness: _Harness,
    log_file: Path | None,
    engine: EngineOptions,
) -> None:
    """Measure a model: math guesses, emotions, reasoning.

    The items are generated. By default the model only reads them, and the probabilities of the
    options are taken from its next token, which is quick; with --generate it answers in its own
    words. Every answer is saved. The scores of one model say little: compare variants of one model.
    """
    if harness.tasks is not None:
        if code := run_harness(model, harness.tasks, engine, harness.task_arguments):
            raise RysError(f"lm_eval ended with exit code {code}; its output is above")
        return
    suite = _suite(assume_levels(items), method)
    if method.dry_run:
        _show_suite(suite, assumption(items), as_json=write.as_json)
        return
    inputs = [model] if items.suite is None else [model, items.suite]
    output, saved = write.answers(inputs), write.items(inputs)
    with sessions_kept(), Progress(log_file) as progress:
        engine = choose_kind(model, engine, progress.say)
        suite = _suite(ask_levels(model, items, engine, progress), method)
        if saved is not None:
            saved.write(dump(suite.items))
        progress.begin("probe", len(suite.items), "item")
        answers = run_probe(
            model, engine, suite.items,
            generate=method.generate, thinking=method.thinking,
            preflight=not method.no_preflight, progress=progress.advance,
        )  # fmt: skip
    output.write(dump_answers(answers))
    write.show(model, suite, answers, output.path)
    if not method.no_preflight:
        for note in room_notes(zip(suite.items, answers, strict=True)):
            say(note)


def _suite(items: SuiteOptions, method: _Method) -> Suite:
    if items.suite is None:
        search, heldout = choose_suites(items)
        return heldout if method.heldout else search
    if method.heldout:
        raise InvalidOptions(
            "--heldout asks generated items; with --suite, name your held-out file"
        )
    return Suite.read(items.suite)


def _show_suite(suite: Suite, notes: Iterable[str], *, as_json: bool) -> None:
    for note in notes:
        say(note)
    statistics = suite.statistics()
    if as_json:
        echo_json(statistics)
    else:
        echo(suite_lines(statistics))
