# Makes a virtual machine of a freshly unpacked Debian, as root inside it. $1: the public key that may log in.
# What a careful operator has to reckon with is all here: three kinds of swap, and a processor with frequencies.
set -eu
key=$1
here=/root/guest

# Reached over SSH only, by the same user as in the containers.
useradd --create-home --no-user-group --shell /bin/bash operator
install -d -m 0700 -o operator /home/operator/.ssh
printf '%s\n' "$key" >/home/operator/.ssh/authorized_keys
chown operator /home/operator/.ssh/authorized_keys
chmod 0600 /home/operator/.ssh/authorized_keys
printf 'operator ALL=(ALL:ALL) NOPASSWD:ALL\n' >/etc/sudoers.d/operator
chmod 0440 /etc/sudoers.d/operator
printf '%s\n' 'PermitRootLogin no' 'AuthenticationMethods publickey' 'AllowUsers operator' 'UseDNS no' \
    >/etc/ssh/sshd_config.d/10-operator.conf
rm -f /etc/ssh/ssh_host_*
install -m 0600 "$here/host_key" /etc/ssh/ssh_host_ed25519_key
ssh-keygen -y -f "$here/host_key" >/etc/ssh/ssh_host_ed25519_key.pub

# QEMU's own network, without asking for an address first.
echo precog-vm >/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 precog-vm\n' >/etc/hosts
printf '[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nDNS=10.0.2.3\n' \
    >/etc/systemd/network/10-qemu.network
systemctl enable systemd-networkd.service
systemctl disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer || true

# Random bytes: a file of zeros would be stored with holes, which can't be swapped to.
for file in /swapfile /srv/extra; do
    dd if=/dev/urandom of=$file bs=1M count=64 status=none
    chmod 0600 $file
    mkswap --quiet $file
done
printf '%s\n' '# <file system> <mount point> <type> <options> <dump> <pass>' \
    "/dev/vda  /  ext4  errors=remount-ro  0  1" \
    "/swapfile none   swap	sw,pri=5  0  0  # the installer's" >/etc/fstab
printf '[Swap]\nWhat=/srv/extra\n[Install]\nWantedBy=swap.target\n' >/etc/systemd/system/srv-extra.swap
systemctl enable srv-extra.swap
printf '[zram0]\nzram-size = 64\n' >/etc/systemd/zram-generator.conf

# A daemon of the operator's own, for limits of services.
printf '[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' \
    >/etc/systemd/system/sleeper.service
systemctl enable sleeper.service

# The processor. What built it goes again.
release=$(basename /lib/modules/*)
make -s -C "/lib/modules/$release/build" M=$here modules
install -D -m 0644 "$here/precog_test_cpufreq.ko" "/lib/modules/$release/extra/precog_test_cpufreq.ko"
depmod "$release"
echo precog_test_cpufreq >/etc/modules-load.d/precog-test-cpufreq.conf
apt-get -qq purge --autoremove linux-headers-cloud-amd64 make >/dev/null
rm -rf "$here"
