//! A boot as firmware logs it: the events of one OVMF start of a unified kernel image, with short
//! contents.

use attest::Digest;
use attest::tpm::QUOTED;
use sha2::{Digest as _, Sha256, Sha384};

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Register that it extends.
    pub register: u32,
    /// Type by number.
    pub kind: u32,
    /// What is hashed into the register.
    pub measured: Vec<u8>,
    /// What the log says.
    pub data: Vec<u8>,
}

const NO_ACTION: u32 = 3;
const GLOBAL_VARIABLE: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0, 0xe0, 0x98, 3, 0x2b, 0x8c,
];

impl Event {
    /// An event whose data is what was measured.
    pub fn plain(register: u32, kind: u32, data: &[u8]) -> Self {
        Self::other(register, kind, data, data)
    }

    /// An event that measures something else than it says.
    pub fn other(register: u32, kind: u32, measured: &[u8], data: &[u8]) -> Self {
        Self {
            register,
            kind,
            measured: measured.to_vec(),
            data: data.to_vec(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let no_action = self.kind == NO_ACTION;
        let (mut sha256, mut sha384) = ([0; 32], [0; 48]);
        if !no_action {
            sha256 = Sha256::digest(&self.measured).into();
            sha384 = Sha384::digest(&self.measured).into();
        }
        [
            &self.register.to_le_bytes()[..],
            &self.kind.to_le_bytes(),
            &2u32.to_le_bytes(),
            &[0x0b, 0],
            &sha256,
            &[0x0c, 0],
            &sha384,
            &(self.data.len() as u32).to_le_bytes(),
            &self.data,
        ]
        .concat()
    }
}

/// The variable that tells whether Secure Boot is on.
pub fn secure_boot(value: &[u8]) -> Event {
    Event::plain(7, 0x8000_0001, &variable("SecureBoot", value))
}

/// UEFI_VARIABLE_DATA.
pub fn variable(name: &str, value: &[u8]) -> Vec<u8> {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [
        &GLOBAL_VARIABLE[..],
        &(name.len() as u64).to_le_bytes(),
        &(value.len() as u64).to_le_bytes(),
        &units,
        value,
    ]
    .concat()
}

/// The events of a boot with Secure Boot on.
pub fn events() -> Vec<Event> {
    let separator = |register| Event::plain(register, 4, &[0; 4]);
    let mut events = vec![
        Event::other(0, NO_ACTION, &[], b"StartupLocality\0\x03"),
        Event::plain(0, 8, b"2\x005\x00\0\0"),
        Event::other(0, 0x8000_0008, b"firmware volume", &[0; 16]),
        secure_boot(&[1]),
        Event::plain(7, 0x8000_0001, &variable("PK", b"platform key")),
        separator(7),
        Event::other(1, 0xa, b"tables", b"ACPI DATA"),
        Event::other(1, 0x8000_0002, b"order", &variable("BootOrder", b"order")),
        Event::plain(4, 0x8000_0007, b"Calling EFI Application from Boot Option"),
    ];
    events.extend((0..7).map(separator));
    events.extend([
        Event::other(5, 0x8000_0006, b"partitions", b"EFI PART"),
        Event::plain(7, 0x8000_00e0, &variable("db", b"certificate")),
        Event::other(4, 0x8000_0003, b"unified kernel image", &[0; 32]),
        Event::other(11, 0xd, b".linux\0", b".\0l\0i\0n\0u\0x\0\0\0"),
        Event::other(11, 0xd, b"kernel", b".\0l\0i\0n\0u\0x\0\0\0"),
        Event::other(4, 0x8000_0003, b"kernel", &[0; 32]),
        Event::other(9, 6, b"command line", b"LOADED_IMAGE::LoadOptions\0"),
        Event::other(9, 6, b"initrd", b"Linux initrd\0"),
        Event::plain(5, 0x8000_0007, b"Exit Boot Services Invocation"),
    ]);
    events
}

/// The first event: a log of SHA-256 and SHA-384 digests.
pub fn spec_id() -> Vec<u8> {
    let event = [
        &b"Spec ID Event03\0"[..],
        &[0, 0, 0, 0, 0, 2, 0, 2],
        &2u32.to_le_bytes(),
        &[0x0b, 0, 32, 0, 0x0c, 0, 48, 0],
        &[0],
    ]
    .concat();
    let head = [0u32.to_le_bytes(), NO_ACTION.to_le_bytes()].concat();
    [
        &head[..],
        &[0; 20],
        &(event.len() as u32).to_le_bytes(),
        &event,
    ]
    .concat()
}

/// The log as the kernel shows it.
pub fn encode(events: &[Event]) -> Vec<u8> {
    let events: Vec<u8> = events.iter().flat_map(Event::encode).collect();
    [spec_id(), events].concat()
}

/// The same as a CCEL, which begins with another register.
pub fn encode_ccel(events: &[Event]) -> Vec<u8> {
    let mut log = encode(events);
    log[0] = 1;
    log
}

/// The quoted registers after these events, by a replay that shares nothing with `attest`.
pub fn registers(events: &[Event]) -> [Digest<48>; QUOTED.len()] {
    QUOTED.map(|register| {
        let mut value = [0; 48];
        for event in events
            .iter()
            .filter(|event| event.register == u32::from(register))
        {
            match (event.kind, event.data.as_slice()) {
                (NO_ACTION, [.., locality]) => value[47] = *locality,
                (NO_ACTION, []) => {}
                _ => {
                    let digest = Sha384::digest(&event.measured);
                    value = Sha384::digest([&value[..], &digest].concat()).into();
                }
            }
        }
        Digest(value)
    })
}
