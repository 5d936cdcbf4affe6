"""Passwords hashed with argon2id, by the parameters of RFC 9106's second recommendation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from services.security.core.turns import FairTurns

# One takes 64 MiB and about a tenth of a second.
HASHES_AT_ONCE_MAX = 2
HASHES_WAITING_MAX = 64
HASHES_WAITING_OF_ADDRESS_MAX = 16

T = TypeVar("T")


class Argon2Passwords:
    def __init__(self) -> None:
        self._hasher = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
        self._threads = ThreadPoolExecutor(HASHES_AT_ONCE_MAX, thread_name_prefix="argon2")
        self._turns = FairTurns(
            HASHES_AT_ONCE_MAX, HASHES_WAITING_MAX, HASHES_WAITING_OF_ADDRESS_MAX
        )
        self._nobodys = ""

    async def hash(self, password: str, address: str = "") -> str:
        return await self._in_turn(address, lambda: self._hasher.hash(password))

    async def match(self, password_hash: str | None, password: str, address: str = "") -> bool:
        if password_hash is None:
            # Nobody's password, so that an unknown name takes as long as a wrong password.
            self._nobodys = self._nobodys or await self.hash("nobody", address)
            await self._in_turn(address, lambda: self._matches(self._nobodys, password))
            return False
        return await self._in_turn(address, lambda: self._matches(password_hash, password))

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_turn(self, address: str, work: Callable[[], T]) -> T:
        async with self._turns.turn(address):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
