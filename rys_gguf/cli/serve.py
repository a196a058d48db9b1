"""The commands that run llama.cpp's own server with a variant: serve, chat."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click

from rys_gguf.checks.serve import serve_file, serve_plan
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
from rys_gguf.engines.conversation import Conversation
from rys_gguf.engines.stock import StockServer
from rys_gguf.text import harmless


def _variant_arguments(command: Callable[..., None]) -> Callable[..., None]:
    """What says which model is served, what repeats in it, and how the server runs."""
    for add in (stock_engine_options, plan_options, damp_option, layer_options):
        command = add(command)
    return click.argument("model", type=MODEL)(command)


@click.command()
@_variant_arguments
def serve(
    model: Path, layers: LayerSpec, damp: float, options: PlanOptions, engine: EngineOptions
) -> None:
    """Serve a variant to other programs without writing it.

    Runs llama.cpp's own server, with its API, until Ctrl-C. The variant's layers are pointers to
    those of the model, so it takes no second copy of any weights, on disk or in memory. Without a
    map the model is served as it is. What follows -- goes to the server: --host, --port, ...
    """
    with _served(model, layers, damp, options, engine) as server:
        when_stopped("the server has ended, and nothing was left behind")
        echo([server.address.url])
        server.wait()


@click.command()
@_variant_arguments
def chat(
    model: Path, layers: LayerSpec, damp: float, options: PlanOptions, engine: EngineOptions
) -> None:
    """Talk to a variant in the terminal without writing it.

    Runs the same server as `serve`, which nobody else can ask. Each line of the input is a message
    of one conversation, and Ctrl-D ends it. What follows -- goes to the server: --ctx-size,
    --temp, ...
    """
    key = secrets.token_hex(16)
    engine = replace(
        engine,
        arguments=(*engine.arguments, "--host", "127.0.0.1", "--port", "0"),
        environment=(*engine.environment, ("LLAMA_API_KEY", key)),
    )
    with _served(model, layers, damp, options, engine) as server:
        when_stopped("the conversation has ended, and nothing was left behind")
        conversation = Conversation(server, key)
        for message in _messages():
            for piece in conversation.answer(message):
                click.echo(harmless(piece.expandtabs(4)), nl=False)
            click.echo()


def _messages() -> Iterator[str]:
    """What the user says, line by line."""
    lines = sys.stdin.buffer
    while True:
        if sys.stdin.isatty():
            click.echo("> ", nl=False, err=True)
        line = lines.readline()
        if not line:
            return
        if text := line.decode("utf-8", "replace").strip():
            yield text


@contextlib.contextmanager
def _served(
    model: Path, layers: LayerSpec, damp: float, options: PlanOptions, engine: EngineOptions
) -> Iterator[StockServer]:
    """A server of the variant that options ask for, or of the model if they ask for none."""
    if layers.text is None and damp == 1:
        with serve_file(model, engine) as server:
            yield server
        return
    with planned_variant(model, layers, damp, options) as plan:
        for note in plan.notes:
            say(f"note: {note}")
        cost = ", ".join(cache_parts(plan.memory)) or "nothing"
        say(f"{len(plan.layer_map)} layers instead of {plan.model.n_trunk}; they cost {cost}")
        with serve_plan(plan, engine, say) as server:
            yield server
