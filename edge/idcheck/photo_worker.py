"""One photo through an operator's library, in a process that first gives up everything else: `photo_worker LIBRARY SHA256 FUNCTION`.

1,024 bytes on stdin; the picture on stdout and exit 0, or one of the exits of `photo.EXITS`. In this order: file checked against its
digest, network and other programs given up, library loaded, files given up, function called. It is called as the makers' `_Unpack`:
`int FUNCTION(const char *wlt, int 1024, char *picture, int *bytes)`; `bytes` goes in as the room there is and comes out as what was
written, below 0 is a refusal. Standard library only. Started by `photo`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import sys
from pathlib import Path
from typing import Final

from edge.idcheck.cage import CageError, no_files, no_outside
from edge.idcheck.photo import BMP_BYTES, EXITS, RAW_BYTES, WLT_BYTES

_CODE: Final = {word: code for code, word in EXITS.items()}
_ROOM_BYTES: Final = 1 << 20        # far more than a picture, so that one who writes too much is told by the length, not by a torn process
_MEMORY_BYTES: Final = 512 << 20
_CPU_S: Final = 3


def main(library: Path, sha256: str, function: str) -> int:
    """Decode one photo; the exit code."""
    wlt = sys.stdin.buffer.read(WLT_BYTES + 1)
    answer = os.dup(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)                   # what the library prints is no picture
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    try:
        if hashlib.sha256(library.read_bytes()).hexdigest() != sha256.lower():
            return _CODE["not-that-file"]
        no_outside()
        loaded = ctypes.CDLL(str(library.resolve()))
        unpack = getattr(loaded, function)
        no_files()
    except CageError:
        return _CODE["no-cage"]
    except OSError:
        return _CODE["not-loadable"]
    except AttributeError:
        return _CODE["no-function"]
    picture, count = ctypes.create_string_buffer(_ROOM_BYTES), ctypes.c_int(_ROOM_BYTES)
    unpack.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int))
    unpack.restype = ctypes.c_int
    if unpack(wlt, WLT_BYTES, picture, ctypes.byref(count)) < 0:
        return _CODE["decoder-refused"]
    if count.value not in (RAW_BYTES, BMP_BYTES):
        return _CODE["wrong-size"]
    rest = memoryview(picture.raw[:count.value])
    while rest:
        rest = rest[os.write(answer, rest):]
    return 0


if __name__ == "__main__":
    sys.stdout.flush()
    os._exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))     # _exit: nothing that the library left behind has a say at the end
