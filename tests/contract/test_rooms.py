"""Each service installs and runs alone, and who may import whom is checked: proved by planting violations."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from contracts.vocabulary import SERVICES

ROOT = Path(__file__).parents[2]

IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path[:0] = [{target!r}, {site!r}]
package = importlib.import_module({service!r})
for module in pkgutil.walk_packages(package.__path__, {service!r} + "."):
    if ".migrations" not in module.name:
        importlib.import_module(module.name)
others = [name for name in {others!r} if importlib.util.find_spec(name)]
assert not others, others
"""


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_installs_alone(service: str, tmp_path: Path) -> None:
    """From its own package, servicekit and the schemas, with no other service in sight, every module of it imports."""
    sources = []
    for folder in (f"services/{service}", "libs/servicekit", "schemas"):
        # a copy, for setuptools builds inside the source folder
        ignore = shutil.ignore_patterns("*.egg-info", "build")
        sources.append(shutil.copytree(ROOT / folder, tmp_path / "source" / folder, ignore=ignore))
    target = tmp_path / "target"
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, *sources], check=True)
    code = IMPORT_ALL.format(
        target=str(target),
        site=sysconfig.get_path("purelib"),
        service=service,
        others=[s for s in SERVICES if s != service],
    )
    # -S: without it the checkout's own packages would be found by their .pth files
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=tmp_path)
    assert list((target / service / "migrations" / "versions").glob("0001*.py")), "migrations are part of the package"


PLANTED = [
    ("services/referral/referral/domain.py", "import matching.domain", "know nothing of each other"),
    ("services/consent/consent/domain/rules.py", "import consent.service.desk", "Inside a service"),
    ("services/notifications/notifications/repository.py", "import notifications.service", "Inside a service"),
    ("services/consent/consent/upkeep.py", "import consent.retention", "Inside a service"),
    ("services/referral/referral/not_named.py", "", "Inside a service"),
    ("libs/servicekit/servicekit/sql.py", "import contracts.facts", "knows nothing of those who share it"),
    ("services/matching/matching/service.py", "import contracts.cleared_rows", "are for repositories"),
    ("deploy/throughgate/issuer.py", "import consent.domain", "imports none"),
    ("deploy/throughgate/running.py", "import throughgate.story.world", "do not depend on"),
]


@pytest.mark.parametrize(("file", "line", "rule"), PLANTED, ids=[p[0] for p in PLANTED])
def test_a_planted_violation_is_found(file: str, line: str, rule: str, tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("*.egg-info", "__pycache__", "build")
    for folder in ("services", "libs", "schemas/contracts", "deploy/throughgate"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    paths = [tmp_path / "schemas", tmp_path / "libs/servicekit", tmp_path / "deploy"]
    paths += [tmp_path / "services" / s for s in SERVICES]
    with (tmp_path / file).open("a") as planted:
        planted.write(f"\n{line}\n")
    done = subprocess.run(
        [shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or "lint-imports", "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(map(str, paths)), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    broken = [text for text in done.stdout.splitlines() if text.endswith("BROKEN")]
    assert done.returncode == 1, done.stdout + done.stderr
    assert any(rule in text for text in broken), done.stdout
