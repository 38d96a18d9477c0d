//! Words for the numbers of eBPF: those that `bpftool` prints (libbpf's ``prog_type_name``, ``attach_type_name`` and
//! ``link_type_name``). The numbers are in include/uapi/linux/bpf.h and never change; a kernel only adds.

const PROGRAMS: [&str; 33] = [
    "unspec",
    "socket_filter",
    "kprobe",
    "sched_cls",
    "sched_act",
    "tracepoint",
    "xdp",
    "perf_event",
    "cgroup_skb",
    "cgroup_sock",
    "lwt_in",
    "lwt_out",
    "lwt_xmit",
    "sock_ops",
    "sk_skb",
    "cgroup_device",
    "sk_msg",
    "raw_tracepoint",
    "cgroup_sock_addr",
    "lwt_seg6local",
    "lirc_mode2",
    "sk_reuseport",
    "flow_dissector",
    "cgroup_sysctl",
    "raw_tracepoint_writable",
    "cgroup_sockopt",
    "tracing",
    "struct_ops",
    "ext",
    "lsm",
    "sk_lookup",
    "syscall",
    "netfilter",
];

const ATTACH_TYPES: [&str; 62] = [
    "cgroup_inet_ingress",
    "cgroup_inet_egress",
    "cgroup_inet_sock_create",
    "cgroup_sock_ops",
    "sk_skb_stream_parser",
    "sk_skb_stream_verdict",
    "cgroup_device",
    "sk_msg_verdict",
    "cgroup_inet4_bind",
    "cgroup_inet6_bind",
    "cgroup_inet4_connect",
    "cgroup_inet6_connect",
    "cgroup_inet4_post_bind",
    "cgroup_inet6_post_bind",
    "cgroup_udp4_sendmsg",
    "cgroup_udp6_sendmsg",
    "lirc_mode2",
    "flow_dissector",
    "cgroup_sysctl",
    "cgroup_udp4_recvmsg",
    "cgroup_udp6_recvmsg",
    "cgroup_getsockopt",
    "cgroup_setsockopt",
    "trace_raw_tp",
    "trace_fentry",
    "trace_fexit",
    "modify_return",
    "lsm_mac",
    "trace_iter",
    "cgroup_inet4_getpeername",
    "cgroup_inet6_getpeername",
    "cgroup_inet4_getsockname",
    "cgroup_inet6_getsockname",
    "xdp_devmap",
    "cgroup_inet_sock_release",
    "xdp_cpumap",
    "sk_lookup",
    "xdp",
    "sk_skb_verdict",
    "sk_reuseport_select",
    "sk_reuseport_select_or_migrate",
    "perf_event",
    "trace_kprobe_multi",
    "lsm_cgroup",
    "struct_ops",
    "netfilter",
    "tcx_ingress",
    "tcx_egress",
    "trace_uprobe_multi",
    "cgroup_unix_connect",
    "cgroup_unix_sendmsg",
    "cgroup_unix_recvmsg",
    "cgroup_unix_getpeername",
    "cgroup_unix_getsockname",
    "netkit_primary",
    "netkit_peer",
    "trace_kprobe_session",
    "trace_uprobe_session",
    "trace_fsession",
    "trace_fentry_multi",
    "trace_fexit_multi",
    "trace_fsession_multi",
];

const LINKS: [&str; 16] = [
    "unspec",
    "raw_tracepoint",
    "tracing",
    "cgroup",
    "iter",
    "netns",
    "xdp",
    "perf_event",
    "kprobe_multi",
    "struct_ops",
    "netfilter",
    "tcx",
    "uprobe_multi",
    "netkit",
    "sockmap",
    "tracing_multi",
];

/// The word, or what bpftool prints for a number without one.
fn word(words: &[&str], number: u32) -> String {
    let known = usize::try_from(number).ok().and_then(|number| words.get(number));
    known.map_or_else(|| format!("type {number}"), |word| (*word).to_owned())
}

/// Of ``enum bpf_prog_type``.
pub(super) fn program(number: u32) -> String {
    word(&PROGRAMS, number)
}

/// Of ``enum bpf_attach_type``.
pub(super) fn attach_type(number: u32) -> String {
    word(&ATTACH_TYPES, number)
}

/// Of ``enum bpf_link_type``.
pub(super) fn link(number: u32) -> String {
    word(&LINKS, number)
}

#[cfg(test)]
mod tests {
    use super::{attach_type, link, program};

    /// Numbers of include/uapi/linux/bpf.h far apart from each other: a word left out would move those behind it.
    #[test]
    fn words_stand_at_the_numbers_that_the_kernel_has_for_them() {
        assert_eq!(
            [1, 6, 8, 26, 32].map(program),
            ["socket_filter", "xdp", "cgroup_skb", "tracing", "netfilter"]
        );
        assert_eq!(
            [1, 24, 37, 46, 55].map(attach_type),
            ["cgroup_inet_egress", "trace_fentry", "xdp", "tcx_ingress", "netkit_peer"]
        );
        assert_eq!([3, 7, 11, 14].map(link), ["cgroup", "perf_event", "tcx", "sockmap"]);
        assert_eq!(program(4000), "type 4000");
    }
}
