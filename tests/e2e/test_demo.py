"""What a newcomer runs first: `make demo` plays the story on the whole system, and its points hold."""

import asyncio
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("privacy")


async def test_the_story_holds_in_every_point() -> None:
    demo = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("throughgate"),
        "demo",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(demo.communicate(), 240)
    finally:
        if demo.returncode is None:
            demo.terminate()
            await demo.wait()
    said = output.decode()
    assert demo.returncode == 0, said[-3000:]
    assert "The story held in every point" in said
