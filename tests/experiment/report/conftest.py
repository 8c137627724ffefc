"""A real browser for pages that claim to load nothing: Chromium without a window, driven over two pipes."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# The DevTools pipes must be the browser's file descriptors 3 and 4, whatever numbers their ends have here;
# both are first copied out of the way, because either may be a 3 or a 4 itself.
LAUNCHER = (
    "import fcntl, os, sys; read, write, *command = sys.argv[1:]; "
    "ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in (read, write)]; "
    "os.dup2(ends[0], 3); os.dup2(ends[1], 4); os.execvp(command[0], command)"
)
SECONDS = 60.0


@dataclass
class Visit:
    """What happened while a page was open.

    Attributes:
        messages: errors and warnings of the console, exceptions and what the browser logged.
        requests: every address that was asked for, the page's own first.
        content_width: of the whole document, in CSS pixels.
        broken: pictures that could not be shown.
        answers: what the page answered to the expressions that it was asked.
    """

    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    content_width: int = 0
    broken: int = 0
    answers: list = field(default_factory=list)


class Browser:
    """One Chromium without a window."""

    def __init__(self, program: str, profile: Path):
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        launch = [sys.executable, "-c", LAUNCHER, str(theirs_in), str(theirs_out), program]
        self._process = subprocess.Popen(
            [*launch, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        os.set_blocking(self._from, False)
        self._number, self._buffer, self._events = 0, b"", []

    def visit(
        self,
        page: Path,
        *,
        width: int,
        dark: bool = False,
        media: str = "screen",
        asked: tuple[str, ...] = (),
    ) -> Visit:
        """Open a local page, wait until it has loaded, and evaluate what is asked of it."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable", session)
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            session,
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", session, media=media, features=[scheme])
        self._events.clear()
        self.ask("Page.navigate", session, url=page.absolute().as_uri())
        self._wait_for("Page.loadEventFired", session)
        found = Visit()
        found.content_width = self._value(session, "document.documentElement.scrollWidth")
        broken = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).length"
        found.broken = self._value(session, broken)
        found.answers = [self._value(session, expression) for expression in asked]
        for event in self._events:
            if event.get("sessionId") == session:
                _note(found, event["method"], event["params"])
        self.ask("Target.closeTarget", targetId=target)
        return found

    def ask(self, method: str, session: str | None = None, **params) -> dict:
        """Send one DevTools command and give its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._events.append(answer)

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            self.ask("Browser.close")
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def _value(self, session: str, expression: str):
        return self.ask("Runtime.evaluate", session, expression=expression)["result"]["value"]

    def _wait_for(self, method: str, session: str) -> None:
        seen = 0
        while True:
            for event in self._events[seen:]:
                if event.get("method") == method and event.get("sessionId") == session:
                    return
            seen = len(self._events)
            self._events.append(self._receive())

    def _receive(self) -> dict:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            if time.monotonic() > deadline:
                raise TimeoutError("the browser did not answer")
            try:
                part = os.read(self._from, 1 << 16)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            if not part:
                raise EOFError("the browser ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


def _note(found: Visit, method: str, params: dict) -> None:
    if method == "Network.requestWillBeSent":
        found.requests.append(params["request"]["url"])
    elif method == "Log.entryAdded":
        found.messages.append(params["entry"]["text"])
    elif method == "Runtime.exceptionThrown":
        found.messages.append(params["exceptionDetails"]["text"])
    elif method == "Runtime.consoleAPICalled":
        found.messages.append(str(params["args"]))


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A browser; the test is skipped where the machine has none that starts."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    made = Browser(program, tmp_path_factory.mktemp("browser-profile"))
    try:
        made.ask("Browser.getVersion")
    except (EOFError, BrokenPipeError, TimeoutError) as error:
        made.close()
        pytest.skip(f"no browser: {program} does not start without a window here ({error})")
    yield made
    made.close()
