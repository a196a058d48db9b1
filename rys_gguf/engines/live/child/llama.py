"""llama.cpp's C functions as methods, one for each message of the parent.

Only the standard library is imported, so that no other package's libstdc++ is loaded before
llama.cpp's.

Source: include/llama.h, ggml/include/ggml.h and src/llama-ext.h (b11434 and b11549).
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import struct
import sys
import time
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_uint32, c_void_p
from typing import Any

Json = dict[str, Any]

_WARNING_LEVEL, _ERROR_LEVEL = 3, 4  # GGML_LOG_LEVEL_WARN and ERROR

# Members of ggml_tensor, as offsets in bytes, which have not changed since 2023.
_BUFFER, _NE, _DATA, _NAME, _EXTRA = 8, 16, 248, 256, 320
_NAME_BYTES = 64  # GGML_MAX_NAME
_SHAPE_BYTES = 64  # ne and nb, four each
_POINTERS = (_BUFFER, _DATA, _EXTRA)

# The function that lists a model's tensors, by the C++ library it was built with, and the bytes
# of a std::pair<std::string, ggml_tensor *> there.
_TENSOR_MAPS = (
    ("_Z29llama_internal_get_tensor_mapB5cxx11PK11llama_model", 40),
    ("_Z29llama_internal_get_tensor_mapPK11llama_model", 32 if sys.platform == "darwin" else 16),
)
_SET_LAYER_INPUT = "_Z30llama_set_embeddings_layer_inpP13llama_contextjb"
_GET_LAYER_INPUT = "_Z30llama_get_embeddings_layer_inpP13llama_contextj"

# llama_context_params begins with n_ctx, n_batch, n_ubatch and n_seq_max, whose defaults these are.
_CONTEXT_DEFAULTS = (512, 2048, 512, 1)
# Its last flags: embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified.
_CONTEXT_FLAGS = bytes([0, 1, 1, 1, 1, 0])
_PARAMS_BYTES = 1024
# llama_model_params has split_mode and load_mode after n_gpu_layers; their defaults, and what
# LLAMA_LOAD_MODE_MMAP is.
_LOADING_DEFAULTS = (1, -1)
_LOAD_MODE, _MMAP_MODE = 24, 1
_ROPE_OF_FOUR = (8, 40)  # LLAMA_ROPE_TYPE_MROPE and IMROPE
_NO_VOCABULARY = 0  # LLAMA_VOCAB_TYPE_NONE
_YES, _NO = c_bool(1), c_bool(0)


class Params(ctypes.Structure):
    """Parameters whose defaults llama.cpp makes; more bytes than any build's.

    A struct of that size is passed by value in the same way as the smaller one that is meant.
    """

    _fields_ = (("raw", ctypes.c_uint8 * _PARAMS_BYTES),)


class _Override(ctypes.Structure):
    """llama_model_tensor_buft_override."""

    _fields_ = (("pattern", c_char_p), ("buffer_type", c_void_p))


class _Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
    )


class Failure(Exception):
    """What llama.cpp did not do."""


class Llama:
    """llama.cpp's library, and the models and contexts that the parent knows by number."""

    def __init__(self, library: str, backends: str | None) -> None:
        self._log_type = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)
        self._path = library
        self._lib = lib = ctypes.CDLL(library)
        self.errors: list[str] = []
        self.seconds = 0.0  # of the last decode
        self.maps_lazily = False
        self._say = self._log_type(self._note)
        lib.llama_log_set(self._say, None)
        if backends is not None:
            # From this folder only: without one it would look into the current folder as well.
            lib.ggml_backend_load_all_from_path(os.fsencode(backends))
        lib.llama_backend_init()
        self._declare()
        self._models: dict[int, c_void_p] = {}
        self._vocabularies: dict[int, bytes] = {}
        self._contexts: dict[int, c_void_p] = {}
        self._context_models: dict[int, c_void_p] = {}
        self._inputs: dict[tuple[str, int], bytes] = {}
        self._kept_layers: dict[int, list[int]] = {}
        self._kept: list[Any] = []
        self._n_made = 0

    def _declare(self) -> None:
        lib = self._lib
        results: dict[str, Any] = {
            "llama_model_default_params": Params,
            "llama_context_default_params": Params,
            "llama_get_logits_ith": POINTER(c_float),
            "ggml_backend_dev_description": c_char_p,
            "ggml_backend_buffer_is_host": c_bool,
            "llama_vocab_is_eog": c_bool,
            "llama_memory_seq_rm": c_bool,
            "ggml_backend_dev_count": ctypes.c_size_t,
            "llama_n_ctx_seq": c_uint32,
        }
        pointers = (
            "llama_model_load_from_file llama_init_from_model llama_get_memory "
            "llama_model_get_vocab ggml_backend_dev_get ggml_backend_cpu_buffer_type"
        )
        results.update(dict.fromkeys(pointers.split(), c_void_p))
        for name, result in results.items():
            getattr(lib, name).restype = result
        for name in ("llama_model_free", "llama_free", "llama_synchronize"):
            getattr(lib, name).restype = None
            getattr(lib, name).argtypes = [c_void_p]

    def _note(self, level: int, text: bytes, _: Any) -> None:
        if level in (_WARNING_LEVEL, _ERROR_LEVEL):
            line = text.decode("utf-8", "replace").strip()
            _log(line)
            if level == _ERROR_LEVEL:
                self.errors = [*self.errors[-20:], line]

    # -- the library ---------------------------------------------------------------------------

    def about(self) -> Json:
        """The build, the devices, and what of llama.cpp's inner functions is there."""
        lib = self._lib
        n = lib.ggml_backend_dev_count()
        devices = [c_void_p(lib.ggml_backend_dev_get(ctypes.c_size_t(k))) for k in range(n)]
        return {
            "build": self._build(),
            "devices": [
                {
                    "name": (lib.ggml_backend_dev_description(d) or b"").decode("utf-8", "replace"),
                    "type": lib.ggml_backend_dev_type(d),
                }
                for d in devices
            ],
            "lists_tensors": any(hasattr(lib, name) for name, _ in _TENSOR_MAPS),
            "maps_lazily": self.maps_lazily,
            "gives_layer_inputs": hasattr(lib, _GET_LAYER_INPUT) and hasattr(lib, _SET_LAYER_INPUT),
        }

    def _build(self) -> str:
        """llama.cpp's name of its build; it is in a library beside this one where there are two."""
        libraries = [self._lib]
        beside = os.path.join(os.path.dirname(self._path), "libllama-common.so")
        with contextlib.suppress(OSError):
            libraries += [ctypes.CDLL(beside)] if os.path.exists(beside) else []
        for library in libraries:
            function = getattr(library, "_Z16llama_build_infov", None)
            if function is not None:
                function.restype = c_char_p
                return (function() or b"").decode("utf-8", "replace")
        return ""

    # -- models --------------------------------------------------------------------------------

    def load(self, path: str, n_gpu_layers: int | None, hollow: str | None) -> Json:
        """Load a model; tensors whose names match the pattern `hollow` stay where they are mapped.

        Raises Failure.
        """
        _log(f"load {path}")
        lib = self._lib
        params = lib.llama_model_default_params()
        if n_gpu_layers is not None or hollow is not None:
            devices, overrides, n_layers = struct.unpack_from("<QQi", params.raw)
            if devices or overrides or n_layers not in {-1, 0, 999}:
                raise Failure("its llama_model_params begin with something else")
        if n_gpu_layers is not None:
            struct.pack_into("<i", params.raw, 16, n_gpu_layers)
        if hollow is not None:
            self._leave_mapped(params, hollow)
        number = self._loaded(path, params)
        model = self._models[number]
        vocab = c_void_p(lib.llama_model_get_vocab(model))
        return {
            "model": number,
            "n_vocab": lib.llama_vocab_n_tokens(vocab),
            "n_embd": lib.llama_model_n_embd(model),
            "recurrent": bool(lib.llama_model_is_recurrent(model))
            or bool(lib.llama_model_is_hybrid(model)),
        }

    def load_as(self, path: str, params: Params, hollow: str | None = None) -> int:
        """The number of a model that is loaded with the `params` of someone else.

        `hollow` is as for `load`. Raises Failure.
        """
        if hollow is not None:
            defaults = struct.unpack_from("<QQiii", self._lib.llama_model_default_params().raw)
            if defaults[:2] != (0, 0) or defaults[3:] != _LOADING_DEFAULTS:
                raise Failure("its llama_model_params begin with something else")
            # Neither read at once nor locked in memory, whatever its base is.
            struct.pack_into("<i", params.raw, _LOAD_MODE, _MMAP_MODE)
            self._leave_mapped(params, hollow)
        return self._loaded(path, params)

    def address(self, model: int) -> int:
        """Where a model is."""
        return self._models[model].value or 0

    def _loaded(self, path: str, params: Params) -> int:
        model = c_void_p(self._lib.llama_model_load_from_file(os.fsencode(path), params))
        if not model.value:
            raise Failure("the model does not load")
        return self._add(self._models, model)

    def _leave_mapped(self, params: Params, pattern: str) -> None:
        pair = (_Override * 2)(
            _Override(pattern.encode(), self._lib.ggml_backend_cpu_buffer_type()),
            _Override(None, None),
        )
        self._kept.append(pair)
        struct.pack_into("<Q", params.raw, 8, ctypes.addressof(pair))

    def _add(self, table: dict[int, c_void_p], pointer: c_void_p) -> int:
        self._n_made += 1
        table[self._n_made] = pointer
        return self._n_made

    def free(self, model: int) -> Json:
        """Free a model, less a vocabulary that it was lent."""
        pointer = self._models.pop(model)
        if (own := self._vocabularies.pop(model, None)) is not None:
            ctypes.memmove(self._lib.llama_model_get_vocab(pointer), own, len(own))
        self._lib.llama_model_free(pointer)
        return {}

    def free_at(self, address: int) -> None:
        """Free the model that is there, whoever has loaded it."""
        models = list(self._models.items())  # another thread may add one
        number = next((n for n, pointer in models if pointer.value == address), None)
        if number is None:
            self._lib.llama_model_free(c_void_p(address))
        else:
            self.free(number)

    def lend_vocabulary(self, model: int, base: int) -> None:
        """Let a model that has been loaded without a vocabulary have the base's. Raises Failure.

        A llama_vocab is a pointer to everything in it (src/llama-vocab.h).
        """
        lib = self._lib
        ours, theirs = (c_void_p(lib.llama_model_get_vocab(self._models[m])) for m in (model, base))
        kind = lib.llama_vocab_type(theirs)
        if kind == _NO_VOCABULARY:
            return
        wanted = kind, lib.llama_vocab_n_tokens(theirs)
        if (lib.llama_vocab_type(ours), lib.llama_vocab_n_tokens(ours)) != (
            _NO_VOCABULARY,
            wanted[1],
        ):
            raise Failure("the variant's header has a vocabulary of its own, or of another size")
        own = ctypes.string_at(ours, 8)
        ctypes.memmove(ours, theirs, 8)
        if (lib.llama_vocab_type(ours), lib.llama_vocab_n_tokens(ours)) != wanted:
            ctypes.memmove(ours, own, 8)
            raise Failure("its vocabularies have another layout")
        self._vocabularies[model] = own

    def tensors(self, model: int) -> Json:
        """How many tensors of each name the model has, and which of them are in host memory."""
        found = self._tensors(model)
        return {name: [self._is_host(address) for address in found[name]] for name in found}

    def _is_host(self, tensor: int) -> bool:
        buffer = _word(tensor + _BUFFER)
        return bool(buffer) and bool(self._lib.ggml_backend_buffer_is_host(c_void_p(buffer)))

    def _tensors(self, model: int) -> dict[str, list[int]]:
        """The addresses of a model's tensors by name. Raises Failure if they are not where we look.

        Nothing may be written to a tensor that does not bear its name where the layout says.
        """
        for symbol, n_bytes in _TENSOR_MAPS:
            function = getattr(self._lib, symbol, None)
            if function is None:
                continue
            function.restype = c_void_p
            begin, end = _word(address := function(self._models[model])), _word(address + 8)
            if end < begin or (end - begin) % n_bytes:
                raise Failure("its list of tensors has another layout")
            found: dict[str, list[int]] = {}
            for entry in range(begin, end, n_bytes):
                tensor = _word(entry + n_bytes - 8)
                raw = ctypes.string_at(tensor + _NAME, _NAME_BYTES).partition(b"\0")[0]
                if not raw or raw != _text_of(entry, n_bytes)[: _NAME_BYTES - 1]:
                    raise Failure("its tensors have another layout")
                found.setdefault(raw.decode("utf-8", "surrogateescape"), []).append(tensor)
            return found
        raise Failure("the library does not export llama_internal_get_tensor_map")

    def point(self, model: int, base: int, pairs: list[list[str]]) -> Json:
        """Let each tensor of a pair (model's, base's) have the data of the other.

        A tensor that llama.cpp has not loaded is left out. Raises Failure unless both are of one
        type and shape.
        """
        targets, sources = self._tensors(model), self._tensors(base)
        n = 0
        for name, source in pairs:
            for target in targets.get(name, ()):
                found = sources.get(source) or _missing(name, source)
                # A tied embedding may be there twice, for the host and, as a head, for a device.
                is_head = name == "output.weight"
                origin = next((f for f in found if self._is_host(f) != is_head), found[0])
                if any(
                    ctypes.string_at(target + at, size) != ctypes.string_at(origin + at, size)
                    for at, size in ((0, 4), (_NE, _SHAPE_BYTES))
                ):
                    raise Failure(f"{name} and {source} differ in type or shape")
                for at in _POINTERS:
                    ctypes.memmove(target + at, origin + at, 8)
                n += 1
        return {"n": n}

    # -- contexts ------------------------------------------------------------------------------

    def context(self, model: int, sizes: list[int], n_threads: int, *, unified: bool) -> Json:
        """A context; `sizes` are n_ctx, n_batch, n_ubatch and n_seq_max. Raises Failure."""
        lib = self._lib
        params = lib.llama_context_default_params()
        if struct.unpack_from("<4I", params.raw) != _CONTEXT_DEFAULTS:
            raise Failure("its llama_context_params begin with something else")
        struct.pack_into("<4I", params.raw, 0, *sizes)
        raw = bytes(params.raw)
        if unified:
            if raw.count(_CONTEXT_FLAGS, 64, 256) != 1:
                raise Failure("its llama_context_params have other flags")
            params.raw[raw.index(_CONTEXT_FLAGS, 64, 256) + 5] = 1
        context = c_void_p(lib.llama_init_from_model(self._models[model], params))
        if not context.value:
            raise Failure("no context can be made, for want of memory perhaps")
        lib.llama_set_n_threads(context, c_int32(n_threads), c_int32(n_threads))
        number = self._add(self._contexts, context)
        self._context_models[number] = self._models[model]
        return {
            "context": number,
            "n_ctx_seq": lib.llama_n_ctx_seq(context),
            "has_memory": bool(lib.llama_get_memory(context)),
        }

    def free_context(self, context: int) -> Json:
        """Free a context."""
        self._lib.llama_free(self._contexts.pop(context))
        del self._context_models[context]
        self._kept_layers.pop(context, None)
        return {}

    def clear(self, context: int) -> Json:
        """Forget all sequences."""
        memory = c_void_p(self._lib.llama_get_memory(self._contexts[context]))
        if memory.value:
            self._lib.llama_memory_clear(memory, _YES)
        return {}

    def copy(self, context: int, sequence: int, to: list[int]) -> Json:
        """Let other sequences begin as one does that is there."""
        memory = c_void_p(self._lib.llama_get_memory(self._contexts[context]))
        for other in to:
            self._lib.llama_memory_seq_cp(
                memory, c_int32(sequence), c_int32(other), c_int32(-1), c_int32(-1)
            )
        return {}

    def keep_inputs(self, context: int, layers: list[int]) -> Json:
        """Let every decode of the context give the inputs of these layers."""
        function = getattr(self._lib, _SET_LAYER_INPUT)
        for layer in layers:
            function(self._contexts[context], c_uint32(layer), _YES)
        self._kept_layers[context] = layers
        return {}

    def forget_inputs(self, key: str) -> Json:
        """Drop the inputs that were kept under this key and its parts, KEY.0, KEY.1, ..."""
        self._inputs = {k: v for k, v in self._inputs.items() if k[0].rpartition(".")[0] != key}
        return {}

    def decode(
        self,
        payload: bytes,
        context: int,
        n: int,
        outputs: list[int],
        ids: list[list[int]] | None = None,
        inputs: list[Any] | None = None,
        keep: str | None = None,
    ) -> bytes:
        """One llama_decode; the logits of the `outputs`, all of them or those of the `ids` of each.

        `payload` has, as int32, the tokens, the positions and the sequences. With `inputs`, which
        are the key and the layer of inputs that were kept, these are computed instead of the
        tokens. Under the key `keep` it keeps the inputs of the layers of `keep_inputs`, a row for
        each token. Raises Failure.
        """
        lib = self._lib
        pointer = self._contexts[context]
        numbers = array.array("i")
        numbers.frombytes(payload)
        tokens = numbers.buffer_info()[0]
        positions, sequences = tokens + 4 * n, tokens + 8 * n
        counts = (c_int32 * n)(*[1] * n)
        lists = (c_void_p * n)(*range(sequences, sequences + 4 * n, 4))
        wanted = (c_int8 * n)()
        for k in outputs:
            wanted[k] = 1
        rows_in = places = None
        if inputs is not None:
            rows_in, places = self._fed(context, inputs, numbers[n : 2 * n])
            positions = places.buffer_info()[0]
        batch = _Batch(
            n,
            tokens if rows_in is None else None,
            rows_in,
            positions,
            ctypes.addressof(counts),
            ctypes.addressof(lists),
            ctypes.addressof(wanted),
        )
        start = time.perf_counter()
        if code := lib.llama_decode(pointer, batch):
            raise Failure(f"llama_decode returned {code}")
        lib.llama_synchronize(pointer)
        self.seconds = time.perf_counter() - start
        if keep is not None:
            self._keep(context, n, keep)
        vocab = c_void_p(lib.llama_model_get_vocab(self._context_models[context]))
        n_vocab = lib.llama_vocab_n_tokens(vocab)
        rows = []
        for number, k in enumerate(outputs):
            row = lib.llama_get_logits_ith(pointer, c_int32(k))
            if not row:
                raise Failure("it gives no logits")
            if ids is None:
                rows.append(ctypes.string_at(row, 4 * n_vocab))
            else:
                rows.append(array.array("f", [row[i] for i in ids[number]]).tobytes())
        return b"".join(rows)

    def _fed(self, context: int, inputs: list[Any], positions: array.array[int]) -> Any:
        """Kept inputs, and the positions that llama.cpp wants for embeddings in their place.

        Embeddings have four positions a token in models with M-RoPE. A token is at its position in
        the first three of them (llm_graph_input_pos::set_input, src/llama-graph.cpp, b11549).
        """
        key, layer = inputs
        kept = self._inputs[key, layer]
        model = self._context_models[context]
        if len(kept) != len(positions) * self._row_bytes(model):
            raise Failure("the inputs that were kept are of other tokens")
        if self._lib.llama_model_rope_type(model) in _ROPE_OF_FOUR:
            positions = 3 * positions + array.array("i", bytes(4 * len(positions)))
        return ctypes.cast(c_char_p(kept), c_void_p), positions

    def _keep(self, context: int, n: int, key: str) -> None:
        """Rows are in the order of the batch, whatever parts it was computed in.

        Source: llama_context::output_reorder in src/llama-context.cpp (b11434 and b11549).
        """
        function = getattr(self._lib, _GET_LAYER_INPUT)
        function.restype = c_void_p
        n_bytes = n * self._row_bytes(self._context_models[context])
        for layer in self._kept_layers[context]:
            address = function(self._contexts[context], c_uint32(layer))
            if not address:
                raise Failure(f"it does not give the input of layer {layer}")
            self._inputs[key, layer] = ctypes.string_at(address, n_bytes)

    def _row_bytes(self, model: c_void_p) -> int:
        return 4 * int(self._lib.llama_model_n_embd(model))

    # -- text ----------------------------------------------------------------------------------

    def tokenize(self, payload: bytes, model: int, *, special: bool) -> Json:
        """The tokens of a text in UTF-8."""
        vocab = c_void_p(self._lib.llama_model_get_vocab(self._models[model]))
        n_most = len(payload) + 8
        while True:
            ids = (c_int32 * n_most)()
            n = self._lib.llama_tokenize(
                vocab, payload, c_int32(len(payload)), ids, c_int32(n_most), c_bool(special), _YES
            )
            if n >= 0:
                return {"tokens": ids[:n]}
            n_most = -n  # a space may have three bytes, each of them a token

    def pieces(self, model: int, tokens: list[int]) -> Json:
        """The bytes of each token in hexadecimal, and whether it ends a text."""
        vocab = c_void_p(self._lib.llama_model_get_vocab(self._models[model]))
        found = []
        for token in tokens:
            buffer = ctypes.create_string_buffer(256)
            n = self._lib.llama_token_to_piece(
                vocab, c_int32(token), buffer, c_int32(256), c_int32(0), _NO
            )
            if n < 0:
                buffer = ctypes.create_string_buffer(-n)
                n = self._lib.llama_token_to_piece(
                    vocab, c_int32(token), buffer, c_int32(-n), c_int32(0), _NO
                )
            is_end = bool(self._lib.llama_vocab_is_eog(vocab, c_int32(token)))
            found.append([buffer.raw[: max(0, n)].hex(), is_end])
        return {"pieces": found}


def _log(line: str) -> None:
    """Leave a line for the parent, which shows the last ones if this process ends."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _word(address: int) -> int:
    """The eight bytes there, as a number."""
    return int.from_bytes(ctypes.string_at(address, 8), sys.byteorder)


def _text_of(entry: int, n_bytes: int) -> bytes:
    """The string that an entry of the list of tensors begins with."""
    if n_bytes == 32:  # noqa: PLR2004 - libc++ (macOS): short texts inside, the length last
        raw = ctypes.string_at(entry, 24)
        return raw[: raw[23]] if raw[23] < 128 else ctypes.string_at(_word(entry), _word(entry + 8))  # noqa: PLR2004
    if n_bytes == 40:  # noqa: PLR2004 - libstdc++: a pointer and a length
        return ctypes.string_at(_word(entry), _word(entry + 8))
    return ctypes.string_at(_word(entry))  # libstdc++ before C++11: a pointer


def _missing(name: str, source: str) -> list[int]:
    raise Failure(f"the base has no {source} loaded, which {name} needs")
