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
use release::scratch::Scratch;
use release::tools::Tools;
use release::{compare as comparison, files, inputs as locked, stated};

use super::report::{self, Circumstances, DIFFERENT};
use super::{BillArguments, CompareArguments, InputsArguments, OwnsArguments, ReproduceArguments};
use crate::cli::commands::now;
use crate::cli::failure::{Failure, MISUSE};
use crate::cli::report::Report;
use crate::cli::sigstore::verifier;

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
    let scratch = scratch()?;
    let steps = Steps::new(false);
    let root = match root {
        Some(root) => root.clone(),
        None => {
            steps.say("reading the root file system back");
            let root = scratch.path().join("root");
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
    let scratch = scratch()?;
    let tools = Tools::of(&arguments.source).ok();
    let steps = Steps::new(false);
    let side = |path: &Path| {
        steps.say(&format!(
            "reading {}",
            crate::cli::failure::printable(&path.to_string_lossy())
        ));
        comparison::Side::read(path, tools.as_ref(), scratch.path())
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
    keep_apart(arguments)?;
    let asked = Asked::read(arguments, &mut around)?;
    let place = Workplace::new(&arguments.output)?;
    let (source, image) = match &arguments.image {
        Some(image) => (asked.taken_source(arguments, &mut around)?, image.clone()),
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
    // What comes out of published files may be hostile: nobody else sees it, none of it stays.
    let scratch = Scratch::within(place.folder());
    let scratch = scratch.map_err(|error| Failure::input(place.folder(), &error, ""))?;
    let question = Question {
        stated: asked.stated.clone(),
        image: &image,
        assembled: assembled.as_deref(),
        against: arguments.against.as_deref(),
        source: &source,
        scratch: scratch.path(),
    };
    asked.check_whole(&question, &mut around)?;
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

/// Refuses what is asked about inside of the folder to work in: that is emptied first.
fn keep_apart(arguments: &ReproduceArguments) -> Result<(), Failure> {
    let Ok(output) = arguments.output.canonicalize() else {
        return Ok(());
    };
    let given = [
        Some(PathBuf::from(&arguments.release)),
        Some(PathBuf::from(&arguments.source)),
        arguments.image.clone(),
        arguments.against.clone(),
        arguments.config.clone(),
        arguments.policy.clone(),
    ];
    for path in given.into_iter().flatten() {
        if path
            .canonicalize()
            .is_ok_and(|path| path.starts_with(&output))
        {
            let (path, output) = (path.display(), arguments.output.display());
            let cause = format!("{path} is in {output}, which is emptied before the work begins");
            let hint = "move it, or choose another folder with --output";
            return Err(Failure::plain(MISUSE, cause, hint));
        }
    }
    Ok(())
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
    /// The release's statement; without one a tag was given.
    statement: Option<Statement>,
    stated: BTreeMap<String, Digest<32>>,
    revision: String,
    profile: String,
    configuration: Option<PathBuf>,
}

impl Asked {
    fn read(arguments: &ReproduceArguments, around: &mut Circumstances) -> Result<Self, Failure> {
        let path = Path::new(&arguments.release);
        // A pipe is a file as well.
        if !path.exists() || path.is_dir() {
            return Self::of_tag(arguments, around);
        }
        let (statement, signature) = read_statement(arguments, path)?;
        source::check_commit(statement.predicate.source_revision.as_str())?;
        let facts = &statement.predicate;
        let version = format!(
            "{} version {} ({})",
            facts.name, facts.version, facts.profile
        );
        around.facts.push(("release", version));
        around.facts.push(("signature", signature));
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
        if arguments.policy.is_some() || arguments.release.ends_with(".json") {
            let cause = format!("{} is no file", arguments.release);
            let hint = "correct its path; of a tag there is no signature for a --policy to judge";
            return Err(Failure::plain(MISUSE, cause, hint));
        }
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
        // What a statement names does not decide how much of it is checked.
        let is_needed =
            self.statement.is_some() || self.stated.keys().any(|name| !name.starts_with("image-"));
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

    /// Sources beside an image that was built elsewhere: they give the tools, and nothing is built.
    fn taken_source(
        &self,
        arguments: &ReproduceArguments,
        around: &mut Circumstances,
    ) -> Result<PathBuf, Failure> {
        let source = PathBuf::from(&arguments.source);
        Tools::of(&source)?;
        let image = arguments.image.as_deref().unwrap_or(Path::new(""));
        let built = format!(
            "{}: taken as built from the sources, not built here",
            image.display()
        );
        around.facts.push(("image", built));
        let head = source::commit(&source, "HEAD");
        let stated = match self.statement {
            Some(_) => Some(self.revision.clone()),
            None => source::commit(&source, &self.revision),
        };
        let shown = |commit: &Option<String>| match commit {
            Some(commit) => format!("commit {commit}"),
            None => "no known commit".to_owned(),
        };
        let (here, there) = (shown(&head), shown(&stated));
        around
            .facts
            .push(("sources", format!("{} at {here}", source.display())));
        around.facts.push(("stated", format!("sources at {there}")));
        let says = format!("the sources beside the image are at {here}, the release's at {there}");
        match (head, stated) {
            (Some(head), Some(stated)) if head == stated => {}
            (Some(_), Some(_)) => around.contradictions.push(says),
            _ => around.not_compared.push(says),
        }
        if let Some(changes) = source::changes(&source).filter(|changes| *changes > 0) {
            let says = format!("{} has {changes} uncommitted change(s)", source.display());
            around.facts.push(("dirty", says));
        }
        Ok(source)
    }

    /// Whether the release states all of itself, and what of that is not compared here.
    fn check_whole(
        &self,
        question: &Question<'_>,
        around: &mut Circumstances,
    ) -> Result<(), Failure> {
        let unstated = question.unstated();
        let Some(statement) = &self.statement else {
            if !unstated.is_empty() {
                let names: Vec<_> = unstated.into_iter().collect();
                around
                    .left_out
                    .push(format!("not published: {}", names.join(", ")));
            }
            return Ok(());
        };
        let missing = unstated.iter();
        let missing = missing.map(|name| format!("the statement does not name {name}"));
        around.contradictions.extend(missing);
        let facts = &statement.predicate;
        let configuration = self.stated.get("config.toml");
        if configuration.is_some_and(|sum| *sum != facts.configuration_digest) {
            let says = "the stated configuration is not the stated config.toml";
            around.contradictions.push(says.to_owned());
        }
        let profile = release::statement::profile(question.image)?;
        if profile != facts.profile {
            let says = format!(
                "the image is of profile {profile}, stated is {}",
                facts.profile
            );
            around.contradictions.push(says);
        }
        let platforms = stated::platforms(&facts.reference_values);
        let platforms = platforms
            .keys()
            .map(|name| format!("stated values of {name}"));
        match &self.configuration {
            Some(_) => around.not_compared.extend(platforms),
            None => {
                around.left_out.push("stated registers".to_owned());
                around.left_out.extend(platforms);
            }
        }
        Ok(())
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

/// The statement, and what is known of its signature. The file is read once: the statement that was
/// verified is the one that is used.
fn read_statement(
    arguments: &ReproduceArguments,
    path: &Path,
) -> Result<(Statement, String), Failure> {
    let bytes = stated::read_bytes(path)?;
    let Some(policy) = &arguments.policy else {
        let statement = stated::parse(&bytes).map_err(|error| stated::malformed(path, error))?;
        return Ok((statement, "not checked: give --policy".to_owned()));
    };
    let text = fs::read(policy).map_err(|error| Failure::input(policy, &error, ""))?;
    let hint = "correct the policy file";
    let parsed = Policy::parse(&text).map_err(|error| Failure::input(policy, &error, hint))?;
    let sigstore = verifier(&parsed, policy)?;
    let (release, unseen) = (&parsed.release, Ratchet::UNSEEN);
    let verified = attest::verify_release_with(&bytes, release, &unseen, now(), &*sigstore)?;
    let signature = format!("by {}, logged", verified.signer());
    Ok((verified.statement().clone(), signature))
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

fn scratch() -> Result<Scratch, Failure> {
    let hint = "set TMPDIR to a folder of yours";
    Scratch::new().map_err(|error| Failure::input(&std::env::temp_dir(), &error, hint))
}
