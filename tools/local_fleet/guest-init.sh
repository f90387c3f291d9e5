# The first process of each host: makes it reachable as a real host is, then becomes systemd.
# Run as `sh -c THIS precog-host PUBLIC_KEY`, so that it serves the user's own images too.
set -eu

# A booting systemd raises fs.file-max and writes Debian's own fs.* and kernel.* defaults. In a privileged container
# that would change the machine underneath, so these families are read-only here, save what each container has for itself.
# vm.* stays as a privileged container has it: keeping away from it is the tools' duty, and tests prove that.
for family in fs kernel; do
    mount --bind "/proc/sys/$family" "/proc/sys/$family"
    mount -o remount,bind,ro "/proc/sys/$family"
done
for own in fs/mqueue kernel/hostname kernel/domainname kernel/sem kernel/msgmax kernel/msgmnb kernel/msgmni \
    kernel/shmall kernel/shmmax kernel/shmmni kernel/shm_rmid_forced; do
    [ -e "/proc/sys/$own" ] || continue
    mount --bind "/proc/sys/$own" "/proc/sys/$own"
    mount -o remount,bind,rw "/proc/sys/$own"
done

# Once in the host's life: a restart keeps what its roles have made of it. Debian has a group `operator` already.
if [ ! -e /etc/precog-host ]; then
    tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
    # The kernel has one table of binary formats for all; where many hosts boot at once, looking at it may hang.
    for unit in systemd-binfmt.service proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount; do
        ln -sf /dev/null "/etc/systemd/system/$unit"
    done
    # The certificates of the machine underneath, if it has any of its own.
    if ls /usr/local/share/ca-certificates/*.crt >/dev/null 2>&1; then update-ca-certificates >/dev/null; fi
    id -u operator >/dev/null 2>&1 || useradd --create-home --no-user-group --shell /bin/bash operator
    install -d -m 0700 -o operator /home/operator/.ssh
    printf '%s\n' "$1" >/home/operator/.ssh/authorized_keys
    chown operator /home/operator/.ssh/authorized_keys
    chmod 0600 /home/operator/.ssh/authorized_keys
    printf 'operator ALL=(ALL:ALL) NOPASSWD:ALL\n' >/etc/sudoers.d/operator
    chmod 0440 /etc/sudoers.d/operator
    printf '%s\n' 'PermitRootLogin no' 'AuthenticationMethods publickey' 'AllowUsers operator' 'UseDNS no' \
        >/etc/ssh/sshd_config.d/10-operator.conf
    rm -f /etc/ssh/ssh_host_*
    ssh-keygen -q -t ed25519 -N '' -C "$(hostname)" -f /etc/ssh/ssh_host_ed25519_key
    : >/etc/precog-host
fi
exec /lib/systemd/systemd
