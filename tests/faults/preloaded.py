"""Daemons in a tenth of a second: a process that has imported everything forks one of them for each request.

What it forks is a process like any other: it has its own sockets, files and signals, and `kill -9` ends it.
Only the seconds that Python takes to import torch are saved. Requests come as lines of JSON on stdin:

    {"start": {"module": "adpfl_client", "arguments": [...], "folder": ..., "log": ..., "environment": {...}}}
    {"poll": PID}

and are answered by {"pid": PID} and {"code": null | exit code | -signal}. Everything still alive is killed
when stdin ends.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from adpfl.security.tls import require_tls13

require_tls13()

# ruff: noqa: E402 - TLS is settled before anything loads gRPC
import adpfl_client.agent
import adpfl_client.cli
import adpfl_client.ledger.ledger_check
import adpfl_client.running
import adpfl_server.cli
import adpfl_server.daemon
import adpfl_server.operating.live_status
import adpfl_server.operating.overview
from tests.faults import scaling, witness
from tests.faults.rig import CLOCK_VARIABLE

MAINS = {"adpfl_client": adpfl_client.cli.main, "adpfl_server": adpfl_server.cli.main}


def serve() -> int:
    """Answer requests until stdin ends."""
    children: dict[int, int | None] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                leave(work(request["start"]))
            children[pid] = None
            answer(pid=pid)
        else:
            pid = request["poll"]
            if children[pid] is None:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    children[pid] = os.waitstatus_to_exitcode(status)
            answer(code=children[pid])
    for pid, code in children.items():
        if code is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return 0


def answer(**document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def work(asked: dict[str, Any]) -> int:
    """Become the daemon or the command that was asked for."""
    os.setsid()
    with Path(asked["log"]).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123 - for the process's whole life
    os.dup2(sys.stdin.fileno(), 0)
    os.chdir(asked["folder"])
    os.environ.update(asked["environment"])
    if clock := asked["environment"].get(CLOCK_VARIABLE):
        ctypes.CDLL(None).clock_shift_follow(clock.encode())
    sys.argv = [asked["module"], *asked["arguments"]]
    try:
        MAINS[asked["module"]]()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def leave(code: int) -> NoReturn:
    """End as Python ends, but for taking apart a thousand modules, which takes a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    scaling.scale()
    witness.watch()
    for name in ("adpfl.tasks.skin_lesion", "adpfl.logs", "torch._dynamo", "torch._inductor.config"):
        importlib.import_module(name)  # else each child would load it at its first step
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, f"a process with {len(threads)} threads must not fork"
    gc.freeze()
    answer(ready=os.getpid())
    sys.exit(serve())
