"""What is secret stays where it is, and what runs code is not in the source."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import raycomp
from raycomp.api.job_builder import inputs_directory
from raycomp.api.run import open_run
from raycomp.config.loader import parse_job
from raycomp.errors import UserError, redacted
from raycomp.runtime.cluster import submission as submit
from raycomp.storage.environment import describe_environment
from raycomp.storage.location import fetched, opened
from raycomp.storage.remote import refuse_secrets

SOURCE = Path(raycomp.__file__).parent
CANARY = "canary-6f1d0b2a"
SECRETS = ("RAY_AUTH_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)


@pytest.mark.usefixtures("secrets")
def test_the_environment_that_a_run_records_holds_no_variable() -> None:
    found = describe_environment()
    assert "torch" in found
    assert CANARY not in json.dumps(found)


class _Api:
    """Stands for Ray's client; keeps what it is given."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}

    def submit_job(self, **given: Any) -> None:
        self.given = given
        folder = Path(given["runtime_env"]["working_dir"])
        self.files = {
            str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
        }


@pytest.mark.usefixtures("secrets")
def test_what_is_submitted_holds_no_token_no_data_and_a_constant_command(
    tiny_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = _Api()
    monkeypatch.setattr(submit, "connect_to_dashboard", lambda _: api)
    tiny_job["run"]["name"] = "x"
    tiny_job["budget"][0]["name"] = "half"
    submit.submit(parse_job(tiny_job), "/mnt/$(touch x);runs", None)
    assert api.given["entrypoint"] == submit.ENTRYPOINT
    assert CANARY not in json.dumps(api.given)
    assert not any(CANARY.encode() in data for data in api.files.values())
    endings = {Path(name).suffix for name in api.files}
    assert endings <= {".py", ".j2", ".json", ".sh", ".typed"}
    assert json.loads(api.files[submit.REQUEST])["storage"] == "/mnt/$(touch x);runs"


SECRET_URLS = [
    f"s3://AKIA1:{CANARY}@bucket/runs",
    # Secrets of AWS contain slashes.
    f"s3://AKIA1:ab/{CANARY}/cd@bucket/runs?region=eu-west-1",
    f"s3://{CANARY}@bucket/runs",
    f"s3://bucket/runs?access_key=AKIA1&secret_key={CANARY}",
    f"s3://bucket/runs?region=eu-west-1&session_token={CANARY}",
    f"gs://bucket/runs?access_token={CANARY}",
    f"abfs://box:{CANARY}@account.dfs.core.windows.net/runs",
    f"abfs://box@account.dfs.core.windows.net/runs?sig={CANARY}",
    f"hdfs://user:{CANARY}@node:8020/runs",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_a_key_in_a_url_is_refused_and_never_printed(
    url: str, tiny_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAYCOMP_WORK", str(tmp_path))
    api = _Api()
    monkeypatch.setattr(submit, "connect_to_dashboard", lambda _: api)
    job = parse_job(tiny_job)

    def run() -> None:
        with opened(url, "tiny-1"):
            pass

    uses: list[Callable[[], Any]] = [
        run,
        lambda: fetched(f"{url}"),
        lambda: open_run(url),
        lambda: inputs_directory(url),
        lambda: submit.submit(job, url, None),
    ]
    for use in uses:
        with pytest.raises(UserError) as raised:
            use()
        assert CANARY not in str(raised.value)
        assert "AKIA1" not in str(raised.value)
        assert "has credentials in its URL" in str(raised.value)
    assert api.files == {}
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/runs?region=eu-west-1&endpoint_override=localhost:9000&scheme=http",
        "gs://anonymous@bucket/runs",
        "hdfs://user@node:8020/a/b@c",
        "hdfs://node:8020/a:b@c/d",
        "abfs://box@account.dfs.core.windows.net/runs",
        "file:///mnt/a:b@c",
    ],
)
def test_a_url_without_a_key_is_used(url: str) -> None:
    refuse_secrets(url)
    assert redacted(url) == url


def test_messages_hide_what_is_secret_in_any_url() -> None:
    text = f"No answer at http://me:{CANARY}@host:8265/x?token={CANARY} and s3://{CANARY}@b"
    assert str(UserError(text)) == "No answer at http://***@host:8265/x?token=*** and s3://***@b"
    assert redacted("a: b@c, see https://docs.ray.io?version=2") == (
        "a: b@c, see https://docs.ray.io?version=2"
    )
    assert pickle.loads(pickle.dumps(UserError("x"))).args == ("x",)


def names(tree: ast.AST) -> list[str]:
    """Dotted names of everything that is imported or called in a module."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{a.name}" for a in node.names]
        elif isinstance(node, ast.Call):
            found.append(ast.unparse(node.func))
    return found


FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "torch.load", "pd.read_pickle", "os.system", "os.popen",
    "yaml.load", "shutil.unpack_archive",
}  # fmt: skip
MODULES = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "tarfile", "zipfile",
           "subprocess", "ctypes")  # fmt: skip


def test_nothing_is_unpickled_unpacked_or_run() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        for name in names(ast.parse(path.read_text())):
            if name in FORBIDDEN or name.split(".")[0] in MODULES:
                wrong.append(f"{path.relative_to(SOURCE)}: {name}")
    # glibc is asked to give freed pages back: no other way exists. The memory of a deployed file is
    # measured in a process of its own: this Python, this module, without a shell. macOS tells the name of
    # its CPU to a program of its own only: an absolute path and constants, without a shell.
    allowed = (
        "runtime/cluster/memory.py: ctypes",
        "deployment/peak_memory.py: subprocess",
        "deployment/cpu.py: subprocess",
    )
    assert [line for line in wrong if not line.startswith(allowed)] == []


def test_the_check_above_sees_what_it_forbids() -> None:
    tree = ast.parse("import pickle\nfrom tarfile import open\neval('1')\ntorch.load(x)")
    assert {"pickle", "tarfile.open", "eval", "torch.load"} <= set(names(tree))


def test_arrays_are_loaded_without_pickles() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
                assert any(
                    k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords
                )


def test_code_of_models_is_trusted_by_the_setting_or_for_our_own_export() -> None:
    ours = {"encoder/export.py", "runtime/pipeline/deploy.py", "deployment/peak_memory.py"}
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword)
        and node.arg == "trust_remote_code"
        and ast.unparse(node.value) == "True"
    }
    assert found <= ours
