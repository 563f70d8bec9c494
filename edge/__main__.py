"""The door: the `edge` command. Its verbs are in `edge/commands`; each imports its part when it is called, so that none pays for another.

Exit codes: 0 done; 1 it did not work, and the text says why; 2 the words of the command are wrong; 3 it refuses to start until
somebody acts (configuration, key, disk). Verbs are documented in docs/operators/commands.md; a test compares.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from edge import __version__
from edge.commands import archive, configuration, doctor, keeping, key, programs, proof, roster, sims, staff, upkeep


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns the exit code."""
    logging.basicConfig(level=os.environ.get("EDGE_LOG", "INFO").upper(), stream=sys.stderr,
                        format="%(levelname)s %(name)s %(message)s")
    for chatty in ("httpx", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    args = parser().parse_args(argv)
    try:
        return int(args.verb(args) or 0)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _explain(error, args.verb in programs.PROGRAMS)


def parser() -> argparse.ArgumentParser:
    """Every verb and its options."""
    top = argparse.ArgumentParser(prog="edge", description="Exam-room edge controller: records, checks identity, proves.")
    top.add_argument("--version", action="version", version=f"edge {__version__}")
    verbs = top.add_subparsers(required=True, metavar="VERB")
    for each in (programs, proof, staff, key, roster, keeping, upkeep, archive, doctor, sims, configuration):     # as --help shows them
        each.add(verbs)
    return top


def _explain(error: Exception, program: bool) -> int:
    """What a person can act on goes out in plain words; anything else keeps its traceback."""
    words = {"ConfigError": 3, "NotReady": 3, "StorageRefused": 3, "NewerSchema": 3, "NotExportable": 1, "ArchiveError": 1,
             "AlreadyRunning": 1, "Refused": 1, "BackupRefused": 1, "MemberChanged": 1, "OtherFile": 1}
    code = words.get(type(error).__name__)
    if code is None and not program and isinstance(error, OSError | EOFError):
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        print(f"edge: {where}{getattr(error, 'strerror', None) or 'nobody is there to answer; name a file instead'}. Nothing was changed.",
              file=sys.stderr)
        return 1
    if code is None:
        logging.getLogger("edge").exception("ended by a fault that nobody foresaw")
        return 1
    print(f"edge: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
