"""The list of what to read again when llama.cpp moves on, on small made-up source trees."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf.layers.architectures import ARCHITECTURES, CHECKED_AGAINST
from rys_gguf.layers.rule import Architecture
from rys_gguf.layers.rules import Leading, Unsupported
from scripts import llama_cpp_changes as tool
from scripts.docs import ROOT

DENSE = Leading("leading_dense_block_count", inside="dense", outside="MoE")
TABLE = {
    arch.name: arch
    for arch in (
        Architecture("plain", (), "src/models/plain.cpp:2-3,5"),
        Architecture("lead", (DENSE,), "src/models/lead.cpp:1", arrays=("clamp",)),
        Architecture("draft", (Unsupported("it drafts"),), "src/models/draft.cpp:1"),
    )
}
FILES = {
    "src/llama-hparams.h": "#define LLAMA_MAX_LAYERS 512\n",
    "src/llama-hparams.cpp": "n_head\n",
    "src/llama-model-loader.cpp": "get_arr\n",
    "ggml/include/ggml.h": "    enum ggml_type {\n        GGML_TYPE_F32 = 0,\n    };\n",
    "ggml/src/ggml.c": "static type_traits[GGML_TYPE_COUNT] = {\n    x,\n};\n",
    "src/llama-arch.cpp": """\
    { LLM_ARCH_PLAIN, "plain" },
    { LLM_ARCH_LEAD,  "lead"  },
    { LLM_ARCH_DRAFT, "draft" },
    { LLM_ARCH_NAMED_ONLY, "named-only" },
};
static const std::map<llm_kv, const char *> LLM_KV_NAMES = {
    { LLM_KV_CLAMP, "%s.clamp" },
    { LLM_KV_ATTENTION_SLIDING_WINDOW_PATTERN, "%s.attention.sliding_window_pattern" },
};
static const std::map<llm_tensor, const char *> LLM_TENSOR_NAMES = {
};
bool llm_arch_is_recurrent(const llm_arch & arch) {
    return false;
}
bool llm_arch_is_hybrid(const llm_arch & arch) {
    return false;
}
""",
    "src/llama-model.cpp": """\
static llama_model * llama_model_mapping(llm_arch arch) {
        case LLM_ARCH_PLAIN:
        case LLM_ARCH_LEAD:
        case LLM_ARCH_DRAFT:
}
void llama_model_base::load_hparams(llama_model_loader & ml);
void llama_model_base::load_hparams(llama_model_loader & ml) {
    one();
}
void llama_model_base::load_vocab(llama_model_loader & ml) {
    two();
}
void llama_model_base::load_swa_pattern(llama_model_loader & ml) {
}
llama_model_base::nextn_flags_t llama_model_base::nextn_flags(llama_model_loader & ml) const {
}
void llama_model_base::create_tensor_qkv(llama_layer & layer, int bid,
        int flags) {
}
llama_memory_i * llama_model::create_memory(const llama_cparams & cparams) const {
}
float llama_model::get_rope_freq_base(const llama_cparams & cparams, int il) const {
}
float llama_model::get_rope_freq_scale(const llama_cparams & cparams, int il) const {
}
ggml_tensor * llama_model::get_rope_factors(const llama_cparams & cparams, int il) const {
}
void llama_prec_policy::load(llama_model_loader & ml, const llama_model & model) {
}
const char * llama_model_chat_template(const llama_model * model, const char * name) {
}
        for (int i = 0; i < n_layer_all; ++i) {
        }
""",
    "src/llama-graph.cpp": """\
ggml_tensor * llm_graph_context::build_lora_mm(ggml_tensor * w) const {
}
ggml_tensor * llm_graph_context::build_lora_mm_id(ggml_tensor * w) const {
}
ggml_tensor * llm_graph_context::build_norm(ggml_tensor * cur) const {
}
ggml_tensor * llm_graph_context::build_ffn(ggml_tensor * cur) const {
}
""",
    "src/llama-model.h": "#define LLAMA_LOAD_LOCALS \\\n    int a; \\\n    int b;\nint c;\n",
    "src/models/plain.cpp": "one\ntwo\nthree\nfour\nfive\n",
    "src/models/lead.cpp": "ml.get_key_or_arr(LLM_KV_CLAMP, clamp);\n",
    "src/models/draft.cpp": "ml.get_arr(LLM_KV_ATTENTION_SLIDING_WINDOW_PATTERN, swa);\n",
    "src/models/base.cpp": "shared by several\n",
}  # fmt: skip


def tree(folder: Path, changed: Mapping[str, str | None] = {}) -> tool.Tree:
    """A source tree with some files of another text; None leaves one out."""
    for path, text in (FILES | {f"src/{name}": text for name, text in changed.items()}).items():
        if text is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    return tool.Tree(folder)


def changes(
    folder: Path, changed: Mapping[str, str | None] = {}, *, with_old: bool = False
) -> tuple[tool.Changes, list[str]]:
    """What changed from the tree above to one with other files, and the report of it."""
    old, new = tree(folder / "old"), tree(folder / "new", changed)
    found = tool.compare(tool.take(old, TABLE), new, TABLE, old if with_old else None)
    return found, list(tool.report(found, TABLE))


def test_the_same_tree_has_nothing_to_read(tmp_path: Path) -> None:
    """A name without a loader counts for nothing, and so do the arrays of a refused row."""
    found, lines = changes(tmp_path)
    assert not found
    assert lines == []


def test_lines_that_moved_are_found_again(tmp_path: Path) -> None:
    """Their text is the same, so only the numbers in the table have to change."""
    text = "new\none\ntwo\nthree\nnew\nfour\nfive\n"
    found, lines = changes(tmp_path, {"models/plain.cpp": text})
    assert found.moved == {
        ("src/models/plain.cpp", "2-3"): "3-4",
        ("src/models/plain.cpp", "5"): "7",
    }
    assert not found.changed
    assert found.elsewhere == ["src/models/plain.cpp"]
    assert "  src/models/plain.cpp:2-3 -> 3-4  (plain)" in lines
    written = tool.moved('"plain", (), "src/models/plain.cpp:2-3,5"', found, TABLE)
    assert written == '"plain", (), "src/models/plain.cpp:3-4,7"'


@pytest.mark.parametrize(("with_old", "place"), [(False, None), (True, "3-5")])
def test_lines_with_another_text_are_to_be_read(
    tmp_path: Path, with_old: bool, place: str | None
) -> None:
    """With the older tree at hand the place is known as well."""
    text = "new\none\nTWO\nand a half\nthree\nfour\nfive\n"
    found, _ = changes(tmp_path, {"models/plain.cpp": text}, with_old=with_old)
    assert found.changed == {("src/models/plain.cpp", "2-3"): place}
    assert found.moved == {("src/models/plain.cpp", "5"): "7"}
    assert not found.elsewhere


def test_a_change_outside_the_cited_lines_is_told_apart(tmp_path: Path) -> None:
    """It may bring something that depends on a layer, such as a head behind the last one."""
    found, _ = changes(tmp_path, {"models/plain.cpp": FILES["src/models/plain.cpp"] + "six\n"})
    assert found.elsewhere == ["src/models/plain.cpp"]
    assert not found.changed
    assert not found.moved


@pytest.mark.parametrize(
    ("file", "old", "new", "shared"),
    [
        ("llama-model.cpp", "one()", "1()", [("src/llama-model.cpp", "::load_hparams(")]),
        ("llama-model.cpp", "two()", "2()", []),
        ("llama-model.h", "int b", "int z", [("src/llama-model.h", "#define LLAMA_LOAD_LOCALS")]),
        ("llama-model.h", "int c", "int z", []),
        ("models/base.cpp", "several", "all", [("src/models/base.cpp", "whole")]),
    ],
)
def test_only_the_shared_code_that_rules_rest_on_counts(
    tmp_path: Path, file: str, old: str, new: str, shared: list[tuple[str, str]]
) -> None:
    """Of large files it is some functions, of src/models every file that no row names."""
    found, _ = changes(tmp_path, {file: FILES[f"src/{file}"].replace(old, new)})
    assert found.shared == shared


def test_shared_code_that_is_gone_or_new_counts(tmp_path: Path) -> None:
    """A file that no row names yet is one that somebody has to read."""
    found, _ = changes(tmp_path, {"models/base.cpp": None, "models/other.cpp": "text\n"})
    assert set(found.shared) == {
        ("src/models/base.cpp", "whole"),
        ("src/models/other.cpp", "whole"),
    }


def test_architectures_come_and_go(tmp_path: Path) -> None:
    """What llama.cpp can load, against what the table knows."""
    names = FILES["src/llama-arch.cpp"] + '    { LLM_ARCH_FRESH, "fresh" },\n'
    models = FILES["src/llama-model.cpp"].replace("ARCH_PLAIN", "ARCH_FRESH")
    found, lines = changes(
        tmp_path,
        {"llama-arch.cpp": names, "llama-model.cpp": models, "models/plain.cpp": None},
    )
    assert (found.new, found.vanished, found.gone) == (
        ["fresh"],
        ["plain"],
        ["src/models/plain.cpp"],
    )
    assert lines[:2] == ["architectures that the table lacks:", "  fresh"]


@pytest.mark.parametrize(
    "call", ["ml.get_arr(LLM_KV_ATTENTION_SLIDING_WINDOW_PATTERN, x);", "load_swa_pattern(ml, 4);"]
)
def test_an_array_that_no_row_knows_is_named(tmp_path: Path, call: str) -> None:
    """A new array per layer would be carried by its length alone, or not at all."""
    found, lines = changes(tmp_path, {"models/lead.cpp": FILES["src/models/lead.cpp"] + call})
    assert found.unknown_arrays == [("src/models/lead.cpp", "attention.sliding_window_pattern")]
    assert "  src/models/lead.cpp: attention.sliding_window_pattern" in lines


def test_an_array_of_every_architecture_that_none_knows_is_named(tmp_path: Path) -> None:
    """It is read in one place for all of them."""
    text = FILES["src/llama-model.cpp"].replace("one();", "ml.get_key_or_arr(LLM_KV_CLAMP, x);")
    found, _ = changes(tmp_path, {"llama-model.cpp": text})
    assert found.unknown_arrays == [("src/llama-model.cpp", "clamp")]


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    """The file holds the build and every checksum."""
    record = tool.take(tree(tmp_path), TABLE)
    assert tool.read_record(tool.as_text("b123", record)) == ("b123", record)


def test_a_folder_without_llama_cpp_is_refused(tmp_path: Path) -> None:
    """A wrong path is one sentence."""
    with pytest.raises(SystemExit, match=r"no source tree of llama\.cpp"):
        tool.Tree(tmp_path)


def test_the_record_is_that_of_the_table() -> None:
    """Whoever changes a row's source records it, and both say of which build they are."""
    build, record = tool.read_record(tool.RECORD.read_text())
    assert build == CHECKED_AGAINST
    recorded = {(path, part) for path, part in record if path.startswith("src/models/")}
    for path, lines in tool.cited_parts(ARCHITECTURES).items():
        assert {part for p, part in recorded if p == path} == {"whole", *lines}, path
    assert "-" not in record.values()


def test_a_newer_tree_is_read_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way: record, compare with a newer tree, move the numbers, record that one."""
    table = tmp_path / "table.py"
    table.write_text(
        'CHECKED_AGAINST = "b1"\n"plain", (), "src/models/plain.cpp:2-3,5"  # since b1\n'
    )
    monkeypatch.setattr(tool, "TABLE_FILE", table)
    monkeypatch.setattr(tool, "RECORD", tmp_path / "read.txt")
    monkeypatch.setattr(tool, "ARCHITECTURES", TABLE)

    def main(*args: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["llama_cpp_changes.py", *map(str, args)])
        try:
            tool.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    old = tree(tmp_path / "old").root
    new = tree(
        tmp_path / "new", {"models/plain.cpp": "zero\n" + FILES["src/models/plain.cpp"]}
    ).root
    assert main(old, "--record", "b2") == 0
    assert main(old) == 0
    assert "of llama.cpp b2\nnothing changed" in capsys.readouterr().out
    assert main(new, "--old", old, "--diff", "--move") == 1
    assert "\n+zero\n one\n" in capsys.readouterr().out
    moved = TABLE["plain"].source.replace("2-3,5", "3-4,6")
    assert f'"{moved}"' in table.read_text()
    monkeypatch.setitem(TABLE, "plain", replace(TABLE["plain"], source=moved))
    assert main(new, "--record", "b3") == 0
    assert main(new) == 0
    assert table.read_text() == f'CHECKED_AGAINST = "b3"\n"plain", (), "{moved}"  # since b1\n'


def script(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the script on the real table."""
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "llama_cpp_changes.py", *args],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_the_script_lists_what_changed(tmp_path: Path) -> None:
    """The exit code tells whether there is anything to read."""
    shown = script(tree(tmp_path).root)
    assert shown.returncode == 1
    assert "architectures that llama.cpp no longer has:\n  afmoe\n" in shown.stdout


def test_another_tree_than_the_one_that_was_read_is_refused(tmp_path: Path) -> None:
    """The lines that the table cites are those of one build only."""
    new = tree(tmp_path).root
    assert "is not llama.cpp b" in script(new, "--old", new).stderr


def test_a_tree_that_lacks_a_source_is_not_recorded(tmp_path: Path) -> None:
    """A row whose lines are not there has not been read."""
    before = tool.RECORD.read_bytes()
    done = script(tree(tmp_path).root, "--record", "b1")
    assert done.returncode == 1
    assert "src/models/afmoe.cpp whole" in done.stderr
    assert tool.RECORD.read_bytes() == before
