"""Where the door's worker and discloser spend their time, for `make bench-pipeline ARGS=--profile`."""

import json
import signal
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bench.common import DISCLOSER, WORKER, Clients, Side
from throughgate.native.process import NativeError, Process
from throughgate.system import System

HERE = Path(__file__).resolve().parent


def profile(system: System, door: Side, clients: Clients, events: int) -> str:
    """Run the door once more with both processes under bench/sampled.py; give what they say, as text."""
    folder = system.run_dir
    processes: dict[str, Process] = {}
    for name in (WORKER, DISCLOSER):
        system.stop_process(name)
        out = folder / f"{name}.json"
        processes[name] = Process(
            f"{name}, sampled",
            [sys.executable, HERE / "sampled.py", name, out],
            log=system.log(name),
            env=system.environment(name),
            cwd=system.run_dir,
        )
        processes[name].start()
    try:
        for name in processes:
            _wait_ready(system, name)
        door.publish(clients.recorded(1000))
        door.reader.take(1000)
        batch = list(clients.recorded(events))
        door.first = lambda: processes[WORKER].pid
        for process in processes.values():
            process.kill(signal.SIGUSR2)  # begin
        seconds, _ = door.drain(batch)
        for process in processes.values():
            process.kill(signal.SIGUSR2)  # end, and write
        reports = [_report(name, folder / f"{name}.json", events, seconds) for name in processes]
    finally:
        for process in processes.values():
            process.stop()
    return f"{events} events in {seconds:.2f} s under the sampler.\n\n" + "\n".join(reports)


def _wait_ready(system: System, name: str) -> None:
    until = time.monotonic() + 60
    while True:
        with suppress(OSError), urllib.request.urlopen(system.process_url(name) + "/readyz", timeout=2) as answer:
            if answer.status == 200:
                return
        if time.monotonic() > until:
            raise NativeError(f"{name} was not ready under the sampler; see {system.log(name)}.")
        time.sleep(0.05)


def _report(name: str, path: Path, events: int, seconds: float) -> str:
    until = time.monotonic() + 10
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.05)
    found = json.loads(path.read_text())
    samples = max(1e-9, sum(found["self"].values()))
    lines = [f"{name}: {found['cpu']:.2f} s of CPU, {1e6 * found['cpu'] / events:.0f} us an event"]
    by_part: dict[str, float] = defaultdict(float)
    for place, count in found["self"].items():
        by_part[place.partition(":")[0]] += count
    collected = found["collecting"] / max(found["cpu"], 1e-9)
    lines.append(
        f"  {collected:.0%} of it in {found['collections']} garbage collections, in whichever function they began"
    )
    lines.append("  CPU by library (C code counts at the Python code that runs next)")
    lines += _shares(by_part, samples, 12)
    lines.append("  CPU by function of ours, with what it calls")
    lines += _shares(found["total"], samples, 32)
    lines.append("  CPU by function, alone")
    lines += _shares(found["self"], samples, 20)
    lines.append("  time by step, waiting included (share of the whole run; steps hold each other)")
    lines += [
        f"    {1e6 * spent / events:7.1f} us/event {spent / seconds:6.1%}  {step} ({calls} calls)"
        for step, (calls, spent) in sorted(found["steps"].items(), key=lambda item: -item[1][1])
    ]
    if found["missing"]:
        lines.append(f"    not found, so to be corrected in bench/sampled.py: {', '.join(found['missing'])}")
    return "\n".join(lines) + "\n"


def _shares(counts: Mapping[str, float], samples: float, most: int) -> list[str]:
    ranked = sorted(counts.items(), key=lambda item: -item[1])[:most]
    return [f"    {count / samples:6.1%}  {place}" for place, count in ranked]
