"""Ciphers for the messages of one connection. The only file that imports `cryptography`.

A message's header and each record of its array are encrypted with AES-256-GCM (NIST SP 800-38D) or
ChaCha20-Poly1305 (RFC 8439), and carry a tag each; a record's tag covers the header and the array's
length, too. Nonces count a direction's messages and their records. So what has been changed,
repeated, reordered, left out, cut or sent back does not open. The interpreter is free meanwhile.
"""

import struct
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgpack
import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from ringlet.comm.sockets.wire import RECORD_BYTES, TAG_BYTES, Damaged, clear_bytes, sealed_bytes

CIPHERS: dict[str, Any] = {"AES-256-GCM": AESGCM, "ChaCha20-Poly1305": ChaCha20Poly1305}

RENEWED_AFTER = 1 << 20
"""A key is for so many messages, at most 4 TiB, and then forgotten. AES-GCM allows far more."""

SHORT_BYTES = 1 << 16
"""A shorter array is sealed at once: it can be copied sooner than it can be waited for."""

TRIAL_BYTES, TRIALS = 1 << 16, 3

_PROTOCOL = "ringlet sealed 2"
_SECRET_BYTES, _PASSWORD_BYTES = 32, 24
_NONCE = struct.Struct("<IQ")  # 0 for a header, from 1 on for records; the message's number
_LENGTH = struct.Struct(">I")
_ONE_RECORD = ((slice(None), slice(None)),)


class Seal(NamedTuple):
    """Seals or opens the array of message `number`, whose sealed header is `head`."""

    aead: Any
    number: int
    head: bytes

    def open(self, payload: Any) -> memoryview:
        """The array's bytes; raises Damaged."""
        sealed = memoryview(payload)
        memory = np.empty(max(0, clear_bytes(len(sealed))), np.uint8).data
        self.open_into(sealed, memory)
        return memory

    def open_into(self, sealed: memoryview, own: memoryview) -> None:
        """Write the array's bytes into memory of their length; raises Damaged."""
        if sealed_bytes(len(own)) != len(sealed):
            raise Damaged
        for record, (clear, there) in enumerate(_records(len(own))):
            self.open_record(record, len(own), sealed[there], own[clear])

    def seal(self, own: memoryview) -> memoryview:
        """The array's bytes, sealed."""
        sealed = np.empty(sealed_bytes(len(own)), np.uint8).data
        for record, (clear, there) in enumerate(_records(len(own))):
            self.seal_record(record, len(own), own[clear], sealed[there])
        return sealed

    def open_record(self, record: int, nbytes: int, sealed: Any, memory: Any) -> None:
        """Write the bytes of one record, of an array of `nbytes`, into memory of their length;
        raises Damaged."""
        try:
            self.aead.decrypt_into(self._nonce(record), sealed, self._about(nbytes), memory)
        except InvalidTag as error:
            raise Damaged from error

    def seal_record(self, record: int, nbytes: int, data: Any, memory: Any) -> None:
        """The other way round."""
        self.aead.encrypt_into(self._nonce(record), data, self._about(nbytes), memory)

    def _nonce(self, record: int) -> bytes:
        return _NONCE.pack(1 + record, self.number)

    def _about(self, nbytes: int) -> bytes:
        return self.head + _LENGTH.pack(nbytes)


def _records(nbytes: int) -> Iterable[tuple[slice, slice]]:
    """Where each record of an array is in the clear, and where sealed."""
    if nbytes <= RECORD_BYTES:
        return _ONE_RECORD
    step = RECORD_BYTES + TAG_BYTES
    return (
        (slice(record * RECORD_BYTES, (record + 1) * RECORD_BYTES), slice(start, start + step))
        for record, start in enumerate(range(0, sealed_bytes(nbytes), step))
    )


class SealedArray:
    """An array's sealed bytes, each record of which is sealed when it is wanted: `data` must not
    change until then. They are wanted in their order, so none is sealed again once it has left."""

    def __init__(self, seal: Seal, data: memoryview) -> None:
        self._seal, self._data = seal, data
        self._memory = np.empty(min(len(data), RECORD_BYTES) + TAG_BYTES, np.uint8).data
        self._there, self._record = self._memory[:0], -1

    def __len__(self) -> int:
        return sealed_bytes(len(self._data))

    def __getitem__(self, part: slice) -> memoryview:
        """The sealed bytes from the slice's start to the end of a record."""
        record, at = divmod(part.start, RECORD_BYTES + TAG_BYTES)
        if record != self._record:
            own = self._data[record * RECORD_BYTES : (record + 1) * RECORD_BYTES]
            memory, self._record = self._memory[: len(own) + TAG_BYTES], -1
            self._seal.seal_record(record, len(self._data), own, memory)
            self._there, self._record = memory, record
        return self._there[at:]

    def own(self) -> None:
        """Copy `data`, which may change from now on."""
        self._data = memoryview(bytes(self._data))

    @property
    def done(self) -> bool:
        """Whether all of it has been sealed."""
        return (self._record + 1) * RECORD_BYTES >= len(self._data)


class Direction:
    """One direction of a connection: its messages, numbered from 0. For one thread at a time."""

    def __init__(self, cipher: str, secret: bytes) -> None:
        self._cipher, self._secret, self._keys, self._count = CIPHERS[cipher], secret, 0, 0
        self._aead: Any = None

    def seal(self, head: bytes, payload: Any) -> tuple[bytes, memoryview]:
        """The frames of the next message."""
        seal = self._next(head)
        return seal.head, seal.seal(memoryview(payload))

    def seal_later(self, head: bytes, payload: Any) -> tuple[bytes, memoryview | SealedArray]:
        """The same; a long array is sealed when it is wanted."""
        seal, own = self._next(head), memoryview(payload)
        return seal.head, seal.seal(own) if len(own) <= SHORT_BYTES else SealedArray(seal, own)

    def _next(self, head: bytes) -> Seal:
        """Seal the next message's header."""
        number = self._count
        aead, self._count = self._key_for(number), number + 1
        return Seal(aead, number, aead.encrypt(_NONCE.pack(0, number), head, None))

    def open(self, head: bytes, number: int | None = None) -> tuple[bytes, Seal]:
        """The header of the message of this number, by default the next, and what opens its array;
        raises Damaged."""
        if number is None:
            number, self._count = self._count, self._count + 1
        aead = self._key_for(number)
        try:
            return aead.decrypt(_NONCE.pack(0, number), head, None), Seal(aead, number, head)
        except InvalidTag as error:
            raise Damaged from error

    def _key_for(self, number: int) -> Any:
        """The key of a message; those before it are forgotten."""
        if number // RENEWED_AFTER == self._keys:
            made = HKDFExpand(SHA256(), 2 * _SECRET_BYTES, b"next").derive(self._secret)
            aead = self._cipher(made[_SECRET_BYTES:])
            self._secret, self._aead, self._keys = made[:_SECRET_BYTES], aead, self._keys + 1
        return self._aead


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
