//! The handshake, as a row of types: each step consumes the one before.

use core::fmt;

use attest::{Binding, Evidence, ReportData, VerifiedPeer};
use ml_kem::kem::Decapsulate;
use ml_kem::{B32, DecapsulationKey, EncapsulationKey, KeyExport, MlKem768, Seed};
use sha2::{Digest, Sha256};
use snow::{HandshakeState, TransportState};
use zeroize::Zeroizing;

use crate::entropy::Resolver;
use crate::record::{Kind, Records, Size};
use crate::session::{Role, Session};
use crate::{Entropy, HandshakeError, MAX_EVIDENCE_BYTES, Moment, SessionError, StaticKey};

/// Length of the client's first message.
pub const MESSAGE_1_BYTES: usize = DH_BYTES + PAYLOAD_BYTES + TAG_BYTES;
/// Length of the server's reply: ML-KEM ciphertext, then Noise message 2.
pub const REPLY_BYTES: usize = CIPHERTEXT_BYTES + DH_BYTES + (DH_BYTES + TAG_BYTES) + TAG_BYTES;

/// Name of the handshake and its primitives, as evidence binds it.
pub const SUITE: &str = "Noise_NXpsk2_25519_ChaChaPoly_SHA256+ML-KEM-768";

const PATTERN: &str = "Noise_NXpsk2_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"cloister/1";
const PSK_AT: usize = 2;
const DH_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const NONCE_BYTES: usize = 32;
const ENCAPSULATION_KEY_BYTES: usize = 1_184;
const PAYLOAD_BYTES: usize = NONCE_BYTES + ENCAPSULATION_KEY_BYTES;
const CIPHERTEXT_BYTES: usize = 1_088;

/// What evidence of this handshake must bind, on both sides.
#[derive(Clone)]
struct Transcript {
    /// The Noise handshake hash after message 1, which holds the client's nonce and key.
    message_1: [u8; 32],
    server_static: [u8; 32],
    /// SHA-256 of the ML-KEM ciphertext.
    ciphertext: [u8; 32],
}

impl Transcript {
    fn binding(&self, configuration_digest: [u8; 32], gpu_digest: [u8; 32]) -> Binding {
        Binding::Handshake {
            suite: SUITE,
            message1_hash: self.message_1,
            server_static: self.server_static,
            ciphertext_digest: self.ciphertext,
            configuration_digest,
            gpu_digest,
        }
    }
}

/// The client, after message 1.
pub struct Initiator {
    noise: HandshakeState,
    decapsulation: DecapsulationKey<MlKem768>,
    message_1: [u8; 32],
}

impl Initiator {
    /// Begins a handshake; the bytes go to the server as one message.
    pub fn start(entropy: Entropy) -> Result<(Self, Vec<u8>), HandshakeError> {
        let nonce = entropy.take::<0, 32>();
        let seed = entropy.take::<32, 64>();
        let mut noise = begin(entropy.take::<96, 32>())?;
        let decapsulation = DecapsulationKey::from_seed(Seed::from(*seed));
        let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
        payload.extend_from_slice(nonce.as_ref());
        payload.extend_from_slice(&decapsulation.encapsulation_key().to_bytes());
        let mut message = vec![0; MESSAGE_1_BYTES];
        write(&mut noise, &payload, &mut message)?;
        let initiator = Self {
            message_1: hash(&noise)?,
            noise,
            decapsulation,
        };
        Ok((initiator, message))
    }

    /// Reads the server's reply. The peer is nobody yet: evidence follows.
    pub fn read_reply(mut self, reply: &[u8], now: Moment) -> Result<Unverified, HandshakeError> {
        let wrong_length = HandshakeError::ReplyLength {
            expected: REPLY_BYTES,
            found: reply.len(),
        };
        if reply.len() != REPLY_BYTES {
            return Err(wrong_length);
        }
        let Some((ciphertext, message_2)) = reply.split_first_chunk::<CIPHERTEXT_BYTES>() else {
            return Err(wrong_length);
        };
        let secret = self.decapsulation.decapsulate(&(*ciphertext).into());
        let psk = Zeroizing::new(<[u8; 32]>::from(secret));
        self.noise
            .set_psk(PSK_AT, psk.as_ref())
            .map_err(|_| HandshakeError::Noise)?;
        let mut nothing = [0; TAG_BYTES];
        let length = self
            .noise
            .read_message(message_2, &mut nothing)
            .map_err(|_| HandshakeError::Reply)?;
        let server_static = self
            .noise
            .get_remote_static()
            .and_then(|key| key.try_into().ok())
            .filter(|_| length == 0)
            .ok_or(HandshakeError::Reply)?;
        Ok(Unverified {
            transcript: Transcript {
                message_1: self.message_1,
                server_static,
                ciphertext: Sha256::digest(ciphertext).into(),
            },
            records: Records::new(transport(self.noise)?, now),
            evidence: Vec::new(),
            complete: false,
            opened: now,
        })
    }
}

/// The client, with a channel to it does not know whom. It can read evidence, and send nothing.
pub struct Unverified {
    transcript: Transcript,
    records: Records,
    evidence: Vec<u8>,
    complete: bool,
    opened: Moment,
}

impl Unverified {
    /// Reads one evidence record; says whether the evidence is complete.
    pub fn read_record(&mut self, wire: &[u8]) -> Result<bool, HandshakeError> {
        if self.complete {
            return Err(self.records.die(SessionError::Unexpected).into());
        }
        let mut plaintext = Zeroizing::new(Vec::new());
        let opened = self.records.open(Size::Bulk, wire, &mut plaintext)?;
        let last = match opened.kind {
            Kind::EvidenceEnd => true,
            // All but the last are full: there is one way only to send given evidence.
            Kind::Evidence if opened.data.len() == Size::Bulk.capacity() => false,
            _ => return Err(self.records.die(SessionError::Unexpected).into()),
        };
        if self.evidence.len() + opened.data.len() > MAX_EVIDENCE_BYTES {
            return Err(HandshakeError::EvidenceTooLarge);
        }
        self.evidence.extend_from_slice(opened.data);
        if last && self.evidence.is_empty() {
            return Err(HandshakeError::EvidenceEmpty);
        }
        self.complete = last;
        Ok(last)
    }

    /// The evidence, once complete.
    pub fn evidence(&self) -> Option<&[u8]> {
        self.complete.then_some(self.evidence.as_slice())
    }

    /// What the evidence must bind, given the digests that it carries itself.
    pub fn binding(&self, configuration_digest: [u8; 32], gpu_digest: [u8; 32]) -> Binding {
        self.transcript.binding(configuration_digest, gpu_digest)
    }

    /// Opens the session to a verified peer. A peer that was verified by the evidence of any other
    /// handshake, or for a nonce, is refused here, whatever `attest::verify` was asked.
    pub fn accept(self, peer: &VerifiedPeer) -> Result<Session, HandshakeError> {
        let bytes = self.evidence().ok_or(HandshakeError::EvidenceIncomplete)?;
        let evidence = Evidence::decode(bytes).map_err(|_| HandshakeError::EvidenceUnreadable)?;
        let binding = self.binding(evidence.configuration_digest(), evidence.gpu_digest());
        if ReportData::compute(&binding) != *peer.report_data() {
            return Err(HandshakeError::OtherHandshake);
        }
        Ok(self.open())
    }

    pub(crate) fn open(self) -> Session {
        Session::new(Role::Client, self.records, self.opened)
    }
}

/// The server, after message 1.
pub struct Responder {
    noise: HandshakeState,
    ciphertext: Vec<u8>,
    transcript: Transcript,
}

impl Responder {
    /// Reads the client's first message. Counts one use of the key, and refuses a key that is due.
    pub fn read_message1(
        key: &mut StaticKey,
        message: &[u8],
        entropy: Entropy,
        now: Moment,
    ) -> Result<Self, HandshakeError> {
        if message.len() != MESSAGE_1_BYTES {
            return Err(HandshakeError::Message1Length {
                expected: MESSAGE_1_BYTES,
                found: message.len(),
            });
        }
        let server_static = *key.public();
        let private = key.serve(now)?;
        let mut noise =
            snow::Builder::with_resolver(pattern()?, resolver(entropy.take::<32, 32>()))
                .prologue(PROLOGUE)
                .and_then(|builder| builder.local_private_key(private))
                .and_then(snow::Builder::build_responder)
                .map_err(|_| HandshakeError::Noise)?;
        let mut payload = [0; PAYLOAD_BYTES + TAG_BYTES];
        let length = noise
            .read_message(message, &mut payload)
            .map_err(|_| HandshakeError::Message1)?;
        let Some((_nonce, key_bytes)) = payload[..length].split_first_chunk::<NONCE_BYTES>() else {
            return Err(HandshakeError::Message1);
        };
        let (ciphertext, psk) = encapsulate(key_bytes, &entropy.take::<0, 32>())?;
        let transcript = Transcript {
            message_1: hash(&noise)?,
            server_static,
            ciphertext: Sha256::digest(&ciphertext).into(),
        };
        noise
            .set_psk(PSK_AT, psk.as_ref())
            .map_err(|_| HandshakeError::Noise)?;
        Ok(Self {
            noise,
            ciphertext,
            transcript,
        })
    }

    /// What the evidence must bind.
    pub fn binding(&self, configuration_digest: [u8; 32], gpu_digest: [u8; 32]) -> Binding {
        self.transcript.binding(configuration_digest, gpu_digest)
    }

    /// Makes the reply, which goes to the client as one message.
    pub fn reply(mut self, now: Moment) -> Result<(Vec<u8>, Established), HandshakeError> {
        let mut reply = self.ciphertext;
        reply.resize(REPLY_BYTES, 0);
        write(&mut self.noise, &[], &mut reply[CIPHERTEXT_BYTES..])?;
        let established = Established {
            records: Records::new(transport(self.noise)?, now),
            opened: now,
        };
        Ok((reply, established))
    }
}

/// The server, whose evidence is awaited.
pub struct Established {
    records: Records,
    opened: Moment,
}

impl Established {
    /// Makes the evidence records, each one message, and opens the session.
    pub fn send_evidence(
        mut self,
        evidence: &[u8],
        now: Moment,
    ) -> Result<(Vec<Vec<u8>>, Session), HandshakeError> {
        if evidence.is_empty() {
            return Err(HandshakeError::EvidenceEmpty);
        }
        if evidence.len() > MAX_EVIDENCE_BYTES {
            return Err(HandshakeError::EvidenceTooLarge);
        }
        let mut wires = Vec::new();
        let mut pieces = evidence.chunks(Size::Bulk.capacity()).peekable();
        while let Some(piece) = pieces.next() {
            let kind = match pieces.peek() {
                Some(_) => Kind::Evidence,
                None => Kind::EvidenceEnd,
            };
            wires.push(self.records.seal(kind, Size::Bulk, piece, now)?);
        }
        let session = Session::new(Role::Server, self.records, self.opened);
        Ok((wires, session))
    }
}

#[cfg(test)]
impl Established {
    pub(crate) fn records(&mut self) -> &mut Records {
        &mut self.records
    }

    pub(crate) fn take_records(self) -> Records {
        self.records
    }
}

#[cfg(test)]
impl Unverified {
    pub(crate) fn take_records(self) -> Records {
        self.records
    }
}

fn pattern() -> Result<snow::params::NoiseParams, HandshakeError> {
    PATTERN.parse().map_err(|_| HandshakeError::Noise)
}

fn resolver(ephemeral: Zeroizing<[u8; 32]>) -> Box<Resolver> {
    Box::new(Resolver { ephemeral })
}

fn begin(ephemeral: Zeroizing<[u8; 32]>) -> Result<HandshakeState, HandshakeError> {
    snow::Builder::with_resolver(pattern()?, resolver(ephemeral))
        .prologue(PROLOGUE)
        .and_then(snow::Builder::build_initiator)
        .map_err(|_| HandshakeError::Noise)
}

/// A well-formed message 1 around a payload that may be none: cut, or filled up with zeros.
pub(crate) fn foreign_message_1(payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let mut noise = begin(Zeroizing::new([4; 32]))?;
    let mut payload = payload.to_vec();
    payload.resize(PAYLOAD_BYTES, 0);
    let mut message = vec![0; MESSAGE_1_BYTES];
    write(&mut noise, &payload, &mut message)?;
    Ok(message)
}

fn hash(noise: &HandshakeState) -> Result<[u8; 32], HandshakeError> {
    noise
        .get_handshake_hash()
        .try_into()
        .map_err(|_| HandshakeError::Noise)
}

fn transport(noise: HandshakeState) -> Result<TransportState, HandshakeError> {
    noise
        .into_transport_mode()
        .map_err(|_| HandshakeError::Noise)
}

/// Writes a message that fills `out` exactly.
fn write(noise: &mut HandshakeState, payload: &[u8], out: &mut [u8]) -> Result<(), HandshakeError> {
    match noise.write_message(payload, out) {
        Ok(written) if written == out.len() => Ok(()),
        _ => Err(HandshakeError::Noise),
    }
}

/// Encapsulates a fresh secret to the client's key; gives ciphertext and secret.
fn encapsulate(
    key: &[u8],
    secret: &[u8; 32],
) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), HandshakeError> {
    let key = key.try_into().map_err(|_| HandshakeError::Message1)?;
    let key =
        EncapsulationKey::<MlKem768>::new(key).map_err(|_| HandshakeError::EncapsulationKey)?;
    let (ciphertext, shared) = key.encapsulate_deterministic(&B32::from(*secret));
    Ok((ciphertext.to_vec(), Zeroizing::new(shared.into())))
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Initiator")
    }
}

impl fmt::Debug for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unverified")
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Responder")
    }
}

impl fmt::Debug for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Established")
    }
}
