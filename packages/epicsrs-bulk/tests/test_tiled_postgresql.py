"""The same target with Tiled on PostgreSQL: runs in one database, rows in another."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deadline import until
from epicsrs_bulk import TiledTarget
from tiled_runs import MadeRun

KEY = "secret"
ROWS = 3000


def programs() -> Path:
    """Those of the newest PostgreSQL of this machine, with its contrib modules: Tiled wants btree_gin."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    assert found, "no PostgreSQL here: apt-get install postgresql"
    return found[-1].parent


@pytest.fixture
def database() -> Iterator[str]:
    """The URI of a PostgreSQL server on 127.0.0.1, up to the name of a database."""
    # It does not run as root.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    if user is not None:
        shutil.chown(folder, user)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        command = [str(programs() / program), *arguments]
        subprocess.run(command, check=True, user=user, cwd=folder, timeout=120.0, stdout=subprocess.DEVNULL)

    run("initdb", "-D", str(folder / "data"), "-U", "tiled", "--auth=trust", "--encoding=utf8")
    options = f"-h 127.0.0.1 -p {port} -k {folder}"
    run("pg_ctl", "-D", str(folder / "data"), "-l", str(folder / "log"), "-o", options, "-w", "start")
    try:
        for name in ("catalog", "tables"):
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "tiled", name)
        yield f"postgresql://tiled:none@127.0.0.1:{port}/"
    finally:
        run("pg_ctl", "-D", str(folder / "data"), "-m", "fast", "-w", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def server(database: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a Tiled server whose databases are those of a PostgreSQL server."""
    catalog, tables = f"{database}catalog", f"{database}tables"
    tiled = [sys.executable, "-m", "tiled"]
    subprocess.run([*tiled, "catalog", "init", catalog], check=True, timeout=300.0)
    (tmp_path / "arrays").mkdir()
    log = tmp_path / "tiled.log"
    storage = ["--write", str(tmp_path / "arrays"), "--write", tables]
    with log.open("wb") as said:
        serving = subprocess.Popen(
            [*tiled, "serve", "catalog", catalog, *storage, "--port", "0"],
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TILED_SINGLE_USER_API_KEY": KEY},
        )
    try:
        found = until(
            lambda: re.search(r"running on \S*(http://127\.0\.0\.1:\d+)", log.read_text()), 300.0, log.read_text
        )
        yield found[1]
    finally:
        serving.terminate()
        serving.wait(60.0)


@pytest.mark.slow
def test_runs_come_back_bit_by_bit_and_can_be_forgotten(server: str) -> None:
    target = TiledTarget(server, api_key=KEY)
    generator = np.random.default_rng(1)
    columns: dict[str, Any] = {f"x{number}": generator.random(ROWS) for number in range(50)}
    columns["x0"][::7] = np.nan
    columns["X"] = np.arange(ROWS, dtype="i4")
    columns["on"] = np.arange(ROWS) % 2 == 0
    columns["spectrum"] = generator.random((ROWS, 20)).astype("f4")
    state = [f"état {row}" for row in range(ROWS)]
    run = MadeRun(
        {
            **{key: {"dtype": "number", "dtype_numpy": values.dtype.str} for key, values in columns.items()},
            "spectrum": {"dtype": "array", "dtype_numpy": "<f4", "shape": [20]},
            "state": {"dtype": "string"},
        }
    )
    documents = run.with_rows(run.page(**columns, state=state))

    for _ in range(2):
        for name, doc in documents:
            target(name, doc)
        stream = target.connect()[run.uid]["primary"].base
        table = stream["internal"].read()
        for key, values in columns.items():
            back = stream[key].read() if key == "spectrum" else table[key].to_numpy()
            assert (back.dtype, back.tobytes()) == (values.dtype, values.tobytes()), key
        assert table["state"].tolist() == state
        assert target.connect()[run.uid].stop == documents[-1][1]
        target.forget(run.uid)
        assert run.uid not in target.connect()
