"""The command that runs llama.cpp's own server with a variant: serve."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from rys_gguf.checks.serve import served_file, served_plan
from rys_gguf.cli.options import (
    MODEL,
    LayerSpec,
    PlanOptions,
    damp_option,
    layer_options,
    plan_options,
    stock_engine_options,
)
from rys_gguf.cli.output import echo, say
from rys_gguf.cli.patch import planned_variant
from rys_gguf.cli.process import when_stopped
from rys_gguf.cli.render import cache_parts
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.stock import StockServer


@click.command()
@click.argument("model", type=MODEL)
@layer_options
@damp_option
@plan_options
@stock_engine_options
def serve(
    model: Path, layers: LayerSpec, damp: float, options: PlanOptions, engine: EngineOptions
) -> None:
    """Serve a variant to other programs without writing it.

    Runs llama.cpp's own server, with its API, until Ctrl-C. The variant's layers are pointers to
    those of the model, so it takes no second copy of any weights, on disk or in memory. Without a
    map the model is served as it is. What follows -- goes to the server: --host, --port, ...
    """
    with contextlib.ExitStack() as stack:
        if layers.text is None and damp == 1:
            server = stack.enter_context(served_file(model, engine))
        else:
            server = stack.enter_context(_served(model, layers, damp, options, engine))
        when_stopped("the server has ended, and nothing was left behind")
        echo([server.address.url])
        server.wait()


@contextlib.contextmanager
def _served(
    model: Path, layers: LayerSpec, damp: float, options: PlanOptions, engine: EngineOptions
) -> Iterator[StockServer]:
    with planned_variant(model, layers, damp, options) as plan:
        for note in plan.notes:
            say(f"note: {note}")
        cost = ", ".join(cache_parts(plan.memory)) or "nothing"
        say(f"{len(plan.layer_map)} layers instead of {plan.model.n_trunk}; they cost {cost}")
        with served_plan(plan, engine, say) as server:
            yield server
