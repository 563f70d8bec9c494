"""Is the person at the door the one on the photo? Advice in three words, from a program of its own. It never lets in or turns away.

`FaceProgram` is the room's end: it keeps `face_worker` running while it is needed and asks it one thing at a time over stdin and stdout.
A program that is slow, hangs, crashes or is not installed gives `NotCompared` with a word, and is started anew for the next person;
nobody at the door waits for it. The room never loads an engine, OpenCV or NumPy. Pictures pass through and are kept nowhere.
Standard library only. Caller: `edge/faces.py`; nothing of this is loaded while `face.enabled` is false.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

log = logging.getLogger(__name__)

ANSWER_S: Final = 5.0
"""Two faces take 0.5 s on a small PC beside four recordings; one that takes five does not come."""
START_S: Final = 20.0
"""Loading 31 MB of weights takes 0.7 s from a warm disk."""
PAUSE_S: Final = 10.0
"""After a start that failed nobody is made to wait for the next one so soon."""
LEAVE_S: Final = 2.0

ENGINE_WORDS: Final = frozenset({"engine-missing", "engine-refused"})           # said by the program instead of `ready`
PICTURE_WORDS: Final = frozenset({"unreadable-live", "unreadable-photo", "no-face-live", "no-face-photo"})
NOT_COMPARED_WORDS: Final = ENGINE_WORDS | PICTURE_WORDS | {"engine-crashed", "engine-timeout", "engine-garbled"}


class Result(StrEnum):
    """What the page says beside the verdict. All four leave the verdict as it is."""

    MATCH = "match"
    REVIEW = "review"
    NO_MATCH = "no-match"
    NOT_COMPARED = "not-compared"


@dataclass(frozen=True, slots=True)
class Limits:
    """Scores (thousandths; smaller is more alike) up to which a pair is a match, and up to which it is for a person to look at."""

    match_x1000: int
    review_x1000: int

    def judge(self, score_x1000: int) -> Result:
        """The three-way word for a score."""
        if score_x1000 <= self.match_x1000:
            return Result.MATCH
        return Result.REVIEW if score_x1000 <= self.review_x1000 else Result.NO_MATCH


@dataclass(frozen=True, slots=True)
class Compared:
    """`score_x1000`: the engine's distance of the two faces in thousandths, smaller is more alike. `model`: engine and weights."""

    score_x1000: int
    model: str


class NotCompared(Exception):
    """There is no score. `word`: one of `NOT_COMPARED_WORDS`."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class Comparer(Protocol):
    """Whatever compares two pictures."""

    async def compare(self, live: bytes, photo: bytes) -> Compared:
        """The largest face in `live` beside the largest in `photo` (JPEG, PNG or BMP). NotCompared if there is no score."""

    async def rest(self) -> None:
        """It is not needed for now."""


def worker(engine: str) -> tuple[str, ...]:
    """The argv of our own program."""
    return (sys.executable, "-m", "edge.idcheck.face_worker", engine)


class FaceProgram:
    """The room's end of the program `command`. One question at a time; the others wait their turn."""

    def __init__(self, command: Sequence[str], answer_s: float = ANSWER_S, start_s: float = START_S, pause_s: float = PAUSE_S) -> None:
        self._command, self._answer_s, self._start_s, self._pause_s = tuple(command), answer_s, start_s, pause_s
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._model, self._asked = "", 0
        self._failed: tuple[str, float] | None = None       # word, and until when (loop time) no new start is tried

    async def compare(self, live: bytes, photo: bytes) -> Compared:
        """See Comparer. Whatever goes wrong ends the program: its next answer could belong to this question."""
        async with self._turn:
            process = await self._running()
            try:
                async with asyncio.timeout(self._answer_s):
                    answer = await self._ask(process, live, photo)
                return self._understood(answer)
            except NotCompared as refused:
                if refused.word not in PICTURE_WORDS:
                    await self._end("answer", refused.word)
                raise
            except TimeoutError as error:
                await self._end("answer", "engine-timeout")
                raise NotCompared("engine-timeout") from error
            except (OSError, EOFError) as error:
                await self._end("answer", "engine-crashed")
                raise NotCompared("engine-crashed") from error
            except BaseException:
                await self._end("answer", "cancelled")
                raise

    async def rest(self) -> None:
        """Let the program go; the next question starts it anew."""
        async with self._turn:
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LEAVE_S):
                        await self._process.wait()
                await self._end("rest", "")

    async def _running(self) -> Process:
        """The program, started if need be. NotCompared if it does not start, or did not a moment ago."""
        if self._process is not None and self._process.returncode is None:
            return self._process
        now = asyncio.get_running_loop().time()
        if self._failed is not None and now < self._failed[1]:
            raise NotCompared(self._failed[0])
        try:
            self._process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
            async with asyncio.timeout(self._start_s):
                hello = await self._line(self._process)
            word = hello.get("refused")
            if word in ENGINE_WORDS:
                raise NotCompared(word)
            model = hello.get("model")
            if not isinstance(model, str) or not 0 < len(model) <= 64:
                raise NotCompared("engine-garbled")
        except NotCompared as refused:
            word = refused.word
        except TimeoutError:
            word = "engine-timeout"
        except (OSError, EOFError):
            word = "engine-crashed"
        except BaseException:
            await self._end("start", "cancelled")
            raise
        else:
            self._model, self._failed = model, None
            log.info("face-program-ready model=%s", model)
            return self._process
        self._failed = word, asyncio.get_running_loop().time() + self._pause_s
        await self._end("start", word)
        raise NotCompared(word)

    async def _ask(self, process: Process, live: bytes, photo: bytes) -> dict[str, Any]:
        if process.stdin is None:
            raise EOFError
        self._asked += 1
        process.stdin.write(json.dumps({"ask": self._asked, "live": len(live), "photo": len(photo)}).encode() + b"\n" + live + photo)
        await process.stdin.drain()
        return await self._line(process)

    async def _line(self, process: Process) -> dict[str, Any]:
        """One line of JSON. EOFError: the program ended; NotCompared: it said something else."""
        if process.stdout is None:
            raise EOFError
        try:
            line = await process.stdout.readline()
            if not line:
                raise EOFError
            answer = json.loads(line)
        except (ValueError, RecursionError) as error:       # also a line without end
            raise NotCompared("engine-garbled") from error
        if not isinstance(answer, dict):
            raise NotCompared("engine-garbled")
        return answer

    def _understood(self, answer: dict[str, Any]) -> Compared:
        word, score = answer.get("word"), answer.get("score_x1000")
        if answer.get("ask") != self._asked:
            raise NotCompared("engine-garbled")
        if isinstance(word, str) and word in PICTURE_WORDS:
            raise NotCompared(word)
        if type(score) is not int or not 0 <= score <= 10_000:
            raise NotCompared("engine-garbled")
        return Compared(score, self._model)

    async def _end(self, when: str, word: str) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if word:
            log.warning("face-program-ended when=%s word=%s", when, word)
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
