//! Any bytes as the end of a firmware: measured for SEV-SNP and TDX, or refused.

use release::measure::cpu::CpuType;
use release::measure::firmware::{Firmware, PAGE_BYTES};
use release::measure::snp::{GuestFeatures, Launch, Shape, Vmm};
use release::measure::tdvf::{PageOrder, Tdvf};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // The fuzzer need not learn that a firmware has whole pages.
    let mut whole = vec![0; bytes.len().next_multiple_of(PAGE_BYTES) - bytes.len()];
    whole.extend_from_slice(bytes);
    let Ok(firmware) = Firmware::parse(&whole) else {
        return;
    };
    if let Ok(launch) = Launch::new(&firmware) {
        let shape = Shape {
            vmm: Vmm::Ec2,
            vcpus: 2,
            cpu: CpuType::default(),
            features: GuestFeatures::SNP,
            hashes: None,
        };
        let _ = launch.digest(&shape);
    }
    let _ = Launch::with_svsm(&firmware, &firmware, 0);
    if let Ok(tdvf) = Tdvf::parse(&firmware) {
        let _ = PageOrder::ALL.map(|order| tdvf.mrtd(order));
        let _ = (tdvf.configuration(), tdvf.has_variables());
        let _ = tdvf.hand_off_blocks(2 << 30);
    }
});
