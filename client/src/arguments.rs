//! What the command line says.

use std::path::PathBuf;

use clap::{Arg, Args, Parser, Subcommand};

use crate::endpoint::Endpoint;
use crate::saved::Saved;

const ABOUT: &str = "Talk to a model that nobody else can overhear, after checking that it is so";

const EXAMPLES: &str = "\
Examples:
  cloister verify https://host --policy policy.toml --explain
      every claim about the machine: expected, found, and what it rests on
  cloister verify --snp-report report.bin --certs folder --policy policy.toml --at 2026-01-13
      a report on its own, offline, as of that day
  cloister ask https://host 'What is a launch digest?' --policy policy.toml
      verify, then ask once
  git diff | cloister ask https://host - --system 'Review this change.'
      the prompt from standard input, the policy from CLOISTER_POLICY
  cloister chat https://host
      verify, then talk

Nothing is sent before the server's evidence was verified against the policy.

Exit codes:
  0 all well   1 misuse   2 signature or certificate chain   3 certificates out of date
  4 policy     5 transparency log                            6 network";

const OVER_FILES: &str = "\
Over files, of any machine (a policy needs only `version` and the tables of what is judged):
  cloister verify --tpm-quote quote.msg --tpm-signature quote.sig --tpm-registers quote.pcrs \\
      --qualifying-data HEX --policy p.toml                        [tpm-quote]
  cloister verify --azure evidence.json --certs folder --policy p.toml
      paravisor's report, hardware below it, virtual TPM's quote   [azure] and [snp] or [tdx]
  cloister verify --gpu-evidence gpus.json --rim folder --policy p.toml
      GPUs and switches against NVIDIA's manifests                 [gpu]
What is not asked for is not checked, and the report says so: name the nonce by --nonce,
--report-data or --qualifying-data, and the time of judgement by --at. An option that does not
belong to what is judged is misuse.

Exit codes:
  0 verified   1 misuse   2 signature or certificate chain
  3 certificates, lists or documents out of date or missing
  4 policy     5 transparency log                            6 network";

/// Talk to a model that nobody else can overhear.
#[derive(Debug, Parser)]
#[command(name = "cloister", version, about = ABOUT, after_help = EXAMPLES)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Verify the server, then ask it once
    #[command(after_help = "PROMPT `-` reads the prompt from standard input.")]
    Ask(Ask),
    /// Verify the server, then talk with it; Ctrl-D ends
    #[command(mut_arg("json", |json| json.hide(true)))]
    Chat(Chat),
    /// Verify the server, and send it nothing; or files, and ask nobody
    #[command(mut_arg("url", in_place_of_a_server), after_help = OVER_FILES)]
    Verify(Box<Verify>),
}

impl Command {
    pub(crate) fn peer(&self) -> &Peer {
        match self {
            Self::Ask(ask) => &ask.peer,
            Self::Chat(chat) => &chat.peer,
            Self::Verify(verify) => &verify.peer,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Ask {
    #[command(flatten)]
    pub(crate) peer: Peer,
    /// What to ask, or `-` for standard input
    pub(crate) prompt: Prompt,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) peer: Peer,
    #[command(flatten)]
    pub(crate) saved: Saved,
}

/// Where a file is verified there is no server, and clap knows no argument that one command needs
/// and another does not: so it has a value that nobody connects to.
fn in_place_of_a_server(url: Arg) -> Arg {
    url.required(false)
        .required_unless_present_any([
            "capsule",
            "evidence",
            "snp_report",
            "tdx_quote",
            "tpm_quote",
            "azure",
            "gpu_evidence",
        ])
        .default_value("http://no.server.invalid")
        .hide_default_value(true)
}

#[derive(Debug, Args)]
pub(crate) struct Chat {
    #[command(flatten)]
    pub(crate) peer: Peer,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
}

/// Whom to talk to, and whom to believe.
#[derive(Debug, Clone, Args)]
pub(crate) struct Peer {
    /// The server, such as https://host or http://127.0.0.1:8080
    pub(crate) url: Endpoint,
    /// What to demand of the server; there is no default trust
    #[arg(
        long,
        value_name = "FILE",
        env = "CLOISTER_POLICY",
        hide_env_values = true
    )]
    pub(crate) policy: Option<PathBuf>,
    /// The release bundle, where the server brings none
    #[arg(long, value_name = "FILE")]
    pub(crate) release: Option<PathBuf>,
    /// Certificates, revocation lists, documents of AMD's or Intel's and manifests (RIM) of
    /// NVIDIA's, where the server brings none: a file, or a folder of files, in any form and under
    /// any name
    #[arg(long, visible_aliases = ["certs", "rim"], value_name = "PATH")]
    pub(crate) collateral: Vec<PathBuf>,
    /// Where to remember the highest release version seen
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Show every claim: expected, found, and what it rests on
    #[arg(long)]
    pub(crate) explain: bool,
    /// Write one JSON object to standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Sampling {
    /// Instructions that stand before the conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<Prompt>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// 0 gives the likeliest answer, up to 2 more variety
    #[arg(long, value_name = "T", default_value = "0", value_parser = temperature)]
    pub(crate) temperature: f32,
    /// The same seed and request give the same answer
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// Text of a person. Not shown by `Debug`.
#[derive(Clone)]
pub(crate) struct Prompt(pub(crate) String);

impl std::fmt::Debug for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prompt")
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

fn temperature(text: &str) -> Result<f32, &'static str> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=2.0).contains(&value) => Ok(value),
        _ => Err("a number from 0 to 2 is expected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn debug_shows_no_prompt() {
        let line = ["cloister", "ask", "http://h", "a secret", "--policy=p"];
        let arguments = Arguments::try_parse_from(line).unwrap();
        assert!(!format!("{arguments:?}").contains("secret"));
    }
}
