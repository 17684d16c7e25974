"""API keys, stored as hashes, each with a name and its own limits.

The file of keys is TOML:

    [keys.alice]
    sha256 = "…"                # of the key, which is random and long: no slower hash is needed
    requests_per_minute = 60
    tokens_per_minute = 100000
    admin = true                # may see and stop experiments
"""

from __future__ import annotations

import hashlib
import hmac
import math
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from potstill.errors import ConfigError
from serve.errors import InvalidRequestError, RateLimitError
from serve.rate_limits import Bucket


class KeyEntry(BaseModel):
    """A key in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
    """Hash of the key's UTF-8 bytes, in hexadecimal."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """None sets no limit; unused requests add up for one minute at most."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompts and answers together. The most that a request may use is taken before it runs, and
    the rest given back after."""
    admin: bool = False
    """Whether it may see and stop experiments."""


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: Annotated[dict[str, KeyEntry], Field(min_length=1)]


class Key:
    """A key with its limits, counted in this process."""

    def __init__(self, name: str, entry: KeyEntry) -> None:
        self.name = name
        self.is_admin = entry.admin
        self.digest = bytes.fromhex(entry.sha256)
        self.requests = Bucket(entry.requests_per_minute) if entry.requests_per_minute else None
        self.tokens = Bucket(entry.tokens_per_minute) if entry.tokens_per_minute else None

    def reserve(self, num_tokens: int) -> Reservation:
        """Take the most tokens that a request may use, prompt included, before it runs.

        Raises:
            InvalidRequestError: It may use more than the key has in a minute.
            RateLimitError: They are not available now.
        """
        bucket = self.tokens
        if bucket is not None:
            if num_tokens > bucket.per_minute:
                raise InvalidRequestError(
                    "the request may use more tokens than this key has in a minute",
                    where="max_tokens",
                    expected=f"at most {bucket.per_minute}, prompt and all choices together",
                    found=num_tokens,
                    hint="lower max_tokens or n",
                )
            if wait := bucket.seconds_until(num_tokens):
                raise rate_limited("this key has too few tokens left in this minute", wait)
            bucket.take(num_tokens)
        return Reservation(bucket, num_tokens)

    def admit(self) -> float:
        """Count a request; or return how many seconds it has to wait, and count nothing."""
        waits = [bucket.seconds_until(1) for bucket in (self.requests, self.tokens) if bucket]
        wait = max(waits, default=0.0)
        if wait == 0.0 and self.requests is not None:
            self.requests.take(1)
        return wait


class Reservation:
    """Tokens taken from a limit; what was not used is given back once."""

    def __init__(self, bucket: Bucket | None = None, num_tokens: int = 0) -> None:
        self._bucket, self._num_tokens = bucket, num_tokens

    def settle(self, num_used: int) -> None:
        """Count what was used; does nothing the second time."""
        bucket, self._bucket = self._bucket, None
        if bucket is not None:
            bucket.take(num_used - self._num_tokens)

    @contextmanager
    def given_back_on_error(self) -> Iterator[None]:
        """Count nothing if the block fails."""
        try:
            yield
        except BaseException:
            self.settle(0)
            raise


def rate_limited(what: str, wait_seconds: float) -> RateLimitError:
    """Return the error of a key that has to wait."""
    error = RateLimitError(what)
    error.retry_after_seconds = max(1, math.ceil(wait_seconds))
    return error


class Keyring:
    """All accepted keys."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, given: str) -> Key | None:
        """Return the key that was given; None if it is not accepted.

        All digests are compared, in constant time: neither content nor length leaks.
        """
        digest = hashlib.sha256(given.encode("latin-1", errors="replace")).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found


def load_keys(path: Path | None, environment_key: str | None) -> Keyring | None:
    """Read the keys; None if there are none, and no key is needed.

    Args:
        path: A file of keys.
        environment_key: One more key, an administrator's, without limits.

    Raises:
        ConfigError: The file cannot be read.
    """
    keys = []
    if environment_key:
        digest = hashlib.sha256(environment_key.encode()).hexdigest()
        keys.append(Key("environment", KeyEntry(sha256=digest, admin=True)))
    if path is not None:
        keys += [Key(name, entry) for name, entry in _read(path).items()]
    return Keyring(keys) if keys else None


def _read(path: Path) -> dict[str, KeyEntry]:
    try:
        return _KeyFile.model_validate(tomllib.loads(path.read_text())).keys
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(
            "the file of keys cannot be read",
            where=path,
            expected='tables [keys.NAME] with sha256 = "…"',
            # A damaged file may contain a key in clear text.
            found=type(error).__name__,
        ) from None
