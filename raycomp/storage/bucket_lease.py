"""The files of a lease at a URL. A store with conditional writes lets one of several processes win.

pyarrow cannot ask a store to create an object only if it does not exist. obstore can, on S3 and on Google
Cloud Storage. On other services, and on stores that ignore the condition, a file is read again after a
pause.
"""

from __future__ import annotations

import configparser
import contextlib
import importlib.util
import logging
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from raycomp.errors import UserError, first_line
from raycomp.storage.lease_files import DirectoryLeaseStore, LeaseStore
from raycomp.storage.remote import upload

SETTLE_SECONDS = 3.0
"""Pause before a file is read again where the store does not support conditions."""

REQUEST_SECONDS = 10
RETRY_SECONDS = 20

AWS_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def open_lease_store(remote: fs.SubTreeFileSystem, url: str) -> LeaseStore:
    """Return the store for the lease of a run.

    Args:
        remote: File system below the run's URL.
        url: URL of the run, with its options.
    """
    if remote.base_fs.type_name == "local":
        return DirectoryLeaseStore(Path(remote.base_path))
    return BucketLeaseStore(remote, url)


class BucketLeaseStore:
    """Files of a lease in a bucket.

    Args:
        remote: File system below the run's URL.
        url: URL of the run, with its options.
    """

    def __init__(self, remote: fs.SubTreeFileSystem, url: str) -> None:
        self._remote = remote
        self._url = url
        self._is_conditional: bool | None = None

    def names(self) -> list[str]:
        """Return the names of the files next to the lease.

        Raises:
            UserError: The storage cannot be read.
        """
        try:
            infos = self._remote.get_file_info(fs.FileSelector("", allow_not_found=True))
        except (OSError, pa.ArrowException) as error:
            raise _access_error(self._url, "read", error) from None
        return [info.base_name for info in infos if info.type == fs.FileType.File]

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if it does not exist."""
        try:
            with self._remote.open_input_stream(name) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    def create(self, name: str, content: bytes) -> bool:
        """Create a file with its content at once; return False if it exists."""
        if self._is_conditional is not False:
            created = self._create_conditionally(name, content)
            if created is not None:
                return created
        return self._create_and_look(name, content)

    def replace(self, name: str, content: bytes) -> None:
        """Write a file. A reader sees the old or the new content."""
        upload(self._remote, name, content)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._remote.delete_file(name)

    def _create_conditionally(self, name: str, content: bytes) -> bool | None:
        """Create a file by a conditional write; return None if the store does not support one."""
        try:
            was_created = self._put_if_absent(name, content)
            # A store that ignores the condition answers twice that the file is new.
            if was_created and self._is_conditional is None and self._put_if_absent(name, content):
                raise NotImplementedError("it ignores the condition")
        except Exception as error:
            # The only common class of obstore's errors is Exception.
            if self._is_conditional:
                raise OSError(first_line(error)) from None
            self._is_conditional = False
            logging.getLogger("raycomp").warning(
                "Conditional writes to %s fail (%s). Two machines that start this run within %.0f s may "
                "both write.",
                self._url.partition("?")[0],
                first_line(error),
                SETTLE_SECONDS,
            )
            return None

        self._is_conditional = True
        # If the answer to the first of two tries was lost, the file exists and is this process's own.
        return was_created or self.read(name) == content

    def _put_if_absent(self, name: str, content: bytes) -> bool:
        """Create an object unless it exists; return whether it was created."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            obstore.put(_open_obstore(self._remote, self._url), name, content, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def _create_and_look(self, name: str, content: bytes) -> bool:
        """Create a file without a condition, and see later whether another process did the same."""
        if self.read(name) not in (None, content):
            return False
        try:
            upload(self._remote, name, content)
        except (OSError, pa.ArrowException) as error:
            raise _access_error(self._url, "written", error) from None
        time.sleep(SETTLE_SECONDS)
        return self.read(name) == content


def _access_error(url: str, verb: str, error: Exception) -> UserError:
    return UserError(
        f"The storage {url.partition('?')[0]} cannot be {verb} ({first_line(error)}). Check its name and "
        "your credentials."
    )


def _open_obstore(remote: fs.SubTreeFileSystem, url: str) -> Any:
    """Return obstore's view of the same place.

    Raises:
        NotImplementedError: The service is neither S3 nor Google Cloud Storage.
    """
    from obstore.store import GCSStore, S3Store

    parts = urlsplit(url)
    bucket = parts.netloc.rpartition("@")[2]
    # A start must not wait for minutes where credentials or the network are missing.
    places: dict[str, Any] = {"prefix": parts.path.strip("/")}
    places["retry_config"] = {"max_retries": 2, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    limits: dict[str, Any] = {"timeout": f"{REQUEST_SECONDS}s", "connect_timeout": f"{REQUEST_SECONDS}s"}

    if parts.scheme in ("gs", "gcs"):
        return GCSStore(bucket, client_options=limits, **places)
    if parts.scheme != "s3":
        raise NotImplementedError(f"only s3:// and gs:// have them, not {parts.scheme}://")

    keys = _keys_of_file()
    config = {"region": remote.base_fs.region, **keys}
    endpoint = _endpoint(dict(parse_qsl(parts.query)))
    if endpoint is not None:
        config["endpoint"] = endpoint
        limits["allow_http"] = endpoint.startswith("http://")

    # A provider would replace the keys.
    provider = None if keys else _boto3_credentials()
    return S3Store(bucket, config=config, client_options=limits, credential_provider=provider, **places)


def _endpoint(options: dict[str, str]) -> str | None:
    """Return the endpoint that pyarrow uses for the options of a URL; None for that of AWS."""
    endpoint = options.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint is None or "://" in endpoint:
        return endpoint
    return f"{options.get('scheme', 'https')}://{endpoint}"


def _boto3_credentials() -> Any:
    """Return the credentials of boto3, which knows single sign-on too; None if it is not installed."""
    if importlib.util.find_spec("boto3") is None or "AWS_ACCESS_KEY_ID" in os.environ:
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider()


def _keys_of_file() -> dict[str, str]:
    """Return the keys in ~/.aws/credentials. obstore reads the environment, but not this file."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    place = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(Path(place).expanduser())
        section = parser[os.environ.get("AWS_PROFILE", "default")]
    except (configparser.Error, KeyError, OSError, UnicodeDecodeError):
        return {}
    return {key: section[key] for key in AWS_KEYS if key in section}
