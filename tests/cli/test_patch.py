"""The commands that read and write models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from tests.cli.calls import call, data, done, refused


def test_inspect_shows_layers_and_legal_windows(model: Path) -> None:
    """The lines and the JSON show the same facts."""
    text = done("inspect", model).stdout
    assert text.startswith("m.gguf  llama  ")
    assert "windows  portable: any" in text
    facts = data("inspect", model)
    assert (facts["architecture"], facts["n_layers"]) == ("llama", 6)
    assert facts["legal_windows"]["portable"] == {"1": 6, "2": 5, "3": 4, "4": 3, "5": 2, "6": 1}


def test_inspect_and_plan_say_that_the_engine_will_not_load(tmp_path: Path) -> None:
    """A note on stderr, beside the usual lines, and none for a usual model."""
    path = tiny.write(tmp_path / "m.gguf", "llama", 3, extra={".rope.scaling.type": "dynamic"})
    for args in (("inspect", path), ("plan", path, "--blocks", "0,1")):
        shown = done(*args)
        assert "note: llama.rope.scaling.type is 'dynamic'; llama.cpp aborts" in shown.stderr
        assert shown.stdout.startswith("m.gguf  ")
    tiny.write(path, "llama", 3)
    assert "note" not in done("inspect", path).stderr


def test_plan_and_dry_run_show_the_same(model: Path) -> None:
    """Both print the same plan, and neither writes anything."""
    for form in ([], ["--full"], ["--json"]):
        plan = done("plan", model, "--blocks", "2,4", *form)
        dry = done("apply", model, "--blocks", "2,4", "--dry-run", *form)
        assert plan.stdout == dry.stdout
    assert list(model.parent.iterdir()) == [model]
    assert data("plan", model, "--blocks", "2,4")["layer_map"] == [0, 1, 2, 3, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("args", "name"),
    [(["--blocks", "2,4"], "m-rys_2-3.gguf"), (["--layers", "0..2,1..5"], "m-rys_1-2.gguf")],
)
def test_apply_writes_and_names_its_file(model: Path, args: list[str], name: str) -> None:
    """The path goes to stdout, and verify agrees; JSON holds the plan as well."""
    out = model.with_name(name)
    assert done("apply", model, *args).stdout == f"{out}\n"
    assert "every layer is its source" in done("verify", out, "--source", model).stdout
    written = data("apply", model, *args, "--force")
    assert written["output"] == [str(out)]
    assert written["n_layers"][1] == len(written["layer_map"])


def test_shards_are_written_as_asked(model: Path) -> None:
    """The path of every shard is printed on a line of its own."""
    paths = done("apply", model, "--blocks", "2,4", "--split-max-size", "0.1M").stdout.split()
    assert len(paths) > 1
    assert all(Path(path).is_file() for path in paths)
    assert paths[0].endswith(f"-00001-of-{len(paths):05}.gguf")


def test_align_writes_a_model_that_says_the_same(model: Path) -> None:
    """Only offsets and the alignment differ."""
    out = model.with_name("aligned.gguf")
    written = data("align", model, "-o", out)
    assert written["output"] == [str(out)]
    difference = data("diff", model, out)
    assert [kv["key"] for kv in difference["kvs"]] == ["general.alignment"]
    assert "general.alignment" in done("diff", model, out).stdout


def test_equal_headers_have_no_differences(model: Path) -> None:
    """The message goes to stderr: a script that reads stdout sees tables only."""
    result = done("diff", model, model)
    assert result.stderr == "no differences\n"


def test_verify_lists_every_problem(model: Path) -> None:
    """Text and JSON list every problem, and the exit code is 1."""
    out = model.with_name("m-rys_2-3.gguf")
    done("apply", model, "--blocks", "2,4")
    broken = bytearray(out.read_bytes())
    broken[-1] ^= 1
    out.write_bytes(broken)
    result = call("verify", out, "--source", model)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    assert "1 problem found" in result.stderr
    as_json = call("verify", out, "--source", model, "--json")
    assert as_json.exit_code == 1
    assert '"ok": false' in as_json.stdout


def test_the_tail_of_a_model_is_named_beside_its_layers(tmp_path: Path) -> None:
    """A spec counts the main layers; a message says how many more there are, before the caret."""
    path = tiny.write(tmp_path / "m.gguf", "qwen35", 8, n_mtp=1, recurrent_layers=True)
    result = call("plan", path, "--blocks", "2,9")
    assert result.exit_code == 1
    first, spec, caret = result.stderr.splitlines()
    assert first.endswith("(and 1 MTP block, which stays last)")
    assert spec.strip() == "blocks:2,9"
    assert set(caret.strip()) == {"^"}


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    """A missing model gives one line and no traceback."""
    assert "No such file" in refused("inspect", tmp_path / "none.gguf")


def test_damp_lets_copies_add_less(model: Path, tmp_path: Path) -> None:
    """The plan and the name of the file say by what, and the variant verifies."""
    text = done("plan", model, "--blocks", "2,4", "--damp", "0.5").stdout
    assert text.startswith("m.gguf  blocks:2,4@0.5  schedule portable")
    assert "  output 4..5 <- source 2..3, damped by 0.5" in text
    assert "+ rys.damping  [1, 1, 1, 1, 0.5, 0.5, 1, 1] (ARRAY[FLOAT64, 8])" in text
    written = done("apply", model, "--blocks", "2,4", "--damp", "0.5")
    out = model.with_name("m-rys_2-3x0.5.gguf")
    assert written.stdout == f"{out}\n"
    assert "note: 2 layers damped by blk.N.attn_output.scale and blk.N.ffn_down" in written.stderr
    done("verify", out, "--source", model)
    runs = data("plan", model, "--blocks", "2,4@0.5")["runs"]
    assert [run["damp"] for run in runs] == [1, 0.5, 1]


def test_what_cannot_be_damped_is_one_message(model: Path, tmp_path: Path) -> None:
    """No copy, no such factor, damped already, and an architecture without scales."""
    half = ("--damp", "0.5")
    assert "repeats no layer: there is no copy to damp" in refused(
        "apply", model, "--layers", "0..3", *half
    )
    assert "'--damp': 2.0 is not in the range" in refused(
        "plan", model, "--blocks", "2,4", "--damp", "2", code=2
    )
    assert "is damped already" in refused("plan", model, "--blocks", "2,4@0.1", *half)
    other = tiny.write(tmp_path / "q.gguf", "qwen2", 6)
    assert refused("apply", other, "--blocks", "2,4", *half).endswith(
        "source layer 2 cannot be damped: in qwen2 llama.cpp multiplies nothing into all that "
        "blk.2.attn_output adds (no layer of it can; see docs/architectures.md)"
    )
