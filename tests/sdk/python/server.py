"""A `mainspring dev` process under test: started, killed, started again on the same directory and port."""

import atexit
import contextlib
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

READY_MAX_S = 60
LOOK_EVERY_S = 0.05
LAST_WORDS_LINES = 60


class Server:
    """One server at a time; whatever this process started is gone when this process ends."""

    def __init__(self, binary: Path, scratch: Path) -> None:
        self._binary = binary
        self._dir = scratch / "data"
        self._log = scratch / "server.log"
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.kill)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def address(self) -> str:
        """Host and port for gRPC, which is served on the same port."""
        return f"127.0.0.1:{self._port}"

    @property
    def token(self) -> str:
        return (self._dir / "keys" / "dev.token").read_text().strip()

    def start(self) -> None:
        """Starts it and waits until it says that it is ready."""
        command = [str(self._binary), "dev", "--dir", str(self._dir), "--listen", self.address]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + READY_MAX_S
        while not self._is_ready():
            ended = self._process.poll()
            if ended is not None:
                raise RuntimeError(f"the server ended with {ended} instead of becoming ready:\n{self.last_words()}")
            if time.monotonic() > end:
                raise RuntimeError(f"the server was not ready after {READY_MAX_S} s:\n{self.last_words()}")
            time.sleep(LOOK_EVERY_S)

    def kill(self) -> None:
        """SIGKILL: it gets to do nothing more."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def last_words(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-LAST_WORDS_LINES:])
        return "(it wrote nothing)"

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
