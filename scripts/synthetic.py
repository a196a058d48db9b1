"""Write a llama of any size with random weights in Q4_0 and the vocabulary of a real model.

usage: python scripts/synthetic.py VOCABULARY OUTPUT [--layers 32] [--width 4096] [--ff 14336]

VOCABULARY is the model whose tokens and chat template the new one gets; its weights are not read.
The default sizes give 7.4 billion parameters and 4.2 GB with a vocabulary of 49,152 tokens. The
same arguments write the same file. Such a model is for measuring time and memory: its answers mean
nothing.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType, GGUFValueType

from rys_gguf.formats.header import KV, Header, Span, TensorInfo, padded
from rys_gguf.formats.model import Model
from rys_gguf.formats.types import tensor_bytes
from rys_gguf.formats.vocabulary import n_tokens

HEAD = 128  # the width of an attention head
Q4_0_BYTES = 18  # of a block: a half-float scale and 32 weights of 4 bits
# A weight is scale * (n - 8) with n from 0 to 15: the standard deviation for a scale of 1.
Q4_0_DEVIATION = math.sqrt((16**2 - 1) / 12)
CHUNK_BLOCKS = 1 << 20

Shape = tuple[int, ...]


def layer(width: int, ff: int) -> dict[str, Shape]:
    """The tensors of one layer, the contiguous dimension first."""
    kv_width = width // 4
    return {
        "attn_norm": (width,), "attn_q": (width, width), "attn_k": (width, kv_width),
        "attn_v": (width, kv_width), "attn_output": (width, width), "ffn_norm": (width,),
        "ffn_gate": (width, ff), "ffn_up": (width, ff), "ffn_down": (ff, width),
    }  # fmt: skip


def deviation(name: str, ne: Shape) -> float:
    """The standard deviation of a tensor's weights.

    A layer adds about half of what it gets, so the model survives the repetition of its layers.
    """
    if name == "token_embd.weight":
        return 0.5
    return (1.0 if name == "output.weight" else 0.5) / math.sqrt(ne[0])


def make_header(source: Model, n_layers: int, width: int, ff: int) -> Header:
    """The header, whose long values stay in the source. Raises SystemExit without a vocabulary."""
    n_vocab = n_tokens(source)
    if n_vocab is None:
        raise SystemExit("the model of the vocabulary has none")
    keys = {
        "block_count": n_layers, "context_length": 8192, "embedding_length": width,
        "feed_forward_length": ff, "attention.head_count": width // HEAD,
        "attention.head_count_kv": width // 4 // HEAD, "rope.dimension_count": HEAD,
    }  # fmt: skip
    floats = {"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 500_000.0}
    kvs = [KV.of("general.architecture", GGUFValueType.STRING, "llama")]
    kvs += [KV.of(f"llama.{key}", GGUFValueType.UINT32, n) for key, n in keys.items()]
    kvs += [KV.of(f"llama.{key}", GGUFValueType.FLOAT32, x) for key, x in floats.items()]
    kvs += [kv for kv in source.header.kvs if kv.key.startswith("tokenizer.")]
    named = {
        "token_embd": (width, n_vocab),
        "output_norm": (width,),
        "output": (width, n_vocab),
        **{f"blk.{n}.{p}": ne for n in range(n_layers) for p, ne in layer(width, ff).items()},
    }
    tensors, offset = [], 0
    for name, ne in named.items():
        type_ = GGMLQuantizationType.F32 if len(ne) == 1 else GGMLQuantizationType.Q4_0
        size = tensor_bytes(type_, ne)
        assert size is not None
        tensors.append(TensorInfo(f"{name}.weight", ne, int(type_), offset, size))
        offset = padded(offset + size, 32)
    # In the source's byte order, in which the values of its vocabulary are.
    return Header(source.header.version, source.header.byteorder, tuple(kvs), tuple(tensors))


def weights(rng: np.random.Generator, tensor: TensorInfo) -> Iterator[bytes]:
    """The data of a tensor: ones for a norm, random blocks for a matrix."""
    if len(tensor.ne) == 1:
        yield np.ones(tensor.ne, "<f4").tobytes()
        return
    scale = np.float16(deviation(tensor.name, tensor.ne) / Q4_0_DEVIATION)
    n_left = tensor.n_bytes // Q4_0_BYTES
    while n_left:
        n = min(n_left, CHUNK_BLOCKS)
        blocks = np.frombuffer(bytearray(rng.bytes(n * Q4_0_BYTES)), np.uint8)
        blocks = blocks.reshape(n, Q4_0_BYTES)
        blocks[:, :2] = np.frombuffer(scale.astype("<f2").tobytes(), np.uint8)
        yield blocks.tobytes()
        n_left -= n


def write(source: Path, out: Path, n_layers: int, width: int, ff: int) -> int:
    """Write the model and return its number of parameters."""
    rng = np.random.default_rng(0)
    with Model(source) as model, out.open("wb") as file:
        header = make_header(model, n_layers, width, ff)
        for piece in header.encode():
            file.writelines(model.read(piece) if isinstance(piece, Span) else (piece,))
        for tensor in header.tensors:
            file.seek(header.data_offset + tensor.offset)
            file.writelines(weights(rng, tensor))
        file.truncate(header.data_offset + header.n_data_bytes)
    return sum(t.n_elements for t in header.tensors)


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vocabulary", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096, help="a multiple of 512")
    parser.add_argument("--ff", type=int, default=14336)
    args = parser.parse_args()
    n = write(args.vocabulary, args.output, args.layers, args.width, args.ff)
    size = args.output.stat().st_size
    print(f"{args.output}: {n / 1e9:.2f} billion parameters, {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
