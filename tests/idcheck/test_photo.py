"""The chip's photo: an operator's library in a process of its own. The library here is a real one, compiled for the test, with one
function for each way in which such a library may behave."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from edge.clock import SystemClock
from edge.idcheck import photo
from edge.idcheck.photo import BMP_BYTES, HEIGHT, RAW_BYTES, UNDECODED_WORDS, WIDTH, LibraryDecoder, Undecoded, worker
from edge.idcheck.port import SerialPort
from edge.idcheck.reader import CardSeen, Reader
from edge.sim import people
from edge.sim.card_reader import CardReader

WLT = bytes.fromhex("574c66007e0032000000") + bytes(range(256)) * 3 + bytes(246)

SOURCE = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { RAW = 38556, BMP = 38862 };

static int raw(const char *wlt, int bytes, char *out, int *n) {
    if (bytes != 1024 || *n < BMP) return -1;
    for (int i = 0; i < RAW; i++) out[i] = (char)(wlt[i % 1024] + i / 306);
    *n = RAW;
    return 1;
}
int _Unpack(const char *wlt, int bytes, char *out, int *n) { puts("decoding"); fflush(stdout); return raw(wlt, bytes, out, n); }
int as_bmp(const char *wlt, int bytes, char *out, int *n) {
    static const unsigned char head[34] = {'B','M',0xCE,0x97,0,0,0,0,0,0,54,0,0,0,40,0,0,0,102,0,0,0,126,0,0,0,1,0,24,0};
    memset(out, 7, BMP); memcpy(out, head, sizeof head); *n = BMP; return 1;
}
int no_bmp(const char *wlt, int bytes, char *out, int *n) { memset(out, 7, BMP); *n = BMP; return 1; }
int refuses(const char *wlt, int bytes, char *out, int *n) { return -5; }
int too_short(const char *wlt, int bytes, char *out, int *n) { *n = 38000; return 1; }
int says_nothing(const char *wlt, int bytes, char *out, int *n) { return 1; }
int too_much(const char *wlt, int bytes, char *out, int *n) { memset(out, 1, 500000); *n = 500000; return 1; }
int crashes(const char *wlt, int bytes, char *out, int *n) { *(volatile int *)8 = 1; return 1; }
int gives_up(const char *wlt, int bytes, char *out, int *n) { exit(0); }
int eats_memory(const char *wlt, int bytes, char *out, int *n) {
    volatile char *much = malloc(1u << 30);
    if (!much) abort();
    much[1u << 29] = 1;
    return raw(wlt, bytes, out, n);
}
int hangs(const char *wlt, int bytes, char *out, int *n) { for (;;) usleep(1000); }
int leaves_a_child(const char *wlt, int bytes, char *out, int *n) {
    if (fork() == 0) for (;;) usleep(1000);
    usleep(5000000); return 1;
}
int nosy(const char *wlt, int bytes, char *out, int *n) {   /* the first bytes say what it got at */
    raw(wlt, bytes, out, n);
    out[0] = socket(AF_INET, SOCK_STREAM, 0) >= 0;
    out[1] = socket(AF_UNIX, SOCK_DGRAM, 0) >= 0;
    out[2] = open("/etc/passwd", O_RDONLY) >= 0;
    out[3] = open("stolen", O_WRONLY | O_CREAT, 0600) >= 0;
    char *const none[] = {0};
    out[4] = execve("/bin/true", none, none) == 0;
    out[5] = open("/proc/self/mem", O_RDWR) >= 0;
    return 1;
}
int meddles(const char *wlt, int bytes, char *out, int *n) {    /* with its parent, which has the same user as the room and the recorder */
    struct rlimit same;
    int them = getppid(), child, how = 0;
    raw(wlt, bytes, out, n);
    out[0] = kill(them, 0) == 0;
    out[1] = syscall(SYS_tgkill, them, them, 0) == 0;
    out[2] = prlimit(them, RLIMIT_NOFILE, 0, &same) == 0;
    out[3] = setpriority(PRIO_PROCESS, them, getpriority(PRIO_PROCESS, them)) == 0;
    if ((child = fork()) == 0) _exit(setsid() > 0);     /* out of the group that is ended with it */
    waitpid(child, &how, 0);
    out[4] = WEXITSTATUS(how);
    out[5] = prlimit(0, RLIMIT_NOFILE, 0, &same) != 0;  /* its own it may look at */
    return 1;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "unpack.c").write_text(SOURCE)
    compiler = shutil.which("gcc")
    assert compiler is not None, "gcc is one of the packages that ./run sees to"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-w", "-o", folder / "libunpack.so", folder / "unpack.c"], check=True, timeout=60)
    return folder / "libunpack.so"


def decoder(library: Path, function: str = "_Unpack", sha256: str | None = None, decode_s: float = 20) -> LibraryDecoder:
    return LibraryDecoder(worker(library, sha256 or hashlib.sha256(library.read_bytes()).hexdigest(), function), decode_s)


async def word_of(decoding: LibraryDecoder, wlt: bytes = WLT) -> str:
    with pytest.raises(Undecoded) as undecoded:
        await decoding.decode(wlt)
    assert undecoded.value.word in UNDECODED_WORDS
    return undecoded.value.word


async def test_raw_pixels_come_out_as_a_picture(library: Path) -> None:
    picture = await decoder(library).decode(WLT)
    assert len(picture) == BMP_BYTES == 54 + 126 * 308
    assert struct.unpack("<2sI4xIIiiHH", picture[:30]) == (b"BM", BMP_BYTES, 54, 40, WIDTH, -HEIGHT, 1, 24)
    want = bytes((WLT[i % 1024] + i // 306) % 256 for i in range(RAW_BYTES))
    rows = [picture[54 + 308 * y:54 + 308 * y + 306] for y in range(HEIGHT)]
    assert b"".join(rows) == want
    assert all(picture[54 + 308 * y + 306:54 + 308 * (y + 1)] == b"\0\0" for y in range(HEIGHT))


async def test_a_picture_is_handed_on_as_it_came(library: Path) -> None:
    picture = await decoder(library, "as_bmp").decode(WLT)
    assert (len(picture), picture[:2], set(picture[54:])) == (BMP_BYTES, b"BM", {7})


@pytest.mark.parametrize(("function", "word"), [
    ("no_bmp", "wrong-size"), ("refuses", "decoder-refused"), ("too_short", "wrong-size"), ("says_nothing", "wrong-size"),
    ("too_much", "wrong-size"), ("crashes", "decoder-crashed"), ("gives_up", "wrong-size"), ("eats_memory", "decoder-crashed"),
    ("no_such_function", "no-function"),
])
async def test_whatever_else_it_does_is_a_word(library: Path, function: str, word: str) -> None:
    assert await word_of(decoder(library, function)) == word


async def test_one_that_hangs_is_ended_with_all_that_it_started(library: Path) -> None:
    for function in ("hangs", "leaves_a_child"):
        began = time.monotonic()
        assert await word_of(decoder(library, function, decode_s=1)) == "decoder-timeout"
        assert time.monotonic() - began < 10
    for _ in range(500):        # killed, and gone as soon as the kernel has cleared up
        if not (left := [line for line in processes() if "photo_worker" in line and str(library) in line]):
            break
        await asyncio.sleep(0.01)
    assert not left


def processes() -> list[str]:
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                found.append((each / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found


async def test_it_gets_at_no_network_no_file_and_no_other_program(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture = await decoder(library, "nosy").decode(WLT)
    assert list(picture[54:60]) == [0, 0, 0, 0, 0, 0]
    assert not (tmp_path / "stolen").exists()


async def test_it_can_neither_end_nor_slow_the_room_nor_slip_out_of_its_group(library: Path) -> None:
    picture = await decoder(library, "meddles").decode(WLT)
    assert list(picture[54:60]) == [0, 0, 0, 0, 0, 0]


async def test_the_cage_is_what_keeps_it_from_them(library: Path, tmp_path: Path) -> None:
    """The same function outside the cage gets at all of it: so the test before this one can fail."""
    script = ("import ctypes, sys; n = ctypes.c_int(1 << 20); out = ctypes.create_string_buffer(1 << 20); "
              "f = ctypes.CDLL(sys.argv[1]).nosy; pid = __import__('os').fork(); "
              "pid or f(bytes(1024), 1024, out, ctypes.byref(n)); pid or sys.exit(1); "
              "print(__import__('os').waitstatus_to_exitcode(__import__('os').waitpid(pid, 0)[1]))")
    done = await asyncio.create_subprocess_exec("python3", "-c", script, str(library), cwd=tmp_path, stdout=subprocess.PIPE)
    said, _ = await done.communicate()
    assert said.strip() == b"0", "it became /bin/true"
    assert (tmp_path / "stolen").exists()


async def test_another_file_under_that_name_is_not_loaded(library: Path, tmp_path: Path) -> None:
    assert await word_of(decoder(library, sha256="0" * 64)) == "not-that-file"
    text = tmp_path / "libtext.so"
    text.write_text("no library")
    assert await word_of(decoder(text)) == "not-loadable"
    assert await word_of(decoder(tmp_path / "libgone.so", sha256="0" * 64)) == "not-loadable"


async def test_only_a_photo_is_given_to_it(library: Path) -> None:
    for nonsense in (b"", WLT[:-1], WLT + b"\0", bytes(1024)):
        assert await word_of(decoder(library), nonsense) == "not-a-photo"


async def test_what_it_answers_is_believed_only_in_its_two_lengths() -> None:
    """The far end of the pipe may be anything: here a shell that writes so many bytes."""
    for size in (0, RAW_BYTES - 1, RAW_BYTES + 1, BMP_BYTES, BMP_BYTES + 1):
        assert await word_of(LibraryDecoder(("sh", "-c", f"head -c {size} /dev/zero"), 20)) == "wrong-size"
    assert await word_of(LibraryDecoder((os.devnull,))) == "decoder-crashed"
    assert await word_of(LibraryDecoder(("sh", "-c", "exit 99"), 20)) == "decoder-crashed"


def test_by_default_there_is_no_decoder() -> None:
    assert photo.DECODE_S == 2
    assert not [path for path in Path(photo.__file__).parents[1].rglob("*.so")], "no library ships with this program"


# ---- from the chip ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("keep", [False, True])
async def test_the_reader_hands_the_photo_on_only_where_it_was_told_to(tmp_path: Path, keep: bool) -> None:
    device, seen = CardReader(tmp_path / "card-reader", people.cards()), asyncio.Queue[object]()
    device.plug()
    driver = Reader(SerialPort(tmp_path / "card-reader", 115_200), seen.put, SystemClock(), 0.06, True, keep_photo=keep)
    running = asyncio.create_task(driver.run())
    try:
        device.lay("样例甲")
        async with asyncio.timeout(20):
            while not isinstance(card := await seen.get(), CardSeen):
                pass
        assert (card.photo is not None) is keep
        assert not keep or (card.photo is not None and len(card.photo) == 1024 and card.photo.startswith(b"WL"))
        assert driver._photo is None, "nothing of it stays behind"
        assert "photo" not in repr(card)
    finally:
        running.cancel()
        await asyncio.wait([running])
        device.unplug()
