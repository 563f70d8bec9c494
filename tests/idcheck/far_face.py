"""A face program with an engine that does what its pictures say: at the far end of the real pipe, behind the real `serve`.

Run by test_face as `far_face.py`. A live picture reads `score N`, `word WORD`, `crash`, `hang`, `garbage`, `foreign` (an answer to another
question) or `pid` (the score is the process's own number, shortened); first arguments: `slow` never says that it is ready, `missing`
refuses, `rubbish` says something else.
"""

from __future__ import annotations

import os
import sys
import time

from edge.idcheck.face_worker import Unusable, serve


class Scripted:
    model = "scripted-1"

    def compare(self, live: bytes, photo: bytes) -> int:
        what, _, value = live.decode().partition(" ")
        if what == "crash":
            os.abort()
        if what == "hang":
            time.sleep(3600)        # for ever: whoever waits for it must not
        if what in ("garbage", "foreign"):
            sys.stdout.write('{"ask": 0, "score_x1000": 1}\n' if what == "foreign" else "no such thing\n")
            sys.stdout.flush()
        if what == "word":
            raise Unusable(value)
        return os.getpid() % 10_000 if what == "pid" else int(value or 0)


if __name__ == "__main__":
    how = sys.argv[1] if len(sys.argv) > 1 else ""
    if how == "slow":
        time.sleep(3600)
    if how in ("missing", "rubbish"):
        sys.stdout.write('{"refused": "engine-missing"}\n' if how == "missing" else "[]\n")
        sys.stdout.flush()
        sys.exit(1)
    serve(Scripted(), sys.stdin.buffer, sys.stdout.buffer)
