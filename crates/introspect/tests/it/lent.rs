//! A sock whose file leads to another one has that one's holders, and a row must not outlive what it has them by: the file may have been
//! another's when it was read, and where the file leads may be another socket's by then.
//!
//! Without a race: a stopped guest's memory with something in front of it that answers as the memory was at first, until the descriptor
//! that leads there has been read and was found again in its place.

use crate::changing::{Changing, Words};
use crate::opened::{Opened, PATIENT};
use crate::socket_views::Stopped;
use facts::{Snapshot, Socket};
use introspect::{Options, Tables};
use std::net::Ipv4Addr;
use testkit::{GuestSpec, Need, SocketSpec, Spawn};
use vmi_core::{Access, GuestMemory};

fn look(opened: &Opened, memory: &dyn GuestMemory) -> Snapshot {
    let tables = Tables { processes: false, sockets: true, modules: false, ebpf: false };
    let options = Options { budget: PATIENT, tables, ..Options::default() };
    introspect::snapshot(memory, &opened.kernel, opened.facts(), &options).unwrap()
}

fn at_port(snapshot: &Snapshot, port: u16) -> &Socket {
    snapshot.sockets.iter().find(|socket| socket.local_port == Some(port)).unwrap()
}

#[test]
fn a_sock_that_only_seemed_to_work_for_another_or_now_works_for_one_in_the_same_memory_has_its_holders_of_now()
 {
    if !testkit::require(&[Need::Guest(testkit::Kernel::V6_1)]) {
        return;
    }
    let opened = Opened::boot(GuestSpec::new(testkit::Kernel::V6_1).memory_mib(256)).unwrap();
    let [one, other] = [7001, 7002].map(|port| {
        let sockets = vec![SocketSpec::TcpListen { address: (Ipv4Addr::LOCALHOST, port).into() }];
        opened.guest.spawn(Spawn { sockets, ..Spawn::default() }).unwrap().pid
    });
    opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    let stopped = Stopped::new(&opened);
    // Descriptors are found by processes.
    let clean = opened.snapshot().unwrap();
    let (sock, owner) = (at_port(&clean, 7001), at_port(&clean, 7002));
    assert_eq!(
        (sock.processes.as_slice(), owner.processes.as_slice()),
        ([one].as_slice(), [other].as_slice())
    );
    let slot = |socket| match stopped.off_the_descriptors(&clean, socket).as_slice() {
        [(slot, 0)] => stopped.physical(*slot),
        slots => panic!("{slots:x?}"),
    };
    let (own_slot, owners_slot) = (slot(sock), slot(owner));
    let file = sock.file.unwrap().0;
    let place = stopped.member(file, "file", "private_data");
    let private = stopped.physical(place);
    let socket = stopped.peek(stopped.member(owner.sock.0, "sock", "sk_socket"));
    let owners_file = stopped.physical(stopped.member(socket, "socket", "file"));
    let alloc = socket - stopped.member(0, "socket_alloc", "socket");
    let number = stopped.member(stopped.member(alloc, "socket_alloc", "vfs_inode"), "inode", "i_ino");
    assert_eq!(Some(stopped.peek(number)), owner.inode);
    let number = stopped.physical(number);

    // The file of one leads to the other, whose file it is too. The one that has it is the other's process, or that of the one.
    let lent: Words = vec![(private, socket), (owners_file, file)];
    let with = |words: &[(u64, u64)]| [&lent[..], words].concat();
    let by_the_other = with(&[(owners_slot, file), (own_slot, 0)]);
    let by_the_one = with(&[(owners_slot, 0), (own_slot, file)]);
    let of_another = [&by_the_other[..], &[(number, owner.inode.unwrap() + 1000)]].concat();

    for access in [Access::PerCall, Access::Mapped] {
        // The descriptor is read, and read again.
        let changing = |first: &Words, then: &Words| {
            Changing::new(&*opened.vm.memory, access, first, then, owners_slot, 2)
        };
        let holders = |snapshot: &Snapshot| {
            [7001, 7002].map(|port| {
                let socket = at_port(snapshot, port);
                (socket.processes.to_vec(), socket.file.unwrap().0, socket.inode)
            })
        };
        let seen = |first: &Words, then: &Words| {
            let memory = changing(first, then);
            let snapshot = look(&opened, &memory);
            assert_eq!(snapshot.problems, [], "{access:?}");
            let reads = memory.reads();
            assert!(reads >= 2 || first == then, "{access:?}: it changed never, with {reads} readings");
            snapshot
        };
        let still = seen(&Words::new(), &Words::new());
        assert_eq!(still.sockets, clean.sockets);

        // As long as nothing changes, one works for the other.
        let lent_by = |pid: u32| [(vec![pid], file, sock.inode), (vec![pid], file, owner.inode)];
        assert_eq!(holders(&seen(&by_the_other, &by_the_other)), lent_by(other), "{access:?}");
        assert_eq!(holders(&seen(&by_the_one, &by_the_one)), lent_by(one), "{access:?}");

        // The file was the other's before it was the one's.
        let changed = seen(&by_the_other, &Words::new());
        assert_eq!(changed.sockets, clean.sockets, "{access:?}: no row is half of what was before");
        assert_eq!(changed.consistency.torn, 0, "{access:?}");

        // Who it works for is another socket now, in the same memory, which somebody else has.
        assert_eq!(holders(&seen(&of_another, &by_the_one)), lent_by(one), "{access:?}");
    }
}
