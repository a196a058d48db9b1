"""Run llama.cpp's own server, and give it a variant of pointers where it loads the header.

The server is that of the package xllamacpp, or `libllama-server-impl.so` of a build, which has the
whole server as a function. Where the server loads the header, the base is loaded with the server's
own parameters, then the header, whose tensors get the base's data and which is lent the base's
vocabulary; all of this before the server makes a context.

Source: tools/server/server.cpp, common/common.cpp and common/arg.cpp (b11434 and b11549);
src/xllamacpp/server.cpp and xllamacpp.pyx (xllamacpp 2026.10.11549).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from ctypes import c_bool, c_char_p, c_int, c_int64, c_uint32, c_void_p
from typing import Any, NoReturn

from change import Changes  # type: ignore[import-not-found]
from llama import Failure, Llama, Params  # type: ignore[import-not-found]
from mapping import map_lazily, redirect  # type: ignore[import-not-found]

Json = dict[str, Any]

_LOAD = "llama_model_load_from_file"
_LOAD_TYPE = ctypes.CFUNCTYPE(c_void_p, c_char_p, Params)
_FREE = "llama_model_free"
_FREE_TYPE = ctypes.CFUNCTYPE(None, c_void_p)
_SERVER = "_Z12llama_serveriPPc"
_PARSE = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
# Where common_params is in the Python object around it: behind the object's own head.
_COMMON_PARAMS = 16
# LLAMA_EXAMPLE_SERVER, and where it may be in other builds.
_EXAMPLES = (12, *range(32))
# What std::future::get calls: (word, value, has a timeout, seconds, nanoseconds).
_WAIT = (
    "_ZNSt28__atomic_futex_unsigned_base19_M_futex_wait_untilEPjjbNSt6chrono8durationIlSt5ratioILl1"
    "ELl1EEEENS2_IlS3_ILl1ELl1000000000EEEE"
)
_WAIT_TYPE = ctypes.CFUNCTYPE(c_bool, c_void_p, c_uint32, c_bool, c_int64, c_int64)


def run_stock(path: str) -> NoReturn:
    """Run the server that the settings in a file describe, until it is signalled.

    The settings are those that StockServer writes.
    """
    with open(path, encoding="utf-8") as file:
        settings = json.load(file)
    report = settings["report"]
    try:
        if settings["headers"]:
            _Variant(Llama(settings["library"], settings["backends"]), settings).offer()
    except (Failure, OSError, AttributeError) as e:
        _report(report, {"error": str(e)})
        sys.exit(str(e))
    if settings["server"] is None:
        _run_package(settings)
    library = ctypes.CDLL(settings["server"])
    code = getattr(library, _SERVER)(*_argv(settings["arguments"]))
    os._exit(code)  # without the destructors of llama.cpp's devices, which may hang


class _Variant:
    """The variant that the server gets in place of the header at `model`."""

    def __init__(self, llama: Any, settings: Json) -> None:
        self._llama = llama
        self._settings = settings
        self._headers: list[Json] = settings["headers"]
        self._base: int | None = None
        self._changes: Any = None
        self._functions = {_LOAD: _LOAD_TYPE(self._load), _FREE: _FREE_TYPE(llama.free_at)}

    def offer(self) -> None:
        """Let the server load and free its models here. Raises Failure."""
        library, server = self._settings["library"], self._settings["server"]
        if server is None:
            callers = [library]
        else:
            getattr(ctypes.CDLL(server), _SERVER)  # it is there
            common = os.path.join(os.path.dirname(server), "libllama-common.so")
            callers = [server, common]
        found = set().union(*(redirect(caller, self._functions) for caller in callers))
        if missing := sorted(self._functions.keys() - found):
            raise Failure(f"its server does not take {missing[0]} from a library")
        if (number := self._settings["socket"]) is not None:
            self._changes = Changes(callers)
            self._changes.serve(number, self._change)

    def _load(self, path: bytes, params: Any) -> int | None:
        """llama_model_load_from_file; the server may call it again after it has slept."""
        name = os.fsdecode(path)
        is_variant = name == self._settings["model"]  # and no drafter
        found: Json = {}
        try:
            if is_variant:
                number = self._pointed(bytes(params.raw))
            else:
                number = self._llama.load_as(name, params)
            address: int | None = self._llama.address(number)
        except Exception as e:  # noqa: BLE001 - llama.cpp called: nobody above would get it
            found["error"] = str(e) or type(e).__name__
            address = None
        if is_variant:
            _report(self._settings["report"], found)
        return address

    def _pointed(self, params: bytes) -> int:
        """The number of the variant, whose tensors are pointers."""
        llama = self._llama
        if self._base is None:
            self._base = llama.load_as(self._settings["base"], Params.from_buffer_copy(params))
            if not map_lazily(self._settings["library"]):
                raise Failure("it maps files in a way that would fill a variant's holes")
        if self._changes is not None:
            self._headers = self._changes.take() or self._headers
        return self._first_of(self._headers, lambda h: llama.load_as(
            h["path"], Params.from_buffer_copy(params), h["pattern"]
        ))  # fmt: skip

    def _first_of(self, headers: list[Json], load: Callable[[Json], int]) -> int:
        """The number of the first variant that can be made of the headers."""
        is_twice = len(self._llama.tensors(self._base).get("token_embd.weight", ())) > 1
        *others, last = headers
        for header in others if is_twice else ():
            # Some architectures take no head of their own.
            with contextlib.suppress(Failure):
                return self._made_of(header, load)
        return self._made_of(last, load)

    def _made_of(self, header: Json, load: Callable[[Json], int]) -> int:
        llama = self._llama
        model = load(header)
        try:
            llama.point(model, self._base, header["pairs"])
            llama.lend_vocabulary(model, self._base)
        except Failure:
            llama.free(model)
            raise
        return model

    def _change(self, message: Json) -> Json:
        """Serve another variant from now on, unless something is being answered for too long.

        It is made once for trial: a server that cannot load its model again ends.
        """
        headers = message["headers"]
        trial = self._first_of(headers, lambda h: self._llama.load(
            h["path"], None, h["pattern"]
        )["model"])  # fmt: skip
        self._llama.free(trial)
        return {"changed": self._changes.swap(headers, message["seconds"])}


def _report(path: str, what: Json) -> None:
    """Tell the parent, which looks for this file."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(what, file)
    os.replace(path + ".new", path)


def _argv(arguments: list[str]) -> tuple[c_int, Any]:
    words = [os.fsencode(a) for a in ("llama-server", *arguments)]
    return c_int(len(words)), (c_char_p * (len(words) + 1))(*words, None)


# -- the package ----------------------------------------------------------------------------------


def _run_package(settings: Json) -> NoReturn:
    import xllamacpp

    params = xllamacpp.CommonParams()
    _parse(ctypes.CDLL(settings["library"]), xllamacpp, params, settings["arguments"])
    # At once, also while llama.cpp loads or answers: there is nothing to tidy up.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    is_hooked = bool(settings["headers"])
    try:
        with _others_may_run(settings["library"]) if is_hooked else contextlib.nullcontext():
            server = xllamacpp.Server(params)
    except (Failure, AttributeError) as e:
        _report(settings["report"], {"error": str(e)})
        sys.exit(str(e))
    except RuntimeError as e:
        # llama.cpp logs the details in a thread of its own; on a busy machine it needs a moment.
        time.sleep(0.2)
        sys.exit(str(e))
    print("serving", server.listening_address, flush=True)  # noqa: T201 - goes to the parent's log
    signal.pause()
    os._exit(1)


def _parse(library: Any, xllamacpp: Any, params: Any, arguments: list[str]) -> None:
    """Let llama.cpp read a server's arguments into `params`; it exits if they are wrong."""
    parse = getattr(library, _PARSE, None)
    if parse is None:
        sys.exit("this xllamacpp does not read a server's arguments")
    parse.restype = c_bool
    for example in _EXAMPLES:
        # Only a server knows that argument. What the others say of it is not for the log.
        trial = xllamacpp.CommonParams()
        if _quietly(parse, *_argv(["--port", "1"]), _address(trial), c_int(example), None):
            break
    if not parse(*_argv(arguments), _address(params), c_int(example), None):
        sys.exit("the arguments are wrong")


def _address(params: Any) -> c_void_p:
    """Where the C++ object in a CommonParams is. Exits if it is not where we look."""
    address = id(params) + _COMMON_PARAMS
    before = params.n_predict, params.n_ctx, params.n_batch
    marks = 0x5A17, 0x5A18, 0x5A19
    params.n_predict, params.n_ctx, params.n_batch = marks
    found = (ctypes.c_int32 * 3).from_address(address)
    if tuple(found) != marks:
        sys.exit("xllamacpp keeps its parameters elsewhere")
    params.n_predict, params.n_ctx, params.n_batch = before
    return c_void_p(address)


def _quietly(function: Any, *arguments: Any) -> Any:
    """What a function returns, without what it says on stderr."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        return function(*arguments)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


@contextlib.contextmanager
def _others_may_run(library: str) -> Iterator[None]:
    """A block in which other threads may run Python while a call of xllamacpp waits for them.

    Its constructor keeps Python's lock, and what it waits for calls a function in Python. So the
    waiting is done from here, which lets go of the lock. Raises Failure.
    """
    original = getattr(ctypes.CDLL(library), _WAIT)
    original.restype = c_bool
    original.argtypes = [c_void_p, c_uint32, c_bool, c_int64, c_int64]
    if not redirect(library, {_WAIT: _WAIT_TYPE(original)}):
        raise Failure("it waits in a way that would block Python")
    yield
    redirect(library, {_WAIT: original})
