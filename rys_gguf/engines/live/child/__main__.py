"""The program of the live engine's child process: answer messages about models in llama.cpp.

usage: python FOLDER '{"socket": FD, "library": PATH, "backends": FOLDER or null}'
       python FOLDER '{"stock": FILE}'    to run llama.cpp's own server, see stock.py

A message and its reply are two lengths, a JSON object and raw bytes. What fails in llama.cpp is a
reply with the key "error"; what makes it abort ends this process, which is why there is one.

The folder is run as it is, and imports nothing of this package: it is always the code the parent
was loaded with.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import threading
from typing import Any

from llama import Llama  # type: ignore[import-not-found]
from mapping import map_lazily  # type: ignore[import-not-found]
from stock import run_stock  # type: ignore[import-not-found]

Json = dict[str, Any]

_WITH_BYTES = ("decode", "tokenize")
_LENGTHS = struct.Struct("<QQ")


def serve(connection: socket.socket, settings: Json) -> None:
    """Answer messages until the parent closes its end.

    The library is opened at the first one, so that whatever goes wrong reaches the parent.
    """
    llama: Any = None
    while lengths := _receive(connection, _LENGTHS.size):
        n_json, n_raw = _LENGTHS.unpack(lengths)
        message = json.loads(_receive(connection, n_json))
        payload = _receive(connection, n_raw)
        reply: Json = {}
        raw = b""
        try:
            if llama is None:
                llama = Llama(settings["library"], settings["backends"])
                llama.maps_lazily = map_lazily(settings["library"])
            llama.errors.clear()
            name = message.pop("do")
            function = getattr(llama, name)
            answer = function(payload, **message) if name in _WITH_BYTES else function(**message)
            if isinstance(answer, dict):
                reply = answer
            else:
                reply, raw = {"seconds": llama.seconds}, answer
        except Exception as e:  # noqa: BLE001 - whatever it is, the parent has to know
            reply = {"error": str(e) or type(e).__name__, "log": llama.errors if llama else []}
        text = json.dumps(reply).encode()
        connection.sendall(_LENGTHS.pack(len(text), len(raw)) + text + raw)


def _receive(connection: socket.socket, n: int) -> bytes:
    """Exactly `n` bytes; none if the other end was closed."""
    buffer = bytearray(n)
    view = memoryview(buffer)
    done = 0
    while done < n:
        if not (more := connection.recv_into(view[done:])):
            return b""
        done += more
    return bytes(buffer)


def end_with(connection: socket.socket) -> None:
    """End the process once the parent has closed its end, also while llama.cpp computes."""
    poll = select.poll()
    poll.register(connection, 0)  # for a hang-up alone
    poll.poll()
    os._exit(1)


def main() -> None:
    """Serve the socket that was inherited."""
    settings = json.loads(sys.argv[1])
    if "stock" in settings:
        run_stock(settings["stock"])
    with socket.socket(fileno=settings["socket"]) as connection:
        threading.Thread(target=end_with, args=(connection,), daemon=True).start()
        serve(connection, settings)
    os._exit(0)  # without the destructors of llama.cpp's devices, which may hang


if __name__ == "__main__":
    main()
