#!/usr/bin/env bash
# A machine made of namespaces, with a real systemd as its first process, for tests. Needs root.
#
#   machine.sh boot FOLDER    runs until it is killed; FOLDER/files are copied over this machine's, of which none is changed
#   machine.sh clean FOLDER   after that, removes the control groups of it
#
# Its network is a namespace, its files are an overlay whose changes are kept in memory, and of this machine's units
# none is started.
set -euo pipefail

stage=$1
folder=$2
group=rtt0-test-$(basename "$folder")

case $stage in
boot)
    # However the test ends.
    exec setpriv --pdeathsig KILL -- unshare --mount -- "$0" groups "$folder"
    ;;
groups)
    mount --make-rprivate /
    mount -t tmpfs none "$folder/memory"
    mkdir "$folder/memory/groups"
    mount -t cgroup2 none "$folder/memory/groups"
    mkdir "$folder/memory/groups/$group"
    echo $$ >"$folder/memory/groups/$group/cgroup.procs"
    exec unshare --pid --fork --kill-child --mount --net --cgroup --uts --ipc -- "$0" files "$folder"
    ;;
files)
    root=$folder/memory/root
    mkdir "$root" "$folder/memory/changes" "$folder/memory/work"
    mount -t overlay none "$root" -o "lowerdir=/,upperdir=$folder/memory/changes,workdir=$folder/memory/work"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount -t cgroup2 none "$root/sys/fs/cgroup"
    # As systemd itself would mount it.
    mount -t bpf -o mode=700 bpf "$root/sys/fs/bpf"
    mount -t tmpfs -o mode=755 none "$root/run"
    mount -t tmpfs -o mode=1777 none "$root/tmp"
    mount -t tmpfs -o mode=755 none "$root/dev"
    mkdir "$root/dev/net"
    # Name, type, major and minor number. The last one is there to be refused to whom its mode would allow it.
    while read -r node; do
        # shellcheck disable=SC2086
        mknod -m 666 "$root/dev/"$node
    done <<'NODES'
null c 1 3
zero c 1 5
full c 1 7
random c 1 8
urandom c 1 9
tty c 5 0
ptmx c 5 2
net/tun c 10 200
loop0 b 7 0
NODES
    # Of the units that this machine would start only the log's is left.
    rm -rf "$root"/etc/systemd/system "$root"/{usr/lib,etc}/systemd/system-generators
    rm -rf "$root"/usr/lib/systemd/system/*.wants "$root/etc/fstab"
    # In an image for containers there is a policy against starting anything.
    rm -f "$root/usr/sbin/policy-rc.d"
    wants=$root/etc/systemd/system/multi-user.target.wants
    mkdir -p "$wants"
    ln -s /usr/lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
    ln -s /usr/lib/systemd/system/systemd-journald.service "$wants"
    cp -a "$folder/files/." "$root"
    cd "$root"
    pivot_root . mnt
    umount -l /mnt
    # As systemd has it where it is not told that it is in a container.
    mount --make-rshared /
    exec env -i container=rtt0 PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --log-target=journal </dev/null
    ;;
clean)
    exec unshare --mount -- "$0" unmade "$folder"
    ;;
unmade)
    mount --make-rprivate /
    mount -t cgroup2 none "$folder/memory"
    if [ -d "$folder/memory/$group" ]; then
        find "$folder/memory/$group" -depth -type d -exec rmdir {} +
    fi
    ;;
esac
