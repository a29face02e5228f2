"""Taking rights away from a process that is about to read what it must not trust.

Resource limits hold everywhere. The network, other programs and other files are out of reach where the kernel offers
seccomp and Landlock to ordinary processes, as those of the last years do; where it does not, the process goes on
with what it could get.
"""

import ctypes
import math
import os
import platform
import resource
import struct
import sysconfig
from collections.abc import Iterable
from pathlib import Path

_NOTHING_EXTRA_BYTES = 64 * 2**20
"""For the interpreter itself, beyond what is mapped already."""
_MOST_FILES = 64

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_SECCOMP_ALLOW = 0x7FFF0000
_SECCOMP_EPERM = 0x00050001
_BPF_LOAD, _BPF_EQUAL, _BPF_AT_LEAST, _BPF_RETURN = 0x20, 0x15, 0x35, 0x06
_X32_CALLS = 0x40000000

_FORBIDDEN_CALLS = {
    # socket, connect, bind; execve, execveat; ptrace, kill, process_vm_readv and _writev; pidfd_getfd;
    # io_uring_setup (opens sockets behind the filter's back); bpf, userfaultfd. Then what Landlock lets through:
    # truncate; chmod, fchmodat, fchmodat2; chown, lchown, fchownat; setxattr, lsetxattr.
    "x86_64": (
        0xC000003E,
        (41, 42, 49, 59, 322, 101, 62, 310, 311, 438, 425, 321, 323, 76, 90, 268, 452, 92, 94, 260, 188, 189),
    ),
    "aarch64": (
        0xC00000B7,
        (198, 203, 200, 221, 281, 117, 129, 270, 271, 438, 425, 280, 282, 45, 53, 452, 54, 5, 6),
    ),
}

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_PATH_BENEATH = 1
_ALL_FILE_RIGHTS = 0x1FFF
"""Those of the first version of Landlock: running, reading, listing, writing, removing, making."""
_MAY_READ, _MAY_LIST = 0x4, 0x8
_SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/dev/null", "/dev/urandom", "/proc/cpuinfo", "/sys/devices/system/cpu")


def limit_resources(*, memory_bytes: int, seconds: float) -> None:
    """Bound what this process may use from now on.

    Args:
        memory_bytes: beyond what is mapped already; libraries alone map gigabytes that they never touch.
        seconds: of processor time, all threads together.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * os.sysconf("SC_PAGE_SIZE") + memory_bytes + _NOTHING_EXTRA_BYTES
    cpu = max(1, math.ceil(seconds))
    for limit, soft, hard in (
        (resource.RLIMIT_AS, space, space),
        # The soft limit ends the process by a signal of its own; the hard one by one that cannot be caught.
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, _MOST_FILES, _MOST_FILES),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        highest = resource.getrlimit(limit)[1]
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        resource.setrlimit(limit, (soft, hard))


def end_with_parent(signal_number: int, parent: int) -> None:
    """Have the kernel send this process a signal when the one that forked it ends; at once if it has ended already.

    Args:
        parent: its process id.
    """
    _libc().prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)


def forbid_network_and_programs() -> bool:
    """Make the kernel refuse sockets, other programs, and reaching into other processes; for good.

    Returns:
        Whether it does from now on.
    """
    known = _FORBIDDEN_CALLS.get(platform.machine())
    if known is None:
        return False
    architecture, calls = known
    # Every jump counts the instructions between it and the last but one, which says EPERM.
    num_checks = len(calls)
    program = [
        (_BPF_LOAD, 0, 0, 4),
        (_BPF_EQUAL, 0, num_checks + 3, architecture),
        (_BPF_LOAD, 0, 0, 0),
        (_BPF_AT_LEAST, num_checks + 1, 0, _X32_CALLS),
        *((_BPF_EQUAL, num_checks - index, 0, call) for index, call in enumerate(calls)),
        (_BPF_RETURN, 0, 0, _SECCOMP_ALLOW),
        (_BPF_RETURN, 0, 0, _SECCOMP_EPERM),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    libc = _libc()
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(header), 0, 0) == 0)


def allow_only_reading(files: Iterable[Path]) -> bool:
    """Make the kernel refuse all files but some, and the code of this installation; for good.

    Args:
        files: that may be read. Nothing may be written, made, renamed or removed.

    Returns:
        Whether it does from now on.
    """
    libc = _libc()
    wanted = ctypes.c_uint64(_ALL_FILE_RIGHTS)
    rules = libc.syscall(_LANDLOCK_CREATE, ctypes.byref(wanted), ctypes.c_size_t(8), 0)
    if rules < 0:
        return False
    try:
        for path in {*files, *code_folders()}:
            _allow(libc, rules, path)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return False
        return bool(libc.syscall(_LANDLOCK_RESTRICT, rules, 0) == 0)
    finally:
        os.close(rules)


def code_folders() -> frozenset[Path]:
    """Where this interpreter's modules and the system's libraries lie."""
    paths = sysconfig.get_paths()
    names = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    own = Path(__file__).parents[2]
    return frozenset(path for path in (own, *map(Path, (*names, *_SYSTEM_FOLDERS))) if path.exists())


def _allow(libc: ctypes.CDLL, rules: int, path: Path) -> None:
    rights = _MAY_READ | _MAY_LIST if path.is_dir() else _MAY_READ
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, descriptor)
        libc.syscall(_LANDLOCK_ADD, rules, _LANDLOCK_PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(descriptor)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
