"""The proof names the outputs that differ, and leaves nothing behind however it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rys_gguf import LayerMap, Model, Schedule, make_plan, write_plan
from rys_gguf.checks.ablation import edited_copy, nudge
from rys_gguf.checks.prove import Proof, describe_difference, n_passes, prove
from rys_gguf.checks.variant import VariantPair
from rys_gguf.checks.verify import find_problems
from rys_gguf.engines.base import LIVE, SERVER
from rys_gguf.errors import Refused, RysError
from rys_gguf.layers.architectures import ARCHITECTURES
from tests import tiny
from tests.cli import calls
from tests.command import command, leftovers, run
from tests.engine import OPTIONS, direct_proof
from tests.engines.stand_in import script

BOTH_KINDS = pytest.mark.parametrize("kind", [SERVER, LIVE])


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A Gemma 3 of 12 layers and its legal variant."""
    source = tiny.write(tmp_path / "source.gguf", "gemma3", 12)
    out = tmp_path / "out.gguf"
    with Model(source) as model:
        write_plan(make_plan(model, LayerMap.parse("blocks:3,9", 12)), out)
    return out, source


def test_prove_passes_on_what_apply_writes(pair: tuple[Path, Path]) -> None:
    """The command reports success and leaves no file behind."""
    out, source = pair
    server = ("--engine", "server")
    done = calls.done("prove", out, "--source", source, "--threads", "1", *server)
    assert "every one of 18 outputs runs as its source" in done.stdout
    assert f"need {out.stat().st_size} bytes" in done.stderr
    assert leftovers(out.parent, [out, source]) == set()
    report = calls.data("prove", out, "--source", source)
    assert report["ok"] is True
    assert [sorted(result) for result in report["results"]] == [
        ["divergence", "exact", "max_difference", "outputs", "positions", "rounding", "silenced"]
    ] * 2


def test_prove_names_the_outputs_that_differ(tmp_path: Path) -> None:
    """Layers copied by renaming only: exactly the outputs whose kind changed are named."""
    source = tiny.write(tmp_path / "m.gguf", "gemma3", 12)
    naive = tiny.write(tmp_path / "naive.gguf", "gemma3", 12, sources=[*range(8), *range(4, 12)])
    call = ("prove", naive, "--source", source, "--blocks", "4,8", "--threads", "1")
    message = fails_with_output(*call)
    # Layers 5 and 11 have full attention by position, in the variant too: 9, 11 and 15 are wrong.
    assert (
        "outputs 9 (source 5), 11 (source 7), 15 (source 11) do not run as their sources" in message
    )


def fails_with_output(*args: str | Path) -> str:
    """The message of a command that writes to stdout and ends with exit code 1."""
    done = calls.call(*args)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    return done.stderr


@BOTH_KINDS
@pytest.mark.parametrize("spec", ["layers:0..3,6..11", "layers:5,4,3", "layers:0..11,0"])
def test_maps_that_skip_or_reorder_are_proven_against_an_ablated_source(
    tmp_path: Path, spec: str, kind: str
) -> None:
    """Layers the map drops are ablated in the source; reordered ones are proven one by one."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 12)
    layer_map = LayerMap.parse(spec, 12)
    with Model(source) as model:
        write_plan(make_plan(model, layer_map), tmp_path / "out.gguf")
    pair = VariantPair(tmp_path / "out.gguf", source, layer_map)
    assert prove(pair, replace(OPTIONS, kind=kind)).holds()


GEMMA4: dict[str, dict[str, Any]] = {
    "E": {"shared_kv_layers": 4, "wide_tail": True},
    "dense": {"per_layer_input": False, "keys_as_values": True},
    "MoE": {"per_layer_input": False, "keys_as_values": True, "experts": True},
}
# Copies before the layers that lend their K/V, of those themselves, of layers that borrow them,
# across each other, and maps that drop or swap layers.
GEMMA4_MAPS = [
    "blocks:2,4",
    "blocks:6,8",
    "blocks:8,11",
    "layers:0..7,6..9,9,11",
    "layers:0..3,0,6..8",
    "layers:1,0,5,4,6..11",
]


@pytest.mark.parametrize("spec", GEMMA4_MAPS)
@pytest.mark.parametrize("kind", GEMMA4)
def test_gemma_4_is_proven(tmp_path: Path, kind: str, spec: str) -> None:
    """Embeddings per layer, scaled residuals and borrowed K/V: bit-exact in the real engine."""
    assert proof_of(tmp_path, "gemma4", spec, **GEMMA4[kind]).holds()


def proof_of(
    folder: Path, arch: str, spec: str, n_layers: int = 12, *, kind: str = "", **options: Any
) -> Proof:
    """The proof of what the product writes for a tiny model, after verify has accepted it.

    Without a kind of engine all copies are loaded in one process.
    """
    source = tiny.write(folder / "m.gguf", arch, n_layers, **options)
    with Model(source) as model:
        layer_map = LayerMap.parse(spec, model.n_trunk)
        write_plan(make_plan(model, layer_map), folder / "out.gguf")
    assert not list(find_problems(folder / "out.gguf", source, spec))
    pair = VariantPair(folder / "out.gguf", source, layer_map)
    return prove(pair, replace(OPTIONS, kind=kind)) if kind else direct_proof(pair)


@BOTH_KINDS
def test_a_gemma_4_that_borrows_from_other_layers_fails(tmp_path: Path, kind: str) -> None:
    """The copies of 2 and 3 stand where the last layers look for keys and values: 8 and 9 lent."""
    options = GEMMA4["E"]
    source = tiny.write(tmp_path / "m.gguf", "gemma4", 12, **options)
    layer_map = LayerMap.parse("layers:0..7,2,3,8..11", 12)
    naive = tiny.write(tmp_path / "o.gguf", "gemma4", 12, sources=layer_map.sources, **options)
    proof = prove(VariantPair(naive, source, layer_map), replace(OPTIONS, kind=kind))
    assert proof.differing == (10, 11, 12, 13)


PROVABLE = sorted(
    arch
    for arch in tiny.ARCHITECTURES.keys() - tiny.WITHOUT_NEXT_TOKEN - tiny.LIKE_OTHERS
    if not ARCHITECTURES[arch].unprovable
)
# What most rules allow: whole periods, on one side of leading and of last layers.
SPECS = ("layers:0..3,3,8..11", "layers:0..11,4..11", "layers:0..3,0..11", "layers:0..5,0..11")


# The library is that of the server; the way through files is tried on a few.
EACH_LIVE = pytest.mark.parametrize(
    ("arch", "kind"), [*((arch, LIVE) for arch in PROVABLE), ("qwen35", SERVER), ("gemma4", SERVER)]
)


@EACH_LIVE
def test_a_silenced_layer_passes_its_input_on(tmp_path: Path, arch: str, kind: str) -> None:
    """A source with layers silenced is a plain file without them, in every architecture we have."""
    source = tiny.write(tmp_path / "m.gguf", arch, 12)
    for spec in SPECS:
        layer_map = LayerMap.parse(spec, 12)
        with Model(source) as model, contextlib.suppress(Refused):
            write_plan(make_plan(model, layer_map), tmp_path / "out.gguf")
            break
    assert (tmp_path / "out.gguf").exists(), "no map is legal"
    pair = VariantPair(tmp_path / "out.gguf", source, layer_map)
    proof = prove(pair, replace(OPTIONS, kind=kind))
    assert proof.holds(), proof


@pytest.mark.parametrize("arch", PROVABLE)
def test_another_model_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    """In no architecture a difference is blamed on layers that cannot be silenced."""
    monkeypatch.setattr("rys_gguf.checks.prove._MAX_LOCATED", 0)
    source, other = (tiny.write(tmp_path / f"{n}.gguf", arch, 8, seed=n) for n in range(2))
    assert not direct_proof(VariantPair(other, source, LayerMap.identity(8))).holds()


@pytest.mark.parametrize(
    ("arch", "options"),
    [("ernie4_5-moe", {"moe_step": 2}), ("refact", {"experts": True}), ("talkie", {})],
)
def test_a_network_without_weights_is_silenced(
    tmp_path: Path, arch: str, options: dict[str, Any]
) -> None:
    """Where the graph expects other tensors than the file has, the layer's norm alone writes."""
    assert proof_of(tmp_path, arch, "blocks:4,8", **options).holds()


@BOTH_KINDS
@pytest.mark.parametrize("arch", ["gemma4", "talkie"])
def test_layers_that_cannot_be_silenced_are_not_called_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, kind: str
) -> None:
    """A table that lacks something that a layer writes with leads to no proof, and no verdict."""
    row = replace(ARCHITECTURES[arch], silenced=())
    monkeypatch.setitem(ARCHITECTURES, arch, row)
    with pytest.raises(Refused, match="not provable this way: its layers change what they pass on"):
        proof_of(tmp_path, arch, "blocks:4,8", kind=kind)


def test_a_rescaled_variant_is_proven_up_to_its_rounding(tmp_path: Path) -> None:
    """Exactly 62 layers: attn_q_norm makes up for the attention scale, but for its rounding."""
    source = tiny.write(tmp_path / "m.gguf", "gemma3", 62)
    out = tmp_path / "out.gguf"
    call = ("apply", source, "--blocks", "6,12", "--schedule", "explicit", "-o", out)
    calls.done(*call)
    done = calls.done("prove", out, "--source", source, "--threads", "1")
    assert re.search(
        r"68 outputs runs as its source within 0\.0\d+ nats, which rounding the rescaled "
        r"attn_q_norm\.weight may make",
        done.stdout,
    )


@pytest.mark.parametrize(
    ("arch", "n_layers", "tensor", "kind"),
    [
        ("gemma3", 62, "attn_q_norm.weight", SERVER),
        ("gemma2", 46, "attn_q.scale", LIVE),
    ],
)
def test_a_wrong_rescale_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arch: str,
    n_layers: int,
    tensor: str,
    kind: str,
) -> None:
    """The tolerance that follows from a rescale is far below what a wrong factor does."""
    monkeypatch.setattr("rys_gguf.checks.prove._MAX_LOCATED", 0)  # the search takes a minute
    source = tiny.write(tmp_path / "m.gguf", arch, n_layers)
    layer_map = LayerMap.parse("blocks:6,12", n_layers)
    with Model(source) as model:
        plan = make_plan(model, layer_map, schedule=Schedule.EXPLICIT)
        write_plan(plan, tmp_path / "right.gguf")
    with Model(tmp_path / "right.gguf") as right:
        edits = nudge(right, [tensor], 0.03)
        with edited_copy(right, edits, tmp_path) as wrong:
            pair = VariantPair(wrong, source, layer_map)
            proof = prove(pair, replace(OPTIONS, kind=kind))
    assert not proof.holds()
    assert min(r.max_difference / r.rounding for r in proof.results) > 2


@BOTH_KINDS
@pytest.mark.parametrize(
    ("arch", "spec"),
    [
        ("llama", "blocks:3,5@0.5"),
        ("gemma3", "blocks:0,6@0.3"),
        ("qwen35moe", "blocks:4,8@0"),
        ("gemma4", "blocks:2,4@0.3"),
    ],
)
def test_damped_copies_are_proven(tmp_path: Path, arch: str, spec: str, kind: str) -> None:
    """Undamped they run as their sources, and damped by 0 they pass their input on."""
    proof = proof_of(tmp_path, arch, spec, kind=kind)
    assert proof.holds()
    assert proof.precision() == "bit for bit"
    assert proof.damped is not None
    assert proof.damped.ablated == tuple(
        out for out, factor in enumerate(LayerMap.parse(spec, 12).damping) if factor != 1
    )


def test_scales_that_the_engine_does_not_read_are_no_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that is wrong about them: llama.cpp loads the scale of the network, and no more."""
    row = replace(ARCHITECTURES["qwen2"], dampers=ARCHITECTURES["qwen3"].dampers)
    monkeypatch.setitem(ARCHITECTURES, "qwen2", row)
    proof = proof_of(tmp_path, "qwen2", "blocks:3,5@0.5", kind=LIVE)
    assert all(result.exact for result in proof.results)
    assert not proof.holds()
    said = describe_difference(proof, LayerMap.parse("blocks:3,5@0.5", 12))
    assert said.startswith("is damped by tensors that this engine does not read")


def test_another_factor_than_that_of_the_map_is_no_proof(tmp_path: Path) -> None:
    """The outputs are named."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 6)
    out = tmp_path / "out.gguf"
    layer_map = LayerMap.parse("blocks:2,4@0.5", 6)
    with Model(source) as model:
        write_plan(make_plan(model, layer_map), tmp_path / "right.gguf")
    with Model(tmp_path / "right.gguf") as right:
        (scale,) = (t for t in right.layers[5] if t.name == "blk.5.ffn_down.scale")
        raw = bytearray((tmp_path / "right.gguf").read_bytes())
        start = right.data(scale).span.offset
        raw[start : start + 4] = struct.pack("<f", 0.6)
    out.write_bytes(raw)
    assert fails_with_output("prove", out, "--source", source, "--threads", "1").endswith(
        "is not damped as its map says in output 5 (by 0.5)\n"
    )


def test_a_damped_output_without_its_tensors_is_refused(tmp_path: Path) -> None:
    """A plain copy is no damped one."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 6)
    out = tmp_path / "out.gguf"
    calls.done("apply", source, "--blocks", "2,4", "-o", out)
    call = ("prove", out, "--source", source, "--blocks", "2,4@0.5", "--threads", "1")
    assert "which damps output 4, is missing" in fails_with_output(*call)


def test_an_architecture_without_a_proof_is_refused(tmp_path: Path) -> None:
    """BERT norms what a layer passes on, so its proof must not pass."""
    source = tiny.write(tmp_path / "m.gguf", "bert", 8)
    out = tmp_path / "out.gguf"
    calls.done("apply", source, "--blocks", "2,4", "-o", out)
    assert "not provable this way" in fails_with_output("prove", out, "--source", source)


def test_a_full_disk_is_one_message(pair: tuple[Path, Path], small_disk: Path) -> None:
    """The disk is too small for an ablated copy, and nothing stays on it."""
    out, source = pair
    (small_disk / "fill").write_bytes(bytes(63 << 20))
    free = os.statvfs(small_disk)
    (small_disk / "more").write_bytes(bytes(free.f_bavail * free.f_frsize - (1 << 20) // 2))
    call = ("prove", out, "--source", source, "--workdir", small_disk, "--engine", "server")
    message = fails_with_output(*call)
    assert "--workdir" in message or "No space left" in message
    assert leftovers(small_disk, [small_disk / "fill", small_disk / "more"]) == set()


def test_a_program_in_this_folder_is_found(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """--llama-server ./server is found in the current folder, and its failure is reported."""
    out, source = pair
    script(tmp_path / "server", "print('no such GPU'); raise SystemExit(3)")
    done = run("prove", out, "--source", source, "--llama-server", "./server", cwd=tmp_path)
    assert done.returncode == 1
    assert "exit code 3" in done.stderr
    assert "no such GPU" in done.stderr
    assert leftovers(out.parent, [out, source, tmp_path / "server"]) == set()


def test_arguments_after_the_dashes_need_a_server(pair: tuple[Path, Path]) -> None:
    """They go to llama-server; without one the call is a usage error."""
    out, source = pair
    env = {k: v for k, v in os.environ.items() if k != "LLAMA_SERVER"}
    done = run("prove", out, "--source", source, "--", "--gpu-layers", "99", env=env)
    assert done.returncode == 2


def children_of(process: subprocess.Popen[bytes]) -> list[str]:
    """The pids of what its threads have started."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [pid for children in threads for pid in children.read_text().split()]


def engine_on_an_ablated_copy(process: subprocess.Popen[bytes], folder: Path) -> int:
    """The pid of the engine that a running `prove` has started on an ablated copy."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for pid in children_of(process):
            # Before exec, the child is still a copy of the run, which waits for it.
            try:
                started = b"child.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
            except FileNotFoundError:
                continue
            if started and list(folder.glob(".rys-*")):
                return int(pid)
        time.sleep(0.001)
    raise AssertionError("no engine was seen")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_takes_its_engine_along(
    pair: tuple[Path, Path], number: signal.Signals
) -> None:
    """The engine ends with the command, and its ablated copy is removed except after SIGKILL."""
    out, source = pair
    for _ in range(4):
        with subprocess.Popen(
            command("prove", out, "--source", source, "--engine", "server"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            # While its engine is stopped, the run cannot end before the signal arrives.
            with contextlib.suppress(ProcessLookupError):
                os.kill(engine_on_an_ablated_copy(process, out.parent), signal.SIGSTOP)
            process.send_signal(number)
            try:
                process.communicate(timeout=60)
            finally:
                process.kill()  # leaving the block waits for it
        time.sleep(0.3)
        running = subprocess.run(
            ["pgrep", "-f", str(out.parent)], capture_output=True, text=True
        ).stdout
        assert running == ""
        if number != signal.SIGKILL:
            assert leftovers(out.parent, [out, source]) == set()
        if process.returncode:  # otherwise that engine was the last and the run was done
            break
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_live_run_that_is_stopped_takes_its_engine_along(
    pair: tuple[Path, Path], number: signal.Signals
) -> None:
    """Its process ends with the command, whatever ended that, and nothing is left beside it."""
    out, source = pair
    with subprocess.Popen(
        command("prove", out, "--source", source, "--engine", "live"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        engine = live_engine_of(process)
        process.send_signal(number)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{engine}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{engine}").exists()
    if number != signal.SIGKILL:
        assert leftovers(out.parent, [out, source]) == set()


def live_engine_of(process: subprocess.Popen[bytes]) -> int:
    """The pid of the first live engine that a command starts."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for pid in children_of(process):
            with contextlib.suppress(FileNotFoundError):
                if b"live/child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return int(pid)
        time.sleep(0.001)
    raise AssertionError("no engine was seen")


@BOTH_KINDS
def test_a_model_without_numbers_is_no_proof(tmp_path: Path, kind: str) -> None:
    """Two models that both give NaN do not count as equal."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 4)
    tiny.break_numbers(source)
    layer_map = LayerMap.parse("blocks:1,2", 4)
    with Model(source) as model:
        write_plan(make_plan(model, layer_map), tmp_path / "out.gguf")
    with pytest.raises(RysError, match="not numbers"):
        prove(VariantPair(tmp_path / "out.gguf", source, layer_map), replace(OPTIONS, kind=kind))


@BOTH_KINDS
def test_the_progress_counts_every_pass(pair: tuple[Path, Path], kind: str) -> None:
    """A proof that holds reports as many passes as were announced."""
    both = VariantPair(*pair, LayerMap.parse("blocks:3,9", 12))
    steps: list[int] = []
    assert prove(both, replace(OPTIONS, kind=kind), progress=steps.append).holds()
    assert sum(steps) == n_passes(both) == 4


@pytest.mark.parametrize("arch", ["bert", "llada"])
def test_a_model_without_a_next_token_is_one_message(tmp_path: Path, arch: str) -> None:
    """Diffusion and embedding models: one line says which commands cannot serve them, and why."""
    source = tiny.write(tmp_path / "m.gguf", arch, 6)
    out = tmp_path / "out.gguf"
    calls.done("apply", source, "--blocks", "2,4", "-o", out)
    commands = [
        ("smoke", out),
        *([("probe", source)] if arch == "bert" else []),
        ("sweep", source, "--sizes", "2,1", "--families", "math", "-o", tmp_path / "run"),
        *([] if ARCHITECTURES[arch].unprovable else [("prove", out, "--source", source)]),
    ]
    for call in commands:
        message = fails_with_output(*call).splitlines()[-1]
        assert re.fullmatch(
            r"Error: (m|out)\.gguf: llama-server predicts no next token .* prove, smoke, .*",
            message,
        ), message
    if not ARCHITECTURES[arch].unprovable:
        layer_map = LayerMap.parse("blocks:2,4", 6)
        with pytest.raises(Refused, match="llama-server predicts no next token"):
            prove(VariantPair(out, source, layer_map), replace(OPTIONS, kind=LIVE))
    done = calls.call("validate", out, "--source", source)
    assert re.findall(r"^(\w+) +open", done.stderr, re.MULTILINE) == ["load", "prove", "smoke"]
