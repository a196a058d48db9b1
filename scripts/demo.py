"""The main job, start to end, on a real model: plan, apply, verify, run.

usage: python scripts/demo.py FOLDER     (the variant is written there)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROMPT = "What is the capital of France?"


def run(*command: str) -> None:
    """Show a command and run it; stop where it fails."""
    print("\n$ " + " ".join(c if " " not in c else f'"{c}"' for c in command), flush=True)
    subprocess.run(command, check=True)


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


if __name__ == "__main__":
    main()
