"""A variant in llama.cpp's own server: made of pointers where that works, otherwise from a file."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from rys_gguf.checks.self_test import require_live
from rys_gguf.engines.base import LIVE, SERVER, EngineOptions
from rys_gguf.engines.live.arguments import gpu_arguments
from rys_gguf.engines.live.library import find_library
from rys_gguf.engines.live.session import HollowFile
from rys_gguf.engines.stock import Address, NotPointed, StockServer, server_library
from rys_gguf.errors import RysError
from rys_gguf.files.folder import beside, private_folder
from rys_gguf.formats.model import Model
from rys_gguf.patch.hollow import hollow, is_tied
from rys_gguf.patch.naming import default_output
from rys_gguf.patch.plan import Plan
from rys_gguf.patch.writer import write_plan
from rys_gguf.text import size

Say = Callable[[str], None]


@contextlib.contextmanager
def serve_file(model: Path, options: EngineOptions) -> Iterator[StockServer]:
    """A server of a file as it is. Raises EngineFailed, InvalidOptions, InvalidGGUF."""
    # What is no model gets one message, and not the server's log.
    Model(model).close()
    with (
        private_folder() as folder,
        StockServer(model.absolute(), model.name, options, folder) as server,
    ):
        yield server


@contextlib.contextmanager
def serve_plan(
    plan: Plan,
    options: EngineOptions,
    say: Say = lambda _: None,
    *,
    changeable: bool = False,
) -> Iterator[StockServer]:
    """A server of what a plan would write; its files are gone in the end.

    It takes no weights where the live engine works. Otherwise, or if the options ask for the
    server, the variant is written to a temporary file. `say` is told what is done, and why.
    With `changeable` other variants may follow, by `change_plan`; its name is then the model's.
    Raises RysError where this or the options need the live engine and that does not work.
    """
    Address.of(options.arguments).require_free()
    with contextlib.ExitStack() as stack:
        if options.kind == SERVER and not changeable:
            yield stack.enter_context(_written(plan, options, say))
            return
        try:
            server = stack.enter_context(_pointed(plan, options, say, changeable=changeable))
        except NotPointed as e:
            if options.kind == LIVE or changeable:
                raise
            say(f"note: not made of pointers but written to a file: {str(e).splitlines()[0]}")
            server = stack.enter_context(_written(plan, options, say))
        yield server


@contextlib.contextmanager
def _pointed(
    plan: Plan, options: EngineOptions, say: Say, *, changeable: bool
) -> Iterator[StockServer]:
    """A server whose variant has the weights of its base. Raises NotPointed."""
    model = plan.model
    path = model.files[0].path.absolute()
    try:
        library = find_library(options.binary)
        if options.binary is not None:
            server_library(library)
        arguments = gpu_arguments(options.arguments)
        require_live(path, replace(options, kind=LIVE, arguments=arguments))
    except RysError as e:
        raise NotPointed(str(e)) from e
    name = model.name if changeable else default_output(model, plan.layer_map).name
    with private_folder() as folder:
        headers = list(_headers(plan, folder, name))
        n = sum(os.stat(header.path).st_blocks * 512 for header in headers)
        say(f"no copy of any weights: {size(n)} on disk, which are gone in the end")
        with StockServer(
            headers[-1].path, name, options, folder, path, headers, changeable=changeable
        ) as server:
            yield server


def change_plan(server: StockServer, plan: Plan, seconds: float) -> None:
    """Let a changeable server serve another plan for its model, see `StockServer.change`."""
    folder = Path(tempfile.mkdtemp(dir=server.folder))
    before = server.headers[-1].path.parent
    unused = folder
    try:
        server.change(list(_headers(plan, folder, plan.model.name)), seconds)
        unused = before
    finally:
        if unused != server.folder:  # where the file is that the server knows by name
            shutil.rmtree(unused)


def _headers(plan: Plan, folder: Path, name: str) -> Iterator[HollowFile]:
    """The headers that StockServer tries; the last has the variant's name."""
    ways = ((True, "untied.gguf"), (False, name)) if is_tied(plan.model) else ((False, name),)
    for untied, file_name in ways:
        header = hollow(plan, untied=untied)
        path = folder / file_name
        header.write(plan.model, path)
        yield HollowFile(path, header.pairs, header.pattern)


@contextlib.contextmanager
def _written(plan: Plan, options: EngineOptions, say: Say) -> Iterator[StockServer]:
    """A server of a temporary file."""
    name = default_output(plan.model, plan.layer_map).name
    with private_folder(beside(plan.model.files[0].path)) as folder:
        written = write_plan(plan, folder / name)
        shared = f", {size(written.n_shared)} of it shared with the model"
        say(
            f"a temporary file of {size(plan.n_bytes)}{shared if written.n_shared else ''} in "
            f"{folder.parent}, which is gone in the end"
        )
        with StockServer(written.paths[0], name, options, folder) as server:
            yield server
