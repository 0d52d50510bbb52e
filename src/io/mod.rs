//! Everything that talks to the kernel, one file per kernel interface.
//!
//! | file | interface | what for |
//! |---|---|---|
//! | [`netlink`], [`message`] | `AF_NETLINK` | sockets, message builder and parser the others share |
//! | [`nfqueue`] | `nfnetlink_queue` | SYNs held by the kernel until this host decides |
//! | [`nflog`] | `nfnetlink_log` | copies of packets that go on (SYN-ACK, wrong ACK) |
//! | [`xt_queue`] | `nf_tables` + `nft_compat` | a queue rule where nft lacks `queue` |
//! | [`sock_diag`] | `inet_diag` | listeners, half-open requests, established sockets |
//! | [`conntrack`] | `ctnetlink` | looking for one flow, removing it; flows of datagrams |
//! | [`rules`], [`nft`] | `nf_tables` through the program `nft` | the ruleset as text; installing it |
//! | [`nft_sets`], [`kernel_buckets`], [`foreign_flows`] | `nf_tables` | elements of sets: what the kernel decides without the daemon |
//! | [`watch`] | notifications | noticing that others remove our rules or address |
//! | [`packet_socket`], [`claim_socket`] | `AF_PACKET` | claim frames |
//! | [`arp`], [`ndp`], [`neighbours`] | `AF_PACKET` | who has the virtual IP: ARP, neighbour discovery, either |
//! | [`doctor_socket`] | `AF_PACKET` | bulletins and probes of the doctor |
//! | [`cluster_mac`] | none | the MAC that the virtual IP resolves to, by mode |
//! | [`group`] | `SIOCADDMULTI` | receiving frames to a group MAC, also after a crash |
//! | [`membership`] | `IP_ADD_MEMBERSHIP`, `IPV6_ADD_MEMBERSHIP` | telling switches that a group MAC is wanted here |
//! | [`kmod`] | `/proc/net/clusterd` | our kernel module, where it is loaded |
//! | [`link`] | rtnetlink | the interface, its addresses, its MACs |
//! | [`mark`], [`vip_name`] | none | a note on the interface of what a daemon does to it |
//! | [`packet`] | none | IPv4, IPv6, TCP and UDP headers of what the others deliver |
//! | [`realtime`] | scheduler, `mlockall` | a thread that is not made to wait |
//! | [`poller`] | `epoll` | waiting with nanosecond deadlines |
//!
//! All sockets belong to the network namespace of the thread that opened them
//! and stay there; all are close-on-exec and non-blocking.

pub mod arp;
pub mod claim_socket;
pub mod cluster_mac;
pub mod conntrack;
pub mod doctor_socket;
pub mod error;
pub mod foreign_flows;
pub mod group;
pub mod kernel_buckets;
pub mod kmod;
pub mod link;
pub mod listeners;
pub mod mark;
pub mod membership;
pub mod message;
pub mod ndp;
pub mod neighbours;
pub mod netlink;
pub mod nflog;
pub mod nfqueue;
pub mod nft;
pub mod nft_sets;
pub mod packet;
pub mod packet_socket;
pub mod poller;
pub mod realtime;
pub mod rules;
pub mod sock_diag;
pub mod vip_name;
pub mod watch;
pub mod xt_queue;

#[cfg(test)]
pub mod testing;
