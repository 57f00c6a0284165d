//! The driver's library as a shared object of the test's own making, and as a trait.

use std::process::Command;

use signer::nvidia::Rack;

use super::*;

/// What nvml.h declares, as C; each fault is switched on by a macro.
const STAND_IN: &str = r#"
#include <string.h>
struct report {
    unsigned present, size, cec;
    unsigned char nonce[32], report[0x2000], more[0x1000];
};
struct chains {
    unsigned size, attestation_size;
    unsigned char chain[0x1000], attestation[0x1400];
};
#ifndef INIT
#define INIT 0
#endif
#ifndef SIZE
#define SIZE 40
#endif
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    static int devices[2];
    if (index > 1) return 2;
    *device = &devices[index];
    return 0;
}
#ifndef OLD
int nvmlDeviceGetConfComputeGpuAttestationReport(void *device, struct report *out) {
    memset(out->report, 0xee, sizeof out->report);
    memcpy(out->report + 4, out->nonce, 32);
    out->size = SIZE;
    return 0;
}
#endif
int nvmlDeviceGetConfComputeGpuCertificate(void *device, struct chains *out) {
    memcpy(out->attestation, "PEM", 3);
    out->attestation_size = 3;
    return 0;
}
"#;

/// A shared object with these macros.
fn library(macros: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("nvml.c");
    std::fs::write(&source, STAND_IN).unwrap();
    let path = folder.path().join("libnvidia-ml.so.1");
    let mut compile = Command::new("cc");
    compile
        .args(["-shared", "-fPIC", "-o"])
        .arg(&path)
        .arg(&source);
    assert!(compile.args(macros).status().unwrap().success());
    (folder, path)
}

const TWO: DeviceCounts = DeviceCounts {
    gpus: 2,
    switches: 0,
};

#[test]
fn a_library_is_found_at_run_time_and_asked_for_each_gpu() {
    let (_folder, path) = library(&[]);
    let library = sys::Library::open(&path).unwrap();
    assert_eq!(library.count().unwrap(), 2);
    let report = library.report(1, &[7; 32]).unwrap();
    assert_eq!(report, [&[0xee; 4][..], &[7; 32], &[0xee; 4]].concat());
    assert_eq!(library.certificates(0).unwrap(), b"PEM");
    let none = library.report(2, &[7; 32]).unwrap_err();
    assert!(
        matches!(
            none,
            NvmlError::Refused {
                function: Function::Handle,
                code: 2
            }
        ),
        "{none}"
    );
}

#[test]
fn a_machine_without_the_library_or_with_an_old_one_does_not_start() {
    let absent = Gpus::load(Path::new("/nonexistent/libnvidia-ml.so.1"), TWO).unwrap_err();
    assert!(matches!(absent, NvmlError::Library(_)), "{absent}");
    // Nothing is loaded that nobody asked for.
    let none = Gpus::load(Path::new("/nonexistent"), DeviceCounts::default());
    assert!(none.unwrap().is_none());
    let (_folder, path) = library(&["-DOLD"]);
    let old = Gpus::load(&path, TWO).unwrap_err();
    assert!(matches!(old, NvmlError::Missing(Function::Report)), "{old}");
    let (_folder, path) = library(&["-DINIT=9"]);
    let dead = Gpus::load(&path, TWO).unwrap_err();
    assert!(
        matches!(
            dead,
            NvmlError::Refused {
                function: Function::Init,
                code: 9
            }
        ),
        "{dead}"
    );
    let (_folder, path) = library(&[]);
    let garbled = Gpus::load(&path, TWO).unwrap_err();
    assert!(matches!(garbled, NvmlError::Certificates(_)), "{garbled}");
}

#[test]
fn no_more_is_read_than_there_was_room_for() {
    for size in [0, 0x2001, u32::MAX] {
        let size = format!("-DSIZE={size}u");
        let (_folder, path) = library(&[&size]);
        let library = sys::Library::open(&path).unwrap();
        let error = library.report(0, &[0; 32]).unwrap_err();
        let expected = MAX_REPORT_BYTES;
        assert!(
            matches!(error, NvmlError::Size { limit, .. } if limit == expected),
            "{error}"
        );
    }
    let (_folder, path) = library(&["-DSIZE=0x2000"]);
    let report = sys::Library::open(&path).unwrap().report(0, &[0; 32]);
    assert_eq!(report.unwrap().len(), MAX_REPORT_BYTES);
}

/// GPUs that sign.
#[derive(Debug)]
pub(crate) struct Signing(pub(crate) u32);

impl Driver for Signing {
    fn count(&self) -> Result<u32, NvmlError> {
        Ok(self.0)
    }

    fn report(&self, index: u32, nonce: &[u8; 32]) -> Result<Vec<u8>, NvmlError> {
        let rack = Rack::with_switch();
        Ok(rack.devices[index as usize].evidence(nonce).report)
    }

    fn certificates(&self, index: u32) -> Result<Vec<u8>, NvmlError> {
        let rack = Rack::with_switch();
        let device = rack.devices[index as usize].evidence(&[0; 32]);
        let chain = device
            .certificates
            .iter()
            .map(|der| signer::authority::pem(der));
        Ok(chain.collect::<String>().into_bytes())
    }
}

#[test]
fn there_are_as_many_gpus_as_the_measured_configuration_names() {
    let gpus = Gpus::open(Box::new(Signing(2)), TWO).unwrap();
    let devices = gpus.devices(&[9; 32]).unwrap();
    let rack = Rack::with_switch();
    let genuine: Vec<_> = rack
        .devices
        .iter()
        .map(|one| one.evidence(&[9; 32]))
        .collect();
    assert_eq!(devices, genuine[..2]);
    for found in [0, 1, 3] {
        let other = Gpus::open(Box::new(Signing(found)), TWO).unwrap_err();
        assert!(
            matches!(other, NvmlError::Count { expected: 2, found: said } if said == found),
            "{other}"
        );
    }
    let switches = DeviceCounts {
        gpus: 2,
        switches: 4,
    };
    let switches = Gpus::open(Box::new(Signing(2)), switches).unwrap_err();
    assert!(matches!(switches, NvmlError::Switches(4)), "{switches}");
}
