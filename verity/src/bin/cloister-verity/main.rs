//! `cloister-verity`: make, check and read dm-verity volumes.

mod commands;
mod failure;
mod progress;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use verity::{Guid, VolumeRef};

use crate::failure::{Failure, MISUSE};

/// Makes, checks and reads dm-verity volumes.
///
/// A volume is named by its reference, `verity1:ROOT HASH:SALT:DATA BLOCKS`. Whoever has the
/// reference needs to trust nothing else: each block read is checked against it, by this program or
/// by the kernel.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    /// Print the result as one JSON object.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done, or verified
  1  misuse: wrong arguments, or a folder that is no model
  2  the volume is not what its reference says
  3  a file cannot be read or written

Examples:
  cloister-verity pack ~/models/tiny-llama --output model.img
  cloister-verity verify verity1:… model.img
  cloister-verity format root.erofs root.verity --salt $(head -c32 /dev/urandom | xxd -p -c64)";

#[derive(Subcommand)]
enum Command {
    /// Write superblock and hash tree for DATA to HASH, as `veritysetup format` does.
    ///
    /// Prints the volume's reference. The same data and salt give the same reference; the same UUID
    /// as well gives the same bytes.
    Format {
        /// The data: whole blocks of 4096 bytes, for example an erofs image.
        data: PathBuf,
        /// Where the tree goes; an existing file is replaced.
        hash: PathBuf,
        /// 32 bytes that are hashed before each block, as 64 hexadecimal digits [default: random].
        #[arg(long, value_name = "HEX", value_parser = parse_salt)]
        salt: Option<Salt>,
        /// UUID for the superblock; nothing depends on it [default: made from the root hash].
        #[arg(long)]
        uuid: Option<Guid>,
    },
    /// Check every block of a volume against its reference.
    Verify {
        /// The reference that `format` or `pack` printed.
        volume: VolumeRef,
        /// The data, or a disk image with both partitions, as `pack` makes it.
        data: PathBuf,
        /// The hash tree, where DATA is no disk image.
        hash: Option<PathBuf>,
    },
    /// Show what a hash file's superblock or a disk image's partition table says.
    ///
    /// None of it is authenticated. Only `verify` with a reference from elsewhere proves anything.
    Dump {
        /// A hash file or a disk image.
        file: PathBuf,
    },
    /// Make a model's folder a volume: a disk image for the guest.
    ///
    /// MODEL_DIR is a folder in Hugging Face format: config.json, tokenizer.json and one or more
    /// *.safetensors. Only *.safetensors, *.json and *.jinja at its top go into the image. The same
    /// names and contents give the same bytes, on any machine, so that the reference names the
    /// model exactly. It belongs in the configuration, as `[model] volume`.
    Pack {
        /// The folder.
        model_dir: PathBuf,
        /// The image; an existing file is replaced when the new one is whole.
        #[arg(long, value_name = "IMAGE")]
        output: PathBuf,
    },
}

/// The 32 bytes of a salt.
#[derive(Clone, Copy)]
struct Salt([u8; 32]);

fn parse_salt(text: &str) -> Result<Salt, verity::VolumeRefError> {
    // A reference's own rules for a salt.
    let volume: VolumeRef = format!("verity1:{}:{text}:1", "0".repeat(64)).parse()?;
    Ok(Salt(*volume.salt()))
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to standard output and is no misuse.
            let code = if error.use_stderr() { MISUSE } else { 0 };
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let report = match arguments.command {
        Command::Format {
            data,
            hash,
            salt,
            uuid,
        } => commands::format(&data, &hash, salt.map(|salt| salt.0), uuid)?,
        Command::Verify { volume, data, hash } => {
            commands::verify(&volume, &data, hash.as_deref())?
        }
        Command::Dump { file } => commands::dump(&file)?,
        Command::Pack { model_dir, output } => commands::pack(&model_dir, &output)?,
    };
    let text = if arguments.json {
        let mut json = report.json;
        // Of one order, whichever crates are built together: some have serde_json keep another.
        json.sort_all_objects();
        format!("{json}\n")
    } else {
        report.text
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(Failure::Output)
}
