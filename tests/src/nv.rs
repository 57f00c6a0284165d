//! What provisioning writes into a TPM, and reads of its key. The agent's own tests take this file
//! in as well: they stand below this crate.

use agent::evidence::tpm::{Command, Reader, Tpm, TpmError, Transport, Writer};
use p384::ecdsa::VerifyingKey;

/// `TPM_RH_PLATFORM`.
const PLATFORM: u32 = 0x4000_000C;
const CHUNK_BYTES: usize = 512;

/// Defines an NV index, writes and locks it: made by the platform, readable by all with an empty
/// secret.
pub(crate) fn store(tpm: &mut Tpm<Transport>, index: u32, content: &[u8]) -> Result<(), TpmError> {
    const CC_NV_DEFINE_SPACE: u32 = 0x12A;
    const CC_NV_WRITE: u32 = 0x137;
    const CC_NV_WRITE_LOCK: u32 = 0x138;
    const ALG_SHA256: u16 = 0x000B;
    // PPWRITE WRITEDEFINE PPREAD OWNERREAD AUTHREAD NO_DA PLATFORMCREATE
    const ATTRIBUTES: u32 = 1 | 1 << 13 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 25 | 1 << 30;
    let public = Writer::new()
        .u32(index)
        .u16(ALG_SHA256)
        .u32(ATTRIBUTES)
        .tpm2b(&[]);
    let public = public.u16(content.len() as u16).finish();
    let parameters = Writer::new().tpm2b(&[]).tpm2b(&public).finish();
    tpm.execute(&Command::new(CC_NV_DEFINE_SPACE, &[PLATFORM], parameters).authorize(1))?;
    for (number, chunk) in content.chunks(CHUNK_BYTES).enumerate() {
        let offset = (number * CHUNK_BYTES) as u16;
        let parameters = Writer::new().tpm2b(chunk).u16(offset).finish();
        tpm.execute(&Command::new(CC_NV_WRITE, &[PLATFORM, index], parameters).authorize(1))?;
    }
    let lock = Command::new(CC_NV_WRITE_LOCK, &[PLATFORM, index], vec![]).authorize(1);
    tpm.execute(&lock).map(|_| ())
}

/// The point in a `TPMT_PUBLIC` of the attestation key's template.
pub(crate) fn point(public: &[u8]) -> Option<VerifyingKey> {
    let mut reader = Reader::new(public);
    reader.take(2 + 2 + 4).ok()?; // type, name algorithm, attributes
    reader.tpm2b().ok()?; // policy
    reader.take(2 + 4 + 2 + 2).ok()?; // symmetric, scheme with its hash, curve, key derivation
    let (x, y) = (reader.tpm2b().ok()?, reader.tpm2b().ok()?);
    // A coordinate may come without its leading zeros.
    let padded = |c: &[u8]| [vec![0; 48usize.saturating_sub(c.len())], c.to_vec()].concat();
    VerifyingKey::from_sec1_bytes(&[vec![4], padded(x), padded(y)].concat()).ok()
}
