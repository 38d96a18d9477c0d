//! Types of global variables, in C.
//!
//! BTF describes per-CPU variables only, but Volatility's plugins ask for the types of the variables that they start from. This is
//! what their declarations in Linux say. A variable that a kernel does not have, or whose type its BTF does not have, is left
//! without a type: Volatility then refuses that one plugin, and nothing else. (A reference to a type that is not in the file
//! would make it refuse the whole file.)

/// Variable and type: `struct NAME` or a base type, then ` *` or `[COUNT]`.
pub(super) const GLOBALS: &[(&str, &str)] = &[
    // Processes: init/init_task.c, kernel/pid.c, kernel/user.c.
    ("init_task", "struct task_struct"),
    ("init_mm", "struct mm_struct"),
    ("init_files", "struct files_struct"),
    ("init_fs", "struct fs_struct"),
    ("init_cred", "struct cred"),
    ("init_pid_ns", "struct pid_namespace"),
    ("init_user_ns", "struct user_namespace"),
    ("init_uts_ns", "struct uts_namespace"),
    ("cap_last_cap", "int"),
    // Modules: kernel/module/main.c, kernel/params.c.
    ("modules", "struct list_head"),
    ("module_kset", "struct kset *"),
    ("mod_tree", "struct mod_tree_root"),
    ("module_addr_min", "long unsigned int"),
    ("module_addr_max", "long unsigned int"),
    // Networks: net/core/net_namespace.c, net/ipv4, net/socket.c.
    ("init_net", "struct net"),
    ("net_namespace_list", "struct list_head"),
    ("tcp_hashinfo", "struct inet_hashinfo"),
    ("udp_table", "struct udp_table"),
    ("tcp4_seq_ops", "struct seq_operations"),
    ("tcp6_seq_ops", "struct seq_operations"),
    ("udp_seq_ops", "struct seq_operations"),
    ("udp6_seq_ops", "struct seq_operations"),
    ("raw_seq_ops", "struct seq_operations"),
    ("raw6_seq_ops", "struct seq_operations"),
    ("socket_file_ops", "struct file_operations"),
    ("sockfs_dentry_operations", "struct dentry_operations"),
    // Memory: arch/x86/kernel/head64.c, kernel/resource.c.
    ("page_offset_base", "long unsigned int"),
    ("vmalloc_base", "long unsigned int"),
    ("vmemmap_base", "long unsigned int"),
    ("iomem_resource", "struct resource"),
    ("ioport_resource", "struct resource"),
    // Tracing and BPF: kernel/trace/ftrace.c, kernel/bpf.
    ("ftrace_ops_list", "struct ftrace_ops *"),
    ("ftrace_list_end", "struct ftrace_ops"),
    ("ftrace_mod_maps", "struct list_head"),
    ("ftrace_ops_trampoline_list", "struct list_head"),
    ("bpf_kallsyms", "struct list_head"),
    ("prog_idr", "struct idr"),
    ("map_idr", "struct idr"),
    ("link_idr", "struct idr"),
    // The rest: printk, tty, keyboard, interrupts, time, frame buffers, superblocks.
    ("prb", "struct printk_ringbuffer *"),
    ("log_buf", "char *"),
    ("log_buf_len", "unsigned int"),
    ("tty_drivers", "struct list_head"),
    ("keyboard_notifier_list", "struct atomic_notifier_head"),
    ("idt_table", "struct gate_struct[256]"),
    ("tk_core", "struct tk_data"),
    ("jiffies", "long unsigned int"),
    ("num_registered_fb", "int"),
    ("registered_fb", "struct fb_info *[32]"),
    ("super_blocks", "struct list_head"),
    ("saved_command_line", "char *"),
    // Marks of the linker and text, of which only the address counts.
    ("_text", "char[0]"),
    ("_stext", "char[0]"),
    ("_etext", "char[0]"),
    ("linux_banner", "char[0]"),
];
