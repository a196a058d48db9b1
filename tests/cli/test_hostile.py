"""Files that a stranger left where a command reads or writes: each is refused at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rys_gguf import LayerMap, Model, make_plan, write_plan
from rys_gguf.cli import main
from rys_gguf.errors import RysError
from rys_gguf.report.pictures import Pictures
from rys_gguf.search.study import working_folder
from tests.cli.calls import call
from tests.companions import make_adapter, write_adapter

# What each command needs beside the file in question; OUT is a variant of MODEL.
NEEDED = {
    "align": ["MODEL", "-o", "new.gguf"],
    "apply": ["MODEL", "--blocks", "1,3"],
    "card": ["OUT"],
    "chat": ["MODEL", "--blocks", "1,3"],
    "companion": ["OUT", "ADAPTER"],
    "compare": ["RUN", "RUN"],
    "diff": ["MODEL", "OUT"],
    "export": [
        "OUT", "--recipe", "new.yml", "--hf-model", "a/b", "--tensor-types", "new.txt",
        "--like", "MODEL",
    ],
    "inspect": ["MODEL"],
    "plan": ["MODEL", "--blocks", "1,3"],
    "probe": ["MODEL", "--level", "0"],
    "prove": ["OUT", "--source", "MODEL"],
    "recover": ["OUT", "--source", "MODEL"],
    "report": ["RUN"],
    "serve": ["MODEL", "--blocks", "1,3"],
    "smoke": ["OUT", "--source", "MODEL"],
    "sweep": ["MODEL", "--level", "0"],
    "unapply": ["OUT", "-o", "new.gguf"],
    "validate": ["OUT", "--source", "MODEL"],
    "verify": ["OUT", "--source", "MODEL"],
}  # fmt: skip
NEEDED_OTHERWISE = {("export", "--scan"): ["RUN", "--scan", "new.json"]}
# Looked at only after the engine, which cannot be started here.
LATER = [("prove", "--workdir"), ("validate", "--workdir"), ("smoke", "--source")]
GOLDEN = Path(__file__).parent.parent / "golden" / "run-0.1.0"
SECONDS = 60


def file_parameters() -> list[tuple[str, str]]:
    """Every command with each of its parameters that names a file."""
    context = click.Context(main)
    found = []
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        found += [
            (name, p.opts[0]) for p in command.params if isinstance(p.type, click.Path) and p.name
        ]
    return found


def arguments(command: str, parameter: str, file: Path, places: dict[str, Path]) -> list[str]:
    """A call of the command in which `parameter` names `file`."""
    needed = NEEDED_OTHERWISE.get((command, parameter), NEEDED[command])
    args = [str(places.get(word, word)) for word in needed]
    if not parameter.startswith("-"):
        at = {"b": 1, "run_b": 1, "files": 1}.get(parameter, 0)
        args[at] = str(file)
    elif parameter in args:
        args[args.index(parameter) + 1] = str(file)
    else:
        args += [parameter, str(file)]
    if parameter == "--mergekit" and "--blocks" in args:
        del args[(at := args.index("--blocks")) : at + 2]
    if parameter == "--heldout":
        args += ["--suite", str(places["SUITE"])]
    return [command, *args]


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Fail what takes longer than it should."""

    def fail(_number: int, _frame: object) -> None:
        raise AssertionError(f"still at work after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def places(model: Path, suite: Path) -> dict[str, Path]:
    """What the commands are called with; no engine can be started."""
    variant = model.with_name("out.gguf")
    with Model(model) as opened:
        write_plan(make_plan(opened, LayerMap.parse("blocks:1,2", 6)), variant)
    adapter = write_adapter(model.with_name("lora.gguf"), make_adapter(model, "attn_q.weight"))
    return {"MODEL": model, "OUT": variant, "ADAPTER": adapter, "RUN": GOLDEN, "SUITE": suite}


@pytest.mark.parametrize(
    ("command", "parameter"), file_parameters(), ids=lambda name: name.strip("-")
)
def test_no_command_waits_for_a_pipe(
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    parameter: str,
) -> None:
    """A FIFO in place of any file, input or output, is one message, and stays a FIFO."""
    monkeypatch.setenv("LLAMA_SERVER", "/bin/false")
    monkeypatch.setattr("rys_gguf.report.pictures.draw", lambda _content: Pictures({}, None))
    fifo = tmp_path / "fifo.gguf"
    os.mkfifo(fifo)
    with no_waiting():
        result = call(*arguments(command, parameter, fifo, places))
    assert result.exit_code == 1, result.output
    assert "Error: " in result.stderr
    assert "fifo.gguf" in result.stderr or (command, parameter) in LATER
    assert fifo.is_fifo()


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
@pytest.mark.parametrize(
    ("planted", "args"),
    [
        ("m-rys_1-2.gguf", ["apply", "MODEL", "--blocks", "1,3"]),
        ("in/m-rys_1-2.gguf", ["apply", "MODEL", "--blocks", "1,3", "-o", "in"]),
        ("x-00002-of-00002.gguf", [
            "apply", "MODEL", "--blocks", "1,3", "-o", "x.gguf", "--split-max-size", "0.2M",
        ]),
        ("in/m.gguf", ["align", "MODEL", "-o", "in"]),
        ("in/README.md", ["card", "OUT", "-o", "in"]),
        ("in/m.gguf.probe.jsonl", ["probe", "MODEL", "--level", "0", "-o", "in"]),
        ("in/out.gguf.validate.json", ["validate", "OUT", "--source", "MODEL", "--report", "in"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_link_under_a_name_that_a_command_chose_is_not_followed(
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    planted: str,
    args: list[str],
    force: list[str],
) -> None:
    """It would put the output where whoever planted it wants, such as a start-up file."""
    monkeypatch.setenv("LLAMA_SERVER", "/bin/false")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / planted).symlink_to(tmp_path / "victim")
    result = call(*(str(places.get(word, word)) for word in args), *force)
    assert result.exit_code == 1, result.output
    assert "is a link; remove it, or name another output" in result.stderr
    assert not (tmp_path / "victim").exists()
    assert (tmp_path / planted).is_symlink()


def test_a_sweep_follows_no_link_of_its_own_choice(model: Path, tmp_path: Path) -> None:
    """The default folder beside the model may have been planted; a folder that is named is used."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "m.gguf.sweep").symlink_to("elsewhere")
    result = call("sweep", model, "--level", "0", "--llama-server", "/bin/false")
    assert "m.gguf.sweep: is a link; remove it, or name a folder with -o" in result.stderr
    named = "-o", str(tmp_path / "m.gguf.sweep")
    result = call("sweep", model, "--level", "0", "--llama-server", "/bin/false", *named)
    assert "false ended while it loaded" in result.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_working_files_go_to_no_planted_folder(tmp_path: Path) -> None:
    """A sweep empties its folder `work`, and nothing that a link of that name leads to."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis").touch()
    (tmp_path / "work").symlink_to("victim")
    with pytest.raises(RysError, match="work: "), working_folder(tmp_path / "work"):
        pass
    assert (tmp_path / "victim" / "thesis").exists()
