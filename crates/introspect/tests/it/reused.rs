//! A sock whose memory is never of one socket for long: no row shows parts of two, also where the look ends before it is read again.

use crate::opened::{Opened, PATIENT};
use facts::{ProblemKind, Snapshot};
use introspect::{Options, Tables};
use std::net::Ipv4Addr;
use std::sync::Mutex;
use testkit::{GuestSpec, Need, SocketSpec, Spawn};
use vmi_core::{Access, Budget, Gpa, GuestMemory, MemoryError, PAGE_SIZE, Region};

/// Memory that is read by pages, with a page on which a number is another one each time it is read.
#[derive(Debug)]
struct Reused<'m> {
    memory: &'m dyn GuestMemory,
    number: u64,
    /// How often its page was read.
    reads: Mutex<u64>,
}

impl GuestMemory for Reused<'_> {
    fn regions(&self) -> &[Region] {
        self.memory.regions()
    }

    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(at, buf)?;
        let is_number = |word: &&mut [u8; 8]| u64::from_le_bytes(**word) == self.number;
        if buf.len() as u64 == PAGE_SIZE
            && let Some(word) = buf.as_chunks_mut().0.iter_mut().find(is_number)
        {
            let mut reads = self.reads.lock().unwrap();
            *reads += 1;
            *word = (self.number + *reads % 2).to_le_bytes();
        }
        Ok(())
    }

    fn populated(&self, within: Region) -> Result<Vec<Region>, MemoryError> {
        self.memory.populated(within)
    }

    fn access(&self) -> Access {
        Access::PerCall
    }

    fn begin_look(&self) -> Result<(), MemoryError> {
        *self.reads.lock().unwrap() = 0;
        self.memory.begin_look()
    }
}

fn look(opened: &Opened, memory: &dyn GuestMemory, bytes: u64) -> Snapshot {
    let tables = Tables { processes: false, sockets: true, modules: false, ebpf: false };
    let budget = Budget { bytes, ..PATIENT };
    introspect::snapshot(
        memory,
        &opened.kernel,
        opened.facts(),
        &Options { budget, tables, ..Options::default() },
    )
    .unwrap()
}

fn ended(snapshot: &Snapshot) -> bool {
    snapshot.problems.iter().any(|problem| problem.kind == ProblemKind::Budget)
}

#[test]
fn a_socket_that_becomes_another_between_its_parts_is_in_no_look_however_early_that_ends() {
    if !testkit::require(&[Need::Guest(testkit::Kernel::V6_1)]) {
        return;
    }
    let opened = Opened::boot(GuestSpec::new(testkit::Kernel::V6_1).memory_mib(256)).unwrap();
    let sockets =
        (0_u16..8).map(|port| SocketSpec::TcpListen { address: (Ipv4Addr::LOCALHOST, 7000 + port).into() });
    opened.guest.spawn(Spawn { sockets: sockets.collect(), ..Spawn::default() }).unwrap();
    opened.guest.qmp(&serde_json::json!({"execute": "stop"})).unwrap();
    let memory = &*opened.vm.memory;
    let clean = look(&opened, memory, PATIENT.bytes);
    assert_eq!(clean.problems, []);
    let victim = clean.sockets.iter().find(|socket| socket.local_port == Some(7004)).unwrap();
    let reused = Reused { memory, number: victim.inode.unwrap(), reads: Mutex::default() };

    // The least that a whole look takes.
    let (mut least, mut most) = (0, 1 << 30);
    while most - least > 1 {
        let bytes = u64::midpoint(least, most);
        if ended(&look(&opened, &reused, bytes)) { least = bytes } else { most = bytes }
    }
    let whole = look(&opened, &reused, most);
    assert_eq!(whole.sockets.len() + 1, clean.sockets.len());
    assert!(whole.consistency.torn > 0);
    let mut early = 0;
    // Its last reading, and some of what comes before.
    for short in (0_u64..6_000).step_by(40) {
        let seen = look(&opened, &reused, most - short);
        let row = seen.sockets.iter().find(|socket| socket.sock == victim.sock);
        assert_eq!(row, None, "{short} bytes short");
        early += u32::from(ended(&seen) && seen.sockets.len() == whole.sockets.len());
    }
    assert!(early > 5, "{early} looks ended so late that all others were there");
}
