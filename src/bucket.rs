//! Buckets: the kernel's own hash of a client, computed here as well.
//!
//! 256 buckets are the form of the hash rule that the kernel evaluates without
//! user space, as the nft expression `jhash ip saddr . tcp sport mod 256 seed S`
//! (`nft_jhash_eval`). Daemon, simulator and kernel must agree on every client,
//! so this is the kernel's function and not one of this project's choice.
//!
//! The kernel reads the address in its own byte order where it is longer than
//! twelve bytes (`jhash`); [`bucket`] does as little-endian kernels do.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A share of all clients: those whose address and port hash to this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(pub u8);

impl Bucket {
    /// How many buckets there are.
    pub const COUNT: usize = 256;

    /// Every bucket, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }
}

/// The bucket of a client: its address and port, for ICMP echo its address and
/// the identifier of the request.
///
/// Equals `jhash ip saddr . tcp sport mod 256 seed SEED` in nft, with `ip6
/// saddr`, `udp sport` and `icmp id` in their places. `seed` is
/// [`ClusterKey::bucket_seed`](crate::flow::ClusterKey::bucket_seed).
pub fn bucket(seed: u32, client: SocketAddr) -> Bucket {
    // As in the kernel's registers: a field ends on a multiple of four bytes,
    // so two zero bytes follow the port (`nft_payload_eval`).
    let mut registers = [0; 20];
    let port = client.port().to_be_bytes();
    let bytes = match client.ip() {
        IpAddr::V4(ip) => {
            registers[..4].copy_from_slice(&ip.octets());
            registers[4..6].copy_from_slice(&port);
            &registers[..8]
        }
        IpAddr::V6(ip) => {
            registers[..16].copy_from_slice(&ip.octets());
            registers[16..18].copy_from_slice(&port);
            &registers[..]
        }
    };
    // `reciprocal_scale(hash, 256)`: the upper eight bits.
    Bucket((jhash(bytes, seed) >> 24) as u8)
}

/// Bob Jenkins' lookup3 hash of whole 32-bit words (`jhash` in
/// include/linux/jhash.h); the length is a multiple of four.
fn jhash(bytes: &[u8], seed: u32) -> u32 {
    /// `JHASH_INITVAL`.
    const INITIAL: u32 = 0xdead_beef;
    let start = INITIAL.wrapping_add(bytes.len() as u32).wrapping_add(seed);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut blocks = bytes.chunks(12).peekable();
    while let Some(block) = blocks.next() {
        let word = |index: usize| {
            let bytes = block.get(4 * index..4 * index + 4).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        a = a.wrapping_add(word(0));
        b = b.wrapping_add(word(1));
        c = c.wrapping_add(word(2));
        if blocks.peek().is_some() {
            mix(&mut a, &mut b, &mut c);
        } else {
            finish(&mut a, &mut b, &mut c);
        }
    }
    c
}

/// `__jhash_mix`.
fn mix(a: &mut u32, b: &mut u32, c: &mut u32) {
    let step = |x: &mut u32, y: &mut u32, z: &mut u32, turn| {
        *x = x.wrapping_sub(*z) ^ z.rotate_left(turn);
        *z = z.wrapping_add(*y);
    };
    step(a, b, c, 4);
    step(b, c, a, 6);
    step(c, a, b, 8);
    step(a, b, c, 16);
    step(b, c, a, 19);
    step(c, a, b, 4);
}

/// `__jhash_final`.
fn finish(a: &mut u32, b: &mut u32, c: &mut u32) {
    let step = |x: &mut u32, y: &u32, turn| *x = (*x ^ y).wrapping_sub(y.rotate_left(turn));
    step(c, b, 14);
    step(a, c, 11);
    step(b, a, 25);
    step(c, b, 16);
    step(a, c, 4);
    step(b, a, 14);
    step(c, b, 24);
}

/// A set of buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets([u64; 4]);

impl Buckets {
    /// No bucket.
    pub const EMPTY: Self = Self([0; 4]);
    /// Every bucket.
    pub const FULL: Self = Self([u64::MAX; 4]);

    /// Is `bucket` in the set?
    pub fn contains(&self, bucket: Bucket) -> bool {
        let (word, bit) = Self::place(bucket);
        self.0[word] & bit != 0
    }

    /// Adds `bucket`.
    pub fn insert(&mut self, bucket: Bucket) {
        let (word, bit) = Self::place(bucket);
        self.0[word] |= bit;
    }

    /// The buckets of the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = Bucket> {
        let set = *self;
        Bucket::all().filter(move |&bucket| set.contains(bucket))
    }

    /// How many buckets are in the set.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Is there no bucket in the set?
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    fn place(Bucket(number): Bucket) -> (usize, u64) {
        (usize::from(number / 64), 1 << (number % 64))
    }
}

impl FromIterator<Bucket> for Buckets {
    fn from_iter<I: IntoIterator<Item = Bucket>>(buckets: I) -> Self {
        let mut set = Self::EMPTY;
        buckets.into_iter().for_each(|bucket| set.insert(bucket));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Taken from the dynamic sets of a kernel (6.18), see tests/kernel/buckets.rs.
    #[test]
    fn buckets_are_the_kernels() {
        for (seed, client, number) in [
            (0, "10.0.0.200:65535", 99),
            (0, "192.0.2.1:4000", 169),
            (1, "192.0.2.1:4000", 231),
            (0xfedc_ba98, "192.0.2.1:4000", 246),
            (0xfedc_ba98, "255.255.255.254:1", 160),
            (0, "[2001:db8::1]:4000", 236),
            (1, "[2001:db8::1]:4000", 212),
            (0xfedc_ba98, "[2001:db8::1]:4000", 103),
            (0xfedc_ba98, "[fe80::ffff:ffff:ffff:fffe]:65535", 170),
        ] {
            let client: SocketAddr = client.parse().unwrap();
            assert_eq!(bucket(seed, client), Bucket(number), "{client}");
        }
    }

    #[test]
    fn every_client_has_one_bucket_and_every_bucket_its_share() {
        let mut clients = [0u32; Bucket::COUNT];
        for port in 1..=u16::MAX {
            clients[usize::from(bucket(7, ([192, 0, 2, 1], port).into()).0)] += 1;
        }
        assert!(clients.iter().all(|&n| (180..340).contains(&n)), "{clients:?}");
    }

    #[test]
    fn a_set_contains_what_was_inserted() {
        let mut set = Buckets::EMPTY;
        assert!(set.is_empty());
        for number in [255, 0, 63, 64] {
            set.insert(Bucket(number));
            assert!(set.contains(Bucket(number)));
        }
        assert!(!set.contains(Bucket(1)));
        assert_eq!(set.iter().map(|Bucket(number)| number).collect::<Vec<_>>(), [0, 63, 64, 255]);
        assert_eq!(set.len(), 4);
        assert_eq!(set.iter().collect::<Buckets>(), set);
        assert_eq!(Bucket::all().collect::<Buckets>(), Buckets::FULL);
    }
}
