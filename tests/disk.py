"""Files of the tests on disk: small ones to patch, digests, disks that are full."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import gguf
import numpy as np


def finish(writer: gguf.GGUFWriter) -> None:
    """Write what was added to the writer, and close its file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_llama(path: Path, n_layers: int = 4, n_floats: int = 256) -> Path:
    """A llama header with one tensor of random floats per layer; nothing here runs it."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("fault")
    writer.add_block_count(n_layers)
    writer.add_tensor("token_embd.weight", rng.random(64, dtype=np.float32))
    for n in range(n_layers):
        writer.add_tensor(f"blk.{n}.ffn_up.weight", rng.random(n_floats, dtype=np.float32))
    finish(writer)
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))
    return filler
