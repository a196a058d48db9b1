"""A real model in which one window is truly the best: the sweep finds it. Ray finds the same."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from rys_gguf import Model
from rys_gguf.runs.stage import DIVERGENCE, FINAL, Status
from rys_gguf.runs.storage import Run
from scripts.sweep_cost import KINDS
from tests import tiny
from tests.command import fails, run
from tests.search.test_sweep import ARGS, scores

WEAKENED = range(2, 10)


@pytest.fixture
def planted(smollm2: Path, tmp_path: Path) -> Path:
    """SmolLM2 whose layers 2 to 9 write half of what they should: run twice, they write it all."""
    path = tmp_path / "planted.gguf"
    shutil.copy(smollm2, path)
    file = np.memmap(path, np.uint8, "r+")
    with Model(path) as model:
        for tensor in (t for n in WEAKENED for t in model.layers[n]):
            if tensor.name.endswith((".attn_output.weight", ".ffn_down.weight")):
                span = model.data(tensor).span
                data = file[span.offset : span.offset + span.n_bytes].reshape(tensor.ne[1], -1)
                kind = gguf.GGMLQuantizationType(tensor.type)
                data[:] = quantize((dequantize(data, kind) * 0.5).astype(np.float32), kind)
    file.flush()
    return path


def test_the_planted_window_is_found_and_damaging_ones_are_not(
    planted: Path, tmp_path: Path
) -> None:
    """Other windows of eight layers, which run twice what is whole, are worse than it."""
    suite, heldout = tmp_path / "kinds.jsonl", tmp_path / "heldout.jsonl"
    items = [
        {"kind": "choice", "id": word, "family": "words", "topic": kind, "answer": kind,
         "options": list(KINDS), "question": f"What kind of thing is this: {word}?"}
        for kind, words in KINDS.items() for word in words.split()
    ]  # fmt: skip
    random.Random(0).shuffle(items)
    for path, part in ((suite, items[:16]), (heldout, items[32:])):
        path.write_text("".join(json.dumps(item) + "\n" for item in part))
    (tmp_path / "windows.txt").write_text("2,10\n20,28\n0,8\n")
    done = run(
        "sweep", planted, "--windows", tmp_path / "windows.txt", "--suite", suite,
        "--heldout", heldout, "--threads", "1", "--finalists", "1", "-o", tmp_path / "run",
        timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {t.candidate.spec: t for t in Run.open(tmp_path / "run").trials.values()}
    assert {spec for spec, t in found.items() if FINAL in t.results} == {"base", "blocks:2,10"}
    base, window = (found[spec].results[FINAL] for spec in ("base", "blocks:2,10"))
    assert window.soft_scores["words"] > base.soft_scores["words"] + 0.05
    assert found["blocks:0,8"].status(DIVERGENCE) is Status.DROPPED
    assert (found["blocks:0,8"].measure(DIVERGENCE, "kl") or 0) > 2


def test_ray_finds_the_same(tmp_path: Path) -> None:
    """The same candidates in actors of a local Ray instance, which ends with the sweep."""
    pytest.importorskip("ray", reason="ray is not installed")
    source = tiny.write(tmp_path / "m.gguf", "llama", 5, extra={".context_length": 2048})
    suite = tmp_path / "own.jsonl"
    lines: list[dict[str, Any]] = [
        {"kind": "choice", "question": f"Is {n} even?", "answer": ("yes", "no")[n % 2]}
        for n in range(20)
    ]
    suite.write_text("".join(json.dumps(line) + "\n" for line in lines))
    job: list[str | Path] = ["sweep", source, "--suite", suite, *ARGS]
    assert run(*job, "-o", tmp_path / "here").returncode == 0
    # One more than the machine has room for: it never comes up, and nobody waits for it.
    workers = str((os.cpu_count() or 1) + 1)
    done = run(*job, "-o", tmp_path / "ray", "--ray", "local", "--workers", workers)
    assert done.returncode == 0, done.stderr
    alone = fails(*job, "-o", tmp_path / "no", "--ray", "local", "--threads", "999")
    assert "a worker needs 999 CPUs" in alone
    assert scores(tmp_path / "ray") == scores(tmp_path / "here")
    assert not (tmp_path / "ray" / "work").exists()
