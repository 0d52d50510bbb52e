//! Makes namespaces on one kernel differ in their TCP sequence numbers, as
//! hosts with kernels of their own do.
//!
//! The kernel derives initial sequence numbers from one secret for all its
//! namespaces, so two hosts that answer one SYN choose numbers some dozen
//! apart, and connection tracking takes an ACK meant for one for an ACK
//! meant for the other. Between real hosts that happens once in 70 000
//! duplicates. Two BPF programs at each host's interface add a constant of the
//! host's own to the sequence numbers that leave, and subtract it from the
//! acknowledgement numbers that arrive; neither end notices. Selective
//! acknowledgements would have to be shifted as well, so the client does without.

use std::ffi::CStr;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::netns::Namespace;
use crate::io::message::Builder;
use crate::io::netlink::NetlinkSocket;

/// Whether the hosts of a lab choose sequence numbers like hosts of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Isn {
    /// Each host has numbers of its own, as separate kernels have.
    Distinct,
    /// All hosts share the kernel's secret: use `--guard strict`.
    Shared,
}

/// Shifts the sequence numbers of the host at `index` for connections to `vip`.
pub fn make_distinct(host: &Namespace, index: usize, vip: IpAddr) -> Result<()> {
    // Hosts lie far apart and on either side of each other in sequence space.
    let shift = 0x3c6e_f372u32.wrapping_mul(index as u32 + 1);
    host.within(|| {
        let interface = interface_index(c"eth0").context("find eth0")?;
        let netlink = NetlinkSocket::open(libc::NETLINK_ROUTE, 0)?;
        add_clsact(&netlink, interface).context("add the queueing discipline clsact")?;
        let outbound = Rewrite { end: End::Source, number_at: TCP_SEQUENCE, add: shift };
        let inbound = Rewrite {
            end: End::Destination,
            number_at: TCP_ACKNOWLEDGEMENT,
            add: shift.wrapping_neg(),
        };
        for (parent, rewrite) in [(CLSACT_EGRESS, outbound), (CLSACT_INGRESS, inbound)] {
            let program = load(&rewrite.program(vip)).context("load a BPF program")?;
            add_filter(&netlink, interface, parent, &program).context("attach a BPF program")?;
        }
        Ok(())
    })
    .context(
        "give the hosts sequence numbers of their own; this needs the kernel's BPF classifier \
         (cls_bpf), or do without: --isn shared --guard strict",
    )
}

// Offsets in an Ethernet frame.
const ETHERTYPE: u32 = 12;
const IP_HEADER: u32 = 14;
// Offsets in an IPv4 header.
const IPV4_PROTOCOL: u32 = 9;
const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;
const IPV4_LENGTH: u32 = 20;
// Offsets in an IPv6 header.
const IPV6_NEXT_HEADER: u32 = 6;
const IPV6_SOURCE: u32 = 8;
const IPV6_DESTINATION: u32 = 24;
const IPV6_LENGTH: u32 = 40;
// Offsets in a TCP header.
const TCP_SEQUENCE: u32 = 4;
const TCP_ACKNOWLEDGEMENT: u32 = 8;
const TCP_CHECKSUM: u32 = 16;

/// Adds to one number of the TCP packets from or to the virtual IP.
struct Rewrite {
    end: End,
    number_at: u32,
    add: u32,
}

/// Where the virtual IP is in them.
#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

impl End {
    /// What makes a frame one of TCP with `vip` here, as size, place and value of numbers in it; and
    /// where TCP begins. Other IP options or extension headers are not expected in a lab.
    fn tests(self, vip: IpAddr) -> (Vec<(u8, u32, u32)>, u32) {
        let tcp = libc::IPPROTO_TCP as u32;
        match vip {
            IpAddr::V4(vip) => {
                let address = match self {
                    End::Source => IPV4_SOURCE,
                    End::Destination => IPV4_DESTINATION,
                };
                let tests = vec![
                    (asm::HALF, ETHERTYPE, libc::ETH_P_IP as u32),
                    (asm::BYTE, IP_HEADER, 0x45),
                    (asm::BYTE, IP_HEADER + IPV4_PROTOCOL, tcp),
                    (asm::WORD, IP_HEADER + address, vip.into()),
                ];
                (tests, IP_HEADER + IPV4_LENGTH)
            }
            IpAddr::V6(vip) => {
                let address = match self {
                    End::Source => IPV6_SOURCE,
                    End::Destination => IPV6_DESTINATION,
                };
                let mut tests = vec![
                    (asm::HALF, ETHERTYPE, libc::ETH_P_IPV6 as u32),
                    (asm::BYTE, IP_HEADER + IPV6_NEXT_HEADER, tcp),
                ];
                for (word, at) in vip.octets().as_chunks::<4>().0.iter().zip((0..).step_by(4)) {
                    tests.push((asm::WORD, IP_HEADER + address + at, u32::from_be_bytes(*word)));
                }
                (tests, IP_HEADER + IPV6_LENGTH)
            }
        }
    }
}

impl Rewrite {
    fn program(&self, vip: IpAddr) -> Vec<Instruction> {
        use asm::*;
        let (tests, tcp) = self.end.tests(vip);
        let (number_at, checksum_at) = (tcp + self.number_at, tcp + TCP_CHECKSUM);
        let mut program = vec![move_register(R6, R1)];
        let body = [
            load_packet(WORD, number_at),
            move_register(R7, R0),
            add_32(R7, self.add),
            to_big_endian_32(R0),
            to_big_endian_32(R7),
            move_register(R8, R0),
            store_word(R10, -4, R7),
            // bpf_l4_csum_replace(skb, offset, from, to, size of the number)
            move_register(R1, R6),
            move_value(R2, checksum_at),
            move_register(R3, R8),
            move_register(R4, R7),
            move_value(R5, 4),
            call(11),
            // bpf_skb_store_bytes(skb, offset, from, length, flags)
            move_register(R1, R6),
            move_value(R2, number_at),
            move_register(R3, R10),
            add_64(R3, -4),
            move_value(R4, 4),
            move_value(R5, 0),
            call(9),
        ];
        let count = tests.len();
        for (index, (size, at, value)) in tests.into_iter().enumerate() {
            let left = count - 1 - index;
            program.push(load_packet(size, at));
            program.push(unless_equal_32(R0, value, (2 * left + body.len()) as i16));
        }
        program.extend(body);
        // TC_ACT_OK
        program.extend([move_value(R0, 0), exit()]);
        program
    }
}

/// `struct bpf_insn`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low, source in the high four bits.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// As much of an assembler as [`Rewrite`] needs; names after linux/bpf.h.
mod asm {
    use super::Instruction;

    pub const R0: u8 = 0;
    pub const R1: u8 = 1;
    pub const R2: u8 = 2;
    pub const R3: u8 = 3;
    pub const R4: u8 = 4;
    pub const R5: u8 = 5;
    pub const R6: u8 = 6;
    pub const R7: u8 = 7;
    pub const R8: u8 = 8;
    pub const R10: u8 = 10;
    pub const WORD: u8 = 0x00;
    pub const HALF: u8 = 0x08;
    pub const BYTE: u8 = 0x10;

    fn make(code: u8, to: u8, from: u8, offset: i16, immediate: u32) -> Instruction {
        Instruction { code, registers: from << 4 | to, offset, immediate: immediate as i32 }
    }

    /// BPF_LD_ABS: R0 = a number of the packet in host order; R6 is the packet.
    pub fn load_packet(size: u8, offset: u32) -> Instruction {
        make(0x20 | size, 0, 0, 0, offset)
    }
    pub fn move_register(to: u8, from: u8) -> Instruction {
        make(0xbf, to, from, 0, 0)
    }
    pub fn move_value(to: u8, value: u32) -> Instruction {
        make(0xb7, to, 0, 0, value)
    }
    pub fn add_32(to: u8, value: u32) -> Instruction {
        make(0x04, to, 0, 0, value)
    }
    pub fn add_64(to: u8, value: i32) -> Instruction {
        make(0x07, to, 0, 0, value as u32)
    }
    pub fn to_big_endian_32(register: u8) -> Instruction {
        make(0xdc, register, 0, 0, 32)
    }
    pub fn store_word(to: u8, offset: i16, from: u8) -> Instruction {
        make(0x63, to, from, offset, 0)
    }
    pub fn unless_equal_32(register: u8, value: u32, skip: i16) -> Instruction {
        make(0x56, register, 0, skip, value)
    }
    pub fn call(helper: u32) -> Instruction {
        make(0x85, 0, 0, 0, helper)
    }
    pub fn exit() -> Instruction {
        make(0x95, 0, 0, 0, 0)
    }
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads here.
#[derive(Default)]
#[repr(C)]
struct ProgramAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = ProgramAttributes {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        ..ProgramAttributes::default()
    };
    // SAFETY: the attributes point to the instructions and a string literal, which live
    // through the call, and the size is theirs.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of::<ProgramAttributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

fn interface_index(name: &CStr) -> io::Result<i32> {
    // SAFETY: a C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index as i32),
    }
}

// linux/pkt_sched.h, pkt_cls.h and rtnetlink.h
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_EGRESS: u32 = 0xffff_fff3;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const TCA_KIND: i32 = 1;
const TCA_OPTIONS: i32 = 2;
const TCA_BPF_FD: i32 = 6;
const TCA_BPF_NAME: i32 = 7;
const TCA_BPF_FLAGS: i32 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const CREATE: u16 = (libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;

/// `struct tcmsg`.
fn tcmsg(interface: i32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[4..8].copy_from_slice(&interface.to_ne_bytes());
    bytes[8..12].copy_from_slice(&handle.to_ne_bytes());
    bytes[12..16].copy_from_slice(&parent.to_ne_bytes());
    bytes[16..20].copy_from_slice(&info.to_ne_bytes());
    bytes
}

fn add_clsact(netlink: &NetlinkSocket, interface: i32) -> io::Result<()> {
    let mut message = Builder::default();
    message
        .begin(libc::RTM_NEWQDISC, CREATE, 1)
        .raw(&tcmsg(interface, CLSACT_HANDLE, CLSACT, 0))
        .text(TCA_KIND, "clsact")
        .end();
    netlink.request(message.bytes(), 1, |_| ())
}

fn add_filter(
    netlink: &NetlinkSocket,
    interface: i32,
    parent: u32,
    program: &OwnedFd,
) -> io::Result<()> {
    let priority_and_protocol = 1 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    let mut message = Builder::default();
    message
        .begin(libc::RTM_NEWTFILTER, CREATE, 1)
        .raw(&tcmsg(interface, 0, parent, priority_and_protocol))
        .text(TCA_KIND, "bpf")
        .nested(TCA_OPTIONS, |options| {
            options
                .attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes())
                .text(TCA_BPF_NAME, "clusterd-lab-isn")
                .attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
        })
        .end();
    netlink.request(message.bytes(), 1, |_| ())
}
