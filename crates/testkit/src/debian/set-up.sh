# Runs once in the tree that becomes the disk of a Debian guest: what only its own programs can do.
set -e
# Who logs in, without a password, from the guest itself.
useradd --create-home --shell /bin/bash deployer
for home in /root /home/deployer; do
    mkdir -p -m 700 "$home/.ssh"
done
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
cp /root/.ssh/id_ed25519.pub /home/deployer/.ssh/authorized_keys
chown -R deployer: /home/deployer
printf 'localhost %s\n' "$(cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub)" >/root/.ssh/known_hosts
# A container with one program.
mkdir -p /var/lib/lab-container/rootfs/bin /var/lib/lab-container/rootfs/proc /var/lib/lab-container/rootfs/dev
cp /bin/busybox /var/lib/lab-container/rootfs/bin/busybox
# A package in two versions: one is installed, the other waits in a repository of the disk's own.
mkdir -p /srv/package/usr/sbin /srv/repository
cp /bin/sleep /srv/package/usr/sbin/lab-metrics
for version in 1.0 1.1; do
    sed "s/VERSION/$version/" /srv/package/DEBIAN/control >/srv/control
    mv /srv/package/DEBIAN/control /srv/template
    mv /srv/control /srv/package/DEBIAN/control
    # The newer program differs in bytes that nobody runs.
    echo "$version" >>/srv/package/usr/sbin/lab-metrics
    dpkg-deb --root-owner-group --build /srv/package "/srv/lab-metrics_$version.deb"
    mv /srv/template /srv/package/DEBIAN/control
done
dpkg --install /srv/lab-metrics_1.0.deb
mv /srv/lab-metrics_1.1.deb /srv/repository/
cd /srv/repository
{
    dpkg-deb --field lab-metrics_1.1.deb
    echo "Filename: ./lab-metrics_1.1.deb"
    echo "Size: $(stat -c %s lab-metrics_1.1.deb)"
    echo "SHA256: $(sha256sum lab-metrics_1.1.deb | cut -d' ' -f1)"
} >Packages
{
    echo "Origin: Lab"
    echo "Label: Lab"
    echo "Suite: stable"
    echo "Date: $(date -Ru)"
    echo "SHA256:"
    echo " $(sha256sum Packages | cut -d' ' -f1) $(stat -c %s Packages) Packages"
} >Release
systemctl enable lab-metrics.service
systemctl set-default multi-user.target
# They ask for hardware or networks that no guest of the lab has.
systemctl mask e2scrub_reap.service systemd-pstore.service
rm -rf /srv/package /srv/lab-metrics_1.0.deb /srv/set-up
# How the host that made this reached the archive is not the guest's.
rm -f /etc/apt/sources.list.d/* /etc/apt/apt.conf.d/99mmdebstrap
apt-get -q update
