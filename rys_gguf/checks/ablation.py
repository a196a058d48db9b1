"""Zero-ablation: copies of a model in which some layers write nothing to the residual stream.

Such a layer passes its input on unchanged.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from rys_gguf.errors import RysError
from rys_gguf.files.copying import copy_bytes
from rys_gguf.formats.header import Span, TensorInfo
from rys_gguf.formats.model import Model
from rys_gguf.text import printable

# The tensors whose products are added to the residual stream, by their name after `blk.N.`
# (gguf-py/gguf/constants.py; read off the graphs in src/models). Their biases, and the norms and
# scales behind them, write there as well.
_WRITERS = frozenset({
    "attn_output", "attn_out", "cross_attn_output", "ffn_down", "ffn_down_exps", "ffn_down_shexp",
    "ffn_down_chexps", "ssm_out", "shortconv.out_proj", "time_mix_output", "channel_mix_value",
    "vis_attn_output", "vis_ffn_down", "post_attention_norm", "post_ffw_norm", "attn_post_norm",
    "ffn_post_norm", "laurel_post_norm", "per_layer_post_norm", "altup_correct_coef",
})  # fmt: skip
_NORMS = frozenset(name for name in _WRITERS if name.endswith("norm"))


def residual_writers(tensors: Iterable[TensorInfo]) -> Iterator[TensorInfo]:
    """The tensors of a layer that must be zero for the layer to pass its input on."""
    for tensor in tensors:
        name, _, kind = tensor.name.split(".", 2)[2].rpartition(".")
        if not name:
            name, kind = kind, ""
        # A norm of zeros gives zeros, except for its bias.
        if name in _WRITERS and (name not in _NORMS or kind == "bias"):
            yield tensor


@contextlib.contextmanager
def ablated_copy(model: Model, layers: Iterable[int], folder: Path) -> Iterator[Path]:
    """The path of a copy in which those layers write zeros; of the model itself if there are none.

    All-zero bytes are zeros in every quantisation llama.cpp has. The copy is removed on leaving.
    Raises RysError if it cannot be written.
    """
    layers = tuple(layers)
    if not layers:
        yield model.files[0].path
        return
    with contextlib.ExitStack() as stack:
        try:
            # In a folder of its own the copy keeps its name, by which llama.cpp finds shards.
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix=".rys-", dir=folder))
            path = _write_ablated(model, layers, Path(name))
        except OSError as e:
            reason = e.strerror or str(e)
            raise RysError(f"{printable(folder)}: cannot make a silenced copy: {reason}") from e
        yield path


def require_room(folder: Path, n_bytes: int) -> int:
    """The free bytes in a folder. Raises RysError if an ablated copy of `n_bytes` does not fit."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise RysError(
            f"{printable(folder)}: a silenced copy needs {n_bytes} bytes, {free} are free; "
            f"choose another folder with --workdir"
        )
    return free


def _write_ablated(model: Model, layers: Iterable[int], folder: Path) -> Path:
    paths = [folder / file.path.name for file in model.files]
    for file, path in zip(model.files, paths, strict=True):
        with path.open("wb") as out:
            for _ in copy_bytes(file, out.fileno(), 0, file.n_bytes):
                pass
    for layer in layers:
        for tensor in residual_writers(model.layers[layer]):
            span = model.data(tensor).span
            _write_zeros(paths[span.shard], span)
    return paths[0]


def _write_zeros(path: Path, span: Span) -> None:
    zeros = bytes(1 << 20)
    with path.open("r+b") as file:
        file.seek(span.offset)
        for done in range(0, span.n_bytes, len(zeros)):
            file.write(zeros[: span.n_bytes - done])
