"""Each adapter in an environment of its own, with nothing of ours in it but a native client, on the simulated beamline.

python ci/alone.py versions      # the versions of native to build besides this one, one a line
python ci/alone.py run SCRATCH   # with SCRATCH/wheels, and SCRATCH/natives that holds native in all these versions
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from release import ROOT, version

PROGRAMS = ROOT / "integration" / "tests" / "programs"
# What each adapter's environment must not hold, whatever brings it there.
TRANSPORTS = {"aioca", "caproto", "p4p", "pyepics"}
ADAPTERS = {
    "ophyd-epicsrs-sync": ("alone_sync.py", TRANSPORTS | {"ophyd-async"}),
    "ophyd-epicsrs-async": ("alone_async.py", TRANSPORTS | {"ophyd"}),
    "epicsrs-bulk": ("alone_bulk.py", TRANSPORTS | {"ophyd", "ophyd-async"}),
}
LICENCES = {"LICENSE", "epics-rs.txt", "third-party.txt"}
# For a machine that is busy with all of them.
LIMIT = 180.0


def floor(adapter: str) -> str:
    """The oldest native that it declares, as major.minor."""
    project = tomllib.loads((ROOT / "packages" / adapter / "pyproject.toml").read_text())["project"]
    (declared,) = (need for need in project["dependencies"] if need.startswith("epicsrs-native"))
    bounds = re.fullmatch(r"epicsrs-native>=((\d+)\.\d+),<(\d+)", declared)
    assert bounds is not None, f"{adapter}: {declared}"
    assert int(bounds[3]) == int(bounds[2]) + 1, f"{adapter}: {declared}"
    return bounds[1]


def this_native() -> str:
    """As major.minor."""
    return version(ROOT / "packages" / "epicsrs-native").rpartition(".")[0]


def next_native() -> str:
    """The minor version after this one, as major.minor."""
    major, minor = this_native().split(".")
    return f"{major}.{int(minor) + 1}"


def versions() -> list[str]:
    """The next minor, and each that is some adapter's oldest."""
    return [f"{number}.0" for number in sorted({next_native(), *map(floor, ADAPTERS)} - {this_native()})]


def run(command: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Its end, whatever that was."""
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)


def done(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What it printed; AssertionError with all that it said where it fails."""
    ended = run(command, environment)
    assert ended.returncode == 0, f"{' '.join(command)}: exit status {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout.strip()


class Environment:
    """A fresh environment, outside the repository."""

    def __init__(self, folder: Path, *wheels: Path) -> None:
        self._folder = folder
        done(["uv", "venv", "--quiet", "--no-project", f"--python={sys.executable}", str(folder)])
        self.install(*wheels)

    def install(self, *wheels: Path, options: tuple[str, ...] = ()) -> None:
        done(["uv", "pip", "install", "--quiet", f"--python={self._folder}", *options, *map(str, wheels)])

    def python(self, *arguments: str) -> list[str]:
        """A command line; -P keeps this repository out of what can be imported."""
        return [str(self._folder / "bin" / "python"), "-P", *arguments]

    def installed(self) -> dict[str, str]:
        """Distributions and their versions."""
        code = "from importlib import metadata\nfor d in metadata.distributions(): print(d.name.lower(), d.version)"
        pairs = (line.split() for line in done(self.python("-c", code)).splitlines())
        return {re.sub(r"[-_.]+", "-", name): number for name, number in pairs}

    def site_packages(self) -> Path:
        return Path(done(self.python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")))


def wheel(folder: Path, name: str, number: str = "") -> Path:
    """The one wheel of a distribution in a folder."""
    (found,) = folder.glob(f"{name.replace('-', '_')}-{number}*.whl")
    return found


def unexpected(adapter: str, installed: Iterable[str]) -> list[str]:
    """What an environment with this adapter holds and must not."""
    ours = {name for name in installed if "epicsrs" in name} - {adapter, "epicsrs-native"}
    return sorted(ours | ADAPTERS[adapter][1].intersection(installed))


def alone(adapter: str, scratch: Path, prefix: str, variables: dict[str, str]) -> list[str]:
    """An adapter with this native, with the oldest it declares, with the next, and asking for a newer than there is."""
    program, forbidden = ADAPTERS[adapter]
    natives = scratch / "natives"
    lines: list[str] = []
    environment = Environment(
        scratch / adapter, wheel(natives, "epicsrs-native", f"{this_native()}."), wheel(scratch / "wheels", adapter)
    )
    installed = environment.installed()
    assert not (found := unexpected(adapter, installed)), f"{adapter} brings {', '.join(found)}"
    lines.append(f"{adapter}: {len(installed)} distributions, none of {', '.join(sorted(forbidden))}")

    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EPICS_", "PYTHON", "OPHYD"))}
    for number in dict.fromkeys((this_native(), floor(adapter), next_native())):
        if number != this_native():
            environment.install(wheel(natives, "epicsrs-native", f"{number}."))
        said = done(environment.python(str(PROGRAMS / program), prefix), clean | variables)
        lines.append(f"{adapter} on native {number}: {said}")

    lines.append(pin(adapter, environment, natives))
    return lines


def pin(adapter: str, environment: Environment, natives: Path) -> str:
    """What an adapter says that is newer than the native client beside it."""
    environment.install(wheel(natives, "epicsrs-native", f"{this_native()}."), options=("--no-deps",))
    module = adapter.replace("-", "_")
    init = environment.site_packages() / module / "__init__.py"
    before = f"require_abi({floor(adapter).replace('.', ', ')}, "
    text = init.read_text()
    assert before in text, f"{adapter}: pyproject.toml and require_abi() do not agree"
    # A new file: the installed one is a link to uv's cache.
    init.unlink()
    init.write_text(text.replace(before, f"require_abi({next_native().replace('.', ', ')}, "))
    ended = run(environment.python("-c", f"import {module}"))
    sentence = ended.stderr.strip().splitlines()[-1]
    wanted = (
        f"ImportError: {adapter} needs epicsrs-native>={next_native()},<{int(this_native().split('.')[0]) + 1}; found "
    )
    assert ended.returncode == 1, ended
    assert sentence.startswith(wanted + this_native()), sentence
    return f"a newer {adapter} says: {sentence}"


def bundled(scratch: Path) -> str:
    """What native's wheel from the sdist brings along: licences, an SBOM, and no sibling."""
    number = next_native()
    environment = Environment(scratch / "native", wheel(scratch / "natives", "epicsrs-native", f"{number}."))
    assert {name for name in environment.installed() if "epicsrs" in name} == {"epicsrs-native"}
    abi = done(environment.python("-c", "import epicsrs_native; print('{}.{}'.format(*epicsrs_native.ABI))"))
    assert abi == number, abi
    (folder,) = environment.site_packages().glob("epicsrs_native-*.dist-info")
    licences = {file.name for file in (folder / "licenses").rglob("*") if file.is_file()}
    assert licences == LICENCES, licences
    (bill,) = (folder / "sboms").glob("*.cyclonedx.json")
    return f"native {number} from its sdist: licences {', '.join(sorted(licences))}; {bill.name}"


def everything(scratch: Path) -> None:
    """All adapters at once."""
    from epicsrs_beamline import Beamline

    with Beamline() as beamline, ThreadPoolExecutor() as pool:
        jobs = [pool.submit(alone, adapter, scratch, beamline.prefix, beamline.env) for adapter in ADAPTERS]
        for lines in (pool.submit(lambda: [bundled(scratch)]), *jobs):
            print("\n".join(lines.result()), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["versions"]:
            print("\n".join(versions()))
        case ["run", folder]:
            everything(Path(folder))
        case _:
            sys.exit(__doc__)
