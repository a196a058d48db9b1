"""The command that hands a run or a variant on."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import pytest

from rys_gguf.layers.mergekit import read_mergekit
from rys_gguf.runs.scan import read_scan
from tests import tiny
from tests.cli.calls import call, done, refused
from tests.presets import has_reader, read_presets

GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1.0"


def test_a_scan_is_written(tmp_path: Path) -> None:
    """To a new file; an existing one is kept."""
    path = tmp_path / "scan.json"
    assert done("export", GOLDEN, "--scan", path).stdout == f"{path}\n"
    assert len(read_scan(path).windows) == 24
    assert "exists already" in refused("export", GOLDEN, "--scan", path)


def test_a_study_is_added(tmp_path: Path) -> None:
    """Its name is told."""
    pytest.importorskip("optuna")
    result = done("export", GOLDEN, "--optuna", f"sqlite:///{tmp_path}/s.db")
    assert "study 'rys-gguf c57676370773bfe3' added" in result.stderr
    assert (tmp_path / "s.db").is_file()


def test_something_must_be_asked_for() -> None:
    """A usage error says what."""
    message = refused("export", GOLDEN, code=2)
    assert "say what to make: --optuna URL or --scan FILE of a run" in message


@pytest.fixture
def variant(model: Path) -> Path:
    """Two layers of the tiny llama of 6 layers run twice."""
    return Path(done("apply", model, "--blocks", "2,4").stdout.strip())


def test_a_run_is_no_variant_and_a_variant_no_run(variant: Path, tmp_path: Path) -> None:
    """What a file is decides, and one call takes one of them."""
    out = tmp_path / "out"
    message = refused("export", GOLDEN, "--modelfile", out, code=2)
    assert "is a folder; expected the GGUF file" in message
    assert "Error: " in refused("export", variant, "--scan", out)
    asked = "--scan", out, "--modelfile", out
    assert "take a run, and all other options a variant" in refused(
        "export", GOLDEN, *asked, code=2
    )
    assert not out.exists()


def from_lines(modelfile: str) -> list[str]:
    """What Ollama takes each FROM of a Modelfile for, if all else in it are comments.

    It reads a value up to the end of its line, drops what cannot be printed, and takes the quotes
    off one that begins with a quote (ParseFile and unquote in parser/parser.go, August 2026).
    """
    values = []
    for line in filter(None, re.split("[\r\n]", modelfile)):
        command, _, value = line.partition(" ")
        if not command.startswith("#"):
            assert command.lower() == "from", line
            value = "".join(filter(str.isprintable, value)).strip()
            assert not value.startswith('"')
            values.append(value)
    return values


@pytest.mark.parametrize("name", ["v.gguf", 'a "b" #c;d\\e~ä.gguf'])
def test_ollama_gets_a_modelfile(variant: Path, tmp_path: Path, name: str) -> None:
    """It names the file, whatever that is called, and the map; an existing one is kept."""
    variant, path = variant.rename(variant.with_name(name)), tmp_path / "Modelfile"
    assert done("export", variant, "--modelfile", path).stdout == f"{path}\n"
    text = path.read_text("utf-8")
    assert text.startswith(f"# {name}: blocks:2,4 of 6 layers\n")
    assert from_lines(text) == [str(variant)]
    assert "exists already" in refused("export", variant, "--modelfile", path)


def test_every_file_of_a_split_variant_is_named(model: Path, tmp_path: Path) -> None:
    """Ollama takes one FROM for each, llama-server finds the others by the first."""
    split = ("--blocks", "2,4", "-o", tmp_path / "v.gguf", "--split-max-size", "0.1M")
    paths = done("apply", model, *split).stdout.split()
    made = ("--modelfile", tmp_path / "Modelfile", "--preset", tmp_path / "p.ini")
    done("export", paths[0], *made)
    assert len(paths) > 1
    assert from_lines((tmp_path / "Modelfile").read_text()) == paths
    assert f"[v]\nmodel = {paths[0]}\n" in (tmp_path / "p.ini").read_text()


@pytest.mark.parametrize("name", ["m-rys_2-3", "a \"b\"='c'\\d [e]ä", "default", "-"])
def test_the_server_gets_a_preset(variant: Path, tmp_path: Path, name: str) -> None:
    """llama.cpp's own reader of presets, which any router uses, makes one argument of it."""
    variant = variant.rename(variant.with_name(f"{name}.gguf"))
    done("export", variant, "--preset", tmp_path / "p.ini")
    if not has_reader():
        pytest.skip("this build of the engine does not export the reader")
    ((section, arguments),) = read_presets(tmp_path / "p.ini").items()
    assert re.fullmatch(r"[\w.-]+", section, re.ASCII)
    assert section == name or not re.fullmatch(r"\w[\w.-]*", name, re.ASCII)
    assert arguments == ["--model", str(variant)]


def test_the_reader_of_presets_reads_what_it_should(tmp_path: Path) -> None:
    """Comments end a value, and a key that is none of llama-server's is an error."""
    if not has_reader():
        pytest.skip("this build of the engine does not export the reader")
    path = tmp_path / "p.ini"
    path.write_text("version = 1\n[a]\nmodel = /x ; c\nctx-size = 5\n[b]\nmodel=/y\n")
    assert read_presets(path) == {
        "a": ["--ctx-size", "5", "--model", "/x"], "b": ["--model", "/y"],
    }  # fmt: skip
    path.write_text("[a]\nmodell = /x\n")
    with pytest.raises(ValueError, match="option 'modell' not recognized in preset 'a'"):
        read_presets(path)


@pytest.mark.parametrize(
    ("option", "name"),
    [("--preset", "a;b.gguf"), ("--preset", "a#.gguf"), ("--modelfile", "a\nPARAMETER x.gguf"),
     ("--preset", "a\n[b].gguf"), ("--modelfile", "a.gguf ")],
)  # fmt: skip
def test_a_path_that_a_line_cannot_hold_is_refused(
    variant: Path, tmp_path: Path, option: str, name: str
) -> None:
    """It would name another file, or give orders to the program that reads it."""
    path = variant.rename(variant.with_name(name))
    assert "cannot be written in this format" in refused("export", path, option, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_mergekit_gets_a_recipe(variant: Path, tmp_path: Path) -> None:
    """For the named checkpoint, or the one that the header names."""
    path = tmp_path / "r.yml"
    message = refused("export", variant, "--recipe", path, code=2)
    assert "names no repository of Hugging Face" in message
    done("export", variant, "--recipe", path, "--hf-model", "owner/tiny")
    recipe = read_mergekit(path)
    assert (recipe.spec, recipe.model) == ("layers:[0..3,2..5]", "owner/tiny")
    url = {"general.repo_url": "https://huggingface.co/somebody/base"}
    model = tiny.write(tmp_path / "named.gguf", "llama", 6, extra=url)
    named = Path(done("apply", model, "--blocks", "2,4").stdout.strip())
    done("export", named, "--recipe", path, "--force")
    assert read_mergekit(path).model == "somebody/base"


def test_a_recipe_needs_no_variant(model: Path, tmp_path: Path) -> None:
    """That of a model with --blocks is that of the variant which apply makes so."""
    path, other = tmp_path / "r.yml", tmp_path / "other.yml"
    wanted = "--hf-model", "owner/tiny"
    result = done("export", model, "--blocks", "2,4@0.5", "--recipe", path, *wanted)
    assert "m.gguf: records no layer map, so it is taken for the original with its 6" in (
        result.stderr
    )
    variant = done("apply", model, "--blocks", "2,4@0.5").stdout.strip()
    assert done("export", variant, "--recipe", other, *wanted).stderr == ""
    assert path.read_text() == other.read_text()
    foreign = done("apply", model, "--blocks", "2,4", "--no-provenance", "-o", tmp_path / "f.gguf")
    source = "--source", model, "--blocks", "2,4", *wanted, "--force"
    assert done("export", foreign.stdout.strip(), "--recipe", path, *source).stderr == ""
    assert read_mergekit(path).spec == "layers:[0..3,2..5]"


@pytest.mark.parametrize("option", ["--modelfile", "--preset"])
def test_the_file_of_a_variant_has_to_be_there(model: Path, tmp_path: Path, option: str) -> None:
    """What names a file is refused for a variant that is not written, and so is all with it."""
    made = "--recipe", tmp_path / "r.yml", "--hf-model", "a/b", option, tmp_path / "o"
    message = refused("export", model, "--blocks", "2,4", *made, code=2)
    assert "name the file of a variant, and this one records no layer map; write" in message
    assert "no layer map" in refused("export", model, option, tmp_path / "o")
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


def test_a_map_that_is_not_of_the_model_is_refused(model: Path, tmp_path: Path) -> None:
    """It is named with the layers that the model has."""
    made = "--recipe", tmp_path / "r.yml", "--hf-model", "a/b"
    message = refused("export", model, "--blocks", "2,9", *made)
    assert "m.gguf" in message
    assert "layers 0..5" in message


def test_types_are_those_of_the_source_layers(tmp_path: Path) -> None:
    """Verify --types tells a variant that was quantised so from one that was not."""
    plain = tiny.write(tmp_path / "plain.gguf", "llama", 12)
    q8 = gguf.GGMLQuantizationType.Q8_0
    quantised = tiny.write(tmp_path / "q.gguf", "llama", 12, quantize=q8)
    path = Path(done("apply", plain, "--blocks", "1,3").stdout.strip())
    like = Path(done("apply", quantised, "--blocks", "1,3").stdout.strip())
    types = tmp_path / "types.txt"
    done("export", path, "--tensor-types", types, "--like", quantised)
    # The first pattern that is found in a name decides, as in llama-quant.cpp.
    rules = [line.rsplit("=", 1) for line in types.read_text().splitlines()]
    wanted = {t.name: t.tensor_type.name.lower() for t in gguf.GGUFReader(like).tensors}
    matrices = [t.name for t in gguf.GGUFReader(path).tensors if len(t.shape) > 1]
    assert len(matrices) > 12
    for name in matrices:
        hits = [type_ for pattern, type_ in rules if re.search(pattern, name)]
        assert hits == [wanted[name]], name
    right = done("verify", like, "--source", quantised, "--types")
    assert "has the type of its source" in right.stdout
    other = call("verify", path, "--source", quantised, "--types")
    assert other.exit_code == 1
    assert "blk.13.ffn_down.weight: is F32, expected Q8_0" in other.stdout


def test_types_and_their_example_go_together(variant: Path, tmp_path: Path) -> None:
    """A usage error; a model of other layers is refused."""
    out = tmp_path / "t.txt"
    assert "go together" in refused("export", variant, "--tensor-types", out, code=2)
    other = tiny.write(tmp_path / "o.gguf", "llama", 5)
    message = refused("export", variant, "--tensor-types", out, "--like", other)
    assert "blocks:2,4 is for 6 layers, o.gguf has 5" in message
