//! The one table of Linux types and symbols that the engine asks for.
//!
//! A walker may only use what stands here: everything else of a kernel's type information is dropped when a profile is
//! built, which keeps a profile at a few KB. A member that some kernels lack (`__state` or `state`) is listed in all its
//! forms; the walker asks the profile which one there is, never the version.

use crate::profile::{Wanted, WantedType};

/// What the walkers of `introspect::linux` use.
pub const WANTED: Wanted = Wanted { types: TYPES, symbols: SYMBOLS, enums: &[] };

const fn all(name: &'static str) -> WantedType {
    WantedType { name, members: &[] }
}

const fn some(name: &'static str, members: &'static [&'static str]) -> WantedType {
    WantedType { name, members }
}

const TYPES: &[WantedType] = &[
    // Lists.
    all("list_head"),
    all("hlist_head"),
    all("hlist_node"),
    all("hlist_nulls_head"),
    all("hlist_nulls_node"),
    all("hlist_bl_node"),
    all("rhash_head"),
    // Processes.
    some(
        "task_struct",
        &[
            "__state",
            "state",
            "exit_state",
            "flags",
            "tasks",
            "pid",
            "tgid",
            "real_parent",
            "group_leader",
            "thread_pid",
            "start_boottime",
            "real_start_time",
            "real_cred",
            "comm",
            "fs",
            "files",
            "nsproxy",
            "signal",
            "cgroups",
            "mm",
            "pid_links",
            "cg_list",
            "se",
        ],
    ),
    some("signal_struct", &["nr_threads", "thread_head"]),
    some("cred", &["uid", "gid", "euid", "egid", "cap_effective", "user_ns"]),
    some("pid", &["level", "numbers", "tasks"]),
    all("upid"),
    all("idr"),
    all("xarray"),
    some("xa_node", &["slots"]),
    some("rq", &["curr", "cfs_tasks"]),
    some("sched_entity", &["group_node"]),
    some("mm_struct", &["pgd", "arg_start", "arg_end", "env_start", "env_end", "exe_file"]),
    // Namespaces.
    all("ns_common"),
    all("nsproxy"),
    some("pid_namespace", &["ns", "idr"]),
    some("user_namespace", &["ns"]),
    some("uts_namespace", &["ns", "name"]),
    some("ipc_namespace", &["ns"]),
    some("mnt_namespace", &["ns"]),
    some("cgroup_namespace", &["ns"]),
    all("new_utsname"),
    // Control groups.
    some("css_set", &["dfl_cgrp", "hlist", "tasks", "mg_tasks", "dying_tasks"]),
    some("cgroup", &["kn"]),
    some("kernfs_node", &["parent", "__parent", "name"]),
    // Files.
    some("file", &["f_op", "f_path", "f_inode", "private_data"]),
    all("path"),
    some("dentry", &["d_parent", "d_name", "d_hash", "d_inode"]),
    all("qstr"),
    some("vfsmount", &["mnt_root"]),
    some("mount", &["mnt", "mnt_parent", "mnt_mountpoint", "mnt_ns"]),
    some("inode", &["i_ino", "i_nlink", "i_uid"]),
    some("files_struct", &["fdt"]),
    some("fdtable", &["max_fds", "fd", "open_fds"]),
    // Sockets.
    some("socket", &["sk", "file"]),
    some("socket_alloc", &["socket", "vfs_inode"]),
    some("sock", &["__sk_common", "sk_type", "sk_protocol", "sk_socket", "sk_uid"]),
    all("sock_common"),
    some("inet_timewait_sock", &["tw_substate"]),
    some("inet_hashinfo", &["ehash", "ehash_mask", "lhash2", "lhash2_mask", "listening_hash"]),
    all("inet_ehash_bucket"),
    all("inet_listen_hashbucket"),
    some("inet_timewait_death_row", &["hashinfo"]),
    some("udp_table", &["hash", "mask"]),
    all("udp_hslot"),
    some("raw_hashinfo", &["ht"]),
    some("net", &["list", "ns", "rtnl", "ipv4", "ipv6", "unx", "packet"]),
    all("possible_net_t"),
    some("proto", &["node", "name", "h"]),
    some("netns_ipv4", &["tcp_death_row", "udp_table"]),
    some("netns_unix", &["table"]),
    all("unix_table"),
    some("netns_packet", &["sklist"]),
    some("unix_sock", &["addr", "peer"]),
    all("unix_address"),
    some("packet_sock", &["num"]),
    some("netlink_table", &["hash"]),
    some("netlink_sock", &["node"]),
    some("rhashtable", &["tbl"]),
    all("bucket_table"),
    // Modules.
    some(
        "module",
        &["state", "list", "name", "mkobj", "kallsyms", "refcnt", "mem", "core_layout", "init_layout"],
    ),
    some("mod_tree_root", &["root"]),
    all("latch_tree_root"),
    some("mod_tree_node", &["mod", "node"]),
    all("latch_tree_node"),
    all("rb_node"),
    some("kset", &["list"]),
    some("module_kobject", &["kobj", "mod"]),
    some("kobject", &["entry"]),
    all("mod_kallsyms"),
    some("btf_module", &["list", "btf"]),
    some("btf", &["data", "data_size", "name"]),
    some("module_memory", &["size"]),
    some("module_layout", &["size"]),
    // The machine's memory as the kernel knows it.
    all("resource"),
];

const SYMBOLS: &[&str] = &[
    "_stext",
    "_text",
    "btf_modules",
    "__start_BTF",
    "__stop_BTF",
    "__per_cpu_offset",
    "__start_notes",
    "__stop_notes",
    "css_set_table",
    "init_net",
    "init_pid_ns",
    "init_task",
    "init_top_pgt",
    "init_uts_ns",
    "iomem_resource",
    "linux_banner",
    "mod_tree",
    "module_kset",
    "modules",
    "net_namespace_list",
    "nl_table",
    "nr_cpu_ids",
    "raw_v4_hashinfo",
    "raw_v6_hashinfo",
    "runqueues",
    "socket_file_ops",
    "swapper_pg_dir",
    "sysctl_bootid",
    "system_state",
    "tcp_hashinfo",
    "udp_table",
    "udplite_table",
    "unix_socket_table",
    "vmcoreinfo_data",
];
