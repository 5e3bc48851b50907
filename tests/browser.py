"""A headless Chromium, told what to do over the pipe that it offers: no package is needed for it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass, field

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = """--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking
--disable-component-update --disable-sync --remote-debugging-pipe""".split()
TOLD, HEARD = 3, 4  # the numbers under which Chromium has both pipes


@dataclass
class Tab:
    """One page: ``events`` is what the browser told of it unasked, oldest first."""

    told: int
    heard: int
    session: str = ""
    events: list[dict] = field(default_factory=list)
    rest: bytes = b""
    numbers: itertools.count = field(default_factory=lambda: itertools.count(1))

    def call(self, method: str, **params):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params} | (
            {"sessionId": self.session} if self.session else {}
        )
        os.write(self.told, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self):
        while b"\0" not in self.rest:
            assert select.select([self.heard], [], [], 60)[0], "the browser says nothing"
            self.rest += os.read(self.heard, 1 << 20)
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, address: str) -> None:
        self._attach(self.call("Target.createTarget", url="about:blank")["targetId"])
        self.call("Page.navigate", url=address)

    def enter_frame(self) -> None:
        """What is run from now on is run in the page's frame that has a process of its own."""
        for _ in range(1500):
            frames = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "iframe"]
            if frames:
                return self._attach(frames[0]["targetId"])
            time.sleep(0.02)
        raise AssertionError("no frame")

    def _attach(self, target: str) -> None:
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def run(self, script: str):
        """The value of an expression on the page."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        for _ in range(1500):
            if self.run(condition):
                return
            time.sleep(0.02)
        raise AssertionError(f"never: {condition}; {self.faults()}")

    def wait_for(self, method: str, times: int, **params) -> None:
        """Waits until the browser has told of this so many times."""
        for _ in range(1000):
            told = [event["params"] for event in self.events if event["method"] == method]
            if sum(params.items() <= each.items() for each in told) >= times:
                return
            self.run("0")
            time.sleep(0.01)
        raise AssertionError(f"never: {method} {params}, {times} times")

    def faults(self) -> list[dict]:
        """What was thrown, and what the console was told."""
        bad = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event["method"] in bad]

    def requests(self) -> list[str]:
        asked = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in asked if not address.startswith("data:")]


@contextlib.contextmanager
def tab(profile):
    """A tab of a browser of its own, which ends with the block."""
    (ours_in, told), (heard, ours_out) = os.pipe(), os.pipe()

    def pipes_in_place():
        high = os.dup(ours_in), os.dup(ours_out)  # neither may stand where the other goes
        os.dup2(high[0], TOLD)
        os.dup2(high[1], HEARD)

    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, preexec_fn=pipes_in_place, close_fds=False, start_new_session=True, **quiet)
    os.close(ours_in)
    os.close(ours_out)
    try:
        yield Tab(told, heard)
    finally:
        os.close(told)  # the browser ends when nobody is left to tell it something
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        os.close(heard)
