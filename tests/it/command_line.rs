//! The command line: help with an example everywhere, one line an error, the exit statuses.

use std::process::{Command, Output};

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
        &["bench"],
        &["bench", "drain"],
        &["drill"],
        &["drill", "restart"],
        &["drill", "list"],
        &["check-config"],
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
         authentication, which this version does not have yet\n"
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
    let output = streamer(&["check-config", "--config", file, "-o", "json"], &env);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let printed: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(printed["node"]["id"], "from-file");
    assert_eq!(printed["quotas"], serde_json::json!({"gateway": 10_000, "tenant": 7, "global": 100_000}));
    assert_eq!(printed["backends"][0]["uri"], "mongodb://u:***@127.0.0.1:1/");
    let text = stdout(&streamer(&["check-config", "--config", file], &env));
    assert!(text.contains("id = \"from-file\"") && !text.contains("s3cret"), "{text}");
}
