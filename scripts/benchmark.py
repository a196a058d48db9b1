"""Measure speed and memory against what the machine itself takes for the same work.

usage: python scripts/benchmark.py [--folder DIR] [--gib 2] [--pairs 5] [--gemma PATH]
           [--before PROGRAM]

Each speed is a ratio of whole processes, run in alternating pairs whose order changes each time.
The table shows the median of the pairs' ratios and the median times. Memory is the largest resident
set of a command, on a file of 500 GB that is a header and a hole. Prints a markdown table; exit
code 1 if a target is missed. Needs about four times --gib in DIR, where nothing is left. With
--before, the rys-gguf of an earlier version is one more baseline.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# rys_gguf is imported in children only: a child's resident set begins with its parent's.
PYTHON = sys.executable
RYS = str(Path(PYTHON).with_name("rys-gguf"))
STOCK = "import sys; from gguf import GGUFReader; GGUFReader(sys.argv[1])"
# verify of 500 GB is stopped after this many seconds; by then it compares.
READING_SECONDS = 15.0
MEMORY_TARGET = 120e6
MIB = 1 << 20
# As installed: pip compiles a package, and whoever runs it from its sources compiles it once.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

# The big model: layers, and how many of them the variant repeats.
N_LAYERS = 32
WINDOW = "12,20"
N_OUT = 40
# The sparse one: Qwen3-235B-A22B in F16, with experts added until it has 500 GB.
MOE_LAYERS = 94
MOE_WINDOW = "40,48"
MOE_EXPERTS = 137
MOE_VOCAB = 151_936


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    ours: str
    baseline: str
    result: str
    target: str
    is_met: bool


# -- models, written by a child process ------------------------------------------------------------


def write_big(path: Path, n_bytes: int) -> None:
    """A llama whose variant has at least `n_bytes`: random data, so that nothing compresses it."""
    width = 32 * math.ceil(math.sqrt(n_bytes / N_OUT / 32) / 32)
    kv_width, ff = width // 4, 4 * width
    shapes = {
        "attn_norm": (width,), "attn_q": (width, width), "attn_k": (width, kv_width),
        "attn_v": (width, kv_width), "attn_output": (width, width), "ffn_norm": (width,),
        "ffn_gate": (width, ff), "ffn_up": (width, ff), "ffn_down": (ff, width),
    }  # fmt: skip
    keys = {"llama.block_count": N_LAYERS, "llama.embedding_length": width}
    keys |= {"llama.attention.head_count": 16, "llama.attention.head_count_kv": 4}
    n_data = _write_header(path, "llama", keys, shapes, (width, 32_000), N_LAYERS, 0)
    noise = os.urandom(64 * MIB)
    with path.open("ab") as file:
        for done in range(0, n_data, len(noise)):
            file.write(noise[: n_data - done])
        file.flush()
        os.fsync(file.fileno())


def write_sparse(path: Path) -> None:
    """500 GB of Qwen3-MoE, all of its data a hole; and beside it a variant, `path`.variant."""
    from rys_gguf import LayerMap, Model, make_plan

    shapes = {
        "attn_norm": (4096,), "attn_q": (4096, 8192), "attn_k": (4096, 512),
        "attn_v": (4096, 512), "attn_output": (8192, 4096), "attn_q_norm": (128,),
        "attn_k_norm": (128,), "ffn_norm": (4096,), "ffn_gate_inp": (4096, MOE_EXPERTS),
        "ffn_gate_exps": (4096, 1536, MOE_EXPERTS), "ffn_up_exps": (4096, 1536, MOE_EXPERTS),
        "ffn_down_exps": (1536, 4096, MOE_EXPERTS),
    }  # fmt: skip
    keys = {"qwen3moe.block_count": MOE_LAYERS, "qwen3moe.embedding_length": 4096}
    keys |= {"qwen3moe.attention.head_count": 64, "qwen3moe.attention.head_count_kv": 4}
    n_data = _write_header(path, "qwen3moe", keys, shapes, (4096, MOE_VOCAB), MOE_LAYERS, MOE_VOCAB)
    os.truncate(path, path.stat().st_size + n_data)
    variant = Path(f"{path}.variant")
    with Model(path) as model:
        plan = make_plan(model, LayerMap.parse(f"blocks:{MOE_WINDOW}", MOE_LAYERS))
        with variant.open("wb") as file:
            for piece in plan.header.encode():
                pieces = [piece] if isinstance(piece, bytes) else model.read(piece)
                file.writelines(pieces)
        os.truncate(variant, plan.n_bytes)


def _write_header(
    path: Path,
    arch: str,
    keys: dict[str, int],
    shapes: dict[str, tuple[int, ...]],
    ends: tuple[int, int],
    n_layers: int,
    n_tokens: int,
) -> int:
    """Write everything before the data, and return how many bytes of data follow."""
    from gguf.constants import GGMLQuantizationType, GGUFValueType

    from rys_gguf.formats.header import KV, Header, TensorInfo, padded
    from rys_gguf.formats.types import tensor_bytes

    kvs = [KV.of("general.architecture", GGUFValueType.STRING, arch)]
    kvs += [KV.of(key, GGUFValueType.UINT32, n) for key, n in keys.items()]
    for name in ("tokens", "merges") if n_tokens else ():
        texts = [f"{name}{n}" for n in range(n_tokens)]
        key = f"tokenizer.ggml.{name}"
        kvs.append(KV.of(key, GGUFValueType.ARRAY, texts, item_type=GGUFValueType.STRING))
    named = [("token_embd", ends), ("output_norm", ends[:1]), ("output", ends)]
    named += [(f"blk.{n}.{part}", ne) for n in range(n_layers) for part, ne in shapes.items()]
    tensors, offset = [], 0
    for name, ne in named:
        type_ = GGMLQuantizationType.F32 if len(ne) == 1 else GGMLQuantizationType.F16
        size = tensor_bytes(type_, ne)
        assert size is not None
        tensors.append(TensorInfo(f"{name}.weight", ne, int(type_), offset, size))
        offset = padded(offset + size, 32)
    header = Header(3, "<", tuple(kvs), tuple(tensors))
    with path.open("wb") as file:
        file.writelines(piece for piece in header.encode() if isinstance(piece, bytes))
    return header.n_data_bytes


# -- measuring -------------------------------------------------------------------------------------


def run(*argv: str | Path, stop_after: float = math.inf) -> tuple[float, int]:
    """Seconds and the largest resident set, in bytes, of one process that must succeed."""
    began = time.perf_counter()
    command = [*map(str, argv)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        is_stopped = False
        while stop_after < math.inf and not is_stopped and not _has_ended(process.pid):
            time.sleep(0.05)
            if is_stopped := time.perf_counter() - began > stop_after:
                process.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and not is_stopped:
        sys.exit(f"{' '.join(map(str, argv))}: exit code {process.returncode}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def pairs(
    n: int, ours: Callable[[], float], baseline: Callable[[], float]
) -> tuple[float, float, float]:
    """Median seconds of both and the median ratio, ours to baseline, of `n` alternating pairs."""
    times = []
    for k in range(n):
        if k % 2:
            second = baseline()
            times.append((ours(), second))
        else:
            first = ours()
            times.append((first, baseline()))
    ratio = statistics.median(a / b for a, b in times)
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times), ratio


def warm(*paths: Path) -> None:
    """Read files into the page cache."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(8 * MIB):
                pass


def warmed(*paths: Path, argv: list[str | Path]) -> float:
    """Seconds of a command that reads files out of the page cache."""
    warm(*paths)
    return run(*argv)[0]


def synced(source: Path, out: Path, *argv: str | Path) -> float:
    """Seconds of a command that writes `out` from `source`, and of the sync after it."""
    out.unlink(missing_ok=True)
    os.sync()
    warm(source)  # every time: some systems reclaim what is idle for seconds
    return run(*argv)[0] + run("sync")[0]


def speed_rows(folder: Path, n_bytes: int, n: int, gemma: Path) -> list[Row]:
    """The ratios."""
    source, out, copy = (folder / name for name in ("source.gguf", "out.gguf", "copy.gguf"))
    run(PYTHON, __file__, "--make", "big", source, str(n_bytes))
    apply: list[str | Path] = [RYS, "apply", source, "--blocks", WINDOW, "-o"]
    run(*apply, out)
    warm(gemma)
    size = f"{out.stat().st_size / 1e9:.1f} GB"
    rows = [
        _ratio(
            "`rys-gguf --version`",
            '`python -c "import click"`',
            pairs(
                4 * n,
                lambda: run(RYS, "--version")[0],
                lambda: run(PYTHON, "-c", "import click")[0],
            ),
            1.5,
        ),
        _ratio(
            "`plan`, 262k tokens",
            "`GGUFReader(path)` of gguf-py",
            pairs(
                n,
                lambda: run(RYS, "plan", gemma, "--blocks", "6,12")[0],
                lambda: run(PYTHON, "-c", STOCK, gemma)[0],
            ),
            1 / 25,
        ),
        _ratio(
            f"`apply`, {size}, then sync",
            "`cp`, then sync",
            pairs(
                n,
                lambda: synced(source, copy, *apply, copy),
                lambda: synced(out, copy, "cp", out, copy),
            ),
            1.1,
        ),
    ]
    copy.unlink()
    shutil.copy(out, copy)
    os.sync()
    compared = pairs(
        n,
        lambda: warmed(out, source, argv=[RYS, "verify", out, "--source", source]),
        lambda: warmed(out, copy, argv=["cmp", out, copy]),
    )
    rows.append(_ratio(f"`verify`, {size}", "`cmp`", compared, 1.5))
    return rows


def version_rows(folder: Path, before: str, n: int, gemma: Path) -> list[Row]:
    """Ratios to an earlier version: start, plan, apply with its memory."""
    source, out = folder / "source.gguf", folder / "version.gguf"
    residents: dict[str, list[int]] = {RYS: [], before: []}

    def apply(program: str) -> float:
        out.unlink(missing_ok=True)
        os.sync()
        warm(source)
        seconds, resident = run(program, "apply", source, "--blocks", WINDOW, "-o", out)
        residents[program].append(resident)
        return seconds + run("sync")[0]

    def both(measure: Callable[[str], float], times: int) -> tuple[float, float, float]:
        return pairs(times, lambda: measure(RYS), lambda: measure(before))

    def start(program: str) -> float:
        return run(program, "--help")[0]

    def plan(program: str) -> float:
        return run(program, "plan", gemma, "--blocks", "6,12")[0]

    rows = [
        _ratio("`rys-gguf --help`", "before", both(start, 4 * n), 1.1),
        _ratio("`plan`, 262k tokens", "before", both(plan, 4 * n), 1.1),
        _ratio("`apply`, then sync", "before", both(apply, 2 * n), 1.1),
    ]
    ours, theirs = (statistics.median(residents[program]) for program in (RYS, before))
    return [
        *rows,
        Row(
            "`apply`, memory", f"{ours / 1e6:.0f} MB", f"before: {theirs / 1e6:.0f} MB",
            f"{ours / theirs:.2f} of it", "at most 1.10", ours <= 1.1 * theirs,
        ),
    ]  # fmt: skip


def _ratio(what: str, baseline: str, measured: tuple[float, float, float], target: float) -> Row:
    ours, theirs, ratio = measured
    shown = f"1/{1 / ratio:.0f}" if target < 0.5 else f"{ratio:.2f}"  # noqa: PLR2004
    wanted = f"1/{1 / target:.0f}" if target < 0.5 else f"{target:.2f}"  # noqa: PLR2004
    return Row(
        what,
        f"{ours:.2f} s",
        f"{baseline}: {theirs:.2f} s",
        f"{shown} of it",
        f"at most {wanted}",
        ratio <= target,
    )


def memory_rows(folder: Path, n: int) -> list[Row]:
    """Times and resident sets on the sparse model, and of a write of the big one."""
    sparse, variant = folder / "sparse.gguf", folder / "sparse.gguf.variant"
    run(PYTHON, __file__, "--make", "sparse", sparse)
    size = f"{sparse.stat().st_size / 1e9:.0f} GB"
    window = ["--blocks", MOE_WINDOW]
    plans = [run(RYS, "plan", sparse, *window)[0] for _ in range(n)]
    seconds = statistics.median(plans)
    rows = [
        Row(f"`plan`, {size}", f"{seconds:.2f} s", "", "", "under 1 s", seconds < 1),
    ]
    big, out = folder / "source.gguf", folder / "written.gguf"
    written = f"{big.stat().st_size * N_OUT / N_LAYERS / 1e9:.1f} GB"
    commands: list[tuple[str, list[str | Path], float]] = [
        (f"`inspect`, {size}", ["inspect", sparse], math.inf),
        (f"`plan --full`, {size}", ["plan", sparse, *window, "--full"], math.inf),
        (f"`diff`, {size}", ["diff", sparse, variant], math.inf),
        (f"`verify`, {size}", ["verify", variant, "--source", sparse], READING_SECONDS),
        (f"`apply`, {written}", ["apply", big, "--blocks", WINDOW, "-o", out], math.inf),
        (f"`align`, {written}", ["align", out, "-o", folder / "base.gguf"], math.inf),
    ]
    for what, arguments, stop_after in commands:
        _, resident = run(RYS, *arguments, stop_after=stop_after)
        shown = f"{resident / 1e6:.0f} MB resident"
        is_met = resident < MEMORY_TARGET
        rows.append(Row(what, "", "", shown, f"under {MEMORY_TARGET / 1e6:.0f} MB", is_met))
    return rows


def machine(folder: Path) -> str:
    """Cores, system, and the file system the files were on."""
    cores = f"{os.cpu_count()} cores"
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    disk = "unknown disk"
    df = subprocess.run(["df", "-T", folder], capture_output=True, text=True, check=False)
    if df.returncode == 0:
        device, kind = df.stdout.splitlines()[-1].split()[:2]
        disk = f"{kind} on {device}"
    return f"{cores}, {system}, {disk}"


def main() -> None:
    """Measure everything and print the table."""
    if sys.argv[1:2] == ["--make"]:
        kind, path, *rest = sys.argv[2:]
        if kind == "big":
            write_big(Path(path), int(rest[0]))
        else:
            write_sparse(Path(path))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="default: the system's temporary folder")
    parser.add_argument("--gib", type=float, default=2.0, help="size of the written file")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--gemma", type=Path, help="default: what scripts/models.py gemma3 prints")
    parser.add_argument("--before", metavar="PROGRAM", help="the rys-gguf of an earlier version")
    args = parser.parse_args()
    models = [PYTHON, str(Path(__file__).with_name("models.py")), "gemma3"]
    gemma = args.gemma or Path(subprocess.check_output(models, text=True).strip())
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=args.folder) as name:
        folder = Path(name)
        rows = speed_rows(folder, int(args.gib * 2**30), args.pairs, gemma)
        if args.before is not None:
            rows += version_rows(folder, args.before, args.pairs, gemma)
        rows += memory_rows(folder, args.pairs)
        print(f"{machine(folder)}; medians of {args.pairs} alternating pairs\n")
    print("| what | rys-gguf | baseline | result | target | |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        met = "met" if row.is_met else "MISSED"
        cells = [row.what, row.ours, row.baseline, row.result, row.target, met]
        print(f"| {' | '.join(cells)} |")
    raise SystemExit(not all(row.is_met for row in rows))


if __name__ == "__main__":
    main()
