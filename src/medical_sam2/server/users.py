"""Users of the server: a file of names and salted hashes of passwords; `python -m medical_sam2.server.users NAME` makes a line.

A line is `NAME:scrypt$COST$BLOCK$PARALLEL$SALT$HASH` (RFC 7914; COST is the logarithm of N, salt and hash are base64). Empty
lines and those that begin with # are passed over. Whoever could read the file could try passwords out, so nobody else may.
"""

import base64
import binascii
import getpass
import hashlib
import hmac
import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medical_sam2.errors import InputError
from medical_sam2.io.safe_open import open_regular

COST, BLOCK, PARALLEL, SALT_BYTES, HASH_BYTES = 15, 8, 1, 16, 32
MOST_COST, MOST_BLOCK, MOST_PARALLEL, MOST_USERS = 20, 32, 16, 1_000
SHORTEST = 8
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
LINE = re.compile(r"([^:]+):scrypt\$([0-9]{1,2})\$([0-9]{1,2})\$([0-9]{1,2})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")
RESERVED = frozenset({"token", "password", "link"})  # who came in by one of these is called so


@dataclass(frozen=True)
class PasswordHash:
    """What is kept of a password."""

    cost: int
    block: int
    parallel: int
    salt: bytes
    digest: bytes

    def __str__(self) -> str:
        salt, digest = (base64.b64encode(part).decode() for part in (self.salt, self.digest))
        return f"scrypt${self.cost}${self.block}${self.parallel}${salt}${digest}"

    def matches(self, password: str) -> bool:
        """Whether it is of this password."""
        found = _scrypt(password, self.salt, self.cost, self.block, self.parallel, len(self.digest))
        return hmac.compare_digest(found, self.digest)


def hash_password(password: str) -> PasswordHash:
    """What is kept of a new password."""
    salt = secrets.token_bytes(SALT_BYTES)
    return PasswordHash(COST, BLOCK, PARALLEL, salt, _scrypt(password, salt, COST, BLOCK, PARALLEL, HASH_BYTES))


def _scrypt(password: str, salt: bytes, cost: int, block: int, parallel: int, size: int) -> bytes:
    most = 256 * block * (2**cost + parallel) + (1 << 20)
    secret = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(secret, salt=salt, n=2**cost, r=block, p=parallel, maxmem=most, dklen=size)


NOBODY = PasswordHash(COST, BLOCK, PARALLEL, bytes(SALT_BYTES), bytes(HASH_BYTES))


def is_known(users: Mapping[str, PasswordHash], name: str, password: str) -> bool:
    """Whether this is the password of that user; the answer takes as long for a name that nobody has."""
    return users.get(name, NOBODY).matches(password) and name in users


def read_users(path: Path) -> dict[str, PasswordHash]:
    """Name → what is kept of the password.

    Raises:
        InputError: no such file, an empty one, one that others may read or write, or a line that is none.
    """
    with open_regular(path) as stream:
        about = os.fstat(stream.fileno())
        if about.st_mode & 0o077 or about.st_uid not in {os.getuid(), 0}:
            raise InputError("others can read or change it", f"chmod 600 {path}, and own it", subject=path)
        text = stream.read(1 << 20).decode("utf-8", "replace")
    users = dict[str, PasswordHash]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            name, kept = _read_line(line.strip(), number, path)
            if name in users:
                raise InputError(f"line {number} names a user for the second time", "keep one of both lines", subject=path)
            users[name] = kept
    if not 0 < len(users) <= MOST_USERS:
        raise InputError(f"it names {len(users)} users", f"name 1 to {MOST_USERS}", subject=path)
    return users


def _read_line(line: str, number: int, path: Path) -> tuple[str, PasswordHash]:
    try:
        name, *numbers, salt, digest = LINE.fullmatch(line).groups()  # type: ignore[union-attr]  # None has no groups
        cost, block, parallel = map(int, numbers)
        kept = PasswordHash(cost, block, parallel, *(base64.b64decode(part, validate=True) for part in (salt, digest)))
        within = 10 <= cost <= MOST_COST and 1 <= block <= MOST_BLOCK and 1 <= parallel <= MOST_PARALLEL
        long = len(kept.salt) >= 8 and HASH_BYTES <= len(kept.digest) <= 2 * HASH_BYTES
        if not NAME.fullmatch(name) or name in RESERVED or not within or not long:
            raise ValueError
    except (AttributeError, ValueError, binascii.Error):
        remedy = "make it with `python -m medical_sam2.server.users NAME`"
        raise InputError(f"line {number} is no line of a user", remedy, subject=path) from None
    return name, kept


def main() -> int:
    """Ask for a password, twice, and print the user's line."""
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if not NAME.fullmatch(name) or name in RESERVED:
        sys.stderr.write("usage: python -m medical_sam2.server.users NAME >> users.txt\n")
        sys.stderr.write(f"a name has letters, digits and . _ @ - alone, and is none of {', '.join(sorted(RESERVED))}\n")
        return 2
    password = getpass.getpass(f"Password of {name}: ")
    if len(password) < SHORTEST or password != getpass.getpass("Once more: "):
        sys.stderr.write(f"the passwords differ, or are shorter than {SHORTEST} letters; try again\n")
        return 2
    sys.stdout.write(f"{name}:{hash_password(password)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
