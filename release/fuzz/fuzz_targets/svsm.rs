//! Any bytes as a firmware and as the SVSM that runs before it: launched in every way, or refused.

use release::measure::boot::CommandText;
use release::measure::cpu::CpuType;
use release::measure::firmware::{Firmware, PAGE_BYTES};
use release::measure::kernel_hashes::KernelHashes;
use release::measure::snp::{GuestFeatures, Launch, LaunchError, Shape, Vmm};

/// Whole pages: the fuzzer need not learn that.
fn pages(bytes: &[u8]) -> Vec<u8> {
    let missing = bytes.len().next_multiple_of(PAGE_BYTES) - bytes.len();
    [&vec![0; missing], bytes].concat()
}

libfuzzer_sys::fuzz_target!(|pair: (&[u8], &[u8])| {
    let (firmware, svsm) = (pages(pair.0), pages(pair.1));
    let (Ok(firmware), Ok(svsm)) = (Firmware::parse(&firmware), Firmware::parse(&svsm)) else {
        return;
    };
    let zero = attest::Digest::ZERO;
    let hashes = KernelHashes::new(zero, Some(zero), &CommandText::default());
    let shape = |hashes| Shape {
        vmm: Vmm::Qemu,
        vcpus: 2,
        cpu: CpuType::default(),
        features: GuestFeatures::SNP,
        hashes,
    };
    if let Ok(launch) = Launch::new(&firmware) {
        let with = launch.digest(&shape(Some(hashes)));
        assert!(with.is_err() || with != launch.digest(&shape(None)));
    }
    for variables in [0, 8192, u32::MAX] {
        let Ok(launch) = Launch::with_svsm(&firmware, &svsm, variables) else {
            continue;
        };
        assert!(launch.digest(&shape(None)).is_ok());
        let with = launch.digest(&shape(Some(hashes)));
        assert_eq!(with, Err(LaunchError::SvsmKernel));
    }
});
