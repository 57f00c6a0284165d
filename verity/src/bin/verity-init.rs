//! PID 1 of the initrd: from the measured command line to a verified root file system.

fn main() {
    verity::init::main()
}
