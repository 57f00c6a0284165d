//! `cloister-inference`, as people start it.
#![cfg(feature = "insecure")] // as the program itself
#![allow(clippy::unwrap_used, clippy::panic)] // helpers are no tests to clippy

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    fixtures.join(name)
}

fn program(command: &str, model: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_cloister-inference"));
    program.arg(command).arg("--model").arg(fixture(model));
    program
}

fn answer(output: Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn scores_are_the_logarithms_of_what_transformers_expects() {
    for model in ["families/qwen3", "families/gemma3", "llama/bf16-sharded"] {
        let expected = std::fs::read_to_string(fixture(model).join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        let case = &expected["cases"][0];
        let tokens = case["prompt"].as_array().unwrap();
        let list: Vec<String> = tokens.iter().map(Value::to_string).collect();
        let mut score = program("score", model);
        let found = answer(
            score
                .args(["--json", "--tokens", &list.join(",")])
                .output()
                .unwrap(),
        );
        let positions = found["positions"].as_array().unwrap();
        assert_eq!(positions.len(), tokens.len());
        for (position, logits) in case["logits"].as_object().unwrap() {
            let logits: Vec<f64> = logits
                .as_array()
                .unwrap()
                .iter()
                .map(|x| x.as_f64().unwrap())
                .collect();
            let total = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
            let size = logits
                .iter()
                .fold(0.0f64, |size, logit| size.max(logit.abs()));
            let top = positions[position.parse::<usize>().unwrap()]["top"]
                .as_array()
                .unwrap();
            assert_eq!(top.len(), 5);
            let mut before = 0.0;
            for entry in top {
                let token = entry["token"].as_u64().unwrap() as usize;
                let logprob = entry["logprob"].as_f64().unwrap();
                assert!((logprob - (logits[token] - total)).abs() < 1e-3 * size.max(1.0));
                assert!(logprob <= before);
                before = logprob;
            }
        }
    }
}

#[test]
fn a_bench_measures_and_says_where() {
    let mut bench = program("bench", "families/qwen3");
    let sizes = [
        "--prompt-tokens",
        "32",
        "--new-tokens",
        "4",
        "--batch",
        "1,3",
        "--rounds",
        "1",
    ];
    let found = answer(bench.args(sizes).arg("--json").output().unwrap());
    assert!(found["prefill"]["tokens_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(found["decode"][1]["batch"], 3);
    assert!(found["memory_bytes_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_quantised_folder_answers() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("small");
    let mut quantize = program("quantize", "families/qwen3");
    let made = quantize
        .args(["--bits", "4", "--output"])
        .arg(&output)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let mut score = Command::new(env!("CARGO_BIN_EXE_cloister-inference"));
    score
        .args(["score", "--json", "--tokens", "1,2,3", "--model"])
        .arg(&output);
    assert_eq!(
        answer(score.output().unwrap())["positions"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn misuse_is_refused() {
    let refused = |command: &mut Command, word: &str| {
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(1) && said.contains(word),
            "{said}"
        );
        assert!(output.stdout.is_empty());
    };
    let model = "families/qwen3";
    refused(&mut program("serve", model), "--insecure-localhost");
    refused(&mut program("frobnicate", model), "one command is needed");
    refused(&mut program("score", model), "--tokens");
    refused(
        program("score", model).args(["--tokens", "1,x"]),
        "whole numbers",
    );
    refused(
        program("score", model).args(["--tokens", "99999"]),
        "vocabulary",
    );
    refused(
        program("quantize", model).args(["--bits", "5", "--output", "x"]),
        "8 or 4",
    );
    refused(&mut program("generate", model), "--prompt");
    refused(
        program("score", "no-such-model").args(["--tokens", "1"]),
        "config.json",
    );
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_developer_is_served_on_this_machine_alone() {
    let mut serve = program("serve", "llama/bf16-sharded");
    serve
        .args(["--insecure-localhost", "--port", "0"])
        .stderr(Stdio::piped());
    let mut server = Server(serve.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line
        .split("http://")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{line}");
    let mut stream = TcpStream::connect(address).unwrap();
    let body = r#"{"model":"bf16-sharded","prompt":[5,6,7],"max_tokens":3,"temperature":0}"#;
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.contains("text_completion"), "{response}");
}

/// The answer is the CPU's where a GPU is allowed and there is none, and says so; there is none
/// where a GPU is demanded.
#[test]
fn a_device_is_chosen_aloud_and_never_replaced_where_it_was_demanded() {
    let generate = |device: &str| {
        let mut generate = program("generate", "llama/bf16-sharded");
        let words = ["--raw", "--prompt", "a b c", "--max-tokens", "4"];
        generate.args(words).args(["--device", device]);
        generate
            .args(["--kernels", "/nonexistent"])
            .output()
            .unwrap()
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let cpu = generate("cpu");
    assert!(cpu.status.success(), "{}", said(&cpu));
    assert!(said(&cpu).contains("computing on the CPU\n"));
    let auto = generate("auto");
    assert_eq!((auto.status, &auto.stdout), (cpu.status, &cpu.stdout));
    assert!(said(&auto).contains("computing on the CPU: "));
    let cuda = generate("cuda");
    assert!(!cuda.status.success() && cuda.stdout.is_empty());
    assert!(!said(&cuda).contains("computing"), "{}", said(&cuda));
    assert!(!generate("tpu").status.success());
}
