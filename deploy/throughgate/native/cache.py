"""Things that are made once and kept outside the checkout, safely when two clones make them at the same
moment.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from throughgate.native.process import NativeError


def user_cache() -> Path:
    """`$XDG_CACHE_HOME/throughgate`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "throughgate"


def shared_cache() -> Path:
    """A folder that other system users can look into, for a server that root has to run as someone else.

    Raises NativeError when the folder is there already and is not ours alone to write: what is in it gets
    run.
    """
    folder = Path("/var/tmp") / f"throughgate-{os.geteuid()}"  # noqa: S108 - checked below
    folder.mkdir(mode=0o755, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise NativeError(f"{folder} belongs to someone else or can be written by others: remove it.")
    folder.chmod(0o755)
    return folder


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock that belongs to `target`, across processes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, made by `make(folder)` in a folder beside it and moved into place whole, if it is not there
    yet.
    """
    if target.exists():
        return target
    with locked(target):
        if not target.exists():
            draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                make(draft)
                draft.rename(target)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
    return target
