//! Protocols of Ethernet by the names that iproute2 has for them (lib/ll_proto.c of 6.1; numbers of include/uapi/linux/if_ether.h).

/// The number. Capitals are no others than small letters.
pub(super) fn number(name: &str) -> Option<u16> {
    let name = name.to_ascii_lowercase();
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

#[rustfmt::skip]
const NAMES: [(&str, u16); 53] = [
    ("802.1ad", 0x88a8), ("802.1q", 0x8100), ("802_2", 0x0004), ("802_3", 0x0001), ("aarp", 0x80f3), ("all", 0x0003),
    ("aoe", 0x88a2), ("arp", 0x0806), ("atalk", 0x809b), ("atmfate", 0x8884), ("atmmpoa", 0x884c), ("ax25", 0x0002),
    ("bpq", 0x08ff), ("can", 0x000c), ("control", 0x0016), ("cust", 0x6006), ("ddcmp", 0x0006), ("dec", 0x6000),
    ("diag", 0x6005), ("dna_dl", 0x6001), ("dna_rc", 0x6002), ("dna_rt", 0x6003), ("econet", 0x0018), ("ethercat", 0x88a4),
    ("ieeepup", 0x0a00), ("ieeepupat", 0x0a01), ("ip", 0x0800), ("ipv4", 0x0800), ("ipv6", 0x86dd), ("ipx", 0x8137),
    ("irda", 0x0017), ("lat", 0x6004), ("lldp", 0x88cc), ("localtalk", 0x0009), ("loop", 0x0060), ("mobitex", 0x0015),
    ("mpls_mc", 0x8848), ("mpls_uc", 0x8847), ("ppp_disc", 0x8863), ("ppp_mp", 0x0008), ("ppp_ses", 0x8864),
    ("ppptalk", 0x0010), ("profinet", 0x8892), ("pup", 0x0200), ("pupat", 0x0201), ("rarp", 0x8035), ("sca", 0x6007),
    ("snap", 0x0005), ("teb", 0x6558), ("tipc", 0x88ca), ("tr_802_2", 0x0011), ("wan_ppp", 0x0007), ("x25", 0x0805),
];
