"""What a person types at the simulated reader: one line, one order. The same words for its console and for `edge sim fault`.

`order` turns words into a request of the control socket (see `card_reader`); `converse` is the console: a prompt at a terminal, until
`quit` or Ctrl-D. Callers: `card_reader`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

COMMANDS: Final = {"reset": "10FF", "self-test": "11FF", "module": "12FF", "find": "2001", "select": "2002", "read": "3001",
                   "address": "3003", "number": "3005"}
FAULTS: Final = {"noise": "noise", "half": "half", "checksum": "garbled", "timeout": "silent", "status": "status"}
HELP: Final = f"""\
  lay NAME            lay a card down and leave it there; swapped quickly, if another one lies there
  lift                take it away
  tap NAME            lay, wait until it was read, lift
  unplug, plug        pull the reader's cable, put it back
  rate N              hear and speak at this bit rate alone (0: any)
  noise [N]           the next N answers (1) in the middle of noise
  half [N]            only half of each
  checksum [N]        with a wrong checksum
  timeout [N]         none at all
  status XX [N]       this status instead, for example `status 41`
                      each with `on COMMAND`, spoils only that: {", ".join(COMMANDS)}
  well                no more of that
  look                what a person would see
  quit                end the simulated reader (so does Ctrl-D)"""
PROMPT: Final = "reader> "


class SimError(RuntimeError):
    """What could not be done, in plain words."""


def order(line: str) -> dict[str, Any]:
    """The request that these words mean. SimError, with a hint, if they mean none."""
    verb, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    match verb:
        case "lift" | "unplug" | "plug" | "look" if not rest:
            return {"do": verb}
        case "lay" | "swap" | "tap" if rest:
            return {"do": "lay" if verb == "swap" else verb, "name": rest}
        case "rate" if rest.isdecimal():
            return {"do": "rate", "rate": int(rest)}
        case "well" if not rest:
            return {"do": "trouble", "kind": "silent", "times": 0}
        case _ if verb in FAULTS:
            return _fault(verb, rest.split())
    raise SimError(f"not understood: {line.strip()!r}. There is:\n{HELP}")


def _fault(verb: str, words: list[str]) -> dict[str, Any]:
    """`status 41 on read 3`: in this order, each but the first two optional."""
    request: dict[str, Any] = {"do": "trouble", "kind": FAULTS[verb]}
    try:
        if verb == "status":
            request["sw3"] = f"{int(words.pop(0), 16):02X}"
            if len(request["sw3"]) > 2:
                raise ValueError
        if words[:1] == ["on"]:
            request["command"] = COMMANDS[words[1]]
            del words[:2]
        request["times"] = int(words.pop(0)) if words else 1
        if words or request["times"] < 0:
            raise ValueError
    except (ValueError, LookupError):
        raise SimError(f"{verb}: [on COMMAND] [how many answers]; COMMAND is one of {', '.join(COMMANDS)}"
                       f"{'. status wants two hex digits first: status 41 on read 3' if verb == 'status' else ''}") from None
    return request


def said(answer: Mapping[str, Any]) -> str:
    """An answer of the simulator for people."""
    if not answer["ok"]:
        return str(answer["why"])
    facts = {key: value for key, value in answer.items() if key != "ok"}
    return ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items()) or "done"


async def converse(terminal: int, obey: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
    """The console at this file descriptor, until it is left. The terminal keeps its own line editing and is not made non-blocking."""
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_reader(terminal, lambda: lines.put_nowait(_typed(terminal)))
    try:
        print(f"{HELP}\n{PROMPT}", end="", flush=True)
        while (line := await lines.get()) and line.strip() != b"quit":
            if line.strip():
                try:
                    print(said(await obey(order(line.decode("utf-8", "replace")))))
                except SimError as error:
                    print(error)
            print(PROMPT, end="", flush=True)
    finally:
        loop.remove_reader(terminal)


def _typed(terminal: int) -> bytes:
    """One line, because a terminal gives no more at once; nothing at its end, also when it is gone."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
