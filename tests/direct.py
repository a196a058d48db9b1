"""llama.cpp without a server: models asked one after another in one child process.

`DirectEngine` calls the C functions of the llama.cpp in the package xllamacpp. A tiny model takes
some 20 ms, a server a third of a second, so hundreds of models can be compared in a test. The
child process is there because llama.cpp ends its process where it meets what it never expected.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import EngineFailed

Array = npt.NDArray[np.float32]

_SECONDS = 120.0
_ERROR = 4  # GGML_LOG_LEVEL_ERROR
# The last tokens of a prompt that are computed one at a time, as a model that writes does.
_N_SINGLE = 2


class DirectEngine:
    """The child process. Use it as a context manager; it starts again after llama.cpp aborted."""

    def __init__(self) -> None:
        self._log = tempfile.NamedTemporaryFile(prefix="llama-", suffix=".log")  # noqa: SIM115
        self._child: Any = None
        self._pipe: Connection | None = None

    def __enter__(self) -> DirectEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self._log.close()

    def logits(
        self,
        model: Path,
        tokens: Sequence[int],
        *,
        lora: Path | None = None,
        control_vector: Path | None = None,
    ) -> Array:
        """The logits after every prefix of `tokens`, shape (n_tokens, n_vocab).

        `lora` and `control_vector` are files for the model, which llama.cpp reads and applies.

        A model that reads all tokens at once gives its logits for each of them. An embedding model
        gives one embedding of all tokens instead, shape (1, n_embd).
        Raises EngineFailed with llama.cpp's message if the model does not load or does not run.
        """
        with self.open(model, len(tokens) + 8):
            if lora is not None:
                self._ask("adapt", os.fspath(lora))
            if control_vector is not None:
                self._ask("steer", os.fspath(control_vector))
            answer: Array = self._ask("logits", list(tokens), True)
            return answer

    @contextlib.contextmanager
    def open(
        self, model: Path, n_ctx: int = 256, n_ubatch: int | None = None
    ) -> Iterator[DirectEngine]:
        """This engine with the model loaded. Raises EngineFailed if it does not load."""
        self._ask("open", os.fspath(model), n_ctx, n_ubatch or 512)
        try:
            yield self
        finally:
            if self._pipe is not None:
                self._ask("close")

    # What a proof asks of an engine.

    build = "llama.cpp in this process's child"

    def open_engine(
        self, model: str | os.PathLike[str], options: EngineOptions
    ) -> contextlib.AbstractContextManager[DirectEngine]:
        """Takes the place of `rys_gguf.engines.find.open_engine`."""
        return self.open(Path(model), options.n_ctx, options.n_ubatch)

    def logprobs(
        self, tokens: Sequence[int], n_vocab: int, n_probs: int | None = None
    ) -> npt.NDArray[np.float64]:
        """Log-probabilities of all tokens that may follow, shape (n_vocab,), in nats."""
        logits = self._ask("logits", list(tokens), False)[-1].astype(np.float64)
        shifted = logits - logits.max()
        result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
        return result

    def _ask(self, *message: Any) -> Any:
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        answer: Any = f"llama.cpp did not answer for {_SECONDS:g} s"
        answered = False
        try:
            self._pipe.send(message)
            if self._pipe.poll(_SECONDS):
                answer = self._pipe.recv()
                answered = True
        except (EOFError, OSError):
            self._child.join(_SECONDS)
            log = Path(self._log.name).read_text(errors="replace").strip()[-500:]
            code = self._child.exitcode
            ending = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
            answer = f"llama.cpp ended its process ({ending}): {log}"
        finally:
            if not answered:
                self._end()
        if isinstance(answer, str):
            raise EngineFailed(answer)
        return answer

    def _start(self) -> None:
        # A fork of a process that has imported this module starts in a fraction of the time.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._pipe, theirs = context.Pipe()
        self._child = context.Process(target=_serve, args=(theirs, self._log.name), daemon=True)
        self._child.start()
        theirs.close()

    def _end(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._child = None


# -- in the child process -------------------------------------------------------------------------


def _serve(pipe: Connection, log: str) -> None:
    """Answer every message with an array, None, or the text of what went wrong."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    os.dup2(os.open(log, os.O_WRONLY | os.O_TRUNC | os.O_APPEND), 2)
    llama = _Llama()
    while True:
        try:
            name, *arguments = pipe.recv()
        except EOFError:
            return
        llama.errors.clear()
        try:
            pipe.send(getattr(llama, name)(*arguments))
        except RuntimeError as e:
            pipe.send(f"{e}: {' '.join(llama.errors).strip() or 'no message'}")


class _Params(ctypes.Structure):
    """Parameters of a model or a context, of which llama.cpp itself makes the defaults.

    Their layout changes with the build, except for what comes first in those of a context. As more
    bytes than they are, they come and go in the same way: by address or on the stack.
    """

    _fields_ = (
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("others", ctypes.c_uint8 * 500),
    )


class _Batch(ctypes.Structure):
    """llama_batch (include/llama.h); positions and sequences may be null."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.c_void_p),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.c_void_p),
        ("n_seq_id", ctypes.c_void_p),
        ("seq_id", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    )


_LOAD_CONTROL_VECTOR = (
    "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"
)


class _ControlVectorInfo(ctypes.Structure):
    """common_control_vector_load_info (common/common.h), with the std::string of old C++ ABIs.

    Wheels for manylinux have it: a pointer to the text, which is only read here.
    """

    _fields_ = (("strength", ctypes.c_float), ("text", ctypes.c_char_p))


class _Vector(ctypes.Structure):
    """A std::vector."""

    _fields_ = (
        ("begin", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
        ("end_of_room", ctypes.c_void_p),
    )

    @classmethod
    def of(cls, item: ctypes.Structure) -> _Vector:
        """A vector of one item, which the caller keeps."""
        begin = ctypes.addressof(item)
        return cls(begin, begin + ctypes.sizeof(item), begin + ctypes.sizeof(item))


class _ControlVector(ctypes.Structure):
    """common_control_vector_data."""

    _fields_ = (("n_embd", ctypes.c_int), ("data", _Vector))


class _Llama:
    """One model at a time, through llama.h of b11549, with one thread."""

    def __init__(self) -> None:
        from xllamacpp import xllamacpp

        self._lib = lib = ctypes.CDLL(xllamacpp.__file__)
        for name in ("llama_model_default_params", "llama_context_default_params"):
            getattr(lib, name).restype = _Params
        for name in (
            "llama_model_load_from_file",
            "llama_init_from_model",
            "llama_get_memory",
            "llama_model_get_vocab",
            "llama_get_logits",
            "llama_get_embeddings_seq",
            "llama_adapter_lora_init",
        ):
            getattr(lib, name).restype = ctypes.c_void_p
        self.errors: list[str] = []
        log_type = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self._log = log_type(self._say)
        lib.llama_log_set(self._log, None)
        lib.llama_backend_init()
        self._model = self._context = ctypes.c_void_p()

    def open(self, path: str, n_ctx: int, n_ubatch: int) -> None:
        """Load a model in place of the last one."""
        self.close()
        lib = self._lib
        self._model.value = lib.llama_model_load_from_file(
            path.encode(), lib.llama_model_default_params()
        )
        if not self._model.value:
            raise RuntimeError("does not load")
        self._make_context(n_ctx, n_ubatch)
        if n_ubatch < n_ctx and not self._memory().value:
            lib.llama_free(self._context)  # such a model reads all tokens at once
            self._make_context(n_ctx, n_ctx)

    def adapt(self, path: str) -> None:
        """Apply a LoRA adapter; it is freed with the model."""
        lib = self._lib
        adapter = ctypes.c_void_p(lib.llama_adapter_lora_init(self._model, path.encode()))
        if not adapter.value:
            raise RuntimeError("takes no such adapter")
        scale = ctypes.c_float(1)
        count = ctypes.c_size_t(1)
        if lib.llama_set_adapters_lora(
            self._context, ctypes.byref(adapter), count, ctypes.byref(scale)
        ):
            raise RuntimeError("does not apply the adapter")

    def steer(self, path: str) -> None:
        """Apply a control vector to all layers, as common_init_from_params does."""
        lib = self._lib
        info = _ControlVectorInfo(1, path.encode())
        infos = _Vector.of(info)
        found = _ControlVector(-1)
        # A C++ function: it returns its struct through a pointer that comes first.
        load = getattr(lib, _LOAD_CONTROL_VECTOR)
        load(ctypes.byref(found), ctypes.byref(infos))
        if found.n_embd < 0:
            raise RuntimeError("takes no such control vector")
        n = ((found.data.end or 0) - (found.data.begin or 0)) // 4
        n_layers = lib.llama_model_n_layer(self._model)
        if lib.llama_set_adapter_cvec(
            self._context, ctypes.c_void_p(found.data.begin), ctypes.c_size_t(n), found.n_embd,
            1, n_layers,
        ):  # fmt: skip
            raise RuntimeError("does not apply the control vector")

    def _make_context(self, n_ctx: int, n_ubatch: int) -> None:
        lib = self._lib
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_ubatch = n_ctx, n_ubatch
        self._context = ctypes.c_void_p(lib.llama_init_from_model(self._model, params))
        if not self._context.value:
            raise RuntimeError("has no context")
        lib.llama_set_n_threads(self._context, 1, 1)

    def _memory(self) -> ctypes.c_void_p:
        """What holds the tokens that were read; null in a model that reads them all at once."""
        return ctypes.c_void_p(self._lib.llama_get_memory(self._context))

    def close(self) -> None:
        """Free the model."""
        if self._context.value:
            self._lib.llama_free(self._context)
        if self._model.value:
            self._lib.llama_model_free(self._model)
        self._model, self._context = ctypes.c_void_p(), ctypes.c_void_p()

    def logits(self, tokens: list[int], every: bool) -> Array:
        """The logits after each of the tokens, or only after the last of them."""
        lib = self._lib
        memory = self._memory()
        if not memory.value:
            embeds = lib.llama_pooling_type(self._context) > 0
            return self._embedding(tokens) if embeds else self._decoded(tokens, every=True)
        lib.llama_memory_clear(memory, ctypes.c_bool(True))
        if not every:
            return self._decoded(tokens, every=False)
        n = max(1, len(tokens) - _N_SINGLE)
        parts = [tokens[:n], *([token] for token in tokens[n:])]
        return np.concatenate([self._decoded(part, every=True) for part in parts])

    def _decoded(self, tokens: list[int], *, every: bool) -> Array:
        lib = self._lib
        self._run(lib.llama_decode, tokens, every=every)
        vocab = ctypes.c_void_p(lib.llama_model_get_vocab(self._model))
        n_rows = len(tokens) if every else 1
        return _array(lib.llama_get_logits(self._context), n_rows, lib.llama_vocab_n_tokens(vocab))

    def _embedding(self, tokens: list[int]) -> Array:
        lib = self._lib
        lib.llama_set_embeddings(self._context, ctypes.c_bool(True))
        self._run(lib.llama_encode, tokens, every=True)
        address = lib.llama_get_embeddings_seq(self._context, 0)
        return _array(address, 1, lib.llama_model_n_embd_out(self._model))

    def _run(self, function: Any, tokens: list[int], *, every: bool) -> None:
        n = len(tokens)
        ids = (ctypes.c_int32 * n)(*tokens)
        wanted = (ctypes.c_int8 * n)(*[every or i == n - 1 for i in range(n)])
        batch = _Batch(n, ctypes.addressof(ids), None, None, None, None, ctypes.addressof(wanted))
        if code := function(self._context, batch):
            raise RuntimeError(f"does not run, error {code}")

    def _say(self, level: int, text: bytes, _: Any) -> None:
        if level == _ERROR:
            self.errors.append(text.decode(errors="replace").strip())


def _array(address: int | None, n_rows: int, n_columns: int) -> Array:
    if not address:
        raise RuntimeError("gives no numbers")
    numbers = (ctypes.c_float * (n_rows * n_columns)).from_address(address)
    return np.array(numbers, np.float32).reshape(n_rows, n_columns)
