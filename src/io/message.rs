//! Netlink messages: built and parsed by hand, without allocation per message.
//!
//! Headers and attribute headers are in host byte order; whether a value is too
//! depends on the subsystem (nfnetlink: network order, `inet_diag`: host order).
//! What is parsed comes from the kernel, and is checked all the same: a length
//! that makes no sense ends the iteration.

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// `NLA_TYPE_MASK`: without the bits for "nested" and "network byte order".
const ATTRIBUTE_KIND: u16 = 0x3fff;

/// Rounds up to the four bytes that messages and attributes are aligned to.
const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Builds messages one after the other into one reusable buffer.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    start: usize,
}

impl Builder {
    /// A buffer that takes `capacity` bytes without allocating again.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity), start: 0 }
    }

    /// Forgets all messages, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Removes the first `count` bytes, which must be whole messages.
    pub fn discard(&mut self, count: usize) {
        self.bytes.drain(..count);
    }

    /// The finished messages.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Starts a message; [`Builder::end`] closes it.
    pub fn begin(&mut self, kind: u16, flags: u16, sequence: u32) -> &mut Self {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        // Port 0 is the kernel.
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self
    }

    /// Adds `struct nfgenmsg`, with which every nfnetlink message starts.
    /// `resource` is a queue, a log group or a subsystem.
    pub fn nfgenmsg(&mut self, family: i32, resource: u16) -> &mut Self {
        let resource = resource.to_be_bytes();
        self.raw(&[family as u8, 0, resource[0], resource[1]])
    }

    /// Adds a fixed structure, padded.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: i32, value: &[u8]) -> &mut Self {
        let length = (ATTRIBUTE + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind as u16).to_ne_bytes());
        self.raw(value)
    }

    /// Adds an attribute that holds a C string.
    pub fn text(&mut self, kind: i32, value: &str) -> &mut Self {
        let length = (ATTRIBUTE + value.len() + 1) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind as u16).to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.raw(&[0])
    }

    /// Adds an attribute that holds the attributes which `content` adds.
    pub fn nested(&mut self, kind: i32, content: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attribute(kind | libc::NLA_F_NESTED, &[]);
        content(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Asks for an acknowledgement of the message that was begun last.
    pub fn acknowledge_last(&mut self) {
        let flags = &mut self.bytes[self.start + 6..self.start + 8];
        let asked = u16::from_ne_bytes([flags[0], flags[1]]) | libc::NLM_F_ACK as u16;
        flags.copy_from_slice(&asked.to_ne_bytes());
    }

    /// Closes the message that [`Builder::begin`] opened.
    pub fn end(&mut self) {
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The message type of message `message` in nfnetlink subsystem `subsystem`.
pub const fn nfnetlink(subsystem: i32, message: i32) -> u16 {
    ((subsystem << 8) | message) as u16
}

/// One received message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_seq`: that of the request for an answer, else 0.
    pub sequence: u32,
    /// All after the header.
    pub payload: &'a [u8],
    /// The message with its header.
    pub whole: &'a [u8],
}

impl Message<'_> {
    /// What an `NLMSG_ERROR` message says, or the end of a dump: 0 for an
    /// acknowledgement or success, else a positive errno. `None` for any other
    /// message.
    pub fn error(&self) -> Option<i32> {
        if i32::from(self.kind) != libc::NLMSG_ERROR && !self.is_done() {
            return None;
        }
        let code =
            self.payload.first_chunk().map_or(-libc::EBADMSG, |code| i32::from_ne_bytes(*code));
        Some(code.saturating_neg())
    }

    /// Is this the end of a dump?
    pub fn is_done(&self) -> bool {
        i32::from(self.kind) == libc::NLMSG_DONE
    }
}

/// The messages in a datagram. Ends early at one whose length makes no sense.
#[derive(Debug, Clone)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header: &[u8; HEADER] = self.0.first_chunk()?;
        let [a, b, c, d, kind_low, kind_high, _, _, e, f, g, h, ..] = *header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let whole = self.0.get(..length)?;
        let payload = whole.get(HEADER..)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([kind_low, kind_high]),
            sequence: u32::from_ne_bytes([e, f, g, h]),
            payload,
            whole,
        })
    }
}

/// The attributes in a message, as (type, value). Ends early at one whose
/// length makes no sense.
#[derive(Debug, Clone)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (i32, &'a [u8]);

    fn next(&mut self) -> Option<(i32, &'a [u8])> {
        let &[a, b, c, d] = self.0.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = self.0.get(ATTRIBUTE..length)?;
        self.0 = self.0.get(align(length)..).unwrap_or_default();
        Some((i32::from(u16::from_ne_bytes([c, d]) & ATTRIBUTE_KIND), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_parses_again() {
        let mut builder = Builder::default();
        builder.begin(nfnetlink(3, 1), 0, 7).nfgenmsg(2, 0x1234).attribute(5, &[1, 2, 3]);
        builder.nested(9, |inner| {
            inner.text(1, "abc").attribute(2, &[]);
        });
        builder.end();
        builder.begin(libc::NLMSG_DONE as u16, 0, 8).raw(&(-libc::ENOENT).to_ne_bytes()).end();

        let messages: Vec<_> = Messages(builder.bytes()).collect();
        let [first, last] = messages[..] else { panic!("{messages:?}") };
        assert_eq!((first.kind, first.sequence), (0x301, 7));
        assert_eq!(first.payload[..4], [2, 0, 0x12, 0x34]);
        let attributes: Vec<_> = Attributes(&first.payload[4..]).collect();
        assert_eq!(attributes[0], (5, &[1, 2, 3][..]));
        assert_eq!(attributes[1].0, 9);
        let inner: Vec<_> = Attributes(attributes[1].1).collect();
        assert_eq!(inner, [(1, &b"abc\0"[..]), (2, &[][..])]);
        assert!(last.is_done() && first.error().is_none());
        assert_eq!(last.error(), Some(libc::ENOENT));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes: Vec<u8>) {
            for message in Messages(&bytes) {
                let _ = (message.error(), message.is_done());
                Attributes(message.payload).for_each(drop);
            }
            Attributes(&bytes).for_each(drop);
        }
    }
}
