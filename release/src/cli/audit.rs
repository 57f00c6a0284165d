//! The auditor's commands: what goes in, where it comes from, what changed, and whether it can be
//! built again.

use std::path::PathBuf;

use clap::Args;
use release::compare::Condition;

mod failure;
mod report;
mod run;

pub(super) use run::{bill, compare, inputs, owns, reproduce};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cloister-release inputs
  cloister-release inputs --json | jq -r '.inputs[] | select(.licence == null) | .name'

Listed is what image/deb.lock, Cargo.lock and tests/demo-model/requirements.txt pin by SHA-256; a
row without a hash is a refusal. Licences, and sizes that a lock does not say, stand by hash in
image/licences.lock, which `make licences` writes; what is not there is shown as unknown.")]
pub(super) struct InputsArguments {
    /// Sources.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) source: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release bill --image build/image/production

Writes IMAGE/sbom.spdx.json (SPDX 2.3) unless --output says otherwise. Every file of the root is
read back with the locked tools, compared with manifest.json, and named with the package that it
comes from. The same image gives the same bytes. A bill that stands in the image's folder is stated
by `cloister-release statement` as image-sbom.spdx.json, like every other file there.")]
pub(super) struct BillArguments {
    /// Folder of a built image.
    #[arg(long, value_name = "DIR")]
    pub(super) image: PathBuf,
    /// Sources that the image was built from.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) source: PathBuf,
    /// The root, read back out of root.erofs already: no tool is needed then.
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cloister-release owns /usr/lib/systemd/systemd --image build/image/production
  cloister-release owns initrd:/modules/erofs.ko.xz --image build/image/production
  cloister-release owns vmlinuz --image build/image/production")]
pub(super) struct OwnsArguments {
    /// Path in the root; in the initrd after `initrd:`; or a file of the image's folder.
    #[arg(value_name = "PATH")]
    pub(super) path: String,
    /// Folder of a built image.
    #[arg(long, value_name = "DIR")]
    pub(super) image: PathBuf,
    /// Sources that the image was built from.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) source: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cloister-release compare old/image build/image/production
  cloister-release compare v7.json v8.json --fail-on measurements
  cloister-release compare base head --markdown --fail-on setuid --fail-on growth=1048576

A side is a folder of an image, a folder that assembling made, a folder that holds one of each, or
a statement, envelope or bundle. What one side cannot tell is listed as not compared.

Conditions of --fail-on, which may be repeated: any (the default), nothing, growth=BYTES (of root,
initrd and kernel together), or a topic: release, packages, files, setuid, command-line,
configuration, units, sandbox, measurements, launch, artifacts, sizes.
A topic that could not be compared fails. A root that is not what its manifest.json lists is
refused; without the tools of --source nothing in it is compared.

Exit codes: 0 no condition is met   1 misuse or unusable input   6 different")]
pub(super) struct CompareArguments {
    /// The side before.
    #[arg(value_name = "A")]
    pub(super) before: PathBuf,
    /// The side after.
    #[arg(value_name = "B")]
    pub(super) after: PathBuf,
    /// Report as Markdown, for a pull request.
    #[arg(long, conflicts_with = "json")]
    pub(super) markdown: bool,
    /// What counts as different.
    #[arg(long, value_name = "CONDITION", default_value = "any")]
    pub(super) fail_on: Vec<Condition>,
    /// Sources whose locked tools read the roots back.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) source: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cloister-release reproduce bundle.json --policy policy.toml --config site.toml
  cloister-release reproduce statement.json --source https://example.org/cloister.git \\
      --without-config --against downloads/
  cloister-release reproduce v1.2.0 --profile production --against downloads/
  cloister-release reproduce statement.json --image result/ --without-config

Clones the sources at the revision that the release names, runs their image/build.sh with a cache
of its own, and compares the hash of every artifact. This runs the build of those sources: name a
repository that you would build from. Minutes with packages at hand; --cold fetches all again.

Where bits differ, --against holds the published artifacts, flat or in image/ and assembled/: each
is taken apart down to the first object that differs, with the package or source behind it and the
likely cause: timestamp, path, order, mode, owner, version, missing or content.

A statement must name every artifact of a release, each once, and the whole name of a commit. With
--image the sources must stand at that commit. What was asked for and not compared counts as
different: values of other platforms than a TPM, until --without-config leaves out all that is
measured.

Exit codes: 0 equal, or with --without-config equal as far as compared: see `complete` in --json
            1 misuse or failure   2, 3, 4, 5 --policy refused it   6 different or not compared")]
pub(super) struct ReproduceArguments {
    /// Statement, envelope or bundle of the release; or a tag of the sources.
    #[arg(value_name = "RELEASE")]
    pub(super) release: String,
    /// Repository: a folder or an address that git understands.
    #[arg(long, value_name = "REPOSITORY", default_value = ".")]
    pub(super) source: String,
    /// Image that was built again already, by `nix build` say; nothing is built.
    #[arg(long, value_name = "DIR")]
    pub(super) image: Option<PathBuf>,
    /// Configuration of the release: without it UKI and disk cannot be made.
    #[arg(long, value_name = "FILE", conflicts_with = "without_config")]
    pub(super) config: Option<PathBuf>,
    /// Compare the image alone, not what was assembled of it.
    #[arg(long)]
    pub(super) without_config: bool,
    /// Folder with the published artifacts.
    #[arg(long, value_name = "DIR")]
    pub(super) against: Option<PathBuf>,
    /// Policy by which a bundle is verified before anything is built.
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// Profile of a tag; a statement names its own.
    #[arg(long, value_name = "NAME", default_value = "production")]
    pub(super) profile: String,
    /// Folder to work in; what an earlier run left there is removed.
    #[arg(long, value_name = "DIR", default_value = "build/reproduce")]
    pub(super) output: PathBuf,
    /// Share not even packages with everyday's builds.
    #[arg(long)]
    pub(super) cold: bool,
}
