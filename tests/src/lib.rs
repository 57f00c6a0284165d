//! Test support: QEMU, swtpm, certificate authorities, demo.
