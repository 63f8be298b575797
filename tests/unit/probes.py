"""What a script tries, one thing after the other, to get out of where it runs: a program in Perl, and what it must say.

Perl, for every Debian host has it, and its `syscall` makes any system call. A probe is an expression whose value is
text; `said` returns what each of them said, by name.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from mkroot.rootfs.filter import TABLES

SHELL = ("sh", "cat", "mkdir", "mknod", "perl", "sleep")
_KEY = 0x6D6B7274  # of a System V shared memory segment

# Of these no one may be had, whatever the capabilities: each must say EPERM.
_REFUSED = """
syslog vhangup pivot_root acct settimeofday mount umount2 swapon swapoff reboot sethostname setdomainname init_module
delete_module quotactl lookup_dcookie clock_settime mbind set_mempolicy kexec_load add_key request_key keyctl
migrate_pages unshare move_pages perf_event_open fanotify_init open_by_handle_at setns kcmp finit_module bpf userfaultfd
io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
quotactl_fd
"""
_NODES = ("sda", "vda", "nvme0n1", "mem", "kmem", "port", "kmsg", "kvm", "fuse", "net", "loop0", "loop-control")
_SETTINGS = """
/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/drop_caches /proc/sys/fs/file-max
/proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/power/state
/sys/kernel/mm/transparent_hugepage/enabled /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/pids/cgroup.procs
/sys/fs/cgroup/unified/cgroup.procs
"""

_HEAD = r"""
$| = 1;
sub why { my $n = $! + 0; $n == 1 ? 'EPERM' : $n == 2 ? 'ENOENT' : $n == 3 ? 'ESRCH' : $n == 13 ? 'EACCES'
    : $n == 30 ? 'EROFS' : $n == 38 ? 'ENOSYS' : $n == 111 ? 'ECONNREFUSED' : $n == 25 ? 'ENOTTY' : $n == 6 ? 'ENXIO'
    : $n == 5 ? 'EIO' : "errno $n" }
sub call { my $r = syscall($_[0], @_[1 .. $#_]); $r < 0 ? why() : "done: $r" }
sub text { open(my $f, '<', $_[0]) or return why(); local $/; my $t = <$f>; defined $t ? $t : '' }
sub list { opendir(my $d, $_[0]) or return why(); join ' ', sort grep { !/^\.\.?$/ } readdir $d }
sub there { -e $_[0] ? 'there' : why() }
sub writes { open(my $f, '>>', $_[0]) ? 'opened' : why() }
sub status { my ($l) = grep { /^$_[0]:/ } split /\n/, text('/proc/self/status'); $l =~ s/^\S+\s+//; $l }
sub node {
    my ($kind, $major, $minor, $at) = @_;
    unlink $at;
    system("mknod $at $kind $major $minor 2>/dev/null") == 0 or return 'not made';
    return 'no device' unless -c $at or -b _;
    my $r = sysopen(my $f, $at, 0) || sysopen($f, $at, 1) ? 'opened' : why();
    unlink $at;
    $r;
}
sub knocks {
    my ($family, $kind, $address) = @_;
    socket(my $s, $family, $kind, 0) or return why();
    connect($s, $address) ? 'connected' : why();
}
sub aside {
    my ($code) = @_;
    pipe(my $r, my $w);
    my $pid = fork;
    if (!$pid) { close $r; my $t = eval { $code->() }; syswrite $w, defined $t ? $t : "died: $@"; syscall($EXIT, 0); }
    close $w; local $/; my $t = <$r>; waitpid $pid, 0; $t;
}
sub out_of_root {
    aside(sub {
        mkdir '/tmp/deep'; opendir(my $top, '/') or return why();
        chroot '/tmp/deep' or return why();
        chdir $top; chdir '..' for 1 .. 64; chroot '.'; there($CANARY);
    });
}
sub say_all {
    while (my ($name, $code) = splice @_, 0, 2) {
        my $t = eval { $code->() };
        $t = "died: $@" unless defined $t;
        $t =~ s/\n/ | /g;
        print OUT "$name\t$t\n";
    }
}
"""


def _numbers() -> dict[str, int]:
    table = TABLES[os.uname().machine][0]
    named = {**table.denied, "clone": table.clone, "clone3": table.clone3, "personality": table.personality}
    more = {
        "x86_64": {"exit": 231, "ptrace": 101, "adjtimex": 159, "readv": 310, "shmget": 29, "pidfd_getfd": 438},
        "aarch64": {"exit": 94, "ptrace": 117, "adjtimex": 171, "readv": 270, "shmget": 194, "pidfd_getfd": 438},
    }
    return {**named, **more[os.uname().machine], "pidfd_open": 434}


def _perl(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Surroundings:
    """What there is on the host to be found: files, servers, a process, memory, an environment, a descriptor."""

    def __init__(self, folder: Path, port: int, abstract: str) -> None:
        self.folder, self.port, self.abstract = folder, port, abstract
        self.canary = folder / "canary"
        self.paths: dict[str, Path] = {"a file of the host": self.canary}
        self.environ = {"MKROOT_TEST_CANARY": "canary-in-the-environment"}

    def found(self) -> list[str]:
        """Return what of the host did not stay as it was."""
        return [] if self.canary.read_text() == "canary\n" else ["the canary was written to"]


@contextmanager
def surroundings(folder: Path) -> Iterator[Surroundings]:
    """Put things on the host that a script must not find; skip where the probes cannot be made here."""
    if os.uname().machine not in TABLES or not shutil.which("perl"):
        pytest.skip("the probes need perl, and a machine whose system calls are known here")
    libc = ctypes.CDLL(None, use_errno=True)
    segment = libc.shmget(_KEY, 4096, 0o1666)
    shared = Path(f"/dev/shm/mkroot-canary-{os.getpid()}")
    shared.write_text("canary\n")
    name = f"mkroot-canary-{os.getpid()}"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(16)
        abstract.bind("\0" + name)
        abstract.listen(16)
        host = Surroundings(folder, tcp.getsockname()[1], name)
        host.canary.write_text("canary\n")
        host.paths["shared memory of the host"] = shared
        try:
            yield host
        finally:
            shared.unlink()
            libc.shmctl(segment, 0, None)  # IPC_RMID


def probes(host: Surroundings) -> dict[str, str]:
    """Return the probes, Perl expressions by name."""
    n = _numbers()
    inet = f"pack('S n C4 x8', 2, {host.port}, 127, 0, 0, 1)"
    found: dict[str, str] = {f"path: {name}": f"there({_perl(str(path))})" for name, path in host.paths.items()}
    for name in ("root/etc", "cwd/etc", "fd/3", "environ", "maps", "mem", "exe", "map_files", "ns/mnt"):
        act = "list" if name in ("root/etc", "cwd/etc", "map_files") else "text"
        found[f"process 1: {name}"] = f"{act}('/proc/1/{name}')"
    found |= {
        "process 1: command line": "text('/proc/1/cmdline')",
        "process 1: killed": "kill(9, 1); select(undef, undef, undef, 0.05); there('/proc/1/comm')",
        "process 1: ptrace": f"call({n['ptrace']}, 16, 1, 0, 0)",
        "process 1: memory": f"my $b = 'x' x 8; my $v = pack('P Q', $b, 8); call({n['readv']}, 1, $v, 1, $v, 1, 0)",
        "process 1: descriptor": f"my $p = syscall({n['pidfd_open']}, 1, 0); "
        f"$p < 0 ? why() : call({n['pidfd_getfd']}, $p, 3, 0)",
        "other processes": "join ' ', grep { !/^(mkroot|sh|perl|dpkg|odd.*|crun)$/ } "
        "map { my $c = text(\"/proc/$_/comm\"); $c =~ s/\\n//; $c } grep { /^\\d/ } split / /, list('/proc')",
        "other processes: environment": "join ' ', grep { text(\"/proc/$_/environ\") =~ /canary/ } "
        "grep { /^\\d/ } split / /, list('/proc')",
        "a process of the host: kill": f"kill(0, {os.getpid()}) ? 'there' : why()",
        "environment": "join ' ', grep { \"$_ $ENV{$_}\" =~ /canary|mkroot/i } sort keys %ENV",
        "descriptors": "join ' ', grep { /canary|mkroot|store/ } map { readlink(\"/proc/self/fd/$_\") || '' } 0 .. 300",
        "descriptors: folders": "join ' ', grep { -d \"/proc/self/fd/$_\" } 0 .. 300",
        "working folder": "readlink('/proc/self/cwd')",
        "mounts": f"join ' ', grep {{ m({re.escape(str(host.folder))}) }} split /\\n/, text('/proc/self/mountinfo')",
        "control groups": "join ' ', grep { !m{^\\d+:[^:]*:/$} } split /\\n/, text('/proc/self/cgroup')",
        "network: devices": "join ' ', map { /^\\s*(\\S+):/ ? $1 : () } split /\\n/, text('/proc/net/dev')",
        "network: a server of the host": f"knocks(2, 1, {inet})",
        "network: an abstract socket": f"knocks(1, 1, pack('S', 1) . \"\\0{host.abstract}\")",
        "network: vsock": "knocks(40, 1, pack('S S L L x4', 40, 0, 1024, 2))",
        "network: packets": "socket(my $s, 17, 3, 768) ? 'opened' : why()",
        "network: raw": "socket(my $s, 2, 3, 1) ? 'opened' : why()",
        "capabilities: bounding": "status('CapBnd')",
        "capabilities: effective": "status('CapEff')",
        "capabilities: permitted": "status('CapPrm')",
        "capabilities: inheritable": "status('CapInh')",
        "capabilities: ambient": "status('CapAmb')",
        "seccomp": "status('Seccomp')",
        "dumped core": "(text('/proc/self/limits') =~ /Max core file size\\s+(\\S+)/)[0]",
        "call: clone into a user namespace": f"my $r = syscall({n['clone']}, 0x10000011, 0, 0, 0, 0); "
        f"syscall({n['exit']}, 0) if $r == 0; $r < 0 ? why() : 'done'",
        "call: clone3": f"call({n['clone3']}, 0, 0)",
        "call: unshare a user namespace": f"call({n['unshare']}, 0x10000000)",
        "call: personality": f"call({n['personality']}, 0x0040000)",
        "call: adjtimex": f"my $t = pack('L x252', 1); call({n['adjtimex']}, $t)",
        "call: the user's keyring": f"call({n['keyctl']}, 0, -3, 0)",
        "call: user namespaces by exec": "system('unshare -U true 2>/dev/null') == 0 ? 'done' : 'refused'",
        "mount: a file system": f"my ($a, $b) = ('tmpfs', '/tmp'); call({n['mount']}, $a, $b, $a, 0, 0)",
        "mount: a bind": f"my ($a, $b) = ('/etc', '/tmp'); call({n['mount']}, $a, $b, 0, 4096, 0)",
        "mount: writable /proc/sys": f"my $a = '/proc/sys'; call({n['mount']}, 0, $a, 0, 32, 0)",
        "mount: away with /proc/kcore's cover": f"my $a = '/proc/kcore'; call({n['umount2']}, $a, 2)",
        "root: out by a second chroot": "out_of_root()",
        "root: ..": "join ' ', grep { /canary/ } split / /, list('/../../../..' . " + _perl(str(host.folder)) + ")",
        "devices: /dev": "join ' ', grep { !/^(console|core|fd|full|mqueue|null|ptmx|pts|random|shm|std(in|out|err)|tty"
        "|urandom|zero)$/ } split / /, list('/dev')",
        "devices: terminals": "join ' ', grep { !/^(ptmx|\\d)$/ } split / /, list('/dev/pts')",
        "devices: /dev/tty": "sysopen(my $f, '/dev/tty', 2) ? 'opened' : why()",
        "kernel: messages": "-e '/proc/kmsg' ? length(text('/proc/kmsg')) : 0",
        "kernel: memory": "-e '/proc/kcore' ? length(text('/proc/kcore')) : 0",
        "kernel: addresses": "-e '/proc/kallsyms' ? length(text('/proc/kallsyms')) : 0",
        "kernel: keys": "-e '/proc/keys' ? length(text('/proc/keys')) : 0",
        "kernel: timers": "-e '/proc/timer_list' ? length(text('/proc/timer_list')) : 0",
        "kernel: firmware": "list('/sys/firmware')",
        "kernel: tracing": "list('/sys/kernel/debug/tracing')",
        "control groups: a new one": "(grep { mkdir \"/sys/fs/cgroup/$_/mkroot-probe\" } "
        "'.', split / /, list('/sys/fs/cgroup')) + 0",
        "memory: System V of the host": f"call({n['shmget']}, {_KEY}, 0, 0)",
        "terminal: characters typed for the user": "my $c = 'x'; join ' ', "
        "map { my $f = $_; ioctl($f, 0x5412, $c) ? 'typed' : why() } (*STDIN, *STDOUT, *STDERR)",
        "terminal: of this session": "(split / /, (split /\\) /, text('/proc/self/stat'), 2)[1])[4]",
    }  # fmt: skip
    for path in _SETTINGS.split():
        found[f"writes {path}"] = f"writes('{path}')"
    for folder in ("/dev", "/tmp", "/dev/shm", "/"):
        found[f"device node in {folder}: a disk"] = f"node('b', 8, 0, '{folder.rstrip('/')}/disk0')"
        found[f"device node in {folder}: memory"] = f"node('c', 1, 1, '{folder.rstrip('/')}/mem0')"
        found[f"device node in {folder}: null"] = f"node('c', 1, 3, '{folder.rstrip('/')}/null0')"
    for name in _NODES:
        found[f"device /dev/{name}"] = f"there('/dev/{name}')"
    for name in _REFUSED.split():
        if name in n:
            found[f"call: {name}"] = f"call({n[name]}, 0, 0, 0, 0, 0, 0)"
    return found


_NO = r"E(ACCES|PERM|NOENT)"
_SAID = {
    "process 1: command line": r"mkroot\0*",
    "process 1: killed": "there",
    "process 1: map_files": f"|{_NO}",
    "process 1: (root|cwd|fd|environ|maps|mem|exe|ns)": _NO,
    "process 1: (ptrace|memory|descriptor)": "EPERM",
    "other processes": "",
    "a process of the host": "ESRCH",
    "environment|descriptors|mounts|control groups$": "",
    "working folder": "/",
    "control groups: a new one": "0",
    "network: devices": "lo",
    "network: (a server|an abstract)": "ECONNREFUSED",
    "network: vsock": "EPERM",
    "capabilities: (inheritable|ambient)": "0{16}",
    "seccomp": "2",
    "dumped core": r"\S+",
    "call: clone3": "ENOSYS",
    "call: user namespaces by exec": "refused",
    "call: ": "EPERM",
    "mount: ": "EPERM",
    "root: out": "ENOENT",
    r"root: \.\.": "",
    "devices: (/dev|terminals)$": "",
    "devices: /dev/tty": "ENXIO",
    "device node": "not made|no device|EACCES|EPERM",
    "device /dev": "ENOENT",
    "path: ": "ENOENT",
    "kernel: (firmware|tracing)": r"|ENOENT|EACCES",
    "kernel: ": "0|6",  # nothing, or why() of a file that may not be read
    "memory: ": "ENOENT",
    "terminal: of": "0",
    "terminal: characters": r"((ENOTTY|EIO|EPERM|EINVAL|errno \d+) ?){3}",
    "writes ": "E(ROFS|ACCES|PERM|NOENT)",
}  # fmt: skip


def expected(name: str, capabilities: str, raw: str, core: str = "0") -> str:
    """Return what a probe must say, as a regular expression. raw: what a raw socket says here."""
    if name in ("capabilities: bounding", "capabilities: effective", "capabilities: permitted"):
        return capabilities
    if name in ("network: packets", "network: raw"):
        return raw
    if name == "dumped core":
        return core
    return next(said for about, said in _SAID.items() if re.match(about, name))


def program(host: Surroundings, into: str) -> str:
    """Return a shell script that makes every probe and writes what each says to the file `into`."""
    lines = [_HEAD, f"$CANARY = {_perl(str(host.canary))}; $EXIT = {_numbers()['exit']};"]
    lines += [f"open(OUT, '>', '{into}') or die;", "say_all("]
    lines += [f"{_perl(name)}, sub {{ {code} }}," for name, code in probes(host).items()]
    text = "\n".join([*lines, ");", "close OUT;"])
    at = f"{into.rpartition('/')[0]}/probe.pl"
    return f"cat > {at} <<'EOF_OF_PROBES'\n{text}\nEOF_OF_PROBES\nperl {at} < /dev/null\n"


def said(text: str) -> Mapping[str, str]:
    """Return what each probe said."""
    return dict(line.split("\t", 1) for line in text.splitlines())


def names() -> list[str]:
    """Return the names of all probes that there are on any host."""
    if os.uname().machine not in TABLES:
        return []
    host = Surroundings(Path("/nowhere"), 1, "name")
    host.paths["shared memory of the host"] = Path("/dev/shm/x")
    host.paths |= dict.fromkeys(PATHS, Path("/nowhere"))
    return list(probes(host))


PATHS = ("the store", "the output", "the recipe's folder", "mkroot's own code", "mkroot's own Python")
