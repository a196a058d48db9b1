"""The live engine's base: loaded once, and every variant of it after that."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rys_gguf.engines.base import SERVER, EngineOptions
from rys_gguf.engines.live.arguments import gpu_layers
from rys_gguf.engines.live.context import Sizes
from rys_gguf.engines.live.library import Library, find_library
from rys_gguf.engines.live.link import Json, Link, physical_cores
from rys_gguf.engines.live.loaded import Loaded
from rys_gguf.engines.server import ServerEngine
from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable

# llama.cpp's default.
UBATCH = 512
_GPUS = (1, 2)  # GGML_BACKEND_DEVICE_TYPE_GPU and IGPU


@dataclass(frozen=True, slots=True)
class HollowFile:
    """A variant's file without data: where each tensor's data comes from in the base.

    `pairs` are names of its tensors with those of the base; `pattern` matches the names of all
    tensors that have no data in the file. `twins` are names of its tensors, each with another of
    its own that has the same data.
    """

    path: Path
    pairs: tuple[tuple[str, str], ...]
    pattern: str
    twins: tuple[tuple[str, str], ...] = ()


class Session:
    """A child process with a base model; `base` and `variant` are models in it.

    It may be started again after it has ended. Every method raises EngineFailed.
    """

    def __init__(self, model: str | os.PathLike[str], options: EngineOptions) -> None:
        self.model = Path(model).absolute()
        self.options = options
        self.build = ""
        self.has_gpu = False
        self.about: Json = {}
        self._link: Link | None = None
        self._base: Loaded | None = None
        self._texts: ServerEngine | None = None
        self._closed = False
        self._prompts: dict[tuple[str, bool], str] = {}
        self._pieces: dict[int, tuple[bytes, bool]] = {}
        self._lock = threading.Lock()

    # -- the process ---------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self.link.pid

    @property
    def link(self) -> Link:
        """The child process. Raises EngineFailed before the start and after the end."""
        if self._closed or self._link is None:
            raise self._failure("is closed" if self._closed else "was not started")
        return self._link

    @property
    def base(self) -> Loaded:
        """The model itself."""
        if self._base is None:
            raise self._failure("is closed" if self._closed else "was not started")
        return self._base

    def start(self) -> None:
        """Start the process and load the base."""
        if self._closed:
            raise self._failure("is closed")
        options = self.options
        library = find_library(options.binary)
        self._link = Link(
            library, self.model.name, dict(options.environment), options.answer_seconds
        )
        if self._closed:  # by another thread just now, which found no process to stop
            self._link.close()
        try:
            self._read_about(library)
            self._base = self._load(self.model, None)
        except BaseException:
            self.close()
            raise

    def _read_about(self, library: Library) -> None:
        about, _ = self.link.ask("about", seconds=self.options.load_seconds)
        self.about = about
        with self.link.reading("its devices"):
            names = [printable(str(d["name"])) for d in about["devices"]]
            gpus = [
                name for name, d in zip(names, about["devices"], strict=True) if d["type"] in _GPUS
            ]
            build = printable(str(about["build"] or "unknown build"))
        if len(gpus) > 1:
            raise self._failure(
                f"sees {len(gpus)} GPUs, and a live engine uses one: choose it with --gpus"
            )
        self.has_gpu = bool(gpus)
        device = next(iter([*gpus, *names]), "none")
        self.build = f"{library.name} ({build}) live on {device}"

    def require_running(self) -> None:
        """Start it unless it runs."""
        if self._base is None:
            self.restart()

    def restart(self) -> None:
        """Start it anew after it has ended or been closed."""
        self.close()
        self._closed = False
        self._link = self._base = None
        self.start()

    def close(self) -> None:
        """End the process, whatever it is doing; safe to call twice and from any thread."""
        self._closed = True
        if self._link is not None:
            self._link.close()
        with self._lock:
            texts, self._texts = self._texts, None
        if texts is not None:
            texts.close()
        self._base = None

    def _failure(self, what: str) -> EngineFailed:
        return EngineFailed(f"the engine {what}; model {printable(self.model.name)}")

    # -- models --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def variant(self, file: HollowFile) -> Iterator[Loaded]:
        """A variant of the base, which takes no weights. The file is not needed any more."""
        with self._loaded(file.path, file.pattern) as variant:
            self.point(variant, file.pairs)
            if file.twins:
                self.point(variant, file.twins, variant)
            yield variant

    @contextlib.contextmanager
    def file(self, path: Path) -> Iterator[Loaded]:
        """Another model, with weights of its own."""
        with self._loaded(path, None) as loaded:
            yield loaded

    def point(
        self, variant: Loaded, pairs: Sequence[tuple[str, str]], origin: Loaded | None = None
    ) -> None:
        """Let each tensor of a variant have the data of the tensor in its pair.

        That is one of the base if no other `origin` is named.
        """
        base = origin or self.base
        self.link.ask("point", model=variant.number, base=base.number, pairs=list(pairs))

    @contextlib.contextmanager
    def _loaded(self, path: Path, pattern: str | None) -> Iterator[Loaded]:
        loaded = self._load(path, pattern)
        try:
            yield loaded
        finally:
            with contextlib.suppress(EngineFailed):
                loaded.free()

    def _load(self, path: Path, pattern: str | None) -> Loaded:
        reply, _ = self.link.ask(
            "load",
            seconds=self.options.load_seconds,
            path=str(path),
            n_gpu_layers=gpu_layers(self.options.arguments),
            hollow=pattern,
        )
        with self.link.reading("a model"):
            number, n_vocab = int(reply["model"]), int(reply["n_vocab"])
            recurrent = bool(reply["recurrent"])
            if n_vocab < 1:
                raise ValueError("no tokens")
        sizes = Sizes(
            self.options.n_ctx,
            self.options.n_ubatch or UBATCH,
            self.options.n_threads or physical_cores(),
            unified=self.has_gpu and not recurrent,
        )
        return Loaded(self.link, number, n_vocab=n_vocab, sizes=sizes, name=self.model.name)

    def holds_embedding_twice(self) -> bool:
        """Whether the base has its embedding in host memory and on a device as well."""
        reply, _ = self.link.ask("tensors", model=self.base.number)
        with self.link.reading("tensors"):
            return len(reply.get("token_embd.weight", ())) > 1

    # -- text ----------------------------------------------------------------------------------

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text, with the model's own special tokens in front if `special`."""
        reply, _ = self.link.ask(
            "tokenize",
            text.encode("utf-8", "surrogatepass"),
            model=self.base.number,
            special=special,
        )
        with self.link.reading("tokens"):
            return [int(token) for token in reply["tokens"]]

    def piece(self, token: int) -> tuple[bytes, bool]:
        """The text of a token, and whether it ends a text."""
        if token not in self._pieces:
            reply, _ = self.link.ask("pieces", model=self.base.number, tokens=[token])
            with self.link.reading("tokens"):
                ((text, is_end),) = reply["pieces"]
                self._pieces[token] = bytes.fromhex(text), bool(is_end)
        return self._pieces[token]

    def templated(self, questions: Sequence[str], *, thinking: bool = False) -> list[str]:
        """The prompts that the model's chat template makes of user messages.

        Thinking is off, or on if `thinking`. Only llama.cpp's server knows templates. It is started
        for them, without reading weights.
        """
        self.link  # noqa: B018 - a closed session answers nothing
        with self._lock:
            for question in questions:
                if (question, thinking) not in self._prompts:
                    prompt = self._text_server().templated(question, thinking=thinking)
                    self._prompts[question, thinking] = prompt
        return [self._prompts[question, thinking] for question in questions]

    def _text_server(self) -> ServerEngine:
        if self._texts is None:
            options = replace(self.options, kind=SERVER, texts_only=True, n_ctx=512, n_threads=1)
            self._texts = ServerEngine(self.model, options)
            self._texts.__enter__()
        return self._texts
