"""A run at a real S3 server: who may write, a killed owner, and a take-over by another machine."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from raycomp.errors import UserError
from raycomp.storage import bucket_lease
from raycomp.storage import mirror as module
from raycomp.storage.bucket_lease import BucketLeaseStore
from raycomp.storage.lease import Lease
from raycomp.storage.location import fetched, opened
from raycomp.storage.mirror import Mirror
from raycomp.storage.remote import open_url

RUN = "job-12345678"
ROOT = Path(__file__).parents[2]

# Owns the run, writes a file, copies it, and goes on until it is killed. It hides its machine, as an
# owner on another node does: the next owner can only wait for its heartbeat.
OWNER = """
import sys, time
from raycomp.storage import lease_files, location, mirror
lease_files._machine = lambda: ""
mirror.DEAD = 2.0
location.EVERY = 0.2
with location.opened(sys.argv[1], sys.argv[2]) as folder:
    (folder / sys.argv[2] / "tables").mkdir(parents=True, exist_ok=True)
    (folder / sys.argv[2] / "tables" / "a.parquet").write_text(sys.argv[3])
    print("owner", flush=True)
    time.sleep(60)
"""

# Waits for a common start, tries to own the run, and says how that ended.
STARTER = """
import sys, time
from raycomp.errors import UserError
from raycomp.storage import mirror
mirror.DEAD = 1.0
mine = mirror.Mirror(sys.argv[1], sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
try:
    mine.take()
    print("owner", flush=True)
    for _ in range(40):
        mine.beat()
        time.sleep(0.1)
except UserError as error:
    print("locked" if "is locked by process" in str(error) else error, flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"{host}:{port}"
    moto.stop()


@pytest.fixture
def url(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place in a bucket; this process is one of the machines."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("RAYCOMP_WORK", str(tmp_path / "one")),
    ):
        monkeypatch.setenv(name, value)
    bucket = f"box-{os.getpid()}"
    options = f"?endpoint_override={server}&scheme=http&region=us-east-1"
    remote, _ = fs.FileSystem.from_uri(f"s3://{bucket}/{options}&allow_bucket_creation=true")
    remote.create_dir(bucket)
    return f"s3://{bucket}/{tmp_path.name}{options}"


def start(script: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a process that works as another machine."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "RAYCOMP_WORK": str(folder)},
    )  # fmt: skip


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def files_at(url: str) -> dict[str, str]:
    """Return the files of the run in the bucket, without those of the lease."""
    place, _, options = url.partition("?")
    remote = open_url(f"{place}/{RUN}?{options}")
    infos = remote.get_file_info(fs.FileSelector("", recursive=True, allow_not_found=True))
    names = [i.path for i in infos if i.type == fs.FileType.File and not i.base_name.startswith("holder")]
    return {name: remote.open_input_stream(name).read().decode() for name in names}


def test_a_run_is_copied_and_continued_elsewhere(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(url, RUN) as folder:
        (folder / RUN / "tables").mkdir(parents=True)
        (folder / RUN / "tables" / "a.parquet").write_text("rows")
        (folder / RUN / "a.json").write_text("{}")
    assert files_at(url) == {"tables/a.parquet": "rows", "a.json": "{}"}

    uploads: list[str] = []
    upload = Mirror._upload
    monkeypatch.setattr(Mirror, "_upload", lambda self, n, c: (uploads.append(n), upload(self, n, c)))
    with opened(url, RUN) as folder:
        (folder / RUN / "b.json").write_text("[]")
    assert uploads == ["b.json"], "a restart uploads only what changed"

    monkeypatch.setenv("RAYCOMP_WORK", str(tmp_path / "two"))
    with opened(url, RUN) as folder:
        assert (folder / RUN / "tables" / "a.parquet").read_text() == "rows"
        (folder / RUN / "a.json").unlink()
    assert files_at(url) == {"tables/a.parquet": "rows", "b.json": "[]"}
    place, _, options = url.partition("?")
    copy = fetched(f"{place}/{RUN}?{options}", lambda name: name.endswith(".parquet"))
    assert (copy / "tables" / "a.parquet").read_text() == "rows"
    assert "onditional" not in caplog.text


def test_a_killed_owner_on_another_machine_is_waited_for_and_replaced(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = start(OWNER, tmp_path / "two", url, RUN, "rows of the first")
    assert read_line(owner) == "owner"
    monkeypatch.setattr(module, "DEAD", 2.0)
    with pytest.raises(UserError, match=r"is locked by process \d+ on .*, which has just sent a heartb"):
        Mirror(url, RUN).take()
    deadline = time.monotonic() + 20
    while not files_at(url):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    started, lines = time.monotonic(), list[str]()
    with opened(url, RUN, lines.append) as folder:
        assert 1.9 < time.monotonic() - started < 15
        assert (folder / RUN / "tables" / "a.parquet").read_text() == "rows of the first"
        (folder / RUN / "tables" / "a.parquet").write_text("rows of the second")
    assert f"belongs to process {owner.pid} on " in lines[0]
    assert "Waiting up to 2 s" in lines[0]
    assert files_at(url) == {"tables/a.parquet": "rows of the second"}


def test_an_owner_that_was_suspended_writes_no_more(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = start(OWNER, tmp_path / "two", url, RUN, "old")
    assert read_line(owner) == "owner"
    owner.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(module, "DEAD", 2.0)
    with opened(url, RUN) as folder:
        owner.send_signal(signal.SIGCONT)
        (folder / RUN / "tables").mkdir(parents=True, exist_ok=True)
        (folder / RUN / "tables" / "a.parquet").write_text("new")
        time.sleep(2)
    owner.kill()
    owner.communicate()
    assert files_at(url) == {"tables/a.parquet": "new"}


def test_of_many_that_start_at_once_one_wins(url: str, tmp_path: Path) -> None:
    """Each reads that there is no owner before any of them has written."""
    starters = [start(STARTER, tmp_path / str(i), url, RUN) for i in range(3)]
    assert [read_line(process) for process in starters] == ["ready"] * 3
    for process in starters:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    results = sorted(read_line(process) for process in starters)
    for process in starters:
        process.kill()
        process.communicate()
    assert results == ["locked", "locked", "owner"]


def store(url: str) -> BucketLeaseStore:
    place, _, options = url.partition("?")
    run_url = f"{place}/{RUN}?{options}"
    return BucketLeaseStore(open_url(run_url), run_url)


def test_of_many_threads_one_creates_a_file(url: str) -> None:
    stores = [store(url) for _ in range(8)]
    results: list[bool] = []

    def create(number: int) -> None:
        results.append(stores[number].create("holder.000001.json", b'{"%d": 0}' % number))

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]


@pytest.mark.parametrize("fault", ["ignored", "refused"])
def test_a_store_without_conditional_writes_is_said_and_still_has_one_owner(
    fault: str, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put = obstore.put

    def put_without_condition(place: Any, name: str, content: bytes, *, mode: str) -> Any:
        if fault == "refused":
            raise obstore.exceptions.NotImplementedError("If-None-Match is not implemented")
        return put(place, name, content)

    monkeypatch.setattr(obstore, "put", put_without_condition)
    monkeypatch.setattr(bucket_lease, "SETTLE_SECONDS", 1.0)
    monkeypatch.setattr("raycomp.storage.lease.POLL_SECONDS", 0.1)
    leases = [Lease(store(url), "holder", "Run x", dead_seconds=60.0) for _ in range(2)]
    owners: list[Lease] = []
    together = threading.Barrier(2)
    refused = threading.Event()

    def compete(lease: Lease) -> None:
        together.wait()
        try:
            lease.acquire()
        except UserError:
            refused.set()
            return
        owners.append(lease)
        while not refused.wait(0.1) and len(owners) == 1:
            lease.renew()

    threads = [threading.Thread(target=compete, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(owners) == 1
    assert "Two machines that start this run within" in caplog.text


def test_keys_of_the_credentials_file_are_used(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """obstore reads the environment only, but pyarrow and the AWS command line read the file."""
    file = tmp_path / "credentials"
    file.write_text("[work]\naws_access_key_id = a%b\naws_secret_access_key = c\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert store(url).create("holder.000001.json", b"{}")
    assert "onditional" not in caplog.text


def test_wrong_credentials_are_one_message(url: str) -> None:
    place, _, options = url.partition("?")
    with pytest.raises(UserError, match="credentials"):
        Mirror(f"{place.replace('box-', 'no-such-box-')}?{options}", RUN).take()
