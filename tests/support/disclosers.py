"""The disclosers of two shards, kept running by a test that stops and kills them."""

import asyncio
import signal
import sys

from throughgate.native.process import Process, free_port
from throughgate.system import System

SHARDS = 2
SETTINGS = {
    "THROUGHGATE_SHARDS": str(SHARDS),
    "THROUGHGATE_SEND_SECONDS": "3",
    "THROUGHGATE_SESSION_SECONDS": "7",
}
"""So short that a takeover takes seconds."""


class Disclosers:
    """Runs one discloser a shard in the place of the system's own one; `keep` starts again what ended."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._ports = [free_port() for _ in range(SHARDS)]
        self._processes: list[Process] = []
        self._faults: dict[int, str] = {}
        """For the next life of a shard's process."""
        system.stop_process("consent.discloser")
        for shard in range(SHARDS):
            self._processes.append(self._process(shard))
            self._processes[shard].start()

    def _process(self, shard: int) -> Process:
        environment = self._system.environment("consent.discloser") | {
            "THROUGHGATE_SHARD": str(shard),
            "THROUGHGATE_HTTP_PORT": str(self._ports[shard]),
            "THROUGHGATE_FAULT": self._faults.pop(shard, ""),
        }
        log = self._system.log("consent.discloser").with_name(f"discloser-{shard}.log")
        return Process(f"discloser {shard}", [sys.executable, "-m", "consent.discloser"], log=log, env=environment)

    async def keep(self) -> None:
        """Start again what ends, until cancelled."""
        while True:
            for shard, process in enumerate(self._processes):
                if not process.running:
                    self._processes[shard] = self._process(shard)
                    self._processes[shard].start()
            await asyncio.sleep(0.05)

    async def pause(self, shard: int, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        process = self._processes[shard]
        process.kill(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        process.kill(signal.SIGCONT)

    def kill(self, shard: int, point: str = "") -> None:
        """SIGKILL; with a `point`, the next life ends there by the same signal."""
        if point:
            self._faults[shard] = f"{point}:kill:2"
        self._processes[shard].kill()

    def stop(self) -> None:
        """End them."""
        for process in self._processes:
            process.stop()
