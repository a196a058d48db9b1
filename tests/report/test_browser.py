"""The page in a real browser: no error, nothing too wide, and a click on a map works."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rys_gguf.report.content import Content
from rys_gguf.report.page import render
from rys_gguf.report.pictures import draw
from tests.fake_runs import FakeRun, make_run, name_of
from tests.report.test_page import hostile_run

WIDTHS = (1280, 390)
# Asks the page from inside, after a click on the map.
PROBE = """
addEventListener("load", () => {
  const cell = document.querySelector("[data-candidate='%s']");
  if (cell) cell.dispatchEvent(new MouseEvent("click"));
  parent.postMessage({
    width: innerWidth,
    wide: document.documentElement.scrollWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    who: document.querySelector("#who").value,
    answers: document.querySelectorAll("#answers tr").length,
  }, "*");
});
"""
FRAMES = """<!doctype html><title>frames</title>%s<script>
const seen = [];
addEventListener("message", e => {
  seen.push(e.data);
  document.body.dataset.seen = JSON.stringify(seen);
});
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    """A Chromium on PATH."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on PATH")
    return found


def look_at(chromium: str, folder: Path, run: FakeRun, *, dark: bool) -> tuple[list[Any], str]:
    """What the page of a run tells about itself at each width, and the browser's log."""
    content = Content.of(run)
    probe = PROBE % name_of((9, 13))
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    page = render(content, draw(content), {})
    page = page.replace("script-src ", f"script-src &#39;sha256-{digest}&#39; ", 1)
    page = page.replace("</body>", f"<script>{probe}</script></body>", 1)
    (folder / "page.html").write_text(page)
    frames = "".join(
        f'<iframe src="page.html" style="border:0;width:{w}px;height:900px"></iframe>'
        for w in WIDTHS
    )
    (folder / "frames.html").write_text(FRAMES % frames)
    done = subprocess.run(
        [
            chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1800,1000",
            "--virtual-time-budget=10000", "--enable-logging=stderr", "--dump-dom",
            f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            (folder / "frames.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen, done.stderr
    return json.loads(html.unescape(seen[1])), done.stderr


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["winner", "hostile"])
def test_a_browser_shows_the_page(chromium: str, tmp_path: Path, kind: str, dark: bool) -> None:
    """At 1280 and 390 pixels, light and dark, for a plain run and for one that attacks."""
    run = make_run(0, generate=True) if kind == "winner" else hostile_run()
    seen, log = look_at(chromium, tmp_path, run, dark=dark)
    assert sorted(s["width"] for s in seen) == sorted(WIDTHS)
    for s in seen:
        assert s["wide"] <= s["width"], "nothing sticks out sideways"
        assert s["dark"] is dark
        assert s["who"] == name_of((9, 13)), "a click on the map picks the window"
        assert s["answers"] > 0
    assert ":CONSOLE" not in log, log
