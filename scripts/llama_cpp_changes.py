"""List what changed in llama.cpp since the table of architectures was read from it.

usage: python scripts/llama_cpp_changes.py TREE [--old TREE] [--diff] [--move] [--record BUILD]

TREE is a source tree of llama.cpp, such as thirdparty/llama.cpp in the sdist of xllamacpp. It is
compared with llama_cpp_read.txt, which has a checksum for each file and each passage that the
table rests on. With the older tree that was read it also tells where changed passages are now, and
how they differ. The exit code is 1 if there is anything to read.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rys_gguf.layers import architectures
from rys_gguf.layers.architectures import ARCHITECTURES, NOT_PER_LAYER, PER_LAYER
from rys_gguf.layers.rule import Architecture
from rys_gguf.layers.schedule import Schedule

RECORD = Path(__file__).with_name("llama_cpp_read.txt")
TABLE_FILE = Path(architectures.__file__)
NAMES_FILE, MODEL_FILE, MODELS = "src/llama-arch.cpp", "src/llama-model.cpp", "src/models"
WHOLE = "whole"
# The function that makes the model of an architecture.
MAPPING = "llama_model * llama_model_mapping("
# What is read of every architecture's file.
LOAD_HPARAMS = "::load_hparams("
# What the rules rest on besides the files in src/models: whole files, or blocks of them, each found
# by the text that its first line holds.
SHARED: dict[str, tuple[str, ...]] = {
    "src/llama-hparams.h": (),
    "src/llama-hparams.cpp": (),
    "src/llama-model-loader.cpp": (),
    # New keys may be per layer, new tensors may write to the residual stream.
    NAMES_FILE: (
        "> LLM_KV_NAMES = {",
        "> LLM_TENSOR_NAMES = {",
        "llm_arch_is_recurrent(",
        "llm_arch_is_hybrid(",
    ),
    "src/llama-model.h": ("#define LLAMA_LOAD_LOCALS",),
    MODEL_FILE: (
        LOAD_HPARAMS,
        "::load_swa_pattern(",
        "::nextn_flags(",
        "::create_tensor_qkv(",
        "::create_memory(",
        "::get_rope_freq_base",
        "::get_rope_freq_scale",
        "::get_rope_factors",
        "llama_prec_policy::load(",
        "llama_model_chat_template(",
        # The scales of linear layers.
        "for (int i = 0; i < n_layer_all; ++i) {",
    ),
    # Where scales multiply.
    "src/llama-graph.cpp": (
        "::build_lora_mm(",
        "::build_lora_mm_id(",
        "::build_ffn(",
        "::build_norm(",
    ),
    "ggml/include/ggml.h": ("enum ggml_type {",),
    "ggml/src/ggml.c": ("type_traits[GGML_TYPE_COUNT]",),
}

Record = dict[tuple[str, str], str]
"""Checksums by file and part of it: `whole`, the lines `4-31`, or the text that opens a block."""


@dataclass
class Changes:
    """What differs: files and passages, and what the table and llama.cpp know of each other.

    `moved` holds cited lines whose text stands elsewhere now, `changed` those with another text:
    with the place where they are now, as far as that is known. `elsewhere` are files that changed
    outside the cited lines only.
    """

    gone: list[str] = field(default_factory=list)
    changed: dict[tuple[str, str], str | None] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    moved: dict[tuple[str, str], str | None] = field(default_factory=dict)
    shared: list[tuple[str, str]] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    unknown_arrays: list[tuple[str, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(vars(self).values())


class Tree:
    """The files of one source tree, each read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lines: dict[str, list[str]] = {}
        if not (root / NAMES_FILE).is_file():
            sys.exit(f"{root}: no source tree of llama.cpp, which has a file {NAMES_FILE}")

    def lines(self, path: str) -> list[str]:
        """The lines of a file without their ends; none if there is no such file."""
        if path not in self._lines:
            file = self.root / path
            text = file.read_text(errors="replace") if file.is_file() else ""
            self._lines[path] = [line.rstrip() for line in text.splitlines()]
        return self._lines[path]

    def block(self, path: str, start: str) -> list[str]:
        """From the line that begins the definition named by `start` to its end."""
        lines = self.lines(path)
        found = (n for n, line in enumerate(lines) if start in line and not line.endswith(";"))
        first = next(found, len(lines))
        for n in range(first, len(lines)):
            indent = lines[first][: -len(lines[first].lstrip())]
            is_macro = lines[first].startswith("#")
            closes = lines[n] in {f"{indent}}}", f"{indent}}};"}
            if (not lines[n].endswith("\\")) if is_macro else closes:
                return lines[first : n + 1]
        return []

    def part(self, path: str, part: str) -> list[str]:
        """The lines of a part of a file, see `Record`."""
        if part == WHOLE:
            return self.lines(path)
        if cited := re.fullmatch(r"(\d+)(?:-(\d+))?", part):
            first, last = int(cited[1]), int(cited[2] or cited[1])
            return self.lines(path)[first - 1 : last]
        return self.block(path, part)

    def names(self) -> set[str]:
        """The architectures that this tree can load."""
        text = "\n".join(self.lines(NAMES_FILE))
        loaded = re.findall(r"case (LLM_ARCH_\w+):", "\n".join(self.block(MODEL_FILE, MAPPING)))
        names = re.findall(r'\{ *(LLM_ARCH_\w+), *"([^"]+)" *\}', text)
        return {name for symbol, name in names if symbol in loaded}

    def models(self) -> set[str]:
        """The files of the architectures."""
        return {f"{MODELS}/{path.name}" for path in (self.root / MODELS).glob("*.cpp")}

    def arrays(self, path: str, part: str = WHOLE) -> set[str]:
        """The keys, without a prefix, that a part of a file reads as arrays."""
        keys = dict(
            re.findall(r'\{ *(LLM_KV_\w+), *"([^"]+)" *\}', "\n".join(self.lines(NAMES_FILE)))
        )
        text = "\n".join(self.part(path, part))
        names = re.findall(r"get_(?:key_or_)?arr\( *(LLM_KV_\w+)", text)
        if "load_swa_pattern(ml" in text:
            names.append("LLM_KV_ATTENTION_SLIDING_WINDOW_PATTERN")
        return {keys.get(name, name).removeprefix("%s.") for name in names}


def cited(source: str) -> tuple[str, list[str]]:
    """The file and the parts of it that a row of the table names as its source."""
    path, _, lines = source.partition(":")
    return path, lines.split(",")


def sources(table: Mapping[str, Architecture]) -> list[str]:
    """All sources that the table names."""
    found = (
        source for arch in table.values() for source in (arch.source, arch.tails, arch.damping)
    )
    return sorted(set(filter(None, found)))


def cited_parts(table: Mapping[str, Architecture]) -> dict[str, list[str]]:
    """The files that the table names as its sources, and the lines of each."""
    found: dict[str, dict[str, None]] = {}
    for path, lines in map(cited, sources(table)):
        found.setdefault(path, {}).update(dict.fromkeys(lines))
    return {path: list(lines) for path, lines in found.items()}


def shared_parts(tree: Tree, table: Mapping[str, Architecture]) -> list[tuple[str, str]]:
    """What many rows rest on: the shared code, and files in src/models that no row names."""
    parts = [(path, block) for path, blocks in SHARED.items() for block in blocks or (WHOLE,)]
    return parts + [(path, WHOLE) for path in sorted(tree.models() - cited_parts(table).keys())]


def take(tree: Tree, table: Mapping[str, Architecture]) -> Record:
    """The checksums of what the table rests on; those of a part that is not there are dashes."""
    parts = shared_parts(tree, table)
    for path, lines in cited_parts(table).items():
        parts += [(path, WHOLE), *((path, part) for part in lines)]
    return {(path, part): checksum(tree.part(path, part)) for path, part in parts}


def checksum(lines: Iterable[str]) -> str:
    """Twelve hexadecimal digits; a dash for no lines at all."""
    text = "\n".join(lines)
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else "-"


def compare(
    record: Record, tree: Tree, table: Mapping[str, Architecture], old: Tree | None = None
) -> Changes:
    """What differs between a record and a tree.

    With `old`, the tree of the record, it also says where lines with another text are now.
    """
    changes = Changes()
    files = cited_parts(table)
    for path, lines in files.items():
        if not tree.lines(path):
            changes.gone.append(path)
        elif record.get((path, WHOLE)) != checksum(tree.lines(path)):
            _compare_lines(changes, record, tree, path, lines, old)
    shared = [
        *shared_parts(tree, table),
        *((path, part) for path, part in record if path not in files),
    ]
    changes.shared = [
        (path, part)
        for path, part in dict.fromkeys(shared)
        if record.get((path, part)) != checksum(tree.part(path, part))
    ]
    names = tree.names()
    changes.new = sorted(names - table.keys())
    changes.vanished = sorted(table.keys() - names)
    common = {*PER_LAYER, *NOT_PER_LAYER}
    of_all = tree.arrays(MODEL_FILE, LOAD_HPARAMS) - common
    changes.unknown_arrays = [(MODEL_FILE, key) for key in sorted(of_all)]
    for path in files:
        rows = [arch for arch in table.values() if cited(arch.source)[0] == path]
        if any(_limits(arch) != ["none"] for arch in rows):
            known = common.union(*map(_keys, rows))
            changes.unknown_arrays += [(path, key) for key in sorted(tree.arrays(path) - known)]
    return changes


def _compare_lines(
    changes: Changes, record: Record, tree: Tree, path: str, lines: list[str], old: Tree | None
) -> None:
    """Sort the cited lines of a file that is not as it was into those that moved or changed."""
    is_read = False
    for part in lines:
        wanted = record.get((path, part), "")
        if checksum(tree.part(path, part)) == wanted:
            continue
        place = _find(wanted, tree.lines(path), part)
        if place is not None:
            changes.moved[path, part] = place
        else:
            is_read = True
            now = _carried(old.lines(path), tree.lines(path), part) if old else None
            changes.changed[path, part] = now
    if not is_read:
        changes.elsewhere.append(path)


def _find(wanted: str, lines: list[str], part: str) -> str | None:
    """Where the text with that checksum is now: the nearest place, if there are several."""
    first, last = _ends(part)
    n = last - first + 1
    starts = sorted(range(1, len(lines) - n + 2), key=lambda start: abs(start - first))
    found = (s for s in starts if checksum(lines[s - 1 : s - 1 + n]) == wanted)
    start = next(found, None)
    return None if start is None else _lines(start, start + n - 1)


def _carried(old: list[str], new: list[str], part: str) -> str | None:
    """Which lines of a changed file stand for those of the old one."""
    first, last = _ends(part)
    start = end = 0
    for kind, i1, i2, j1, j2 in difflib.SequenceMatcher(
        None, old, new, autojunk=False
    ).get_opcodes():
        if i1 < first <= i2:
            start = j1 + first - i1 if kind == "equal" else j1 + 1
        if i1 < last <= i2:
            end = j1 + last - i1 if kind == "equal" else j2
    return _lines(start, end) if 0 < start <= end else None


def _ends(part: str) -> tuple[int, int]:
    first, _, last = part.partition("-")
    return int(first), int(last or first)


def _lines(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _limits(arch: Architecture) -> list[str]:
    return [text for rule in arch.rules if (text := rule.limit(Schedule.PORTABLE))]


def _keys(arch: Architecture) -> set[str]:
    """Every key with an array that a row knows."""
    keys = {*arch.arrays, *arch.longer_arrays, *arch.bare_arrays}
    for rule in arch.rules:
        keys |= {*rule.arrays(), str(getattr(rule, "key", ""))}
    return keys


def report(changes: Changes, table: Mapping[str, Architecture]) -> Iterator[str]:
    """The changes as lines to read, those that matter most first."""
    rows: dict[str, list[str]] = {}
    for arch in table.values():
        rows.setdefault(cited(arch.source)[0], []).append(arch.name)

    def places(found: Mapping[tuple[str, str], str | None]) -> list[str]:
        return [
            f"{path}:{part}{f' -> {now}' if now else ''}  ({', '.join(rows[path])})"
            for (path, part), now in found.items()
        ]

    sections = {
        "architectures that the table lacks": changes.new,
        "architectures that llama.cpp no longer has": changes.vanished,
        "files that are gone": changes.gone,
        "arrays that the rows of a file do not know": [
            f"{path}: {key}" for path, key in changes.unknown_arrays
        ],
        "shared code that changed: read it again": [
            f"{path}  {'' if part == WHOLE else part}".rstrip() for path, part in changes.shared
        ],
        "cited lines that changed: read them again": places(changes.changed),
        "files that changed outside the cited lines: look for what depends on a layer": [
            f"{path}  ({', '.join(rows[path])})" for path in changes.elsewhere
        ],
        "cited lines that only moved (--move writes the new numbers)": places(changes.moved),
    }
    for title, lines in sections.items():
        if lines:
            yield f"{title}:"
            yield from (f"  {line}" for line in lines)


def moved(text: str, changes: Changes, table: Mapping[str, Architecture]) -> str:
    """The table's own source with the numbers of lines that are elsewhere now."""
    places = {**changes.changed, **changes.moved}
    for source in sources(table):
        path, lines = cited(source)
        now = ",".join(places.get((path, part)) or part for part in lines)
        text = text.replace(f'"{source}"', f'"{path}:{now}"')
    return text


def read_record(text: str) -> tuple[str, Record]:
    """The build and the checksums of a file that `as_text` wrote."""
    head, *lines = text.splitlines()
    rows = (line.split(maxsplit=2) for line in lines)
    return head.split()[-1], {(path, part): digest for digest, path, part in rows}


def as_text(build: str, record: Record) -> str:
    """A record as a file: the build, then one line per part."""
    lines = [f"{digest:12}  {path}  {part}" for (path, part), digest in record.items()]
    return "\n".join([f"# llama.cpp {build}", *lines]) + "\n"


def differences(old: Tree, new: Tree, paths: Iterable[str]) -> Iterator[str]:
    """Unified differences of files between two trees."""
    for path in paths:
        lines = difflib.unified_diff(
            old.lines(path), new.lines(path), f"old/{path}", f"new/{path}", lineterm=""
        )
        yield from lines


def write_record(tree: Tree, build: str) -> None:
    """Write the checksums of a tree that was read, and its build, which the table names too."""
    record = take(tree, ARCHITECTURES)
    if missing := [f"{path} {part}" for (path, part), digest in record.items() if digest == "-"]:
        sys.exit("not in this tree:\n" + "\n".join(missing))
    RECORD.write_text(as_text(build, record))
    text = TABLE_FILE.read_text()
    line = f'CHECKED_AGAINST = "{build}"'
    TABLE_FILE.write_text(re.sub(r"^CHECKED_AGAINST = .*$", line, text, flags=re.MULTILINE))


def main() -> None:
    """Compare, and with --move or --record write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tree", type=Path, metavar="TREE")
    parser.add_argument(
        "--old", type=Path, metavar="TREE", help="the tree that was read, to say more"
    )
    parser.add_argument("--diff", action="store_true", help="with --old: show what changed")
    parser.add_argument("--move", action="store_true", help="write the new line numbers")
    parser.add_argument("--record", metavar="BUILD", help="record TREE, which was read, as BUILD")
    args = parser.parse_args()
    tree, old = Tree(args.tree), Tree(args.old) if args.old else None
    if args.record:
        write_record(tree, args.record)
        return
    build, record = read_record(RECORD.read_text())
    others = [key for key in record if old and checksum(old.part(*key)) != record[key]]
    if others:
        path, _ = others[0]
        sys.exit(f"{args.old} is not llama.cpp {build}, which the table was read from: see {path}")
    changes = compare(record, tree, ARCHITECTURES, old)
    print(f"compared with what was read of llama.cpp {build}")
    print("\n".join(report(changes, ARCHITECTURES)) or "nothing changed")
    if args.diff and old:
        files = [path for path, _ in [*changes.shared, *changes.changed]] + changes.elsewhere
        print("\n".join(differences(old, tree, dict.fromkeys(files))))
    if args.move:
        TABLE_FILE.write_text(moved(TABLE_FILE.read_text(), changes, ARCHITECTURES))
    sys.exit(bool(changes))


if __name__ == "__main__":
    main()
