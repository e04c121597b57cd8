"""Which file system a path is on, from the text of /proc/mounts."""

import pytest

from sparkles.backends.local.mounts import find_kind, is_networked, kind_at

MOUNTS = r"""sysfs /sys sysfs rw,nosuid 0 0
/dev/sda1 / ext4 rw,relatime 0 0
fileserver:/export/home /home nfs4 rw,vers=4.2 0 0
/dev/sdb1 /home/local xfs rw 0 0
ann@host:/data /mnt/my\040data\134x fuse.sshfs rw 0 0
//nas/share /nas cifs rw 0 0
tmpfs /tmp tmpfs rw 0 0
/dev/sdc1 /tmp ext4 rw 0 0
10.0.0.1@tcp:/scratch /scratch lustre rw 0 0
garbage
"""


@pytest.mark.parametrize(
    ("path", "kind", "point"),
    [
        ("/", "ext4", "/"),
        ("/srv/x/.sparkles", "ext4", "/"),
        ("/home", "nfs4", "/home"),
        ("/home/ann/project/.sparkles", "nfs4", "/home"),
        ("/homes/ann", "ext4", "/"),
        ("/home/local/ann", "xfs", "/home/local"),
        ("/home/localhost", "nfs4", "/home"),
        ("/mnt/my data\\x/p", "fuse.sshfs", "/mnt/my data\\x"),
        ("/tmp/p", "ext4", "/tmp"),
        ("/scratch", "lustre", "/scratch"),
    ],
)
def test_the_longest_mount_point_counts(path, kind, point):
    """Whole names only, escapes undone; of two mounts on one point the later."""
    assert kind_at(path, MOUNTS) == (kind, point)


def test_nothing_matches():
    """Without a root there is nothing to say."""
    assert kind_at("/x", "tmpfs /tmp tmpfs rw 0 0\n") == ("", "")
    assert kind_at("/x", "") == ("", "")


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse", "fuse.rclone", "lustre", "9p", "NFS"])
def test_networked(kind):
    """SQLite's write-ahead log does not work there."""
    assert is_networked(kind)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "apfs", "fuseblk", "fuse.fuse-overlayfs", ""]
)
def test_local(kind):
    """It does work there, or nothing is known: SQLite itself refuses where it cannot."""
    assert not is_networked(kind)


def test_this_machine(tmp_path):
    """The folder of the tests is on something, also below a folder that is not there yet."""
    kind, point = find_kind(str(tmp_path / "not" / "yet"))
    assert kind
    assert str(tmp_path.resolve()).startswith(point)
