#!/bin/sh
# From a root file system to an image and its signed birth certificate, with nothing booted and no root needed.
#
#   provision.sh KERNEL KEY OUT [ROOT]
#
# KERNEL  vmlinuz that VMs of the image run, or - when it is in ROOT/boot
# KEY     private key that signs (`birthmark keygen -o KEY`); KEY.pub beside it
# OUT     directory for disk.qcow2, web.json, and the page that was reviewed; made if it is missing
# ROOT    directory with the root file system; without it, one is made of the host's busybox
#
# SERVICE (default web) names the service, BIRTHMARK the command. With SOURCE_DATE_EPOCH a second run with the same image gives the same
# certificate. Needs mkfs.ext4 (e2fsprogs) and qemu-img (qemu-utils). Ends with the exit status of what failed.
set -eu

if [ $# -lt 3 ]; then
    echo "usage: $0 KERNEL KEY OUT [ROOT]" >&2
    exit 2
fi
kernel=$1 key=$2 out=$3
service=${SERVICE:-web}
birthmark=${BIRTHMARK:-birthmark}
mkdir -p "$out"

if [ $# -ge 4 ]; then
    root=$4
else
    root=$out/root
    mkdir -p "$root/bin" "$root/dev" "$root/etc" "$root/proc" "$root/sys" "$root/tmp"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in sh mount sleep httpd; do ln -sf busybox "$root/bin/$applet"; done
    printf 'root:x:0:0::/root:/bin/sh\n' > "$root/etc/passwd"
    printf '#!/bin/sh\nmount -t proc proc /proc\nexec httpd -f -p 80 -h /etc\n' > "$root/init"
    chmod 755 "$root/init"
fi

# The image: half as much again as its files, and at least what a journal wants.
size=$(($(du -sk "$root" | cut -f1) * 3 / 2 + 16384))
mkfs.ext4 -q -F -d "$root" "$out/disk.raw" "${size}k"
qemu-img convert -q -f raw -O qcow2 -c "$out/disk.raw" "$out/disk.qcow2"
rm "$out/disk.raw"

# The draft, and the page for whoever signs. A pipeline with a person in it stops here and shows the page.
set -- --image "$out/disk.qcow2" --service "$service" --selector "name=$service-*"
if [ "$kernel" != - ]; then set -- "$@" --kernel "$kernel"; fi
"$birthmark" certify "$@" --force -o "$out/$service.draft"
"$birthmark" sign "$out/$service.draft" --key "$key" --force -o "$out/$service.json"
"$birthmark" verify "$out/$service.json" --trusted-key "$key.pub"
