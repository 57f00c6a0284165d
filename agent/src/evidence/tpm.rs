//! A raw TPM 2.0 client: the few commands that evidence needs, over the kernel's resource
//! manager (`/dev/tpmrm0`) or the data socket of an emulator.
//!
//! The attestation key is a *restricted* signing key: the TPM signs with it only what it made
//! itself, so a quote cannot be forged through `TPM2_Sign`. It is a primary key of a fixed template
//! in the endorsement hierarchy, so it is the same key after every boot, and its certificate, made
//! at provisioning, lies in the TPM's NV memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use wire::{Command, Fault, Reader, Response, Writer};

mod wire;

/// `TPM_RH_ENDORSEMENT`.
pub const ENDORSEMENT: u32 = 0x4000_000B;
/// `TPM_RH_OWNER`.
pub const OWNER: u32 = 0x4000_0001;
/// `TPM_RH_NULL`.
pub const NULL_HANDLE: u32 = 0x4000_0007;
/// `TPM_ALG_NULL`.
pub const ALG_NULL: u16 = 0x0010;
/// The NV index that holds the attestation key's certificate.
pub const AK_CERTIFICATE_INDEX: u32 = 0x01C1_0102;

const CC_NV_DEFINE_SPACE: u32 = 0x12A;
const CC_NV_WRITE: u32 = 0x137;
const CC_CREATE_PRIMARY: u32 = 0x131;
const CC_NV_READ: u32 = 0x14E;
const CC_QUOTE: u32 = 0x158;
const CC_FLUSH_CONTEXT: u32 = 0x165;
const CC_NV_READ_PUBLIC: u32 = 0x169;
const CC_PCR_READ: u32 = 0x17E;

/// `TPM_RC_RETRY`, `TPM_RC_YIELDED`, `TPM_RC_TESTING`: the same command may pass a moment later.
const TRANSIENT: [u32; 3] = [0x922, 0x908, 0x90A];
const MAX_ATTEMPTS: u32 = 20;
const RETRY_PAUSE_MS: u64 = 5;
/// Readings of all PCRs, each torn by an extension, before giving up.
const MAX_PCR_READINGS: u32 = 5;
/// TPMs with small buffers read at least this much of an NV index at once.
const NV_CHUNK_BYTES: u16 = 512;
/// A certificate has about 600 bytes.
const MAX_NV_BYTES: u16 = 8192;
const MAX_PCR: u8 = 23;

/// Why a TPM gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The device or socket cannot be opened.
    #[error("cannot open the TPM at {}", path.display())]
    Open {
        /// What was to be opened.
        path: PathBuf,
        /// Why it was not.
        source: io::Error,
    },
    /// Reading or writing failed.
    #[error("the connection to the TPM failed")]
    Transport(#[from] io::Error),
    /// The TPM refused the command.
    #[error("TPM command {command:#x} refused with {code:#x}")]
    Refused {
        /// `TPM_CC`.
        command: u32,
        /// `TPM_RC`.
        code: u32,
    },
    /// The TPM asked to retry until patience ran out.
    #[error("TPM command {command:#x} still busy ({code:#x}) after {MAX_ATTEMPTS} attempts")]
    Busy {
        /// `TPM_CC`.
        command: u32,
        /// The last `TPM_RC`.
        code: u32,
    },
    /// The response makes no sense.
    #[error("the TPM's response to command {command:#x} is malformed: {fault}")]
    Malformed {
        /// `TPM_CC`.
        command: u32,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// A bank of PCRs, named by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bank {
    /// 32-byte values.
    Sha256,
    /// 48-byte values.
    Sha384,
}

impl Bank {
    /// `TPM_ALG_ID`.
    pub fn algorithm(self) -> u16 {
        match self {
            Self::Sha256 => 0x000B,
            Self::Sha384 => 0x000C,
        }
    }

    /// Bytes of one value.
    pub fn digest_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }
}

/// PCRs of one bank; bit `n` stands for PCR `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    bank: Bank,
    mask: u32,
}

impl Selection {
    /// The given registers of `bank`; numbers above 23 do not exist and are left out.
    pub fn new(bank: Bank, registers: &[u8]) -> Self {
        let mask = registers
            .iter()
            .filter(|r| **r <= MAX_PCR)
            .fold(0, |m, r| m | 1 << r);
        Self { bank, mask }
    }

    /// `TPML_PCR_SELECTION`.
    pub fn encode(self) -> Vec<u8> {
        let [low, middle, high, _] = self.mask.to_le_bytes();
        let writer = Writer::new().u32(1).u16(self.bank.algorithm());
        writer.u8(3).bytes(&[low, middle, high]).finish()
    }

    /// Accepts a non-empty part of this selection.
    fn decode_part(self, reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let (count, algorithm, size) = (reader.u32()?, reader.u16()?, reader.u8()?);
        if count != 1 || algorithm != self.bank.algorithm() || size != 3 {
            return Err(Fault::Selection);
        }
        let bits = reader.take(3)?;
        let mask = u32::from_le_bytes([bits[0], bits[1], bits[2], 0]);
        if mask == 0 || mask & !self.mask != 0 {
            return Err(Fault::Selection);
        }
        Ok(Self { mask, ..self })
    }
}

/// A key: a transient one is loaded until it is flushed.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyHandle(u32);

impl KeyHandle {
    /// A key that the TPM keeps by itself.
    pub const fn persistent(handle: u32) -> Self {
        Self(handle)
    }

    /// `TPM_HANDLE`.
    pub fn value(&self) -> u32 {
        self.0
    }
}

/// A key made by [`Tpm::create_primary`].
#[derive(Debug)]
pub struct PrimaryKey {
    /// Names the key in later commands.
    pub handle: KeyHandle,
    /// `TPMT_PUBLIC`.
    pub public: Vec<u8>,
}

/// What [`Tpm::quote`] gives.
#[derive(Debug, Clone)]
pub struct Quote {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
}

impl Quote {
    /// The digest of the quoted registers: the last field of a `TPMS_ATTEST` that is a quote.
    pub fn pcr_digest(&self) -> Result<&[u8], TpmError> {
        let digest = || {
            let mut attest = Reader::new(&self.attest);
            attest.take(4 + 2)?; // magic, type
            attest.tpm2b()?; // qualified name of the key
            attest.tpm2b()?; // qualifying data
            attest.take(8 + 4 + 4 + 1 + 8)?; // clock, reset and restart counts, safe, firmware
            for _ in 0..attest.u32()? {
                attest.u16()?; // bank
                let bytes = attest.u8()?;
                attest.take(usize::from(bytes))?;
            }
            let digest = attest.tpm2b()?;
            attest.end().map(|()| digest)
        };
        digest().map_err(malformed(CC_QUOTE))
    }
}

/// The kernel's device file or an emulator's socket.
#[derive(Debug)]
pub enum Transport {
    /// A character device.
    Device(File),
    /// A unix socket.
    Socket(UnixStream),
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Device(file) => file.read(buffer),
            Self::Socket(socket) => socket.read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Device(file) => file.write(bytes),
            Self::Socket(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A TPM behind any transport that carries one command and its response at a time.
#[derive(Debug)]
pub struct Tpm<T> {
    transport: T,
}

impl Tpm<Transport> {
    /// Opens a device file or, where `path` is a socket, connects to it.
    pub fn open(path: &Path) -> Result<Self, TpmError> {
        let open = || {
            if path.metadata()?.file_type().is_socket() {
                let socket = UnixStream::connect(path)?;
                socket.set_read_timeout(Some(Duration::from_secs(30)))?;
                return Ok(Transport::Socket(socket));
            }
            File::options()
                .read(true)
                .write(true)
                .open(path)
                .map(Transport::Device)
        };
        match open() {
            Ok(transport) => Ok(Self { transport }),
            Err(source) => Err(TpmError::Open {
                path: path.to_owned(),
                source,
            }),
        }
    }
}

impl<T: Read + Write> Tpm<T> {
    /// Speaks over `transport`.
    pub fn new(transport: T) -> Self {
        Self { transport }
    }

    /// Makes the attestation key: the same one each time, for as long as the endorsement seed
    /// stays.
    pub fn create_attestation_key(&mut self) -> Result<PrimaryKey, TpmError> {
        self.create_primary(ENDORSEMENT, &attestation_key_template())
    }

    /// `TPM2_CreatePrimary` with empty secrets; `template` is a `TPMT_PUBLIC`.
    pub fn create_primary(
        &mut self,
        hierarchy: u32,
        template: &[u8],
    ) -> Result<PrimaryKey, TpmError> {
        let sensitive = Writer::new().tpm2b(&[]).tpm2b(&[]).finish();
        let parameters = Writer::new()
            .tpm2b(&sensitive)
            .tpm2b(template)
            .tpm2b(&[])
            .u32(0)
            .finish();
        let command = Command::new(CC_CREATE_PRIMARY, &[hierarchy], parameters);
        let response = self.execute(&command.authorize(1).returning_handle())?;
        // What follows the public area (creation data, hash, ticket, name) is of no use here.
        let public = Reader::new(&response.parameters)
            .tpm2b()
            .map(<[u8]>::to_vec);
        let public = public.map_err(malformed(CC_CREATE_PRIMARY))?;
        Ok(PrimaryKey {
            handle: KeyHandle(response.handle),
            public,
        })
    }

    /// `TPM2_Quote` with the key's own scheme.
    pub fn quote(
        &mut self,
        key: &KeyHandle,
        qualifying_data: &[u8],
        selection: Selection,
    ) -> Result<Quote, TpmError> {
        let parameters = Writer::new().tpm2b(qualifying_data).u16(ALG_NULL);
        let parameters = parameters.bytes(&selection.encode()).finish();
        let response = self.execute(&Command::new(CC_QUOTE, &[key.0], parameters).authorize(1))?;
        let mut reader = Reader::new(&response.parameters);
        let attest = reader.tpm2b().map_err(malformed(CC_QUOTE))?.to_vec();
        Ok(Quote {
            attest,
            signature: reader.rest().to_vec(),
        })
    }

    /// All selected PCRs as they stood at one moment, in ascending order.
    pub fn pcr_read(&mut self, selection: Selection) -> Result<Vec<Vec<u8>>, TpmError> {
        for _ in 0..MAX_PCR_READINGS {
            if let Some(values) = self.pcr_read_once(selection)? {
                return Ok(values);
            }
        }
        Err(malformed(CC_PCR_READ)(Fault::Unstable))
    }

    /// `None` where a PCR was extended in between: the TPM gives at most eight values at a time.
    fn pcr_read_once(&mut self, selection: Selection) -> Result<Option<Vec<Vec<u8>>>, TpmError> {
        let mut values = vec![None; usize::from(MAX_PCR) + 1];
        let (mut left, mut first_counter) = (selection, None);
        while left.mask != 0 {
            let response = self.execute(&Command::new(CC_PCR_READ, &[], left.encode()))?;
            let part = read_pcr_part(&response.parameters, left, &mut values);
            let (counter, part) = part.map_err(malformed(CC_PCR_READ))?;
            if *first_counter.get_or_insert(counter) != counter {
                return Ok(None);
            }
            left.mask &= !part.mask;
        }
        Ok(Some(values.into_iter().flatten().collect()))
    }

    /// The whole content of an NV index that is readable with an empty secret of its own.
    pub fn nv_read(&mut self, index: u32) -> Result<Vec<u8>, TpmError> {
        self.nv_read_as(index, index)
    }

    /// The whole content of an NV index that is readable with the empty secret of `authority`: the
    /// index itself, or [`OWNER`].
    pub fn nv_read_as(&mut self, authority: u32, index: u32) -> Result<Vec<u8>, TpmError> {
        let size = self.nv_size(index)?;
        let mut content = Vec::with_capacity(usize::from(size));
        let mut offset = 0;
        while offset < size {
            let count = NV_CHUNK_BYTES.min(size - offset);
            let parameters = Writer::new().u16(count).u16(offset).finish();
            let command = Command::new(CC_NV_READ, &[authority, index], parameters).authorize(1);
            let response = self.execute(&command)?;
            let chunk = only_tpm2b(&response.parameters).map_err(malformed(CC_NV_READ))?;
            if chunk.len() != usize::from(count) {
                return Err(malformed(CC_NV_READ)(Fault::NvSize));
            }
            content.extend_from_slice(chunk);
            offset += count;
        }
        Ok(content)
    }

    /// Writes an NV index as its owner, and makes it first where there is none: readable and
    /// writable by the owner, whose secret is empty. At most 512 bytes.
    pub fn nv_put(&mut self, index: u32, content: &[u8]) -> Result<(), TpmError> {
        const TPM_RC_HANDLE: u32 = 0x18B;
        match self.nv_size(index) {
            Ok(_) => {}
            Err(TpmError::Refused {
                code: TPM_RC_HANDLE,
                ..
            }) => self.nv_define(index, content.len())?,
            Err(error) => return Err(error),
        }
        let parameters = Writer::new().tpm2b(content).u16(0).finish();
        let command = Command::new(CC_NV_WRITE, &[OWNER, index], parameters);
        self.execute(&command.authorize(1)).map(|_| ())
    }

    fn nv_define(&mut self, index: u32, bytes: usize) -> Result<(), TpmError> {
        const OWNER_WRITES_AND_READS: u32 = 1 << 1 | 1 << 17;
        let Ok(size @ 1..=NV_CHUNK_BYTES) = u16::try_from(bytes) else {
            return Err(malformed(CC_NV_DEFINE_SPACE)(Fault::NvSize));
        };
        let public = Writer::new().u32(index).u16(Bank::Sha256.algorithm());
        let public = public.u32(OWNER_WRITES_AND_READS).tpm2b(&[]).u16(size);
        let parameters = Writer::new().tpm2b(&[]).tpm2b(&public.finish()).finish();
        let command = Command::new(CC_NV_DEFINE_SPACE, &[OWNER], parameters);
        self.execute(&command.authorize(1)).map(|_| ())
    }

    fn nv_size(&mut self, index: u32) -> Result<u16, TpmError> {
        let response = self.execute(&Command::new(CC_NV_READ_PUBLIC, &[index], vec![]))?;
        let size = || {
            let mut reader = Reader::new(&response.parameters);
            let mut public = Reader::new(reader.tpm2b()?); // TPMS_NV_PUBLIC; its name follows
            let (_index, _name_algorithm, _attributes) =
                (public.u32()?, public.u16()?, public.u32()?);
            let _policy = public.tpm2b()?;
            let size = public.u16()?;
            public.end()?;
            if size <= MAX_NV_BYTES {
                Ok(size)
            } else {
                Err(Fault::NvSize)
            }
        };
        size().map_err(malformed(CC_NV_READ_PUBLIC))
    }

    /// `TPM2_FlushContext`: unloads a transient key.
    pub fn flush(&mut self, key: KeyHandle) -> Result<(), TpmError> {
        let parameters = Writer::new().u32(key.0).finish();
        self.execute(&Command::new(CC_FLUSH_CONTEXT, &[], parameters))
            .map(|_| ())
    }

    /// Sends one command, again for as long as the TPM asks for that, within bounds.
    pub fn execute(&mut self, command: &Command) -> Result<Response, TpmError> {
        let bytes = command.encode();
        let mut last_code = 0;
        for attempt in 0..MAX_ATTEMPTS {
            self.transport.write_all(&bytes)?;
            let received = self.receive(command.code)?;
            let code = match command.decode(&received).map_err(malformed(command.code))? {
                Ok(response) => return Ok(response),
                Err(code) => code,
            };
            if !TRANSIENT.contains(&code) {
                return Err(TpmError::Refused {
                    command: command.code,
                    code,
                });
            }
            last_code = code;
            std::thread::sleep(Duration::from_millis(RETRY_PAUSE_MS * u64::from(attempt)));
        }
        Err(TpmError::Busy {
            command: command.code,
            code: last_code,
        })
    }

    fn receive(&mut self, command: u32) -> Result<Vec<u8>, TpmError> {
        let mut buffer = vec![0; wire::MAX_RESPONSE_BYTES];
        let mut received = 0;
        loop {
            let stated = wire::stated_size(&buffer[..received]).map_err(malformed(command))?;
            match stated {
                Some(size) if received == size => break,
                Some(size) if received > size => return Err(malformed(command)(Fault::Size)),
                _ => {}
            }
            let count = match self.transport.read(&mut buffer[received..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                count => count?,
            };
            if count == 0 {
                return Err(TpmError::Transport(io::ErrorKind::UnexpectedEof.into()));
            }
            received += count;
        }
        buffer.truncate(received);
        Ok(buffer)
    }
}

/// `TPMT_PUBLIC` of the attestation key: P-384, ECDSA with SHA-384, fixedTPM, fixedParent,
/// sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
pub fn attestation_key_template() -> Vec<u8> {
    const ALG_ECC: u16 = 0x0023;
    const ALG_ECDSA: u16 = 0x0018;
    const CURVE_P384: u16 = 0x0004;
    const ATTRIBUTES: u32 = 0x0005_0472;
    let sha384 = Bank::Sha384.algorithm();
    Writer::new()
        .u16(ALG_ECC)
        .u16(sha384)
        .u32(ATTRIBUTES)
        .tpm2b(&[]) // policy
        .u16(ALG_NULL) // symmetric
        .u16(ALG_ECDSA)
        .u16(sha384)
        .u16(CURVE_P384)
        .u16(ALG_NULL) // key derivation
        .tpm2b(&[]) // x
        .tpm2b(&[]) // y
        .finish()
}

/// Takes the counter and the values that one response gives.
fn read_pcr_part(
    parameters: &[u8],
    wanted: Selection,
    values: &mut [Option<Vec<u8>>],
) -> Result<(u32, Selection), Fault> {
    let mut reader = Reader::new(parameters);
    let counter = reader.u32()?;
    let part = wanted.decode_part(&mut reader)?;
    if reader.u32()? != part.mask.count_ones() {
        return Err(Fault::Selection);
    }
    for register in (0..=MAX_PCR).filter(|r| part.mask & 1 << r != 0) {
        let digest = reader.tpm2b()?;
        if digest.len() != wanted.bank.digest_bytes() {
            return Err(Fault::Digest);
        }
        values[usize::from(register)] = Some(digest.to_vec());
    }
    reader.end()?;
    Ok((counter, part))
}

fn only_tpm2b(parameters: &[u8]) -> Result<&[u8], Fault> {
    let mut reader = Reader::new(parameters);
    let content = reader.tpm2b()?;
    reader.end()?;
    Ok(content)
}

fn malformed(command: u32) -> impl Fn(Fault) -> TpmError {
    move |fault| TpmError::Malformed { command, fault }
}

#[cfg(test)]
mod tests;
