//! The program: what it states of machines, and what is said of a release later.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use attest::release::VerifiedRelease;
use attest::release::Witness;
use attest::{Ratchet, Refusal};
use common::{Logged, ORIGIN, Site, edit, ovmf};
use release::key::SigningKey;
use serde_json::Value;

fn run(site: &Site, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
    command
        .args(arguments.split_whitespace())
        .current_dir(site.path(""));
    command.output().unwrap()
}

fn done(site: &Site, arguments: &str) -> Value {
    let output = run(site, &format!("{arguments} --json"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(site: &Site, arguments: &str, code: i32) -> String {
    let output = run(site, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A checkout with an assembled site in it.
fn site() -> Site {
    let site = Site::new();
    // As a kernel that EFI boots: boot protocol 2.15, four sectors of setup, all load flags.
    let mut kernel = common::kernel();
    kernel[0x1f1] = 4;
    kernel[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    kernel[0x236] = 0x3f;
    site.set_part("vmlinuz", &kernel);
    site.assemble("out").unwrap();
    for arguments in ["init --quiet", "commit --quiet --allow-empty --message=x"] {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.org"]);
        command
            .args(arguments.split(' '))
            .current_dir(site.path(""));
        assert!(command.output().unwrap().status.success());
    }
    fs::write(site.path("ovmf.fd"), ovmf::firmware()).unwrap();
    site
}

const STATEMENT: &str = "statement --name cloister --version 7 --image image --assembled out \
    --lock deb.lock --allow-dirty --output statement.json";

fn statement(site: &Site) -> Value {
    serde_json::from_slice(&fs::read(site.path("statement.json")).unwrap()).unwrap()
}

#[test]
fn launch_digests_of_a_statement_are_those_that_are_measured() {
    let site = site();
    let machines = "--firmware-snp ovmf.fd --vcpu-type EPYC-Genoa,EPYC-Milan --vcpus 1,3-4";
    let report = done(
        &site,
        &format!("{STATEMENT} {machines} --firmware-tdx ovmf.fd"),
    );
    assert_eq!(report["machines"], "8");
    let stated = &statement(&site)["predicate"]["reference_values"];
    let digests = stated["snp"]["launch_digests"].as_array().unwrap();
    let names: Vec<_> = digests
        .iter()
        .map(|one| one["machine"].as_str().unwrap())
        .collect();
    let types = ["genoa", "milan"];
    let expected = types
        .map(|kind| [1, 3, 4].map(|n| format!("qemu-epyc-{kind}-{n}")))
        .concat();
    assert_eq!(names, expected);
    let command_line = fs::read_to_string(site.path("out/cmdline")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
    let arguments = "measure --json --platform snp --vmm qemu --vcpus 3 --vcpu-type EPYC-Milan \
        --firmware ovmf.fd --kernel out/vmlinuz --initrd out/initrd --cmdline";
    command
        .args(arguments.split_whitespace())
        .arg(&command_line);
    let measured = command.current_dir(site.path("")).output().unwrap();
    let measured: Value = serde_json::from_slice(&measured.stdout).unwrap();
    assert_eq!(digests[4]["digest"], measured["launch_digest"]);
    let registers = stated["tdx"]["machines"].as_array().unwrap();
    let arguments = "measure --json --platform tdx --firmware ovmf.fd --kernel out/vmlinuz \
        --initrd out/initrd --cmdline";
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
    command
        .args(arguments.split_whitespace())
        .arg(&command_line);
    let measured = command.current_dir(site.path("")).output().unwrap();
    let measured: Value = serde_json::from_slice(&measured.stdout).unwrap();
    for machine in registers {
        let order = machine["machine"]
            .as_str()
            .unwrap()
            .strip_prefix("qemu-")
            .unwrap();
        let order = order.strip_suffix("-unchanged").unwrap().replace('-', "_");
        assert_eq!(machine["mrtd"], measured["mrtd"][&order], "{order}");
        assert_eq!(machine["rtmr1"], measured["rtmr1"]["unchanged"]);
        assert_eq!(machine["rtmr2"], measured["rtmr2"]);
    }
    assert_eq!(registers.len(), 2);
}

#[test]
fn rtmr0_is_stated_for_machines_whose_tables_are_known_and_for_no_other() {
    let site = site();
    // A word where an empty store of variables has it.
    let mut firmware = ovmf::firmware();
    firmware[48..50].copy_from_slice(&72u16.to_le_bytes());
    firmware[100..102].fill(0xff);
    fs::write(site.path("empty.fd"), firmware).unwrap();
    fs::create_dir(site.path("acpi")).unwrap();
    fs::write(site.path("acpi/table-loader"), ovmf::table_loader()).unwrap();
    for name in ["rsdp", "tables"] {
        fs::write(site.path("acpi").join(name), name).unwrap();
    }
    let log = ovmf::ccel(&[
        (1, 0x8000_000b, b"hand-off"),
        (1, 0x8000_000a, b"volume"),
        (1, 4, &[0; 4]),
        (1, 10, b"ACPI DATA"),
    ]);
    fs::write(site.path("ccel"), log).unwrap();
    let shapes = "--firmware-tdx empty.fd --memory 4G --tdx-shape small=8G=acpi \
        --tdx-shape large=64G=ccel";
    let report = done(&site, &format!("{STATEMENT} {shapes}"));
    assert_eq!(report["rtmr0"], "stated for 8 of 12 machines with TDX");
    let stated = &statement(&site)["predicate"]["reference_values"]["tdx"]["machines"];
    let machine = |name: &str| {
        let mut machines = stated.as_array().unwrap().iter();
        machines.find(|one| one["machine"] == name).unwrap().clone()
    };
    let command_line = fs::read_to_string(site.path("out/cmdline")).unwrap();
    let measured = |arguments: &str| {
        let line = "measure --json --platform tdx --firmware empty.fd --kernel out/vmlinuz \
            --initrd out/initrd";
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
        command
            .args(line.split_whitespace())
            .args(arguments.split_whitespace())
            .args(["--cmdline", &command_line]);
        let output = command.current_dir(site.path("")).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let small = measured("--vmm qemu --memory 8G --acpi acpi");
    let large = measured("--vmm qemu --memory 64G --event-log ccel");
    for order in ["interleaved", "two-passes"] {
        for form in ["unchanged", "patched"] {
            let own = machine(&format!("qemu-{order}-{form}-small"));
            assert_eq!(own["rtmr0"], small["rtmr0"]["menu_uiapp"]);
            assert_eq!(own["rtmr1"], small["rtmr1"][form]);
            assert_eq!(own["mrtd"], small["mrtd"][order.replace('-', "_")]);
            let own = machine(&format!("qemu-{order}-{form}-large"));
            assert_eq!(own["rtmr0"], large["rtmr0"]);
            assert_eq!(own["rtmr2"], large["rtmr2"]);
        }
        // Of no machine in particular: nothing is guessed.
        for name in ["unchanged", "patched-4096m"] {
            assert!(machine(&format!("qemu-{order}-{name}"))["rtmr0"].is_null());
        }
    }
    for (shape, part) in [
        ("small=8G", "give name, memory and tables"),
        ("small=8X=acpi", "give name, memory and tables"),
        ("a b=8G=acpi", "error: "),
        ("small=8G=nothing", "cannot read nothing"),
        ("small=8G=out/cmdline", "the event log"),
        ("small=8G=out", "cannot read out/table-loader"),
    ] {
        let text = shape.replace(' ', "%");
        let line = format!("{STATEMENT} --firmware-tdx empty.fd --tdx-shape {text}");
        assert!(refused(&site, &line, 1).contains(part), "{shape}");
    }
    let brings = format!("{STATEMENT} --firmware-tdx ovmf.fd --tdx-shape small=8G=acpi");
    assert!(refused(&site, &brings, 1).contains("the firmware brings variables of its own"));
}

#[test]
fn the_same_arguments_give_the_same_bytes() {
    let site = site();
    let line = format!("{STATEMENT} --revoke 6=twice --revoke 3=once");
    done(&site, &line);
    let first = fs::read(site.path("statement.json")).unwrap();
    done(
        &site,
        &line.replace("6=twice --revoke 3=once", "3=once --revoke 6=twice"),
    );
    assert_eq!(fs::read(site.path("statement.json")).unwrap(), first);
    let revoked = &statement(&site)["predicate"]["revocations"];
    assert_eq!(
        (&revoked[0]["version"], &revoked[1]["reason"]),
        (&3.into(), &"twice".into())
    );
}

#[test]
fn what_would_vouch_for_too_much_or_for_nothing_is_not_stated() {
    let site = site();
    let said = refused(&site, &format!("{STATEMENT} --revoke 7=itself"), 1);
    assert!(said.contains("version 7 is not earlier"), "{said}");
    for wrong in [
        "--revoke 5",
        "--revoke x=y",
        "--revoke 5=",
        "--vcpus 4",
        "--firmware-snp ovmf.fd",
        "--firmware-snp ovmf.fd --vcpus 4",
        "--memory 4G",
        "--minimum-client 1",
    ] {
        refused(&site, &format!("{STATEMENT} {wrong}"), 1);
    }
    let machines = "--firmware-snp small.fd --vcpus 4 --vcpu-type EPYC-Milan";
    // A firmware without a section for kernel hashes measures itself alone.
    fs::write(
        site.path("small.fd"),
        ovmf::firmware_with(&ovmf::SECTIONS[..3]),
    )
    .unwrap();
    let said = refused(&site, &format!("{STATEMENT} {machines}"), 1);
    assert!(said.contains("no section for kernel hashes"), "{said}");
    assert!(said.contains("would stand for any software"), "{said}");
    let many = "--firmware-snp ovmf.fd --vcpus 1-300 --vcpu-type EPYC-Milan";
    let said = refused(&site, &format!("{STATEMENT} {many}"), 1);
    assert!(said.contains("300 machines"), "{said}");
    assert!(!site.path("statement.json").exists());
}

/// Release, witness, rebuild and status by their commands; then what clients with demands say.
#[test]
fn what_is_said_later_reaches_the_bundle() {
    let site = site();
    let logged = Logged::new(&site);
    let key = |name: &str| {
        done(&site, &format!("keygen --output {name}"));
        SigningKey::read(&site.path(name)).unwrap()
    };
    let (signer, alice, witness) = (key("signer.pem"), key("alice.pem"), key("witness.pem"));
    let log = |statement: &str, key: &str| {
        done(
            &site,
            &format!("sign --statement {statement} --key {key} --output envelope.json"),
        );
        let envelope = fs::read(site.path("envelope.json")).unwrap();
        let envelope = serde_json::from_slice(&envelope).unwrap();
        let Logged {
            path, origin, key, ..
        } = &logged;
        let keys = [&signer, &alice].map(SigningKey::public);
        let accepted = release::log::Accepted {
            signers: &keys[..1],
            rebuilders: &keys[1..],
        };
        release::log::Log::append(path, origin, key, &envelope, accepted).unwrap();
    };
    let log_key = logged.key.public();
    let read = format!("--log file:releases --origin {ORIGIN} --log-key {log_key}");
    let bundle = || {
        done(
            &site,
            &format!("log bundle {read} --index 0 --output bundle.json"),
        );
        fs::read(site.path("bundle.json")).unwrap()
    };
    done(&site, STATEMENT);
    log("statement.json", "signer.pem");
    let mut policy = logged.policy();
    policy.log_mut().unwrap().signers = vec![signer.public()];
    let judge = |bundle: &[u8]| VerifiedRelease::verify(bundle, &policy).unwrap();
    assert!(judge(&bundle()).rebuilders().is_empty());
    let rebuild = "attest-rebuild --image image --assembled out --lock deb.lock --allow-dirty \
        --release bundle.json --output rebuild.json";
    done(&site, rebuild);
    log("rebuild.json", "alice.pem");
    let cosign = format!(
        "log cosign {read} --name witness.example.org/w --key witness.pem --memory seen.note"
    );
    let said = refused(&site, &cosign, 5);
    assert!(said.contains("seen.note is not there"), "{said}");
    done(&site, &format!("{cosign} --first"));
    for _ in 0..20 {
        // However often it signs, one line is its own.
        done(&site, &cosign);
    }
    let note = fs::read_to_string(logged.path.join("checkpoint")).unwrap();
    assert_eq!(note.lines().count(), 6, "{note}");
    let mut policy = policy.clone();
    policy.minimum_rebuilders = 1;
    let demanded = policy.log_mut().unwrap();
    demanded.minimum_witnesses = 1;
    demanded.witnesses = vec![Witness {
        name: "witness.example.org/w".to_owned().try_into().unwrap(),
        key: witness.public(),
    }];
    demanded.rebuilders = vec![attest::policy::Rebuilder {
        name: "alice".parse().unwrap(),
        key: alice.public(),
    }];
    let verified = VerifiedRelease::verify(&bundle(), &policy).unwrap();
    assert_eq!(
        (verified.witnesses().len(), verified.rebuilders().len()),
        (1, 1)
    );
    done(
        &site,
        "status --release bundle.json --revoke 7=stolen --issued 1790000000 \
        --output status.json",
    );
    log("status.json", "signer.pem");
    done(&site, &cosign);
    let now = attest::UnixTime::from_secs(4_000_000_000);
    let refusal = attest::verify_release(&bundle(), &policy, &Ratchet::UNSEEN, now).unwrap_err();
    assert!(matches!(refusal, Refusal::Revoked(one) if one.version == 7));
    // A rebuild that gave something else is not written.
    fs::remove_file(site.path("rebuild.json")).unwrap();
    let differs = |causes: &str| {
        let said = refused(&site, rebuild, 4);
        assert!(said.starts_with(&format!("error: {causes}")), "{said}");
        assert!(!site.path("rebuild.json").exists());
    };
    fs::write(site.path("image/extra"), "more").unwrap();
    differs("image-extra came out, and is no artifact of the release");
    fs::remove_file(site.path("image/extra")).unwrap();
    edit(&site.path("deb.lock"), |lock| lock.push(b'\n'));
    differs("the rebuild is of another source revision, lock or configuration");
    edit(&site.path("config.toml"), |text| {
        text.extend(b"# changed\n")
    });
    done(
        &site,
        "assemble --image image --config config.toml --output out",
    );
    differs("cloister.efi did not come out as the release states it");
    // The log is rewritten: the witness signs no more.
    fs::remove_dir_all(&logged.path).unwrap();
    release::log::Log::create(&logged.path, &logged.origin, &logged.key).unwrap();
    let said = refused(&site, &cosign, 5);
    assert!(said.contains("had 3 when it was signed last"), "{said}");
}

#[test]
fn a_log_is_served_and_nothing_else_is() {
    let site = site();
    let logged = Logged::new(&site);
    logged.append(&site.statement(1).unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
    command.args([
        "log",
        "serve",
        "--log",
        "releases",
        "--listen",
        "127.0.0.1:0",
    ]);
    command.current_dir(site.path("")).stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line
        .trim()
        .rsplit("http://")
        .next()
        .unwrap()
        .trim_end_matches('/')
        .to_owned();
    let get = |method: &str, path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap()
            + 4;
        let status = String::from_utf8_lossy(&answer[9..12]).into_owned();
        (status, answer[end..].to_vec())
    };
    for file in ["checkpoint", "tile/0/000.p/1", "tile/entries/000.p/1"] {
        let (status, body) = get("GET", &format!("/{file}"));
        assert_eq!(status, "200", "{file}");
        assert_eq!(body, fs::read(logged.path.join(file)).unwrap(), "{file}");
    }
    // An append that died left a tile that no checkpoint covers: another may stand there later.
    for beyond in ["tile/0/000.p/2", "tile/entries/000.p/2", "tile/1/000.p/1"] {
        let file = logged.path.join(beyond);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "not yet").unwrap();
        assert_eq!(get("GET", &format!("/{beyond}")).0, "404", "{beyond}");
    }
    for path in [
        "/",
        "/.lock",
        "/tile",
        "/tile/0/000",
        "/tile/0/../../checkpoint",
        "/../deb.lock",
        "/%2e%2e/deb.lock",
        "//etc/passwd",
    ] {
        assert_eq!(get("GET", path).0, "404", "{path}");
    }
    assert_eq!(get("POST", "/checkpoint").0, "405");
    server.kill().unwrap();
    server.wait().unwrap();
}

/// Appends until the disk is full: the last append fails by one line, and the log is whole.
#[test]
fn a_full_disk_leaves_the_log_whole() {
    let site = site();
    let key = SigningKey::create(&site.path("log.pem")).unwrap();
    let public = key.public();
    fs::create_dir(site.path("small")).unwrap();
    let program = env!("CARGO_BIN_EXE_cloister-release");
    let to = format!("--log small/log --origin {ORIGIN} --key log.pem");
    let states = "--name cloister --image image --assembled out --lock deb.lock --allow-dirty";
    let script = format!(
        "mount -t tmpfs -o size=128k none small || exit 77; set -e; {program} log create {to}; \
         for version in $(seq 1 40); do \
         {program} statement {states} --version $version --output statement.json >/dev/null; \
         {program} sign --statement statement.json --key log.pem --output envelope.json \
         >/dev/null; \
         {program} log append {to} --signer {public} --envelope envelope.json >/dev/null 2>said \
         || break; done; \
         cat said; {program} log show --log small/log --origin {ORIGIN} --log-key {public}"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--user", "--map-root-user", "sh", "-c", &script]);
    let output = command.current_dir(site.path("")).output().unwrap();
    let (said, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if output.status.code() == Some(77) || stderr.contains("unshare") {
        eprintln!("SKIPPED, not tested: no mount namespace for a small file system: {stderr}");
        return;
    }
    assert!(output.status.success(), "{said} {stderr}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(
        said.contains("hint: free space on that file system"),
        "{said}"
    );
    assert!(said.contains("cloister version 1 "), "{said}");
    assert!(!said.contains("cloister version 40 "), "{said}");
}
