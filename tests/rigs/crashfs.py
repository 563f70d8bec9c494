#!/usr/bin/env python3
"""crashfs: a real ext4 in a loop file that stands still, fills up, or loses power within milliseconds; no virtual machine.

  crashfs.py install
  crashfs.py make [--mb 64] [--real-mb 6]      mkfs and mount on DIR/m; with --real-mb it fails with EIO once so much is written
  crashfs.py mend                such a disk holds all again; then `back`
  crashfs.py freeze | thaw       whoever writes is blocked in the kernel until it is thawed; reading goes on
  crashfs.py cut                 power cut: what no fsync pushed out is lost, every call gets EIO
  crashfs.py back                unmount, fsck -p, mount again
  crashfs.py rm                  unmount and delete
  (all take --dir DIR; default $EDGE_RIGS/crashfs, EDGE_RIGS: ${TMPDIR:-/var/tmp}/edge-rigs)

In Python: make(d), mend(d), freeze(d), thaw(d), cut(d), back(d), rm(d), mount_point(d). Needs root, loop devices and ext4; one user per DIR.
NOT lost at a cut: what reached the loop device, so there is no drive cache here. Rules: count only
promises READ before cut was called; end the program under test before `back`; thaw before ending a program that was frozen.
"""
import argparse
import fcntl
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

EXT4_IOC_SHUTDOWN, NOLOGFLUSH = 0x8004587D, 2      # _IOR('X', 125, __u32)
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878          # _IOWR('X', 119, int), _IOWR('X', 120, int)


def sh(*command) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def mount_point(d) -> Path:
    return Path(d).resolve() / "m"


def make(d, mb: int = 64, real_mb: int = 0) -> Path:
    image, m = Path(d).resolve() / "disk.img", mount_point(d)
    m.mkdir(parents=True, exist_ok=True)
    if m.is_mount():
        raise OSError(f"{m} is mounted: rm first")
    if real_mb:                                    # the image lies on a tmpfs that is smaller than it says
        sh("mount", "-t", "tmpfs", "-o", f"size={real_mb}m", "tmpfs", Path(d).resolve())
        m.mkdir()
    sh("truncate", "-s", "0", image)
    sh("truncate", "-s", f"{mb}M", image)
    sh("mkfs.ext4", "-q", "-F", *(["-E", "nodiscard", "-J", "size=4"] if real_mb else []), image)
    sh("mount", "-o", "loop,errors=remount-ro", image, m)
    return m


def mend(d) -> None:
    sh("mount", "-o", "remount,size=1g", Path(d).resolve())


def ask(d, request: int, argument: bytes) -> None:
    fd = os.open(mount_point(d), os.O_RDONLY)
    try:
        fcntl.ioctl(fd, request, argument)
    finally:
        os.close(fd)


def freeze(d) -> None:
    ask(d, FIFREEZE, bytes(4))


def thaw(d) -> None:
    ask(d, FITHAW, bytes(4))


def cut(d) -> None:
    ask(d, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))


def back(d) -> str:
    """Unmount (fails with 'busy' while the program under test lives), replay the journal, mount; what e2fsck said."""
    image, m = Path(d).resolve() / "disk.img", mount_point(d)
    sh("umount", m)
    until = time.monotonic() + 20
    while sh("losetup", "-j", image):              # let go of a moment later; mounted again before, the device's old cache would show
        if time.monotonic() > until:
            raise OSError(f"{image} is still in use")
        time.sleep(0.02)
    fsck = subprocess.run(["e2fsck", "-p", image], capture_output=True, text=True, timeout=120)
    if fsck.returncode > 1:
        raise OSError(f"e2fsck {fsck.returncode}: {fsck.stdout}")
    sh("mount", "-o", "loop,errors=remount-ro", image, m)
    return fsck.stdout.strip()


def rm(d) -> None:
    if mount_point(d).is_mount():
        sh("umount", mount_point(d))
    (Path(d).resolve() / "disk.img").unlink(missing_ok=True)
    if Path(d).resolve().is_mount():
        sh("umount", Path(d).resolve())


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="crashfs.py COMMAND …")
    sub = ap.add_subparsers(dest="command", required=True, metavar="COMMAND")
    rigs = os.environ.get("EDGE_RIGS") or os.path.join(os.environ.get("TMPDIR") or "/var/tmp", "edge-rigs")
    for name in ("install", "make", "mend", "freeze", "thaw", "cut", "back", "rm"):
        p = sub.add_parser(name)
        p.add_argument("--dir", default=os.path.join(rigs, "crashfs"))
        if name == "make":
            p.add_argument("--mb", type=int, default=64)
            p.add_argument("--real-mb", type=int, default=0)
    a = ap.parse_args()
    match a.command:
        case "install":
            subprocess.run(["apt-get", "update"], check=True)
            return subprocess.call(["apt-get", "install", "-y", "--no-install-recommends", "e2fsprogs", "mount"])
        case "make": print(make(a.dir, a.mb, a.real_mb))
        case "mend": mend(a.dir)
        case "freeze": freeze(a.dir)
        case "thaw": thaw(a.dir)
        case "cut": cut(a.dir)
        case "back": print(back(a.dir))
        case "rm": rm(a.dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
