"""What a helper process gives up before it touches a stranger's code or a picture: the network, other programs, a hand on other
processes, in the end all files.

A system call filter (seccomp, prctl(2)), which needs no privilege, outlives every exec and cannot be taken back. It goes together with
the units' own filters. Called first of all in `photo_worker` and `face_worker`, while the process has one thread. Linux on x86-64
and arm64; anywhere else `CageError`, and the helper does not start. Numbers: the kernel's syscall tables; form of the filter:
Documentation/userspace-api/seccomp_filter.rst. Standard library only.
LIMIT: a file's owner for signals (fcntl F_SETOWN) may still be set; whoever knows that can end the room, which starts again.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2                        # prctl(2)
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06        # bpf(2), classic
_ALLOW, _EPERM, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
_X32 = 0x40000000                                                       # x86-64's second table of calls

_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}            # AUDIT_ARCH_…
_CALLS: Final[dict[str, dict[str, tuple[int, ...]]]] = {
    # outside: socket, connect, execve, execveat, ptrace, process_vm_readv, process_vm_writev, io_uring_setup, pidfd_getfd
    # others (room and recorder have the same user): kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal,
    #   setpriority, sched_setparam, sched_setscheduler, sched_setaffinity, sched_setattr, ioprio_set, process_madvise; and setpgid,
    #   setsid, because it is ended with its group
    # files: (open, creat,) openat, openat2, open_by_handle_at
    "x86_64": {"outside": (41, 42, 59, 322, 101, 310, 311, 425, 438),
               "others": (62, 200, 234, 129, 297, 424, 141, 142, 144, 203, 314, 251, 440, 109, 112),
               "files": (2, 85, 257, 437, 304)},
    "aarch64": {"outside": (198, 203, 221, 281, 117, 270, 271, 425, 438),
                "others": (129, 130, 131, 138, 240, 424, 140, 118, 119, 122, 274, 30, 440, 154, 157),
                "files": (56, 437, 265)},
}
_PRLIMIT: Final = {"x86_64": 302, "aarch64": 261}                       # prlimit(2) of oneself (0) passes, of others not


class CageError(OSError):
    """The kernel did not take the filter. The process must not go on."""


def no_outside() -> None:
    """From now on: no socket, no other program, no look into another process and no signal to it (EPERM). CageError if that cannot be had.

    Nor a signal to itself: abort(3) ends it all the same, with another one. Where the unit's memory runs out, it is the first to be ended.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")              # proc(5); the room has -500 (systemd/edge.service)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))                    # a core file would hold a face
    _refuse("outside", "others")


def no_files() -> None:
    """From now on nothing more is opened; what is open stays so. CageError if that cannot be had."""
    _refuse("files")


def _refuse(*which: str) -> None:
    machine = platform.machine()
    if machine not in _ARCH:
        raise CageError(f"no filter is known for {machine}")
    calls = [number for each in which for number in _CALLS[machine][each]]
    program = _program(_ARCH[machine], calls, _PRLIMIT[machine], x32=machine == "x86_64")
    code = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    if prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_SET_SECCOMP, _FILTER, ctypes.addressof(head), 0, 0):
        raise CageError(ctypes.get_errno(), "the kernel does not take a system call filter")


def _program(arch: int, refused: Iterable[int], of_itself: int, *, x32: bool) -> bytes:
    """Classic BPF: foreign architecture kills, a refused call answers EPERM, as does `of_itself` of another than 0; any other passes."""
    calls = [(_IF_AT_LEAST, _X32)] if x32 else []
    calls += [(_IF_EQUAL, number) for number in refused]
    last = len(calls)
    lines = [(_LOAD, 0, 0, 4), (_IF_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    lines += [(test, last + 1 - at, 0, value) for at, (test, value) in enumerate(calls)]       # over the rest and `allow`
    lines += [(_IF_EQUAL, 2, 0, of_itself), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)]
    lines += [(_LOAD, 0, 0, 16), (_IF_EQUAL, 0, 1, 0), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
