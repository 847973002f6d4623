"""Many sessions at once, and kill -9 under load: no answer of 5xx, no edit that was acknowledged is lost, results as alone.

    python benchmarks/soak.py --sessions 16 --minutes 5
    python benchmarks/soak.py --kills 20 --sessions 8

A server is started on this machine with the embedded weights and a phantom; each session clicks, corrects, undoes, tracks and
downloads, over and over. With --kills sessions edit as fast as they can, without asking the network, while the server is
killed without warning again and again.
"""

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import nibabel as nib
import numpy as np

ROOT = Path(__file__).parents[1]


@dataclass
class Tally:
    """What happened, over all clients."""

    requests: int = 0
    failures: list[str] = field(default_factory=list[str])
    lost: list[str] = field(default_factory=list[str])
    digests: set[bytes] = field(default_factory=set[bytes])
    restarts_s: list[float] = field(default_factory=list[float])
    lock: threading.Lock = field(default_factory=threading.Lock)


class Server:
    """The command, as a process of its own."""

    def __init__(self, folder: Path, features_mb: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.up, self.features_mb = folder, threading.Event(), features_mb
        self.start()

    def start(self) -> float:
        """Start it; returns the seconds until it answers."""
        began, log = time.perf_counter(), self.folder / "log"
        command = [sys.executable, "-c", "from medical_sam2.cli import main; main()", "serve", str(self.folder / "images")]
        options = ["--state", str(self.folder / "state"), "--port", str(self.port), "--no-browser", "--most-sessions", "64"]
        options += ["--features-mb", str(self.features_mb)]
        with log.open("wb") as sink:
            self.process = subprocess.Popen([*command, *options], stderr=sink, env=os.environ)
        while True:
            found = re.search(r"token=(\S+)", log.read_text())
            with socket.socket() as probe:
                if found and probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            if self.process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.02)
        self.token = found[1]
        self.up.set()
        return time.perf_counter() - began

    def kill(self) -> None:
        """Without a word."""
        self.up.clear()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def memory_mb(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


class Client:
    """One person, who tries again while the server is away, and remembers what was acknowledged."""

    def __init__(self, server: Server, tally: Tally, number: int) -> None:
        self.server, self.tally, self.rng = server, tally, np.random.default_rng(number)
        self.id, self.version, self.structures = "", 0, 0

    def ask(self, method: str, path: str, form: object = None) -> httpx2.Response | None:
        """An answer, or None where the server went away meanwhile."""
        self.server.up.wait()
        headers = {"authorization": f"Bearer {self.server.token}", "host": f"127.0.0.1:{self.server.port}"}
        try:
            url = f"http://127.0.0.1:{self.server.port}/api/{path}"
            answer = httpx2.request(method, url, json=form, headers=headers, timeout=120)
        except httpx2.HTTPError:
            return None
        with self.tally.lock:
            self.tally.requests += 1
            if answer.status_code >= 500:
                self.tally.failures.append(
                    f"{method} {path.rsplit('/', maxsplit=1)[-1]}: {answer.status_code} {answer.text[:80]}"
                )
        return answer

    def begin(self) -> None:
        """Open the phantom."""
        while not self.id:
            made = self.ask("POST", "sessions", {"library": 0})
            if made is not None and made.status_code == 200:
                opened = self.ask("POST", f"sessions/{made.json()['id']}/open", {})
                self.id = made.json()["id"] if opened is not None and opened.status_code == 200 else ""

    def change(self, path: str, **form: object) -> bool:
        """One edit; what is acknowledged must be there for ever."""
        answer = self.ask("POST", f"sessions/{self.id}/{path}", {"version": self.version, **form})
        if answer is None or answer.status_code == 409:
            return self.look()
        if answer.status_code == 200:
            self.take(answer.json())
        return answer.status_code == 200

    def look(self) -> bool:
        """See where the session stands: never behind what was acknowledged."""
        answer = self.ask("GET", f"sessions/{self.id}")
        if answer is None:
            return False
        if answer.status_code != 200 or answer.json()["state"]["version"] < self.version:
            with self.tally.lock:
                self.tally.lost.append(f"version {self.version}, found {answer.text[:60]}")
            return False
        self.take(answer.json()["state"])
        return False

    def take(self, state: dict) -> None:
        """Remember."""
        self.version, self.structures = state["version"], len(state["structures"])

    def hammer(self) -> None:
        """Edits that need no network, as fast as they are taken: with --kills, it is they that must not be lost."""
        self.look()
        if not self.structures and not self.change("structures"):
            return
        for _ in range(20):
            start = int(self.rng.integers(0, 20_000))
            self.change("say", label=1, plane="axial", t=int(self.rng.integers(36)), kind="mask", runs=[start, 50])
            self.change("structures/1", name=f"name {start}")
            self.change("undo")

    def round(self) -> None:
        """Click, correct, undo, track, download."""
        self.look()
        if not self.structures and not self.change("structures"):
            return
        click = {"label": 1, "plane": "axial", "t": 18, "kind": "points", "points": [[57, 63]], "positive": [True]}
        if not self.change("say", **click):
            return
        shift = float(self.rng.uniform(-8, 8))
        if self.change("say", **{**click, "points": [[57 + shift, 63]]}):
            self.change("undo")
        if not self.change("track"):
            return
        while (answer := self.ask("GET", f"sessions/{self.id}")) is not None and answer.json()["state"]["busy"]:
            time.sleep(0.2)
        self.look()
        found = self.ask("GET", f"sessions/{self.id}/download/nii.gz")
        if found is not None and found.status_code == 200:
            with self.tally.lock:
                self.tally.digests.add(found.content)
        while self.version and (back := self.ask("POST", f"sessions/{self.id}/undo", {"version": self.version})) is not None:
            if back.status_code != 200:
                break
            self.take(back.json())


def run(server: Server, tally: Tally, arguments: object) -> list[float]:
    """All clients until the time, or the kills, are over; returns the memory as it went."""
    sessions, until = arguments.sessions, time.monotonic() + 60 * arguments.minutes  # type: ignore[attr-defined]
    stop, memory = threading.Event(), list[float]()

    clients = [Client(server, tally, number) for number in range(sessions)]
    for client in clients:
        client.begin()

    def live(client: Client) -> None:
        while not stop.is_set():
            client.hammer() if arguments.kills else client.round()  # type: ignore[attr-defined]
        client.look()

    threads = [threading.Thread(target=live, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for _ in range(arguments.kills):  # type: ignore[attr-defined]
        time.sleep(float(np.random.default_rng().uniform(4, 14)))
        server.kill()
        tally.restarts_s.append(server.start())
    while not arguments.kills and time.monotonic() < until:  # type: ignore[attr-defined]
        memory.append(server.memory_mb())
        time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    return memory


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--features-mb", type=float, default=512)
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder, tally = Path(name), Tally()
        (folder / "images").mkdir()
        subprocess.run([sys.executable, ROOT / "examples" / "phantom.py", folder / "images" / "ct.nii.gz"], check=True)
        (folder / "images" / "truth.nii.gz").unlink(missing_ok=True)
        server = Server(folder, arguments.features_mb)
        try:
            memory = run(server, tally, arguments)
        finally:
            server.kill()
        different = {nib.Nifti1Image.from_bytes(gzip.decompress(x)).get_fdata().tobytes() for x in tally.digests}
    report = {
        "sessions": arguments.sessions,
        "requests": tally.requests,
        "answers of 5xx": tally.failures[:5],
        "acknowledged and lost": tally.lost[:5],
        "different results": len(different),
        "restarts, s": [round(x, 1) for x in sorted(tally.restarts_s)],
        "memory, MB": [round(x) for x in memory[:: max(1, len(memory) // 10)]],
    }
    print(json.dumps(report, indent=2))
    return int(bool(tally.failures or tally.lost or len(different) > 1))


if __name__ == "__main__":
    sys.exit(main())
