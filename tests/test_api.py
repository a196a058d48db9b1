"""The package from Python: `import rys_gguf` shows everything that the commands do."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import rys_gguf
from rys_gguf.cli import COMMANDS
from tests import tiny

# What does from Python what each command does.
COUNTERPARTS = {
    "align": ["Model", "align"],
    "apply": ["apply", "default_output", "write_plan"],
    "architectures": ["ARCHITECTURES"],
    "card": ["Model", "Run", "make_card", "resolve_layer_map"],
    "companion": ["Companion", "Model", "Variant", "resolve_layer_map"],
    "chat": ["Conversation", "EngineOptions", "StockServer", "serve_file", "serve_plan"],
    "compare": ["Run", "compare"],
    "diff": ["Model", "diff_models"],
    "export": [
        "Run",
        "encode_scan",
        "export_study",
        "modelfile",
        "scan_of",
        "server_preset",
        "tensor_type_file",
        "write_mergekit",
    ],
    "inspect": ["Model", "describe"],
    "plan": ["LayerMap", "Model", "Schedule", "make_plan"],
    "probe": [
        "EngineOptions",
        "choose_suites",
        "find_engine",
        "find_levels",
        "run_probe",
        "summarise",
    ],
    "prove": ["EngineOptions", "VariantPair", "find_engine", "prove", "resolve_layer_map"],
    "recover": ["Model", "recover"],
    "report": ["Evidence", "Run", "text_report", "verdicts", "write_report"],
    "serve": ["EngineOptions", "find_engine", "make_plan", "serve_file", "serve_plan"],
    "smoke": ["EngineOptions", "find_engine", "judge_smoke", "run_smoke"],
    "sweep": ["SuiteOptions", "SweepRequest", "choose_suites", "describe_sweep", "run_sweep"],
    "unapply": ["Model", "plan_undo", "unapply"],
    "validate": ["EngineOptions", "VariantPair", "find_engine", "resolve_layer_map", "validate"],
    "verify": ["find_problems", "find_type_problems"],
}


@pytest.mark.parametrize("name", rys_gguf.__all__)
def test_every_name_resolves(name: str) -> None:
    """On first use, and to something with a docstring that says what it is."""
    value = getattr(rys_gguf, name)
    assert value is not None
    if callable(value):
        assert value.__doc__, name
    assert getattr(rys_gguf, name) is value


def test_the_package_shows_its_names() -> None:
    """`dir` lists all public names, and so do editors and `help`."""
    assert set(rys_gguf.__all__) <= set(dir(rys_gguf))
    assert rys_gguf.__all__ == sorted(rys_gguf.__all__)
    assert len(rys_gguf.__all__) == len(set(rys_gguf.__all__))


def test_other_names_do_not_exist() -> None:
    """A typo is an AttributeError, as for any module."""
    with pytest.raises(AttributeError, match="has no attribute 'nonesuch'"):
        _ = rys_gguf.nonesuch


def test_every_command_can_be_had_from_python() -> None:
    """No command does what the package does not offer."""
    assert COUNTERPARTS.keys() == COMMANDS.keys()
    for names in COUNTERPARTS.values():
        assert set(names) <= set(rys_gguf.__all__)


def python(code: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_else() -> None:
    """Not even numpy is imported: asking for the version is quick."""
    code = (
        "import sys, rys_gguf; dir(rys_gguf); rys_gguf.__version__\n"
        "print([m for m in ('numpy', 'gguf', 'click', 'tqdm', 'msgspec') if m in sys.modules])"
    )
    assert python(code) == "[]"


def test_patching_needs_no_optional_package() -> None:
    """A name that needs one says which."""
    code = (
        "import sys\n"
        "for name in 'msgspec scipy matplotlib jinja2 ray xllamacpp'.split():\n"
        "    sys.modules[name] = None\n"
        "import rys_gguf\n"
        "rys_gguf.apply, rys_gguf.find_problems, rys_gguf.prove, rys_gguf.validate\n"
        "try: rys_gguf.Run\n"
        "except ImportError as e: print(e)\n"
    )
    assert python(code) == "rys_gguf.Run needs msgspec: pip install msgspec"


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the package's docstring shows it, on a model of 24 layers."""
    tiny.write(tmp_path / "model.gguf", "llama", 24)
    monkeypatch.chdir(tmp_path)
    documentation = rys_gguf.__doc__ or ""
    example = "\n".join(re.findall(r"^(?: {4}.*|)$", documentation, re.MULTILINE))
    names: dict[str, object] = {}
    exec(textwrap.dedent(example), names)
    assert names["problems"] == []
    written = names["written"]
    assert isinstance(written, rys_gguf.Written)
    assert written.paths == (Path("deeper.gguf"),)
    assert capsys.readouterr().out.split()[0].isdecimal()


def test_apply_picks_the_default_name(tmp_path: Path) -> None:
    """Without an output the variant goes beside its source, and a bad spec names the model."""
    model = tiny.write(tmp_path / "m.gguf", "llama", 6)
    written = rys_gguf.apply(model, "blocks:1,3")
    assert written.paths == (tmp_path / "m-rys_1-2.gguf",)
    assert rys_gguf.find_problems(written.paths[0], model) == []
    with pytest.raises(rys_gguf.InvalidLayerMap, match=r"^m\.gguf: layer spec: 7 is past"):
        rys_gguf.apply(model, "blocks:1,7")


def test_a_sweep_needs_nothing_but_its_request(tmp_path: Path) -> None:
    """One worker on this machine, and nobody is told; the run can be judged at once."""
    model = tiny.write(tmp_path / "m.gguf", "llama", 6, extra={".context_length": 4096})
    windows = tmp_path / "windows.txt"
    windows.write_text("blocks:2,4\n")
    suite = tmp_path / "own.jsonl"
    item = '{{"kind": "choice", "question": "Is {} hot?", "answer": "{}"}}\n'
    suite.write_text(item.format("fire", "yes") + item.format("ice", "no"))
    request = rys_gguf.SweepRequest(
        model=model,
        folder=tmp_path / "run",
        plan=rys_gguf.SweepPlan("list", (), windows),
        settings=rys_gguf.SweepSettings(max_divergence=99, min_agreement=0, preflight=False),
        suites=rys_gguf.choose_suites(rys_gguf.SuiteOptions(suite=suite)),
        options=rys_gguf.EngineOptions(binary=rys_gguf.find_engine(), n_threads=1),
    )
    assert any("blocks:2,4" in line for line in rys_gguf.describe_sweep(request))
    run = rys_gguf.run_sweep(request)
    (verdict,) = rys_gguf.verdicts(rys_gguf.Evidence(run))
    assert verdict.trial.candidate.spec == "blocks:2,4"
