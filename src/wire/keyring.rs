//! Who may speak: how frames are signed, and which signatures are believed (spec 10).

use constant_time_eq::constant_time_eq;

use crate::flow::ClusterKey;

/// Bytes of the trailer.
pub(super) const TAG_LEN: usize = 16;
/// Key id of frames that anybody could have made.
pub const PUBLIC_KEY_ID: u8 = 0;
/// Secrets that one ring may hold: the current one and its successor.
pub const SECRETS_MAX: usize = 2;

const TAG_CONTEXT: &str = "clusterd/1 frame tag";
const ID_CONTEXT: &str = "clusterd/1 key id";

/// A secret shared by the hosts of a cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    key: [u8; 32],
    id: u8,
}

impl Secret {
    /// The secret that is kept as these 32 bytes: what signs is derived from
    /// them, so that they can serve other purposes under other contexts.
    pub fn new(bytes: &[u8; 32]) -> Self {
        let id = blake3::derive_key(ID_CONTEXT, bytes)[0].max(PUBLIC_KEY_ID + 1);
        Self { key: blake3::derive_key(TAG_CONTEXT, bytes), id }
    }

    /// Tells the receiver which of its secrets to try; says nothing about the secret.
    pub fn id(&self) -> u8 {
        self.id
    }

    fn tag(&self, bytes: &[u8]) -> [u8; TAG_LEN] {
        let hash = blake3::keyed_hash(&self.key, bytes);
        *hash.as_bytes().first_chunk().expect("a BLAKE3 hash is longer than a tag")
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret(id {:02x})", self.id)
    }
}

/// What a host with a secret does while others may not have it yet. A secret is
/// rolled out by taking all hosts from one step to the next (spec 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Signs nothing yet; believes signed and unsigned frames.
    ReceiveOnly,
    /// Signs; still believes unsigned frames.
    Permissive,
    /// Signs; unsigned frames are refused.
    Enforce,
}

/// Everything needed to sign and verify the frames of one cluster.
#[derive(Clone, Debug)]
pub struct KeyRing {
    public: ClusterKey,
    secrets: Vec<Secret>,
    policy: Policy,
}

impl From<ClusterKey> for KeyRing {
    /// A cluster without a secret: anybody on the segment can speak.
    fn from(public: ClusterKey) -> Self {
        Self { public, secrets: Vec::new(), policy: Policy::ReceiveOnly }
    }
}

impl KeyRing {
    /// The first secret signs, all verify.
    ///
    /// # Panics
    /// Without a secret, or with more than [`SECRETS_MAX`].
    pub fn with_secrets(public: ClusterKey, secrets: Vec<Secret>, policy: Policy) -> Self {
        assert!((1..=SECRETS_MAX).contains(&secrets.len()), "{} secrets", secrets.len());
        Self { public, secrets, policy }
    }

    pub(super) fn cluster_id(&self) -> u32 {
        self.public.cluster_id()
    }

    fn signing(&self) -> Option<&Secret> {
        match self.policy {
            Policy::ReceiveOnly => None,
            Policy::Permissive | Policy::Enforce => self.secrets.first(),
        }
    }

    pub(super) fn signing_id(&self) -> u8 {
        self.signing().map_or(PUBLIC_KEY_ID, Secret::id)
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> [u8; TAG_LEN] {
        self.signing().map_or_else(|| self.public.tag(bytes), |secret| secret.tag(bytes))
    }

    /// Was the tag made by somebody whom this ring believes?
    pub(super) fn verify(&self, key_id: u8, bytes: &[u8], tag: &[u8]) -> bool {
        if key_id == PUBLIC_KEY_ID {
            return self.policy != Policy::Enforce
                && constant_time_eq(&self.public.tag(bytes), tag);
        }
        let mut secrets = self.secrets.iter().filter(|secret| secret.id == key_id);
        secrets.any(|secret| constant_time_eq(&secret.tag(bytes), tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public() -> ClusterKey {
        ClusterKey::public([10, 0, 0, 2].into())
    }

    fn ring(secrets: &[u8], policy: Policy) -> KeyRing {
        let secrets = secrets.iter().map(|&byte| Secret::new(&[byte; 32])).collect();
        KeyRing::with_secrets(public(), secrets, policy)
    }

    fn believes(receiver: &KeyRing, sender: &KeyRing) -> bool {
        receiver.verify(sender.signing_id(), b"frame", &sender.sign(b"frame"))
    }

    #[test]
    fn a_secret_can_be_rolled_out_one_host_at_a_time() {
        let steps = [
            KeyRing::from(public()),
            ring(&[1], Policy::ReceiveOnly),
            ring(&[1], Policy::Permissive),
            ring(&[1], Policy::Enforce),
        ];
        for pair in steps.windows(2) {
            assert!(believes(&pair[0], &pair[1]) && believes(&pair[1], &pair[0]));
        }
        assert!(!believes(&steps[3], &steps[0]), "unsigned frames are refused at the end");
        assert!(!believes(&steps[0], &steps[3]));
    }

    #[test]
    fn a_secret_can_be_replaced_one_host_at_a_time() {
        let steps = [&[1][..], &[1, 2], &[2, 1], &[2]].map(|keys| ring(keys, Policy::Enforce));
        for pair in steps.windows(2) {
            assert!(believes(&pair[0], &pair[1]) && believes(&pair[1], &pair[0]));
        }
        assert!(!believes(&steps[3], &steps[0]));
    }

    #[test]
    fn another_secret_another_message_and_a_shorter_tag_are_refused() {
        let (ours, theirs) = (ring(&[1], Policy::Enforce), ring(&[2], Policy::Enforce));
        let tag = theirs.sign(b"frame");
        assert!(!ours.verify(theirs.signing_id(), b"frame", &tag));
        assert!(!ours.verify(ours.signing_id(), b"frame", &tag));
        let tag = ours.sign(b"frame");
        assert!(ours.verify(ours.signing_id(), b"frame", &tag));
        assert!(!ours.verify(ours.signing_id(), b"other", &tag));
        assert!(!ours.verify(ours.signing_id(), b"frame", &tag[..15]));
    }
}
