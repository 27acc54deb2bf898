"""Ciphers for the messages of one connection. The only file that imports `cryptography`.

Both frames of a message, header and array, are encrypted with AES-256-GCM (NIST SP 800-38D) or
ChaCha20-Poly1305 (RFC 8439), and carry a tag each; the array's tag covers the header, too. Nonces
count a direction's messages. So what has been changed, repeated, reordered, left out, cut or sent
back does not open. The interpreter is free meanwhile.
"""

import struct
import time
from typing import Any, NamedTuple

import msgpack
import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from ringlet.comm.sockets.wire import TAG_BYTES, Damaged

CIPHERS: dict[str, Any] = {"AES-256-GCM": AESGCM, "ChaCha20-Poly1305": ChaCha20Poly1305}

RENEWED_AFTER = 1 << 20
"""A key is for so many messages, at most 4 TiB, and then forgotten. AES-GCM allows far more."""

TRIAL_BYTES, TRIALS = 1 << 16, 3

_PROTOCOL = "ringlet sealed 1"
_SECRET_BYTES, _PASSWORD_BYTES = 32, 24
_NONCE = struct.Struct("<IQ")  # 0 for a header, 1 for an array; the message's number


class Seal(NamedTuple):
    """Opens one array, which was sealed together with this header."""

    aead: Any
    nonce: bytes
    head: bytes

    def open(self, payload: Any) -> memoryview:
        """The array's bytes; raises Damaged."""
        memory = np.empty(max(0, memoryview(payload).nbytes - TAG_BYTES), np.uint8)
        self.open_into(payload, memory)
        return memory.data

    def open_into(self, payload: Any, memory: Any) -> None:
        """Write the array's bytes into memory of their length; raises Damaged."""
        try:
            self.aead.decrypt_into(self.nonce, payload, self.head, memory)
        except InvalidTag as error:
            raise Damaged from error


class Direction:
    """One direction of a connection: its messages, numbered from 0. For one thread at a time."""

    def __init__(self, cipher: str, secret: bytes) -> None:
        self._cipher, self._secret, self._count = CIPHERS[cipher], secret, 0
        self._aead: Any = None

    def seal(self, head: bytes, payload: Any) -> tuple[bytes, memoryview]:
        """The frames of the next message."""
        first, second = self._next()
        head = self._aead.encrypt(first, head, None)
        memory = np.empty(len(payload) + TAG_BYTES, np.uint8)  # `encrypt` would fill it with zeros
        self._aead.encrypt_into(second, payload, head, memory)
        return head, memory.data

    def open(self, head: bytes) -> tuple[bytes, Seal]:
        """The next message's header, and what opens its array; raises Damaged."""
        first, second = self._next()
        try:
            return self._aead.decrypt(first, head, None), Seal(self._aead, second, head)
        except InvalidTag as error:
            raise Damaged from error

    def _next(self) -> tuple[bytes, bytes]:
        """The next message's nonces."""
        number = self._count
        if number % RENEWED_AFTER == 0:
            made = HKDFExpand(SHA256(), 2 * _SECRET_BYTES, b"next").derive(self._secret)
            self._secret = made[:_SECRET_BYTES]
            self._aead = self._cipher(made[_SECRET_BYTES:])
        self._count += 1
        return _NONCE.pack(0, number), _NONCE.pack(1, number)


class KeyPair:
    """One process's half of the keys of all its connections, made for one meeting (X25519, RFC
    7748). `offer`, for its hello, is the cipher that is faster here, and the public half."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.offer = f"{faster()} {self._private.public_key().public_bytes_raw().hex()}"

    def way(
        self, theirs: str, salt: bytes, about: tuple[Any, ...], from_here: bool
    ) -> tuple[Direction, str]:
        """One direction between this process and the one that made the other offer, and a
        password for it, as both derive them (HKDF, RFC 5869). `about` says which direction of which
        connection it is. Raises ValueError if the offer is none."""
        cipher, _, public = theirs.partition(" ")
        own, _, _ = self.offer.partition(" ")
        agreed = cipher if cipher == own else list(CIPHERS)[-1]  # fast where AES is slow
        shared = self._private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public)))
        offers = (self.offer, theirs) if from_here else (theirs, self.offer)
        info = msgpack.packb((_PROTOCOL, *about, *offers))
        made = HKDF(SHA256(), _SECRET_BYTES + _PASSWORD_BYTES, salt, info).derive(shared)
        return Direction(agreed, made[:_SECRET_BYTES]), made[_SECRET_BYTES:].hex()


def is_new_enough() -> bool:
    """Whether what is sealed can be opened straight into memory."""
    return hasattr(AESGCM, "decrypt_into")


def faster() -> str:
    """The name of the cipher that takes less time here: AES, if the processor has it."""
    data, memory = bytes(TRIAL_BYTES), bytearray(TRIAL_BYTES + TAG_BYTES)

    def seconds(name: str) -> float:
        aead, times = CIPHERS[name](bytes(32)), []
        for _ in range(TRIALS):
            began = time.perf_counter()
            aead.encrypt_into(bytes(_NONCE.size), data, None, memory)
            times.append(time.perf_counter() - began)
        return min(times)

    return min(CIPHERS, key=seconds)
