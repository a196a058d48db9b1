"""The commands that run llama.cpp's own server with a variant: serve, chat."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from rys_gguf.cli.options import (
    MODEL,
    LayerSpec,
    PlanOptions,
    damp_option,
    handing_over,
    layer_options,
    plan_options,
    stock_engine_options,
)
from rys_gguf.cli.output import echo, say
from rys_gguf.cli.process import when_stopped
from rys_gguf.cli.render import cache_parts
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.conversation import Conversation
from rys_gguf.engines.stock import StockServer
from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.patch.apply import parse_spec
from rys_gguf.patch.plan import Plan, make_plan
from rys_gguf.serve.control import Control, controlled, require_free
from rys_gguf.serve.variant import serve_file, serve_plan
from rys_gguf.text import harmless


def _variant_arguments(command: Callable[..., None]) -> Callable[..., None]:
    """What says which model is served, what repeats in it, and how the server runs."""
    for add in (stock_engine_options, plan_options, damp_option, layer_options):
        command = add(command)
    return click.argument("model", type=MODEL)(command)


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """Whether and where /rys is served; arguments of its options."""

    control: int | None
    allow_changes: bool

    def __post_init__(self) -> None:
        if self.allow_changes and self.control is None:
            raise click.UsageError("--allow-changes needs --control PORT, where they are asked for")


_NO_ENDPOINT = _Endpoint(None, allow_changes=False)
_endpoint_options: Callable[[Callable[..., None]], Callable[..., None]] = handing_over(
    "endpoint",
    _Endpoint,
    click.option(
        "--control", type=click.IntRange(0, 65535), metavar="PORT",
        help="Say what is served at http://127.0.0.1:PORT/rys, too. 0 is any free port.",
    ),
    click.option(
        "--allow-changes", is_flag=True,
        help="Let programs of this machine choose another variant of the model there.",
    ),
)  # fmt: skip


@click.command()
@_variant_arguments
@_endpoint_options
def serve(
    model: Path,
    layers: LayerSpec,
    damp: float,
    options: PlanOptions,
    engine: EngineOptions,
    endpoint: _Endpoint,
) -> None:
    """Serve a variant to other programs without writing it.

    Runs llama.cpp's own server, with its API, until Ctrl-C. The variant's layers are pointers to
    those of the model, so it takes no second copy of any weights, on disk or in memory. Without a
    map the model is served as it is. What follows -- goes to the server: --host, --port, ...
    """
    with _served(model, layers, damp, options, engine, endpoint) as server:
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
    path: Path,
    layers: LayerSpec,
    damp: float,
    options: PlanOptions,
    engine: EngineOptions,
    endpoint: _Endpoint = _NO_ENDPOINT,
) -> Iterator[StockServer]:
    """A server of the variant that options ask for, or of the model if they ask for none."""
    is_whole = not layers.is_given and damp == 1
    if is_whole and endpoint.control is None:
        with serve_file(path, engine) as server:
            yield server
        return
    require_free(endpoint.control or 0)
    with Model(path) as model, contextlib.ExitStack() as stack:

        def plan_of(spec: str | None, damp: float) -> Plan:
            same = LayerMap.identity(model.n_trunk)
            layer_map = same if spec is None else parse_spec(model, spec, damp)
            return make_plan(model, layer_map, **asdict(options))

        plan = plan_of(None if is_whole else layers.required(model), damp)
        if not is_whole:
            _say_cost(plan)
        if is_whole and not endpoint.allow_changes:
            server = stack.enter_context(serve_file(path, engine))
        else:
            server = stack.enter_context(
                serve_plan(plan, engine, say, changeable=endpoint.allow_changes)
            )
        if endpoint.control is not None:
            keys = server.address.keys({**os.environ, **dict(engine.environment)})
            control = Control(server, plan, keys, plan_of if endpoint.allow_changes else None)
            url = stack.enter_context(controlled(control, endpoint.control))
            say(f"what is served{', and changes of it' * endpoint.allow_changes}: {url}")
        yield server


def _say_cost(plan: Plan) -> None:
    for note in plan.notes:
        say(f"note: {note}")
    cost = ", ".join(cache_parts(plan.memory)) or "nothing"
    say(f"{len(plan.layer_map)} layers instead of {plan.model.n_trunk}; they cost {cost}")
