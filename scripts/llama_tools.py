"""Hold what rys-gguf makes for a variant to llama.cpp's own tools, byte for byte.

usage: python scripts/llama_tools.py MODEL SPEC --tools FOLDER [--text FILE] [--type Q4_K_M]

FOLDER has llama-quantize, llama-imatrix, llama-export-lora and llama-cvector-generator, built of
llama.cpp (`cmake --build build --target llama-quantize ...`). MODEL is made BF16 first, whatever it
is; TEXT, by default the README, is what an importance matrix is measured on. Three things are held:

- A BF16 variant, quantised by llama-quantize with the remapped matrix (in both of its formats) and
  the types of `export --tensor-types`, has the bytes of the quantised model's layers. Beside it is
  shown in how many tensors one differs that is quantised without these types.
- A variant merged by llama-export-lora with the remapped adapter has the bytes of a variant of the
  merged model.
- A control vector of llama-cvector-generator is taken, and its directions follow the map.

Prints a line for each; the exit code is 1 if one does not hold.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from rys_gguf.formats.model import Model
from rys_gguf.patch.apply import parse_spec

RANK = 4
SPEC_OPTIONS = {"blocks": "--blocks", "layers": "--layers"}


@dataclass(frozen=True)
class Tools:
    """Runs llama.cpp's tools and the command in a folder."""

    tools: Path
    folder: Path

    def tool(self, name: str, *words: str) -> None:
        """Run one of llama.cpp's tools."""
        self._run([str(self.tools / f"llama-{name}"), *words])

    def ours(self, *words: str) -> None:
        """Run the command."""
        self._run([sys.executable, "-m", "rys_gguf", *words])

    def _run(self, words: list[str]) -> None:
        done = subprocess.run(words, check=False, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr[-2000:]}")

    def differences(self, a: str, b: str) -> tuple[int, int]:
        """The tensors of two files that differ in type, shape or bytes, and how many there are."""
        one, two = (
            {t.name: t for t in gguf.GGUFReader(self.folder / name).tensors} for name in (a, b)
        )
        names = one.keys() | two.keys()
        same = (
            name in one and name in two
            and one[name].tensor_type == two[name].tensor_type
            and np.array_equal(one[name].data, two[name].data)
            for name in names
        )  # fmt: skip
        return len(names) - sum(same), len(names)


def write_adapter(model: Path, path: Path) -> None:
    """A random LoRA adapter for two matrices of each layer."""
    random = np.random.default_rng(0)
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(path, str(reader.fields["general.architecture"].contents()))
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0 * RANK)
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and tensor.name.endswith(
            ("attn_q.weight", "ffn_down.weight")
        ):
            n_in, n_out = map(int, tensor.shape)
            for half, shape in ("a", (RANK, n_in)), ("b", (n_out, RANK)):
                values = random.normal(0, 0.02, shape).astype(np.float32)
                writer.add_tensor(f"{tensor.name}.lora_{half}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantised(run: Tools, repeat: tuple[str, str], kind: str, text: Path) -> bool:
    """Whether quantising the variant gives the bytes of the quantised model."""
    run.tool(
        "imatrix", "-m", "bf16.gguf", "-f", str(text), "-o", "m.gguf", "--chunks", "2",
        "-c", "256", "--no-ppl",
    )  # fmt: skip
    run.tool(
        "imatrix", "-m", "bf16.gguf", "-f", str(text), "-o", "m.dat", "--chunks", "2",
        "-c", "256", "--no-ppl", "--output-format", "dat",
    )  # fmt: skip
    run.tool("quantize", "--imatrix", "m.gguf", "bf16.gguf", "q.gguf", kind)
    run.ours("apply", "q.gguf", *repeat, "-o", "copied.gguf")
    run.ours("companion", "deeper.gguf", "m.gguf", "-o", "deeper-m.gguf")
    run.ours("companion", "deeper.gguf", "m.dat", "-o", "deeper-m.dat")
    run.ours("export", "deeper.gguf", "--tensor-types", "types.txt", "--like", "q.gguf")
    holds = True
    for matrix in "deeper-m.gguf", "deeper-m.dat":
        types = ("--tensor-type-file", "types.txt")
        run.tool("quantize", "--imatrix", matrix, *types, "deeper.gguf", "like.gguf", kind)
        run.ours("verify", "like.gguf", "--types", "--source", "q.gguf")
        n, total = run.differences("like.gguf", "copied.gguf")
        print(f"{kind} with {matrix} and its types: {n} of {total} tensors differ")
        holds = holds and n == 0
    run.tool("quantize", "--imatrix", "deeper-m.gguf", "deeper.gguf", "plain.gguf", kind)
    n, total = run.differences("plain.gguf", "copied.gguf")
    print(f"(without the types: {n} of {total})")
    return holds


def merged(run: Tools, repeat: tuple[str, str]) -> bool:
    """Whether an adapter merged into the variant is that of the merged model."""
    write_adapter(run.folder / "bf16.gguf", run.folder / "lora.gguf")
    run.ours("companion", "deeper.gguf", "lora.gguf", "-o", "deeper-lora.gguf")
    run.tool(
        "export-lora", "-m", "deeper.gguf", "--lora", "deeper-lora.gguf", "-o", "merged-a.gguf"
    )
    run.tool("export-lora", "-m", "bf16.gguf", "--lora", "lora.gguf", "-o", "merged.gguf")
    run.ours("apply", "merged.gguf", *repeat, "-o", "merged-b.gguf")
    n, total = run.differences("merged-a.gguf", "merged-b.gguf")
    changed, _ = run.differences("merged.gguf", "bf16.gguf")
    print(f"merged adapter: {n} of {total} tensors differ ({changed} changed by the adapter)")
    return n == 0


def steered(run: Tools, mapping: tuple[int, ...]) -> bool:
    """Whether the directions of a control vector follow the map."""
    (run.folder / "yes.txt").write_text("I am happy today.\nWhat a lovely day!\n", "utf-8")
    (run.folder / "no.txt").write_text("I am sad today.\nWhat an awful day!\n", "utf-8")
    run.tool(
        "cvector-generator", "-m", "bf16.gguf", "--positive-file", "yes.txt",
        "--negative-file", "no.txt", "-o", "vector.gguf", "--method", "mean",
    )  # fmt: skip
    run.ours("companion", "deeper.gguf", "vector.gguf", "-o", "deeper-vector.gguf")
    one, two = (
        {t.name: t.data for t in gguf.GGUFReader(run.folder / name).tensors}
        for name in ("vector.gguf", "deeper-vector.gguf")
    )
    expected = {
        f"direction.{out}": one[f"direction.{source}"]
        for out, source in enumerate(mapping)
        if f"direction.{source}" in one
    }
    same = expected.keys() == two.keys() and all(
        np.array_equal(two[name], value) for name, value in expected.items()
    )
    print(f"control vector of {len(one)} directions: {len(two)}, {'right' if same else 'wrong'}")
    return same


def main() -> None:
    """Hold all three."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("spec", help="blocks:I,J or layers:...")
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--text", type=Path, default=Path(__file__).parent.parent / "README.md")
    parser.add_argument("--type", default="Q4_K_M")
    args = parser.parse_args()
    notation, _, value = args.spec.partition(":")
    repeat = (SPEC_OPTIONS[notation], value)
    with Model(args.model) as model:
        mapping = parse_spec(model, args.spec).sources
    with tempfile.TemporaryDirectory() as name:
        run = Tools(args.tools.resolve(), Path(name))
        run.tool("quantize", "--allow-requantize", str(args.model.resolve()), "bf16.gguf", "BF16")
        run.ours("apply", "bf16.gguf", *repeat, "-o", "deeper.gguf")
        holds = [
            quantised(run, repeat, args.type, args.text.resolve()),
            merged(run, repeat),
            steered(run, mapping),
        ]
    sys.exit(not all(holds))


if __name__ == "__main__":
    main()
