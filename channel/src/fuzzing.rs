//! Plain functions over foreign bytes, driven by the fuzz targets and by mutation tests alike.

use crate::{Entropy, Initiator, Moment, Responder, StaticKey, handshake, record};

const NOW: Moment = Moment::from_millis(0);

/// A server reads message 1, and answers if it can. Says whether it could.
pub fn message_1(bytes: &[u8]) -> bool {
    let Ok(mut key) = StaticKey::generate(Entropy::from_bytes([1; 128]), NOW) else {
        return false;
    };
    Responder::read_message1(&mut key, bytes, Entropy::from_bytes([2; 128]), NOW)
        .and_then(|responder| responder.reply(NOW))
        .is_ok()
}

/// The same with `payload` in a well-formed message, so that it reaches the ML-KEM key's parser.
pub fn payload(payload: &[u8]) -> bool {
    handshake::foreign_message_1(payload).is_ok_and(|message| message_1(&message))
}

/// A client reads a reply. Says whether it took it.
pub fn reply(bytes: &[u8]) -> bool {
    Initiator::start(Entropy::from_bytes([3; 128]))
        .and_then(|(initiator, _)| initiator.read_reply(bytes, NOW))
        .is_ok()
}

/// Decodes a decrypted record; says whether what it took has that one encoding.
pub fn record(plaintext: &[u8]) -> bool {
    record::is_canonical(plaintext)
}
