"""Run a process of ours under a sampler: `sampled.py consent.worker OUT.json`. Started by bench/pipeline.py --profile.

It looks at the stack after each millisecond of CPU (or as finely as the kernel counts), which costs and bends little,
and times some steps by the wall clock, waiting included. SIGUSR2 begins; SIGUSR2 again ends and writes OUT.
"""

import functools
import gc
import importlib
import inspect
import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import greenlet  # type: ignore[import-untyped]

from servicekit.run import work

STEPS = {
    "consent.worker": [
        "servicekit.worker:Worker.take",
        "servicekit.worker:Worker._applied",
        "servicekit.worker:Worker._answer",
        "servicekit.worker:Worker._commit_offsets",
        "servicekit.db:Database.run",
        "aiokafka:AIOKafkaConsumer.getmany",
        "consent.service.intake:_read",
        "consent.service.intake:_apply",
        "consent.service.register:load",
        "consent.repository.answers:known",
        "consent.service.finding:open_desk",
        "consent.repository.clients:find",
        "consent.repository.clients:lock",
        "servicekit.sql:time_now",
        "consent.repository.clients:load",
        "consent.repository.changes:Changes.write",
    ],
    "consent.discloser": [
        "consent.discloser:Discloser._decide",
        "consent.discloser:Discloser._send",
        "consent.service.disclosing:finish_cycle",
        "consent.service.disclosing:decide_cycle",
        "consent.repository.recorded:facts_of",
        "consent.service.disclosing:decide",
        "consent.service.disclosing:explain",
        "consent.repository.queue:claim",
        "consent.repository.ledger:enter",
        "consent.repository.ledger:write_down",
        "aiokafka:AIOKafkaProducer.begin_transaction",
        "aiokafka:AIOKafkaProducer.commit_transaction",
        "servicekit.kafka:send_all",
    ],
}
COLLECTION = "garbage collection"
OURS = ("consent", "servicekit", "contracts")


class Sampler:
    """Counts where the CPU time goes, between two signals."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._on = False
        self._cpu = 0.0
        self._seen = 0.0
        self._alone: defaultdict[str, float] = defaultdict(float)
        self._total: defaultdict[str, float] = defaultdict(float)
        self._collections: list[float] = []
        self._collecting = 0.0
        self.steps: dict[str, list[float]] = {}
        self.missing: list[str] = []
        """Steps that are not there any more under that name."""
        gc.callbacks.append(self._collect)
        signal.signal(signal.SIGPROF, self._look)
        signal.signal(signal.SIGUSR2, self._toggle)

    def _toggle(self, *_: object) -> None:
        if not self._on:
            self._on = True
            self._cpu = self._seen = time.process_time()
            self._collections.clear()
            self.steps.clear()
            signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
            return
        signal.setitimer(signal.ITIMER_PROF, 0)
        spent = time.process_time() - self._cpu
        found = {
            "cpu": spent,
            "collections": len(self._collections),
            "collecting": sum(self._collections),
            "self": self._alone,
            "total": self._total,
            "steps": self.steps,
            "missing": self.missing,
        }
        draft = self._out.with_suffix(".draft")
        draft.write_text(json.dumps(found))
        draft.rename(self._out)

    def _collect(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = time.process_time()
        else:
            self._collections.append(time.process_time() - self._collecting)

    def _look(self, _: int, frame: FrameType | None) -> None:
        now = time.process_time()
        weight, self._seen = now - self._seen, now  # signals that came during one call in C are one
        seen: set[str] = set()
        here: Any = greenlet.getcurrent()
        first = True
        while frame is not None and here is not None:
            place = _place(frame)
            if first:
                self._alone[place] += weight
                first = False
            if place.startswith(OURS):
                seen.add(place)
            frame = frame.f_back
            while frame is None and (here := here.parent) is not None:
                frame = here.gr_frame  # SQLAlchemy runs its statements in greenlets
        for place in seen:
            self._total[place] += weight

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its calls counted and timed by the wall clock."""

        def add(begun: float) -> None:
            entry = self.steps.setdefault(name, [0, 0.0])
            entry[0] += 1
            entry[1] += time.perf_counter() - begun

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def waited(*args: Any, **more: Any) -> Any:
                begun = time.perf_counter()
                try:
                    return await function(*args, **more)
                finally:
                    add(begun)

            return waited

        @functools.wraps(function)
        def called(*args: Any, **more: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                add(begun)

        return called


def _place(frame: FrameType) -> str:
    """Where a frame is: `library:file.function` of others, `package.module:function` of ours."""
    if frame.f_code is Sampler._collect.__code__:
        return COLLECTION
    library, _, rest = str(frame.f_globals.get("__name__", "?")).partition(".")
    name = frame.f_code.co_qualname
    return f"{library}:{rest}.{name}" if rest else f"{library}:{name}"


def watch(sampler: Sampler, module: str) -> None:
    """Put a timer around each step of `module`, also where it was imported by name."""
    for step in STEPS.get(module, ()):
        home, _, path = step.partition(":")
        owner: Any = importlib.import_module(home)
        *classes, name = path.split(".")
        for part in classes:
            owner = getattr(owner, part, None)
        plain = getattr(owner, name, None)
        if plain is None:
            sampler.missing.append(step)
            continue
        timed = sampler.timed(step, plain)
        setattr(owner, name, timed)
        for other in [m for n, m in sys.modules.items() if n.startswith(OURS)]:
            if vars(other).get(name) is plain:
                setattr(other, name, timed)


def main() -> None:
    """Run the process as its own entry point does."""
    name, out = sys.argv[1], Path(sys.argv[2])
    module = importlib.import_module(name)
    sampler = Sampler(out)
    watch(sampler, name)
    settings = module.DiscloserSettings() if name == "consent.discloser" else module.WorkerSettings()
    work(functools.partial(module.main, settings), settings, name.replace(".", "-"))


if __name__ == "__main__":
    main()
