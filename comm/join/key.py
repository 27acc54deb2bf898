"""The job's key: a process that holds it belongs to the job, and no other may join.

Every process derives the same CURVE key pair from the 32 secret bytes and uses it at both ends of
a connection. A listener's authenticator (authenticator.py) accepts exactly this public key, and
CURVE makes a client that presents it prove that it holds the secret key, so overhearing the public
key does not help. CURVE also draws new keys for each connection: recorded traffic can neither be
read later with the job's key alone nor be sent again. (CurveZMQ: https://rfc.zeromq.org/spec/26)
"""

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringlet.comm.errors import AuthenticationError

if TYPE_CHECKING:  # a launcher of one host starts without ZeroMQ
    import zmq

KEY_BYTES = 32
DOMAIN = b"ringlet"

KEY, KEY_FILE = "RINGLET_KEY", "RINGLET_KEY_FILE"


class Proof:
    """What a client shows to a listener's authenticator, which lets in those who show the same."""

    @property
    def shown(self) -> tuple[bytes, ...]:
        """The mechanism, and the credentials as ZAP has them."""
        raise NotImplementedError

    def admit(self, *shown: bytes) -> bytes | None:
        """Whether a client that shows this domain, mechanism and credentials may come in: None, or
        the user id that its messages get."""
        right = (DOMAIN, *self.shown)
        return b"" if hmac.compare_digest(repr(shown), repr(right)) else None

    def serve(self, socket: "zmq.Socket[Any]") -> None:
        """Ask for it on whatever the socket binds next. Needs a running Authenticator."""
        raise NotImplementedError

    def show(self, socket: "zmq.Socket[Any]") -> None:
        """Present it to whatever the socket connects to next."""
        raise NotImplementedError


@dataclass(frozen=True)
class JobKey(Proof):
    """The secret and the CURVE key pair derived from it (Z85). Its repr shows nothing secret."""

    secret: bytes = field(repr=False)
    curve_secret: bytes = field(init=False, repr=False)
    curve_public: bytes = field(init=False)

    def __post_init__(self) -> None:
        import zmq
        from zmq.utils import z85

        if not zmq.has("curve"):
            raise AuthenticationError(
                "a job key needs CURVE, and this pyzmq's libzmq was built without it: install "
                "pyzmq's wheel (pip install --force-reinstall --only-binary :all: pyzmq)"
            )
        derived = hashlib.blake2b(digest_size=32, key=self.secret, person=b"ringlet curve 1")
        object.__setattr__(self, "curve_secret", z85.encode(derived.digest()))
        object.__setattr__(self, "curve_public", zmq.curve_public(self.curve_secret))

    @classmethod
    def new(cls) -> "JobKey":
        """A new random key."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def parse(cls, text: str, where: str) -> "JobKey":
        """The key in the text. Raises AuthenticationError, naming `where`, for a bad one."""
        try:
            secret = bytes.fromhex(text.strip())
        except ValueError:
            secret = b""
        if len(secret) != KEY_BYTES:
            raise AuthenticationError(
                f"{where} holds no job key (64 hexadecimal digits): `ringlet key new` makes one"
            )
        return cls(secret)

    @property
    def text(self) -> str:
        """For files and the environment."""
        return self.secret.hex()

    @property
    def shown(self) -> tuple[bytes, ...]:
        from zmq.utils import z85

        return b"CURVE", z85.decode(self.curve_public)

    def serve(self, socket: "zmq.Socket[Any]") -> None:
        socket.curve_secretkey = self.curve_secret
        socket.curve_server = 1
        socket.zap_domain = DOMAIN

    def show(self, socket: "zmq.Socket[Any]") -> None:
        socket.curve_serverkey = self.curve_public
        socket.curve_publickey = self.curve_public
        socket.curve_secretkey = self.curve_secret


@dataclass(frozen=True)
class Token(Proof):
    """A random word that a rank tells those whom it meets, and asks for where there is no key.

    It travels in the clear (PLAIN: https://rfc.zeromq.org/spec/24): it keeps out those who have met
    nobody, not those who read the traffic. Nobody can send a message before showing it; afterwards
    it costs nothing.
    """

    text: str = field(repr=False)

    @property
    def shown(self) -> tuple[bytes, ...]:
        return b"PLAIN", DOMAIN, self.text.encode()

    def serve(self, socket: "zmq.Socket[Any]") -> None:
        socket.plain_server = 1
        socket.zap_domain = DOMAIN

    def show(self, socket: "zmq.Socket[Any]") -> None:
        _, socket.plain_username, socket.plain_password = self.shown


class Passes(Token):
    """A listener's tokens, each for one rank, which it lets in once: whoever has overheard one
    comes too late with it. The rank is the user id of what comes by that connection."""

    def __init__(self, ranks: Mapping[str, int]) -> None:
        super().__init__("")
        self._left = {Token(text).shown: rank for text, rank in ranks.items()}

    def admit(self, *shown: bytes) -> bytes | None:
        rank = self._left.pop(shown[1:], None) if shown[0] == DOMAIN else None
        return None if rank is None else str(rank).encode()


def find_key(variables: Mapping[str, str]) -> JobKey | None:
    """The key of RINGLET_KEY or of the file RINGLET_KEY_FILE; None if neither is set."""
    if variables.get(KEY):
        return JobKey.parse(variables[KEY], KEY)
    if variables.get(KEY_FILE):
        return read_key(Path(variables[KEY_FILE]))
    return None


def read_key(path: Path) -> JobKey:
    """The key in the file. Raises AuthenticationError unless only its owner can read it."""
    try:
        with open(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(1024)
    except (OSError, UnicodeDecodeError) as error:
        raise AuthenticationError(f"cannot read the job key in {path}: {error}") from error
    if mode & 0o077:
        raise AuthenticationError(
            f"other users can read the job key in {path} (mode {mode:04o}): run chmod 600 {path}; "
            "if somebody may have read it, make a new key"
        )
    return JobKey.parse(text, str(path))


def write_key(path: Path) -> None:
    """Write a new key to a new file, which only its owner can read; raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(path, flags, 0o600), "w") as file:
        file.write(JobKey.new().text + "\n")
