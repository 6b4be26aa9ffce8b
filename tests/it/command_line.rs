//! The command line: help with an example everywhere, one line an error, the exit statuses.

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

fn streamer(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_streamer")).args(arguments).envs(env.iter().copied()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_help_ends_with_an_example() {
    for arguments in [
        &[][..],
        &["serve"],
        &["dev"],
        &["tail"],
        &["explain"],
        &["top"],
        &["bench"],
        &["bench", "drain"],
        &["drill"],
        &["drill", "restart"],
        &["drill", "list"],
        &["check-config"],
        &["admin"],
        &["admin", "export"],
        &["admin", "import"],
    ] {
        let output = streamer(&[arguments, &["--help"]].concat(), &[]);
        assert_eq!(output.status.code(), Some(0));
        let help = stdout(&output);
        let example = format!("Example:\n  streamer {}", arguments.join(" "));
        assert!(help.contains(example.trim_end()), "{arguments:?}: {help}");
    }
}

#[test]
fn wrong_usage_and_bad_configuration_exit_2_with_the_fault() {
    for arguments in [&["nonsense"][..], &["serve", "--nonsense"], &["tail"], &[], &["check-config", "-o", "xml"]] {
        assert_eq!(streamer(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
    let output = streamer(&["check-config"], &[("STREAMER__HTTP__LISTEN", "0.0.0.0:7700")]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "streamer: STREAMER__HTTP__LISTEN: http.listen: 0.0.0.0:7700 is not a loopback address and needs \
         authentication: name a file in auth.tokens\n"
    );
    let output = streamer(&["check-config", "--config", "/nowhere/hub.toml"], &[]);
    assert_eq!((output.status.code(), stderr(&output).lines().count()), (Some(2), 1));
}

#[test]
fn check_config_prints_what_the_file_and_the_environment_come_to() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    std::fs::write(&file, "[node]\nid = \"from-file\"\n").unwrap();
    let file = file.to_str().unwrap();
    let env = [("STREAMER__QUOTAS__TENANT", "7"), ("STREAMER__BACKENDS__0__URI", "mongodb://u:s3cret@127.0.0.1:1/")];
    let output = streamer(&["check-config", "--offline", "--config", file, "-o", "json"], &env);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let printed: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(printed["node"]["id"], "from-file");
    assert_eq!(printed["quotas"], serde_json::json!({"gateway": 10_000, "tenant": 7, "global": 100_000}));
    assert_eq!(printed["backends"][0]["uri"], "mongodb://u:***@127.0.0.1:1/");
    let text = stdout(&streamer(&["check-config", "--offline", "--config", file], &env));
    assert!(text.contains("id = \"from-file\"") && !text.contains("s3cret"), "{text}");
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// MongoDB and etcd may come later than the hub, or never.
#[tokio::test]
async fn a_hub_that_waits_for_its_backend_answers_and_ends_when_told() {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (http, grpc, mongod) = (free(), free(), free());
    let mut hub = Command::new(env!("CARGO_BIN_EXE_streamer"));
    hub.arg("serve").stdout(Stdio::null()).stderr(Stdio::null());
    hub.env("STREAMER__HTTP__LISTEN", http.to_string()).env("STREAMER__GRPC__LISTEN", grpc.to_string());
    hub.env("STREAMER__BACKENDS__0__URI", format!("mongodb://{mongod}/?replicaSet=rs0"));
    let mut hub = Running(hub.spawn().unwrap());
    let url = format!("http://{http}/v1/partitions");
    let answer = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match reqwest::get(&url).await {
                Ok(answer) => return answer,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    assert_eq!(answer.await.expect("an answer, be it that there is none").status(), 503);
    // Long enough to have failed once, so that it is in its second attempt.
    tokio::time::sleep(Duration::from_secs(8)).await;
    Command::new("kill").arg(hub.0.id().to_string()).status().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        while hub.0.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    ended.await.expect("it ends");
}

/// A command line that a page shows: where, whether by itself in a block, and what the program is given.
struct Shown {
    place: String,
    is_whole: bool,
    arguments: Vec<String>,
}

/// What of this line is for the program itself.
fn arguments_of(line: &str) -> Vec<Vec<String>> {
    let words = shlex::split(line).unwrap_or_default();
    let commands = words.split(|word| ["&&", "|", ";", ">", "<", "2>"].contains(&word.as_str()));
    let arguments = commands.filter_map(|command| {
        let named = command.iter().position(|word| !word.contains('='))?;
        match &command[named..] {
            [cargo, run, rest @ ..] if cargo == "cargo" && run == "run" => rest.split(|word| word == "--").nth(1),
            [program, rest @ ..] if program.rsplit('/').next() == Some("streamer") => Some(rest),
            _ => None,
        }
    });
    arguments.filter(|arguments| !arguments.is_empty()).map(<[String]>::to_vec).collect()
}

fn shown() -> Vec<Shown> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut found = Vec::new();
    for page in pages.chain([root.join("README.md"), root.join("deploy/k8s/README.md")]) {
        let text = std::fs::read_to_string(&page).unwrap().replace("\\\n", " ");
        let place = page.strip_prefix(root).unwrap().display();
        for (number, part) in text.split("```").enumerate() {
            let is_whole = number % 2 == 1;
            let lines: Vec<&str> =
                if is_whole { part.lines().skip(1).collect() } else { part.split('`').skip(1).step_by(2).collect() };
            for line in lines {
                found.extend(arguments_of(line).into_iter().map(|arguments| Shown {
                    place: format!("{place}: {line}"),
                    is_whole,
                    arguments,
                }));
            }
        }
    }
    found
}

#[test]
fn every_command_that_the_documentation_shows_is_one() {
    let shown = shown();
    assert!(shown.len() > 50, "{}", shown.len());
    for Shown { place, is_whole, arguments } in shown {
        let program = std::iter::once("streamer".to_owned());
        let Err(error) = streamer::cmd::Cli::try_parse_from(program.chain(arguments)) else { continue };
        // Within a sentence a command may stand for itself.
        let is_cut = [
            ErrorKind::MissingRequiredArgument,
            ErrorKind::MissingSubcommand,
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ];
        let has_blanks = place.contains('<') || place.contains('…');
        assert!(!is_whole && (has_blanks || is_cut.contains(&error.kind())), "{place}\n{error}");
    }
}
