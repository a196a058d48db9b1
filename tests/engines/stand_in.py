"""Programs that take llama-server's place: one that works, and ones that do not."""

from __future__ import annotations

import stat
import sys
import textwrap
from pathlib import Path

from rys_gguf.engines import child
from rys_gguf.engines.interpreter import python_file

_WORKING = """
import json, os
from argparse import ArgumentParser

parser = ArgumentParser(allow_abbrev=False)
parser.add_argument("--model", required=True)
parser.add_argument("--host", choices=["127.0.0.1"], required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--ctx-size", type=int, dest="n_ctx", required=True)
parser.add_argument("--parallel", type=int, choices=[1], required=True)
parser.add_argument("--no-warmup", action="store_true", required=True)
parser.add_argument("--threads", type=int, dest="n_threads")
parser.add_argument("--ubatch-size", type=int, dest="n_ubatch")
command = @COMMAND@
os.execv(command[0], [*command, json.dumps(vars(parser.parse_args()))])
"""

_BROKEN = """
import http.server, json, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1])
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, status, data):
        self.send(status, json.dumps(data).encode())
    def send(self, status, raw):
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
    def do_GET(self):
        if self.path == "/health":
            self.answer(*@HEALTH@)
        else:
            self.answer(200, {"model_path": @MODEL@, "build_info": "b1"})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        @POST@
    def log_message(self, *args):
        print("log:", *args, flush=True)
START = time.monotonic()
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def script(path: Path, body: str) -> Path:
    """An executable Python script."""
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(body)}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def working_server(path: Path) -> Path:
    """A llama-server that takes the real one's arguments and serves through xllamacpp."""
    return script(path, _WORKING.replace("@COMMAND@", repr(python_file(child.__file__))))


def broken_server(
    path: Path,
    model: Path | str,
    *,
    health: str = "(200, {})",
    post: str = "self.answer(500, {'error': 'no'})",
) -> Path:
    """A server with llama-server's API whose replies are Python code.

    `health` is an expression of status and body for /health; `post` is a statement that sees
    `self.path` and the request's `body`.
    """
    parts = {"@HEALTH@": f"({health})", "@MODEL@": repr(str(model)), "@POST@": post}
    body = _BROKEN
    for mark, code in parts.items():
        body = body.replace(mark, code)
    return script(path, body)
