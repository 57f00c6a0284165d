//! The auditor's commands, step by step.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use attest::release::Statement;
use attest::{Digest, Policy, Ratchet};
use release::reproduce::rebuild::{self, Workplace};
use release::reproduce::{self as reproduction, Question, source};
use release::tools::Tools;
use release::{compare as comparison, files, inputs as locked, stated};

use super::report::{self, Circumstances, DIFFERENT};
use super::{BillArguments, CompareArguments, InputsArguments, OwnsArguments, ReproduceArguments};
use crate::cli::commands::now;
use crate::cli::failure::{Failure, MISUSE};
use crate::cli::report::Report;

type Outcome = Result<Report, Failure>;

pub(crate) fn inputs(arguments: &InputsArguments) -> Outcome {
    let evidence = locked::evidence(&arguments.source)?;
    Ok(report::inputs(&locked::read(&arguments.source)?, &evidence))
}

pub(crate) fn owns(arguments: &OwnsArguments) -> Outcome {
    let OwnsArguments {
        path,
        image,
        source,
    } = arguments;
    Ok(report::owned(&release::owns::find(image, source, path)?))
}

pub(crate) fn bill(arguments: &BillArguments) -> Outcome {
    let BillArguments {
        image,
        source,
        root,
        output,
    } = arguments;
    let scratch = Scratch::new()?;
    let steps = Steps::new(false);
    let root = match root {
        Some(root) => root.clone(),
        None => {
            steps.say("reading the root file system back");
            let root = scratch.0.join("root");
            Tools::of(source)?.extract_erofs(&image.join("root.erofs"), &root)?;
            root
        }
    };
    steps.say("hashing its files");
    let bill = release::bill::make(source, image, &root)?;
    let output = output
        .clone()
        .unwrap_or_else(|| image.join(release::bill::FILE));
    let written = files::write_whole(&output, &bill);
    written.map_err(|error| Failure::input(&output, &error, "choose another file: --output"))?;
    Ok(Report::facts(&[
        ("bill", output.display().to_string()),
        ("sha256", Digest::sha256(&bill).to_string()),
    ]))
}

pub(crate) fn compare(arguments: &CompareArguments) -> Outcome {
    let scratch = Scratch::new()?;
    let tools = Tools::of(&arguments.source).ok();
    let steps = Steps::new(false);
    let side = |path: &Path| {
        steps.say(&format!(
            "reading {}",
            crate::cli::failure::printable(&path.to_string_lossy())
        ));
        comparison::Side::read(path, tools.as_ref(), &scratch.0)
    };
    let compared = comparison::compare(&side(&arguments.before)?, &side(&arguments.after)?);
    let text = match arguments.markdown {
        true => comparison::markdown(&compared),
        false => {
            let lines = comparison::text(&compared);
            let lines = lines
                .lines()
                .map(|line| crate::cli::failure::printable(line) + "\n");
            lines.collect()
        }
    };
    let mut report = Report::of(text, comparison::json(&compared));
    if arguments
        .fail_on
        .iter()
        .any(|condition| compared.meets(*condition))
    {
        report.code = DIFFERENT;
    }
    Ok(report)
}

pub(crate) fn reproduce(arguments: &ReproduceArguments) -> Outcome {
    // Minutes: what is done is said wherever standard error goes, as the build says it.
    let steps = Steps::new(true);
    let say = |text: &str| steps.say(text);
    let mut around = Circumstances::default();
    let asked = Asked::read(arguments, &mut around)?;
    let place = Workplace::new(&arguments.output)?;
    let (source, image) = match &arguments.image {
        Some(image) => (taken_source(arguments, &mut around)?, image.clone()),
        None => {
            say("fetching the sources");
            let sources = source::fetch(&arguments.source, &asked.revision, &place.source())?;
            describe(&sources, &mut around);
            let shared = rebuild::everyday_cache().filter(|_| !arguments.cold);
            say("building the image from them");
            place.build(&asked.profile, shared.as_deref())?;
            (sources.folder, place.image())
        }
    };
    let assembled = match &asked.configuration {
        Some(configuration) => {
            say("assembling it with the configuration");
            let measured = release::assemble::assemble(&image, configuration, &place.assembled())?;
            asked.check_registers(&measured.reference_values(), &mut around);
            Some(place.assembled())
        }
        None => None,
    };
    asked.check_lock(&source, &mut around)?;
    say("comparing");
    let scratch = place.scratch();
    let question = Question {
        stated: asked.stated.clone(),
        image: &image,
        assembled: assembled.as_deref(),
        against: arguments.against.as_deref(),
        source: &source,
        scratch: &scratch,
    };
    fs::create_dir_all(&scratch).map_err(|error| Failure::input(&scratch, &error, ""))?;
    reproduction::make_bill(&question, &Tools::of(&source)?)?;
    let answer = reproduction::answer(&question)?;
    if answer.is_empty() {
        let cause = "every stated artifact needs the configuration: nothing was compared";
        return Err(Failure::plain(
            MISUSE,
            cause.to_owned(),
            "give it with --config",
        ));
    }
    if let Some((theirs, ours)) = question.first_pair(&answer) {
        around.facts.extend(diffoscope(
            &theirs,
            &ours,
            &arguments.output.join("diffoscope.txt"),
        ));
    }
    around
        .facts
        .push(("rebuilt", arguments.output.display().to_string()));
    Ok(report::reproduction(&around, &answer))
}

/// What diffoscope has to say of two files, in a file of its own, where it is installed.
fn diffoscope(theirs: &Path, ours: &Path, to: &Path) -> Option<(&'static str, String)> {
    let mut command = Command::new("diffoscope");
    command
        .args(["--max-report-size", "10000000", "--text"])
        .arg(to);
    command.arg("--").args([theirs, ours]).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    // Not installed, or not able to: our own report stands without it.
    command.status().ok()?;
    to.exists()
        .then(|| ("diffoscope", to.display().to_string()))
}

/// What is asked for: hashes, revision, profile, configuration.
struct Asked {
    statement: Option<Statement>,
    stated: BTreeMap<String, Digest<32>>,
    revision: String,
    profile: String,
    configuration: Option<PathBuf>,
}

impl Asked {
    fn read(arguments: &ReproduceArguments, around: &mut Circumstances) -> Result<Self, Failure> {
        let path = Path::new(&arguments.release);
        if !path.is_file() {
            return Self::of_tag(arguments, around);
        }
        let statement = stated::read(path)?;
        let facts = &statement.predicate;
        let version = format!(
            "{} version {} ({})",
            facts.name, facts.version, facts.profile
        );
        around.facts.push(("release", version));
        around
            .facts
            .push(("signature", check_signature(arguments, path)?));
        let mut asked = Self {
            stated: reproduction::stated(&statement),
            revision: facts.source_revision.to_string(),
            profile: facts.profile.to_string(),
            configuration: None,
            statement: Some(statement),
        };
        asked.configuration = asked.configuration(arguments)?;
        Ok(asked)
    }

    /// A tag says which sources, not which bits: those are the published files themselves.
    fn of_tag(arguments: &ReproduceArguments, around: &mut Circumstances) -> Result<Self, Failure> {
        let Some(against) = &arguments.against else {
            let cause = format!(
                "{} is no file, and a tag does not say which bits",
                arguments.release
            );
            let hint = "give the release's statement or bundle, or its artifacts with --against";
            return Err(Failure::plain(MISUSE, cause, hint));
        };
        around
            .facts
            .push(("release", format!("tag {}", arguments.release)));
        around.facts.push((
            "signature",
            "none: only the published files are compared".to_owned(),
        ));
        let mut asked = Self {
            stated: reproduction::published(against)?,
            revision: arguments.release.clone(),
            profile: arguments.profile.clone(),
            configuration: None,
            statement: None,
        };
        asked.configuration = asked.configuration(arguments)?;
        Ok(asked)
    }

    /// The release's configuration: given, or published beside the artifacts.
    fn configuration(&self, arguments: &ReproduceArguments) -> Result<Option<PathBuf>, Failure> {
        let is_needed = self.stated.keys().any(|name| !name.starts_with("image-"));
        if !is_needed || arguments.without_config {
            return Ok(None);
        }
        let stated = self.statement.as_ref();
        let stated = stated.map(|statement| statement.predicate.configuration_digest);
        let expected = stated.or_else(|| self.stated.get("config.toml").copied());
        if let Some(path) = &arguments.config {
            let bytes = fs::read(path).map_err(|error| Failure::input(path, &error, ""))?;
            let found = Digest::sha256(&bytes);
            let Some(expected) = expected.filter(|expected| *expected != found) else {
                return Ok(Some(path.clone()));
            };
            let path = path.display();
            let cause = format!("{path} has SHA-256 {found}, the release was made with {expected}");
            let hint = "give the release's own configuration, or --without-config";
            return Err(Failure::plain(MISUSE, cause, hint));
        }
        let published = arguments.against.iter().flat_map(|folder| {
            ["assembled/config.toml", "config.toml"].map(|name| folder.join(name))
        });
        let fits = |path: &PathBuf| {
            fs::read(path).is_ok_and(|bytes| Some(Digest::sha256(&bytes)) == expected)
        };
        if let Some(path) = published.into_iter().find(fits) {
            return Ok(Some(path));
        }
        let cause = match expected {
            Some(expected) => format!("the release holds configuration sha256:{expected}"),
            None => "UKI and disk hold a configuration".to_owned(),
        };
        let hint = "give it with --config, or compare the image alone with --without-config";
        Err(Failure::plain(MISUSE, cause + ", which is not here", hint))
    }

    fn check_lock(&self, source: &Path, around: &mut Circumstances) -> Result<(), Failure> {
        let Some(statement) = &self.statement else {
            return Ok(());
        };
        let path = source.join(locked::DEB_LOCK);
        let lock = fs::read(&path).map_err(|error| Failure::input(&path, &error, ""))?;
        let (found, stated) = (Digest::sha256(&lock), statement.predicate.lock_digest);
        if found == stated {
            around.facts.push(("lock", "as stated".to_owned()));
        } else {
            let says = format!("the sources' lock is sha256:{found}, stated is sha256:{stated}");
            around.contradictions.push(says);
        }
        Ok(())
    }

    fn check_registers(
        &self,
        found: &attest::release::statement::TpmReferenceValues,
        around: &mut Circumstances,
    ) {
        let Some(statement) = &self.statement else {
            return;
        };
        match statement.predicate.reference_values.tpm == *found {
            true => around.facts.push(("registers", "as stated".to_owned())),
            false => {
                let says = "a boot of what was rebuilt shows other registers than are stated";
                around.contradictions.push(says.to_owned());
            }
        }
    }
}

fn check_signature(arguments: &ReproduceArguments, bundle: &Path) -> Result<String, Failure> {
    let Some(path) = &arguments.policy else {
        return Ok("not checked: give --policy".to_owned());
    };
    let read = |path: &Path| fs::read(path).map_err(|error| Failure::input(path, &error, ""));
    let policy = Policy::parse(&read(path)?);
    let policy = policy.map_err(|error| Failure::input(path, &error, "correct the policy file"))?;
    let bundle = read(bundle)?;
    let verified = attest::verify_release(&bundle, &policy.release, &Ratchet::UNSEEN, now())?;
    Ok(format!("by {}, logged", verified.signer()))
}

/// Sources beside an image that was built elsewhere: they give the tools, and nothing is built.
fn taken_source(
    arguments: &ReproduceArguments,
    around: &mut Circumstances,
) -> Result<PathBuf, Failure> {
    let source = PathBuf::from(&arguments.source);
    Tools::of(&source)?;
    let image = arguments.image.as_deref().unwrap_or(Path::new(""));
    let built = format!(
        "{}: taken as built from the stated sources, not built here",
        image.display()
    );
    around.facts.push(("image", built));
    if let Some(changes) = source::changes(&source).filter(|changes| *changes > 0) {
        let says = format!("{} has {changes} uncommitted change(s)", source.display());
        around.facts.push(("sources", says));
    }
    Ok(source)
}

fn describe(sources: &source::Sources, around: &mut Circumstances) {
    around
        .facts
        .push(("sources", format!("a clone at commit {}", sources.commit)));
    if let Some(changes) = sources.left_out.filter(|changes| *changes > 0) {
        let says = format!("{changes} uncommitted change(s) in the repository play no part");
        around.facts.push(("dirty", says));
    }
}

/// Says what is being done, with the time since the start.
struct Steps {
    started: Instant,
    is_said: bool,
}

impl Steps {
    /// Steps of a command of seconds are said at a terminal only, or `always`.
    fn new(always: bool) -> Self {
        Self {
            started: Instant::now(),
            is_said: always || std::io::stderr().is_terminal(),
        }
    }

    fn say(&self, text: &str) {
        if self.is_said {
            let seconds = self.started.elapsed().as_secs();
            eprintln!("[{:02}:{:02}] {text}", seconds / 60, seconds % 60);
        }
    }
}

/// A folder that is gone when it is no longer needed.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let name = format!("cloister-release-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let failed = |error| Failure::input(&folder, &error, "set TMPDIR to a folder of yours");
        // Of a process that died and had our number; a link of somebody else is not followed.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).map_err(failed)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = fs::remove_dir_all(&self.0);
    }
}
