//! Failures of the auditor's commands, with the next step.

use release::bill::BillError;
use release::compare::SideError;
use release::inputs::InputsError;
use release::owns::OwnsError;
use release::reproduce::ReproduceError;
use release::reproduce::rebuild::RebuildError;
use release::reproduce::source::FetchError;
use release::stated::StatedError;
use release::tools::ToolError;

use crate::cli::failure::{Failure, MISUSE};

const SOURCE: &str = "name a checkout of Cloister with --source";
const IMAGE: &str = "give the folder that image/build.sh filled";
const DAMAGED: &str = "the image is damaged or half-built: build it again";
const RELEASE: &str = "give a statement, envelope or bundle that `cloister-release` made";
const TOOLS: &str = "see what `image/enter.sh true` says in the sources";

impl From<InputsError> for Failure {
    fn from(error: InputsError) -> Self {
        let hint = match &error {
            InputsError::Read { .. } => SOURCE,
            InputsError::Row { .. } => "restore the lock from git, or make it anew: `make relock`",
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<BillError> for Failure {
    fn from(error: BillError) -> Self {
        let hint = match &error {
            BillError::Manifest(_) | BillError::Read { .. } => IMAGE,
            BillError::Inputs(_) | BillError::NoDate => SOURCE,
            BillError::Root(_) => DAMAGED,
            BillError::Unlocked { .. } => "name the sources that this image was built from",
            BillError::Stale { .. } => "make it anew: `cloister-release bill --image DIR`",
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<OwnsError> for Failure {
    fn from(error: OwnsError) -> Self {
        let hint = match &error {
            OwnsError::Absent { .. } => "see the paths in manifest.json, or image/initrd.modules",
            OwnsError::Manifest(_) => IMAGE,
            OwnsError::Inputs(_) | OwnsError::Read { .. } => SOURCE,
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<SideError> for Failure {
    fn from(error: SideError) -> Self {
        let hint = match &error {
            SideError::Nothing(_) | SideError::Read { .. } | SideError::Manifest(_) => IMAGE,
            SideError::Root(_) => DAMAGED,
            SideError::Ambiguous { .. } => "name one of the folders in it",
            SideError::Measure { .. } => "assemble again, and change nothing in the folder",
            SideError::Stated(_) | SideError::Statement(_) => RELEASE,
            SideError::Tool(_) => TOOLS,
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<StatedError> for Failure {
    fn from(error: StatedError) -> Self {
        Self::new(MISUSE, &error, RELEASE)
    }
}

impl From<ToolError> for Failure {
    fn from(error: ToolError) -> Self {
        let hint = match &error {
            ToolError::NoCheckout { .. } => SOURCE,
            ToolError::Run { .. } | ToolError::Failed { .. } => TOOLS,
            ToolError::Write { .. } => "free space, or set TMPDIR to a folder of yours",
            ToolError::TooLarge { .. } => DAMAGED,
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let hint = match &error {
            FetchError::Git(_) => "install git",
            FetchError::Dirty(_) => "ask its maker for a release of committed sources",
            FetchError::NoCommit(_) => "ask its maker for a release that names a commit",
            FetchError::Revision(_) => RELEASE,
            FetchError::Clone { .. } => "name the repository with --source",
            FetchError::Absent { .. } => {
                "fetch the repository's tags and branches, or name another"
            }
            FetchError::Other { .. } => "a tag that looks like a commit deceives: ask who made it",
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<RebuildError> for Failure {
    fn from(error: RebuildError) -> Self {
        let hint = match &error {
            RebuildError::Foreign(_) => "choose a folder of its own with --output",
            RebuildError::Write { .. } => "choose a folder that you can write to with --output",
            RebuildError::NoBuild => SOURCE,
            RebuildError::Run(_) => "this needs Debian 12 or later on x86-64; see image/README.md",
            RebuildError::Failed(_) => "mend what it names, then run this again: it starts clean",
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<ReproduceError> for Failure {
    fn from(error: ReproduceError) -> Self {
        let hint = match &error {
            ReproduceError::NothingStated(_) => "name the folder of the published artifacts",
            ReproduceError::Tool(_) => TOOLS,
            ReproduceError::Bill(_) | ReproduceError::Disk(_) | ReproduceError::File { .. } => {
                "the artifacts are damaged: fetch or build them again"
            }
        };
        Self::new(MISUSE, &error, hint)
    }
}
