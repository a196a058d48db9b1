"""Pictures: complete, clickable on the page, named beside it, and drawn for any numbers."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from rys_gguf.report.content import Content
from rys_gguf.report.pictures import Pictures, draw, draw_map, draw_scatter
from tests.fake_runs import WINNER, name_of
from tests.report.parser import Page


def test_an_svg_stands_alone(drawn: Pictures) -> None:
    """It closes what it opens, refers to nothing outside, and needs no name space."""
    for picture in (*drawn.maps.values(), drawn.scatter):
        assert picture is not None
        page = Page(picture.svg)
        assert page.open == []
        assert not re.search(r"""(src|href|xmlns)=|url\((?!#)|@import|https?://""", picture.svg)
        ids = page.attributes("id")
        assert len(ids) == len(set(ids))
        assert {f"url(#{name})" for name in ids} >= set(re.findall(r"url\([^)]*\)", picture.svg))


def test_ids_differ_between_pictures(drawn: Pictures) -> None:
    """They stand on one page, where a pattern must not be another picture's."""
    ids = [name for picture in drawn.maps.values() for name in Page(picture.svg).attributes("id")]
    assert len(ids) == len(set(ids))


def test_every_window_can_be_picked(drawn: Pictures) -> None:
    """Its cell names its candidate and says in words what it shows."""
    page = Page(drawn.maps["overall"].svg)
    candidates = set(page.attributes("data-candidate"))
    assert len(candidates) == 21
    assert name_of(WINNER) in candidates
    text = drawn.maps["overall"].svg
    assert re.search(r"<title>blocks:10,14 \+\d+\.\d</title>", text)
    assert "<title>base</title>" in text
    assert "blocks:0,4: dropped - divergence 9.5 nats is above 5" in text


def test_colours_are_those_of_the_page(drawn: Pictures) -> None:
    """Light and dark differ by the style sheet: no colour with a meaning is baked in."""
    for name, picture in drawn.maps.items():
        pole = "--more" if name == "damage" else "--gain"
        assert f"color-mix(in oklab,var({pole})" in picture.svg
        baked = set(re.findall(r"(?:fill|stroke): ?(#[0-9a-f]{6})", picture.svg))
        assert not baked, name
    assert drawn.scatter is not None
    assert not re.findall(r"(?:fill|stroke): ?(#[0-9a-f]{6})", drawn.scatter.svg)
    overall = drawn.maps["overall"].svg
    assert "loss</text>" in overall
    assert "gain</text>" in overall


def test_a_png_shows_model_run_and_n(
    content: Content, drawn: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it has left its folder nothing else would."""
    titles = []

    def remember(_heatmap: object, title: list[str]) -> object:
        titles.append(title)
        return drawn.maps["overall"]

    monkeypatch.setattr("rys_gguf.report.pictures.draw_map", remember)
    monkeypatch.setattr("rys_gguf.report.pictures.draw_scatter", lambda *_: drawn.scatter)
    draw(content)
    assert titles[0][-1] == "tiny-instruct.Q4_1.gguf, run 0123456789abcdef, n up to 88"
    assert titles[0][1].startswith("best blocks:10,14 at +")
    image = Image.open(io.BytesIO(drawn.maps["overall"].png))
    assert image.size[0] > 1000


def test_any_name_can_be_a_title(content: Content) -> None:
    """Dollar signs are no formula, and a script without glyphs is no error."""
    assert draw_map(content.maps[0], ["$\\frac", "\u6a21\u578b", "\x1b[2J", "x" * 500]).png


def test_any_gain_fits_the_plot() -> None:
    """Losses of any size have a place, and so has a path that drops layers."""
    picture = draw_scatter({"a": (-10.0, 4), "b": (0.3, -2)}, {"a": (-9.0, 4)}, [], ["t"])
    assert "-1000.0" in picture.svg
    assert draw_scatter({}, {"a": (0.0, 0)}, [], ["t"]).png


def test_finalists_at_one_point_share_their_label() -> None:
    """Labels on top of each other could not be read."""
    held_out = {"blocks:9,13": (0.1, 4), "blocks:2,6": (0.1, 4), "blocks:3,7": (0.099, 4)}
    picture = draw_scatter({}, held_out, ["blocks:9,13"], ["t"])
    assert "blocks:9,13 blocks:2,6</text>" in picture.svg
    places = re.findall(r'<text [^>]*y="([\d.]+)"[^>]*>blocks:', picture.svg)
    assert abs(float(places[0]) - float(places[1])) > 9


def test_drawing_again_gives_the_same(content: Content, drawn: Pictures) -> None:
    """A report that was written twice does not differ."""
    (math,) = (heatmap for heatmap in content.maps if heatmap.name == "math")
    assert draw(replace(content, maps=(math,))).maps["math"] == drawn.maps["math"]


def test_settings_of_the_current_folder_do_not_count(tmp_path: Path) -> None:
    """Matplotlib reads them from there, and these would start LaTeX, or wait for ever."""
    for kind in ("none", "settings", "fifo"):
        (tmp_path / kind).mkdir()
    (tmp_path / "settings" / "matplotlibrc").write_text(
        "text.usetex: True\nbackend: module://nonesuch\nfont.size: 40\n"
    )
    os.mkfifo(tmp_path / "fifo" / "matplotlibrc")
    plain, *others = (drawn_in(tmp_path / kind) for kind in ("none", "settings", "fifo"))
    assert others == [plain, plain]


def drawn_in(folder: Path) -> bytes:
    """A picture that another process draws while it is in that folder."""
    out = folder.with_suffix(".png")
    done = subprocess.run(
        [sys.executable, "-c", DRAW, out], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder}\n"
    return out.read_bytes()


DRAW = """
import os, sys
from dataclasses import replace
from pathlib import Path
from rys_gguf.report.content import Content
from rys_gguf.report.pictures import draw
from tests.fake_runs import make_run

content = Content.of(make_run())
(picture,) = draw(replace(content, maps=content.maps[:1])).maps.values()
Path(sys.argv[1]).write_bytes(picture.png)
print(os.getcwd())
"""
