"""A counter in the machine's security chip that only goes up: what a disk that was set back to an older copy cannot take back.

A TPM 2.0 NV index of the type counter, used through tpm2-tools (programs of their own, as with the device's key: a driver that hangs must
not take the room with it). Which TPM: the environment's TPM2TOOLS_TCTI, else the system's own. The index is made once, by hand
(docs/operators/keys.md): owner-defined indexes lie from 0x01800000 on (TCG registry of reserved handles). Called by `counting`.
"""

from __future__ import annotations

import os
import subprocess

READ_S = 20.0
"""A chip answers in 50 ms; one that is busy (a key being made) in seconds."""
BYTES = 8
"""Of an NV counter, big-endian (TPM 2.0 library specification, part 1, NV counter)."""


class CounterFault(Exception):
    """The counter gave no number. `word`: program-missing, no-answer, not-there (no such index, or the chip says no)."""

    def __init__(self, word: str, text: str) -> None:
        super().__init__(text)
        self.word = word


class HardwareCounter:
    """The counter at NV index `index` (0x01……)."""

    kind = "tpm2-nv"

    def __init__(self, index: str, seconds: float = READ_S) -> None:
        self._index, self._seconds = index, seconds

    def read(self) -> int:
        """What it says now. CounterFault if it says nothing; one that was never moved says nothing."""
        data = self._run("tpm2_nvread", "-s", str(BYTES))
        if len(data) != BYTES:
            raise CounterFault("not-there", f"the index {self._index} is no counter: it holds {len(data)} bytes")
        return int.from_bytes(data, "big")

    def step(self) -> int:
        """Move it up by one; what it says afterwards. CounterFault as above: then look before trying again, it may have moved."""
        self._run("tpm2_nvincrement")
        return self.read()

    def _run(self, program: str, *more: str) -> bytes:
        command = [program, "-C", self._index, *more, self._index]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=self._seconds, check=False,
                                  env={**os.environ, "LC_ALL": "C"})
        except FileNotFoundError:
            raise CounterFault("program-missing", f"the program {program} is not installed (package tpm2-tools)") from None
        except subprocess.TimeoutExpired:
            raise CounterFault("no-answer", f"{program} gave no answer within {self._seconds:.0f} s") from None
        if done.returncode != 0:
            said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
            raise CounterFault("not-there", f"{program} did not do it: {said[0][:200] if said else f'status {done.returncode}'}")
        return done.stdout
