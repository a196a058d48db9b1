"""Options: what they accept, and what they say to people who guessed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rys_gguf.cli.options import size_bytes
from tests import tiny
from tests.cli.calls import call, data, done, refused


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama of 16 layers."""
    return tiny.write(tmp_path_factory.mktemp("options") / "m.gguf", "llama", 16)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("500M", 500 * 10**6),
        ("50G", 50 * 10**9),
        ("50GB", 50 * 10**9),
        ("0.5G", 5 * 10**8),
        ("1.5gb", 15 * 10**8),
        ("2T", 2 * 10**12),
        ("8k", 8000),
    ],
)
def test_sizes_are_powers_of_1000(text: str, n_bytes: int) -> None:
    """As llama-gguf-split has them; with or without a B, with or without a fraction."""
    assert size_bytes(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["", "G", "0G", "0.0M", "-1G", "50", "5 0G", "50GiB", "1e9", ".5G"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    """A bare number could mean anything, and nothing fits into a shard of nothing."""
    with pytest.raises(ValueError, match=r"is not a size such as 500M, 0\.5G or 50G"):
        size_bytes(text)


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--blocks", "10", "14"], "write both ends with a comma, such as 10,14"),
        (["--blocks", "layers:0..7,4.."], "that is a path: write --layers 0..7,4.."),
        (["--layers", "blocks:3,6;3,6"], "these are windows: write --blocks '3,6;3,6'"),
        (["--blocks", "1,2", "--layers", "0..3"], "either --blocks I,J, --layers A..B,... or"),
        (["--blocks", "1,2", "--mergekit", "x"], "either --blocks I,J, --layers A..B,... or"),
        ([], "either --blocks I,J, --layers A..B,... or --mergekit FILE"),
        (["-p", "0..14,12,13,14,15"], "No such option: -p; write --layers 0..14"),
        (["--path", "0,1,2"], "No such option: --path; write --layers 0,1,2"),
        (["--layer", "0..3"], "No such option: --layer; write --layers 0..3"),
        (["-layer_map", "..7,3.."], "write --layers ..7,3.."),
        (["--layer-map=..7,3.."], "write --layers ..7,3.."),
        (["--layer-list", "[0, 1, 1]"], "write --layers '[0, 1, 1]'"),
        (
            ["-i", "10", "-j", "14"],
            "No such option: -i, -j; write --blocks 10,14",
        ),
        (["--dup-start", "10", "--dup-end", "14"], "write --blocks 10,14"),
        (["-i", "10", "-j", "14", "-n", "3"], "write --blocks 10,14 --blocks 10,14"),
        (["-i", "10", "-j", "14", "-n", "1"], "one pass in all is the model as it is"),
        (["-i", "10", "-j", "14", "-n", "30"], "write --blocks 10,14, 29 times"),
        (["-i", "10"], "write --blocks I,J, with the numbers of -i and -j"),
        (["-i", "10", "-j", "4"], "write --blocks I,J, with the numbers of -i and -j"),
        (["--loop-layer-start", "4", "--loop-layer-stop", "7"], "write --blocks 4,8"),
        (
            ["--loop-layer-start=4", "--loop-layer-stop=7", "--loop-count=2"],
            "write --blocks 4,8 --blocks 4,8",
        ),
        (["--loop-count", "2"], "where J is one past the layer of --loop-layer-stop"),
        (
            ["--repeat-layers", "4-7"],
            "--blocks 4,8 if layer 7 is to be repeated, else --blocks 4,7",
        ),
        (["--repeat-layers", "4"], "write --blocks I,J to repeat layers I to J-1"),
        (["-d", "7", "8", "9", "10"], "--duplicate 7 8 9 10 is --blocks 7,11"),
        (["--duplicate", "7"], "the first layer and one past the last"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "apply"])
def test_other_options_are_answered_with_the_right_one(
    model: Path, command: str, args: list[str], hint: str
) -> None:
    """What people paste or guess is a usage error that says what to write."""
    done = call(command, model, *args)
    assert done.exit_code == 2
    assert hint in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--layers", "0-11,8-15"], "write 0..11,8..15"),
        (["--layers", "layers:0..11,8 - 15"], "write 0..11,8..15"),
        (["--layers", "0..8,4..12,8..16"], "write 0..7,4..11,8..15 if the ends are exclusive"),
        (["--layers", ""], "expected a layer number"),
        (["--blocks", "10-14"], "write 10,15: j is one past the last layer"),
        (["--blocks", "2,4", "--blocks", "3,6x3"], "write '3,6;3,6' for 3 passes in all"),
    ],
)
def test_other_notations_are_answered_with_the_right_one(
    model: Path, args: list[str], hint: str
) -> None:
    """The model is opened first: what a notation means may depend on its layers."""
    assert hint in refused("plan", model, *args)


def test_a_foreign_option_with_control_characters_is_escaped(model: Path) -> None:
    """What was pasted may hold anything."""
    assert "\x1b" not in refused("plan", model, "-p", "0..3\x1b[2J", code=2)


RECIPE = """
slices:
  - sources: [{model: somebody/base, layer_range: [0, 8]}]
  - sources: [{model: somebody/base, layer_range: [4, 16]}]
merge_method: passthrough
"""


def test_a_mergekit_recipe_gives_the_map(model: Path, tmp_path: Path) -> None:
    """It may be given wherever a map is, and the user sees what it was taken for."""
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(RECIPE)
    out = tmp_path / "out.gguf"
    written = done("apply", model, "--mergekit", recipe, "-o", out)
    assert f"{recipe}: layers 0..7,4..15 of somebody/base" in written.stderr
    assert data("plan", model, "--mergekit", recipe)["spec"] == "blocks:4,8"
    done("verify", out, "--source", model, "--mergekit", recipe)


DAMPED = """
slices:
  - sources: [{model: somebody/base, layer_range: [0, 6]}]
  - sources:
    - model: somebody/base
      layer_range: [4, 6]
      parameters:
        scale: [{filter: o_proj, value: 0.5}, {filter: down_proj, value: 0.5}, {value: 1.0}]
  - sources: [{model: somebody/base, layer_range: [6, 16]}]
merge_method: passthrough
"""


def test_a_damped_mergekit_recipe_gives_a_damped_map(model: Path, tmp_path: Path) -> None:
    """Which export writes again as it writes that of --damp."""
    recipe, again = tmp_path / "recipe.yml", tmp_path / "again.yml"
    recipe.write_text(DAMPED)
    planned = done("plan", model, "--mergekit", recipe)
    assert f"{recipe}: layers 0..5,4..5@0.5,6..15 of somebody/base" in planned.stderr
    assert data("plan", model, "--mergekit", recipe)["spec"] == "blocks:4,6@0.5"
    out = tmp_path / "out.gguf"
    done("apply", model, "--blocks", "4,6", "--damp", "0.5", "-o", out)
    done("verify", out, "--source", model, "--mergekit", recipe)
    done("export", out, "--recipe", again, "--hf-model", "somebody/base")
    assert data("plan", model, "--mergekit", again)["spec"] == "blocks:4,6@0.5"


@pytest.mark.parametrize(
    "args",
    [
        ("plan", "MODEL"),
        ("apply", "MODEL"),
        ("serve", "MODEL"),
        ("export", "MODEL", "--recipe", "OUT", "--hf-model", "a/b"),
        ("export", "VARIANT", "--source", "MODEL", "--preset", "OUT"),
        ("verify", "VARIANT", "--source", "MODEL"),
        ("verify", "VARIANT", "--source", "MODEL", "--types"),
        ("prove", "VARIANT", "--source", "MODEL"),
        ("validate", "VARIANT", "--source", "MODEL"),
        ("card", "VARIANT", "--source", "MODEL"),
        ("companion", "VARIANT", "--source", "MODEL", "MODEL"),
    ],
)
def test_a_damped_recipe_is_refused_for_a_model_that_it_does_not_damp(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    """Gemma 2 has norms behind the projections, which undo the factors in the checkpoint."""
    model = tiny.write(tmp_path / "m.gguf", "gemma2", 16)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(DAMPED)
    variant = done("apply", model, "--blocks", "4,6", "--damp", "0.5").stdout.strip()
    places = {"MODEL": str(model), "VARIANT": variant, "OUT": str(tmp_path / "out")}
    message = refused(*[places.get(arg, arg) for arg in args], "--mergekit", recipe)
    assert "m.gguf: a recipe of mergekit can damp layers only where o_proj and" in message
    assert "write it with --layers if that is meant" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "m-rys_4-5x0.5.gguf",
        "m.gguf",
        "recipe.yml",
    ]


def test_a_recipe_that_is_not_damping_is_one_line(model: Path, tmp_path: Path) -> None:
    """With its place, and an exit code of 1."""
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(DAMPED.replace("down_proj", "mlp"))
    message = refused("plan", model, "--mergekit", recipe)
    assert f"{recipe}, line 8: the filter 'mlp', value 0.5, may take other weights" in message


def test_a_mergekit_recipe_of_a_deeper_model_does_not_fit(model: Path, tmp_path: Path) -> None:
    """Its ends have been translated: there is nothing more to say about them."""
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(RECIPE.replace("16", "17"))
    message = refused("plan", model, "--mergekit", recipe)
    assert "layer 16 does not exist; the model has layers 0..15 layers:[0..7,4..16]" in message
    assert "exclusive" not in message


@pytest.mark.parametrize("command", ["verify", "prove", "validate", "card"])
def test_two_maps_are_a_usage_error_everywhere(model: Path, command: str) -> None:
    """A variant has one map."""
    args: list[str | Path] = [model, "--source", model, "--blocks", "1,2", "--layers", "0..3"]
    assert "either --blocks I,J, --layers A..B,... or" in refused(command, *args, code=2)


@pytest.mark.parametrize("kind", ["folder", "config", "file"])
def test_models_in_safetensors_format_are_to_be_converted(tmp_path: Path, kind: str) -> None:
    """The folder a download makes, or a file of it, is not yet a GGUF."""
    (tmp_path / "hf").mkdir()
    weights = tmp_path / "hf" / "model.safetensors"
    if kind == "config":
        (tmp_path / "hf" / "config.json").write_text("{}")
    else:
        weights.write_bytes(b"x")
    done = call("inspect", weights if kind == "file" else tmp_path / "hf")
    assert done.exit_code == 1
    assert "convert it first with llama.cpp's convert_hf_to_gguf.py" in done.output


def test_any_other_folder_is_no_model(tmp_path: Path) -> None:
    """Only what looks like Hugging Face's format is taken for it."""
    done = call("inspect", tmp_path)
    assert done.exit_code == 1
    assert "not a regular file" in done.output


def test_an_output_folder_gets_the_default_name(model: Path, tmp_path: Path) -> None:
    """As `cp` does it."""
    done = call("apply", model, "--blocks", "2,4", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'm-rys_2-3.gguf'}\n"
    assert (tmp_path / "m-rys_2-3.gguf").is_file()
    again = call("align", model, "-o", tmp_path)
    assert again.stdout == f"{tmp_path / 'm.gguf'}\n"


def test_the_models_own_folder_is_no_place_to_align_to(model: Path) -> None:
    """The default name there is the model's own."""
    done = call("align", model, "-o", model.parent, "--force")
    assert done.exit_code == 1
    assert "is the source model itself" in done.output


def test_arguments_for_a_server_need_a_server(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in engine takes none: better told than ignored."""
    monkeypatch.delenv("LLAMA_SERVER", raising=False)
    done = call("smoke", model, "--", "--flash-attn", "on")
    assert done.exit_code == 2
    assert "name one with --llama-server" in " ".join(done.output.split())


def test_a_server_that_cannot_run_is_told_from_one_that_is_missing(
    model: Path, tmp_path: Path
) -> None:
    """The cures differ: another path, or chmod."""
    there = tmp_path / "llama-server"
    done = call("smoke", model, "--llama-server", there)
    assert done.exit_code == 1
    assert "no such file or program" in done.output
    there.write_text("#!/bin/sh\n")
    done = call("smoke", model, "--llama-server", there)
    assert done.exit_code == 1
    assert "not executable" in done.output


def missing(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let modules be as if they were not installed."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize(
    ("args", "task", "packages"),
    [
        (["sweep", "MODEL"], "a sweep", ["jinja2", "matplotlib", "msgspec", "scipy"]),
        (["sweep", "MODEL", "--ray", "auto"], "--ray", ["ray"]),
        (["report", "RUN"], "a report", ["jinja2", "matplotlib", "msgspec", "scipy"]),
        (["compare", "RUN", "RUN"], "a comparison", ["msgspec", "scipy"]),
        (
            ["card", "MODEL", "--run", "RUN"],
            "a model card",
            ["huggingface_hub", "jinja2", "msgspec"],
        ),
        (["probe", "MODEL", "--lm-eval", "gsm8k"], "--lm-eval", ["lm_eval"]),
    ],
)
def test_packages_are_looked_for_before_any_work(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    task: str,
    packages: list[str],
) -> None:
    """Each package alone is enough to stop, and no engine starts and no file is written."""

    def start(*_: object, **__: object) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr("subprocess.Popen", start)
    line = [{"MODEL": str(model), "RUN": str(tmp_path)}.get(word, word) for word in args]
    for package in packages:
        with monkeypatch.context() as patch:
            missing(patch, package)
            done = call(*line)
        assert done.exit_code == 1, done.output
        name = {"lm_eval": "lm-eval[api]"}.get(package, package)
        assert done.output.startswith(f"Error: {task} needs {name}: pip install "), done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["probe", "sweep", "smoke"])
def test_without_an_engine_nothing_begins(
    model: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The message names a package, or how to name a binary."""
    missing(monkeypatch, "xllamacpp")
    monkeypatch.delenv("LLAMA_SERVER", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    done = call(command, model)
    assert done.exit_code == 1
    assert "pip install xllamacpp" in done.output
    assert "rys-gguf[" not in done.output
