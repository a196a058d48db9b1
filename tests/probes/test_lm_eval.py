"""The harness asks this package's engine, and runs no code from the current folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.command import fails, run

STAND_IN = """
import json, os, sys, urllib.request
at = sys.argv.index
options = dict(part.split("=", 1) for part in sys.argv[at("--model_args") + 1].split(","))
assert options["base_url"].startswith("http://127.0.0.1:"), options
assert sys.argv[at("--model") + 1] == "local-chat-completions"
assert "--apply_chat_template" in sys.argv
body = {
    "model": options["model"],
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 8,
    "temperature": 0,
}
request = urllib.request.Request(
    options["base_url"],
    json.dumps(body).encode(),
    {
        "Content-Type": "application/json",
        "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"],
    },
)
reply = json.load(urllib.request.urlopen(request))
print(sys.argv[at("--tasks") + 1], len(reply["choices"][0]["message"]["content"]))
sys.exit(int(sys.argv[at("--limit") + 1]))
"""


def test_the_harness_is_given_our_engine(smollm2: Path, tmp_path: Path) -> None:
    """It gets the address and key of a chat in lm_eval's own options; its exit code counts.

    A stand-in takes the harness's place: the real one brings sixty packages. The current folder
    holds another lm_eval, which must not run. Neither the environment's proxy nor the name of the
    file changes where the questions go.
    """
    package = tmp_path / "site" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "lm_eval.py").write_text("raise SystemExit('a file of the current folder was run')")
    path = os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parent.parent.parent)])
    proxy = {"http_proxy": "http://127.0.0.1:1", "no_proxy": "example.org"}
    environment = {**os.environ, **proxy, "PYTHONPATH": path}
    model = folder / "m,model=x,base_url=y.gguf"
    model.symlink_to(smollm2)
    args: list[str | Path] = ["probe", model, "--threads", "1", "--lm-eval", "gsm8k"]
    args.append("--lm-eval-arg=--limit")
    done = run(*args, "--lm-eval-arg=0", env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"gsm8k [1-9]\d*\n", done.stdout)
    failed = run(*args, "--lm-eval-arg=3", env=environment, cwd=folder)
    assert failed.returncode == 1
    assert "lm_eval ended with exit code 3" in failed.stderr


def test_a_missing_harness_is_named(smollm2: Path) -> None:
    """The message comes before an engine starts."""
    message = fails("probe", smollm2, "--lm-eval", "gsm8k")
    assert "--lm-eval needs lm-eval[api]: pip install 'lm-eval[api]'" in message
