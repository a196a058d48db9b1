"""The main job, start to end, on a real model: plan, apply, verify, run; and serve.

usage: python scripts/demo.py FOLDER     (the variant is written there)
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

PROMPT = "What is the capital of France?"


def run(*command: str) -> None:
    """Show a command and run it; stop where it fails."""
    print("\n$ " + " ".join(c if " " not in c else f'"{c}"' for c in command), flush=True)
    subprocess.run(command, check=True)


def serve_and_ask(*command: str) -> None:
    """Start a server, ask it one question as any program would, and stop it."""
    print(f"\n$ {' '.join(command)}", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()  # empty if it has ended
            print(url)
            if url:
                body = {"messages": [{"role": "user", "content": PROMPT}], "temperature": 0}
                ask(f"{url}/v1/chat/completions", body)
        finally:
            server.terminate()
    if server.returncode != 128 + signal.SIGTERM:
        sys.exit(f"the server ended with code {server.returncode}")


def ask(url: str, body: dict[str, Any]) -> None:
    """Show a request for an answer, and the answer."""
    data = json.dumps(body)
    print(f"\n$ curl {url} -d '{data}'", flush=True)
    request = urllib.request.Request(url, data.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        print(json.load(reply)["choices"][0]["message"]["content"], flush=True)


def main() -> None:
    """Run the demo."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    located = subprocess.run(
        [sys.executable, here / "models.py", "smollm2"], check=True, capture_output=True, text=True
    )
    # A link, so that the commands are as short as a user's own would be.
    model = folder / Path(located.stdout.strip()).name
    model.unlink(missing_ok=True)
    model.symlink_to(located.stdout.strip())
    output = folder / "SmolLM2-135M-Instruct-rys_10-13.Q4_1.gguf"
    tool = str(Path(sys.executable).parent / "rys-gguf")
    run(tool, "inspect", str(model))
    run(tool, "plan", str(model), "--blocks", "10,14")
    run(tool, "apply", str(model), "--blocks", "10,14", "--force")
    run(tool, "verify", str(output), "--source", str(model))
    run(sys.executable, str(here / "generate.py"), str(output), PROMPT)
    serve_and_ask(tool, "serve", str(model), "--blocks", "10,14", "--", "--port", "0", "-c", "1024")


if __name__ == "__main__":
    main()
