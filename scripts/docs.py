"""Run every command and example of README.md and docs/, and check or write what they print.

usage: python scripts/docs.py [--write] [PAGE ...]

Each page gets a folder of its own with two real models and a small recorded sweep in it. There its
```console blocks run line by line, and its ```python blocks as programs. A comment on the line
before a block changes that:

  <!-- not run: REASON -->  never runs
  <!-- file: NAME -->       is written to the folder as that file instead

Between <!-- generated: NAME --> and <!-- /generated --> stands what this script makes of the code
itself. The image below <!-- picture: FILE --> is that file of the folder.

Without --write it prints a diff of what is out of date and exits with 1. Seconds, divergences and
what the disk can do are not compared: they differ between machines.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from scripts import generated, models  # noqa: E402 - scripts/ is no installed package

RUN = ROOT / "tests" / "golden" / "run-0.1.0"
# Nothing on a page takes longer; validate comes closest.
TIMEOUT = 600
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run: [^\n]+|file: \S+) -->\n)?"
    r"^```(?P<kind>[a-z]+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
GENERATED = re.compile(
    r"(?P<begin>^<!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end>^<!-- /generated -->$)",
    re.MULTILINE | re.DOTALL,
)
PICTURE = re.compile(
    r"^<!-- picture: (?P<file>\S+) -->\n!\[[^]]*\]\((?P<image>[^)]+)\)$", re.MULTILINE
)
# What two runs of one command may differ in.
VOLATILE = (
    (re.compile(r" +[0-9]+(\.[0-9]+)? s\b"), " N s"),
    (re.compile(r"[0-9]+ (are|bytes are) free|[0-9.]+ [KMGTi]+B free"), "N are free"),
    (re.compile(r"[0-9.]+(e-[0-9]+)? nats"), "N nats"),
    (re.compile(r"^disk     .*$", re.MULTILINE), "disk     N"),
)
# Lines that say how far a long command is; a fast machine prints none.
PROGRESS = re.compile(r"^.+: .+( of .+ after .+ left| done in .+)\n", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page, and what the comment before it says."""

    kind: str
    text: str
    mark: str

    @property
    def is_run(self) -> bool:
        """Whether this script runs it."""
        return self.kind in ("console", "python") and not self.mark.startswith(("not run", "file"))


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    for match in BLOCK.finditer(text):
        yield Block(match["kind"], match["text"], match["mark"] or "")


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block, as it is typed, with the output below it."""
    command, output = "", ""
    for line in block.splitlines(keepends=True):
        if command.endswith("\\\n"):
            command += line
        elif line.startswith("$ "):
            if command:
                yield command, output
            command, output = line[2:], ""
        else:
            output += line
    if command:
        yield command, output


class Shell:
    """Runs what a page shows, in a folder that holds what the page talks about."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        tools = folder / "bin"
        tools.mkdir()
        self._tool(tools / "rys-gguf", f"{shlex.quote(sys.executable)} -m rys_gguf")
        self._tool(tools / "python", shlex.quote(sys.executable))
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        # Unbuffered, messages and results stand in the order in which they were printed.
        self.environment = {
            **os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
            "LC_ALL": "C.UTF-8",
        }  # fmt: skip
        for name in ("COLUMNS", "LLAMA_SERVER"):
            self.environment.pop(name, None)
        smollm2, gemma3 = models.smollm2(), models.gemma3(ROOT / "models")
        (self.folder / smollm2.name).symlink_to(smollm2)
        (self.folder / gemma3.name).symlink_to(gemma3)
        (self.folder / "scripts").symlink_to(ROOT / "scripts")
        shutil.copytree(RUN, self.folder / f"{smollm2.name}.sweep")

    @staticmethod
    def _tool(path: Path, command: str) -> None:
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program; results and messages come as one text, as on a terminal."""
        return subprocess.run(
            argv, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT,
            check=False,
        )  # fmt: skip

    def console(self, block: Block) -> str:
        """The block with the output its commands have today."""
        parts = []
        for command, old in commands(block.text):
            done = self.run("bash", "-c", command)
            shown = old.rstrip("\n")
            if done.returncode and "Error: " not in shown:
                print(f"exit code {done.returncode}: {command}", end="", file=sys.stderr)
            new = PROGRESS.sub("", done.stdout).strip("\n")
            new = shown if steady(new) == steady(shown) else new
            parts.append(f"$ {command}" + (f"{new}\n" if new else ""))
        # A command with output is set apart from the next one.
        text = parts[0]
        for before, part in pairwise(parts):
            text += ("\n" if before.count("\n") > 1 else "") + part
        return text

    def python(self, block: Block) -> str:
        """The block, if it runs; otherwise its error."""
        done = self.run(sys.executable, "-c", block.text)
        if done.returncode:
            return f"{block.text}# fails: {done.stdout.splitlines()[-1]}\n"
        return block.text


def steady(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, replacement in VOLATILE:
        text = pattern.sub(replacement, text)
    return text


@contextmanager
def shell() -> Iterator[Shell]:
    """A shell in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="docs-") as name:
        yield Shell(Path(name))


@dataclass(frozen=True)
class Page:
    """A page as it would be written today: its text, and its images by their path."""

    text: str
    images: dict[str, bytes]


def renewed(text: str) -> Page:
    """A page with today's output, generated parts and pictures."""
    parts = generated.PARTS
    text = GENERATED.sub(lambda m: f"{m['begin']}{parts[m['name']]()}{m['end']}", text)
    if not any(block.is_run for block in blocks(text)):
        return Page(text, {})
    with shell() as runner:
        ways: dict[str, Callable[[Block], str]] = {
            "console": runner.console,
            "python": runner.python,
        }

        def renew(match: re.Match[str]) -> str:
            block = Block(match["kind"], match["text"], match["mark"] or "")
            if block.mark.startswith("file: "):
                (runner.folder / block.mark.removeprefix("file: ")).write_text(block.text)
            if not block.is_run:
                return match[0]
            return match[0].replace(match["text"], ways[block.kind](block))

        text = BLOCK.sub(renew, text)
        images = {
            match["image"]: (runner.folder / match["file"]).read_bytes()
            for match in PICTURE.finditer(text)
        }
    return Page(text, images)


def main() -> None:
    """Check the pages, or write them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", default=pages())
    parser.add_argument("--write", action="store_true", help="write the pages and pictures anew")
    args = parser.parse_args()
    files = {ROOT / name: make() for name, make in generated.FILES.items()}
    for path in args.pages:
        page = renewed(path.read_text())
        files[path] = page.text
        for name, data in page.images.items() if args.write else ():
            (path.parent / name).write_bytes(data)
    is_old = False
    for path, new in files.items():
        old = path.read_text() if path.exists() else ""
        if old == new:
            continue
        is_old = True
        name = str(path.resolve().relative_to(ROOT))
        before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
        print("".join(difflib.unified_diff(before, after, name, f"{name}, today")), end="")
        if args.write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(new)
    if is_old and not args.write:
        sys.exit("the pages are out of date: python scripts/docs.py --write")


if __name__ == "__main__":
    main()
