"""Which file system a path is on, and whether SQLite's write-ahead log can work there. Imports nothing of sparkles.

WAL needs memory that is shared between all processes that have the database open, which no file system across a network gives
(https://sqlite.org/wal.html, "All processes using a database must be on the same host computer").
"""

from __future__ import annotations

import os
import re
import sys

_NETWORK = frozenset(
    {
        "9p", "acfs", "afs", "afpfs", "beegfs", "beegfs_nodev", "ceph", "cifs", "coda", "drvfs", "gfs", "gfs2",
        "glusterfs", "gpfs", "lustre", "macfuse", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "osxfuse",
        "panfs", "prl_fs", "pvfs2", "smb", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs", "webdav"
    }
)  # fmt: skip
"""As /proc/mounts and `mount` on macOS spell them; shares between a virtual machine and its host are of the same kind."""

_LOCAL_FUSE = frozenset({"fuseblk", "fuse.fuse-overlayfs", "fuse.ntfs-3g", "fuse.lxcfs"})
"""FUSE file systems over a local disk or local folders; every other one may be remote (sshfs, s3fs, rclone)."""


def is_networked(kind: str) -> bool:
    """Whether a file system of this kind may be in use on several machines at once."""
    kind = kind.lower()
    return kind in _NETWORK or (kind.startswith("fuse") and kind not in _LOCAL_FUSE)


def kind_at(path: str, mounts: str) -> tuple[str, str]:
    """The kind and the mount point of what holds `path` (absolute, links resolved), from the text of /proc/mounts.

    The longest mount point that is the path or a folder above it counts; of two on the same point the later covers the earlier.
    ("", "") where nothing matches.
    """
    found = ("", "")
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1])
        inside = path == point or path.startswith(point if point.endswith("/") else point + "/")
        if inside and len(point) >= len(found[1]):
            found = (fields[2], point)
    return found


def find_kind(path: str) -> tuple[str, str]:
    """The kind and the mount point of the file system that holds `path` on this machine; ("", "") where that cannot be told."""
    path = os.path.realpath(path)
    if sys.platform == "linux":
        try:
            with open("/proc/mounts", "rb") as file:
                return kind_at(path, os.fsdecode(file.read()))
        except OSError:
            return "", ""
    import psutil  # no /proc: imported here because Linux does not need it

    lines = [
        f"{part.device} {part.mountpoint} {part.fstype}"
        for part in psutil.disk_partitions(all=True)
        if " " not in part.mountpoint
    ]
    return kind_at(path, "\n".join(lines))
