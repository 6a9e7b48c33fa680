"""Walls around a child process, of Linux namespaces: it sees its own job, and no other study, ledger or process.

What lies outside of the node's own folders stays as the node's user sees it. As root no user namespace is needed; other
users get one, where the system allows it (user_namespaces(7), mount_namespaces(7), capabilities(7)).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITIES_V3 = 0x20080522
_KEPT = {1, 3}  # root's right to files of other users (DAC_OVERRIDE, FOWNER): without it root sees less than anybody
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "nvidia*", "dri", "kfd")
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Walls:
    """What one child may see.

    Attributes:
        place: its folder, writable; `in` in it is read-only.
        hidden: folders and files that are empty for it.
        shown: what it may read although it lies in a hidden folder.
        network: whether it has the machine's network, or none.
        memory: MiB of shared memory it may make.
    """

    place: str
    hidden: tuple[str, ...]
    shown: tuple[str, ...] = ()
    network: bool = False
    memory: int = 1024


def part(walls: Walls) -> None:
    """Called by the parent of what is walled in: its next child is the first process of its own. Raises OSError."""
    flags = _NEWPID | _NEWIPC | (0 if walls.network else _NEWNET)
    if os.geteuid() == 0:
        with suppress(PermissionError):
            _call("unshare", flags)
            return
    user, group = os.geteuid(), os.getegid()
    _call("unshare", flags | _NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def enclose(walls: Walls) -> None:
    """Called by the first process: builds the walls and gives up the right to tear them down. Raises OSError."""
    _call("unshare", _NEWNS)
    _mount("", "/", "", _REC | _PRIVATE)
    if not walls.network:
        _raise_loopback()
    inputs = f"{walls.place}/in"
    shown = [(path, _handle(path)) for path in (*walls.shown, walls.place) if Path(path).exists()]
    null = _handle("/dev/null")
    _make_devices(walls.memory)
    for path in walls.hidden:
        _hide(path, null)
    for path, handle in shown:
        _show(path, handle, writable=path == walls.place)
    for path in walls.hidden:
        if Path(path).is_dir():  # what is written there would be lost: it is better refused
            _mount("", path, "", _BIND | _REMOUNT | _RDONLY | _locked(path))
    _show(inputs, _handle(inputs), writable=False)
    with suppress(OSError):  # a container may forbid it; what its /proc tells of others is not for this namespace
        _mount("proc", "/proc", "proc", _RDONLY | _NOSUID | _NODEV | _NOEXEC)
    for handle in (null, *(each for _, each in shown)):
        os.close(handle)
    _give_up_rights()


def missing(walls: Walls) -> str:
    """Builds such walls in a process that ends at once: why they cannot be built here, or nothing."""
    if _LIBC is None:
        return "only Linux has namespaces"
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            part(walls)
            first = os.fork()
            if first == 0:
                enclose(walls)
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]))
        except OSError as fault:
            os.write(writing, f"{fault.filename or 'namespaces'}: {fault.strerror}".encode())
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as told:
        reason = told.read()
    status = os.waitpid(pid, 0)[1]
    return "" if status == 0 else reason or "the system forbids it"


def _make_devices(memory: int) -> None:
    """A `/dev` without disks and terminals; graphics cards are there."""
    names = sorted({str(path) for pattern in _DEVICES for path in Path("/dev").glob(pattern)})
    found = [(name, _handle(name)) for name in names]
    _mount("tmpfs", "/dev", "tmpfs", _NOSUID | _NOEXEC, "mode=755,size=1m")
    for name, handle in found:
        _show(name, handle, writable=True)
        os.close(handle)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        Path(f"/dev/{name}").symlink_to(f"/proc/self/fd{target}")
    Path("/dev/shm").mkdir()  # noqa: S108 - a new one, for this child alone
    _mount("tmpfs", "/dev/shm", "tmpfs", _NOSUID | _NODEV, f"mode=1777,size={memory}m")  # noqa: S108


def _hide(path: str, null: int) -> None:
    if Path(path).is_dir():
        _mount("tmpfs", path, "tmpfs", _NOSUID | _NODEV, "mode=755,size=1m")
    elif Path(path).exists():
        _mount(f"/proc/self/fd/{null}", path, "", _BIND)


def _show(path: str, handle: int, *, writable: bool) -> None:
    """Puts what `handle` stands for at `path` again, which may lie in a folder that was hidden since."""
    target = Path(path)
    source = f"/proc/self/fd/{handle}"
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(source, path, "", _BIND | _REC)
    if not writable:
        _mount("", path, "", _BIND | _REMOUNT | _RDONLY | _locked(path))


def _locked(path: str) -> int:
    """Flags of the file system that a remount may not drop; they have the same values in statvfs(3) and mount(2)."""
    return os.statvfs(path).f_flag & (_NOSUID | _NODEV | _NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RELATIME)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _give_up_rights() -> None:
    """No capability is left, nor can any program give one back. In the first process of root a few stay."""
    assert _LIBC is not None
    root = os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split()[2] != "1"
    kept = _KEPT if root else set()
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in range(last + 1):
        if number not in kept:
            _call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
    mask = sum(1 << number for number in kept)
    header = struct.pack("II", _CAPABILITIES_V3, 0)
    _call("capset", header, struct.pack("6I", mask, mask, 0, 0, 0, 0))
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _handle(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    arguments = [each.encode() or None for each in (source, target, kind)]
    _call("mount", *arguments, ctypes.c_ulong(flags), data.encode() or None, path=target)


def _call(name: str, *arguments: object, path: str = "") -> None:
    """A system call by libc. Raises OSError."""
    if _LIBC is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name)
    if getattr(_LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path or name)
