//! `streamer top` in a terminal of the test's own, against a hub that the test plays.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, SlavePty, native_pty_system};
use serde_json::{Value, json};
use streamer::tasks::{Kind, Tasks};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::support::{eventually, in_time};

const TOKEN: &str = "operators-s3cret";

/// What remains of a name that would clear a terminal. The parser leaves out the mark that stands for the character.
const HARMLESS: &str = "gw-1[2J";

#[derive(Default)]
struct Played {
    asked: u64,
    is_paused: bool,
    commands: Vec<String>,
    wants_token: bool,
}

impl Played {
    /// Each one a second and 120 changes after the one before.
    fn overview(&mut self) -> Value {
        self.asked += 1;
        let (minute, second) = (self.asked / 60, self.asked % 60);
        let state = if self.is_paused { "paused" } else { "reading" };
        json!({
            "at": format!("2026-11-22T10:{minute:02}:{second:02}.000Z"), "node": "hub-1", "version": "0.1.0",
            "startedAt": "2026-11-22T09:00:00.000Z", "uptimeSeconds": 60.0, "of a later version": {"x": 1},
            "health": {"status": "ok", "live": true, "ready": true, "components": {}},
            "partitions": [{"partition": "default/0", "owner": "hub-1", "epoch": 1, "state": state,
                "lag": {"seconds": 0.2, "changes": 0}, "oplogHeadroomSeconds": 86400.0,
                "subscriptions": {"live": 10, "catching_up": 0, "parked": 0}, "sessions": 1, "catchups": 0,
                "totals": {"changes": self.asked * 120, "matches": self.asked * 30}}],
            "gateways": {"total": 1, "states": {"live": 1}, "listed": [
                {"gatewayId": "gw-1\u{1b}[2J", "state": "live", "lag": {"seconds": 0.2}, "session": {"transport": "sse", "node": "hub-1"}}]},
        })
    }
}

struct Hub {
    url: String,
    played: Arc<Mutex<Played>>,
    stop: CancellationToken,
}

impl Hub {
    async fn start() -> Self {
        let played = Arc::new(Mutex::new(Played::default()));
        let overview = async |State(played): State<Arc<Mutex<Played>>>, headers: HeaderMap| {
            let mut played = played.lock().unwrap();
            let token = headers.get("authorization").map(|value| value.to_str().unwrap());
            if played.wants_token && token != Some(&format!("Bearer {TOKEN}")) {
                return Err(StatusCode::UNAUTHORIZED);
            }
            Ok(Json(played.overview()))
        };
        let command = async |State(played): State<Arc<Mutex<Played>>>, Path((partition, verb)): Path<(u16, String)>| {
            let mut played = played.lock().unwrap();
            played.commands.push(format!("{verb} default/{partition}"));
            played.is_paused = verb == "pause";
            Json(json!({}))
        };
        let routes = Router::new()
            .route("/v1/overview", get(overview))
            .route("/v1/partitions/default/{partition}/{verb}", post(command))
            .with_state(Arc::clone(&played));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        // Ends connections too, which a listener that is merely dropped does not.
        let server = axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
        Tasks::new().spawn(Kind::Rig, "hub", async move { server.await.unwrap() });
        Self { url, played, stop }
    }

    fn commands(&self) -> Vec<String> {
        self.played.lock().unwrap().commands.clone()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A terminal with the program in it, and what would be seen there.
struct Terminal {
    parser: Arc<Mutex<vt100::Parser>>,
    master: Box<dyn MasterPty + Send>,
    keyboard: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    /// Open, so that the terminal outlives the program.
    _slave: Box<dyn SlavePty + Send>,
    /// How the terminal was set before.
    modes: String,
}

impl Terminal {
    fn start(hub: &Hub, columns: u16, lines: u16, env: &[(&str, &str)]) -> Self {
        let size = PtySize { rows: lines, cols: columns, ..PtySize::default() };
        let pair = native_pty_system().openpty(size).unwrap();
        let modes = format!("{:?}", pair.master.get_termios().unwrap());
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_streamer"));
        command.args(["top", "--url", &hub.url, "--interval", "0.1"]);
        command.env_remove("NO_COLOR");
        command.env_remove("STREAMER_TOKEN");
        command.env("TERM", "xterm-256color");
        env.iter().for_each(|(name, value)| command.env(name, value));
        let child = pair.slave.spawn_command(command).unwrap();
        let parser = vt100::Parser::new(NonZeroU16::new(lines).unwrap(), NonZeroU16::new(columns).unwrap(), 0);
        let parser = Arc::new(Mutex::new(parser));
        let (seen, mut output) = (Arc::clone(&parser), pair.master.try_clone_reader().unwrap());
        // Ends when the terminal does.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = output.read(&mut buffer) {
                if length == 0 {
                    break;
                }
                seen.lock().unwrap().process(&buffer[..length]);
            }
        });
        let keyboard = pair.master.take_writer().unwrap();
        Self { parser, master: pair.master, keyboard, child, _slave: pair.slave, modes }
    }

    fn screen(&self) -> vt100::Screen {
        self.parser.lock().unwrap().screen().clone()
    }

    /// Waits for lines that have all of these, each in one line.
    async fn sees(&self, texts: &[&str]) {
        let has_all = async || {
            let contents = self.screen().contents();
            texts.iter().all(|text| contents.lines().any(|line| line.contains(text))).then_some(())
        };
        let seen = tokio::time::timeout(Duration::from_secs(60), eventually("the screen", has_all)).await;
        assert!(seen.is_ok(), "no {texts:?} in\n{}", self.screen().contents());
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    fn resize(&self, columns: u16, lines: u16) {
        let (rows, cols) = (NonZeroU16::new(lines).unwrap(), NonZeroU16::new(columns).unwrap());
        self.parser.lock().unwrap().set_size(rows, cols);
        self.master.resize(PtySize { rows: lines, cols: columns, ..PtySize::default() }).unwrap();
    }

    /// Waits for the program's end, and for the terminal to be as it was.
    async fn ends_well(&mut self) {
        let status = eventually("the program's end", async || self.child.try_wait().unwrap()).await;
        assert!(status.success(), "{status}: {}", self.screen().contents());
        let is_left = async || (!self.screen().alternate_screen() && !self.screen().hide_cursor()).then_some(());
        eventually("the first screen and its cursor", is_left).await;
        assert_eq!(format!("{:?}", self.master.get_termios().unwrap()), self.modes);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // If it has ended, there is nobody to end.
        let _ = self.child.kill();
    }
}

fn has_colours(screen: &vt100::Screen) -> bool {
    let (lines, columns) = screen.size();
    let mut cells =
        (0..lines.get()).flat_map(|row| (0..columns.get()).filter_map(move |column| screen.cell(row, column)));
    cells.any(|cell| cell.fgcolor() != vt100::Color::Default || cell.bgcolor() != vt100::Color::Default)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_looks_pauses_a_partition_and_leaves() {
    let hub = Hub::start().await;
    let mut terminal = Terminal::start(&hub, 100, 30, &[]);
    terminal.sees(&["health ok  hub-1", "default/0 hub-1 reading", "changes 120/s  matches 30/s", HARMLESS]).await;
    assert!(terminal.screen().alternate_screen());

    terminal.press("p");
    terminal.sees(&["Pause default/0? (y/n)"]).await;
    assert!(hub.commands().is_empty(), "asked first");
    terminal.press("n");
    terminal.sees(&["q quit"]).await;
    terminal.press("p");
    terminal.sees(&["Pause default/0? (y/n)"]).await;
    terminal.press("y");
    terminal.sees(&["Pause default/0: done", "!  default/0 hub-1 paused"]).await;
    assert_eq!(hub.commands(), ["pause default/0"]);
    assert!(has_colours(&terminal.screen()));

    terminal.resize(60, 15);
    terminal.sees(&["1 Partitions 2 Gateways 3 Matching", "!  default/0"]).await;
    terminal.press("\t");
    terminal.sees(&[HARMLESS, "k park"]).await;
    terminal.press("?");
    terminal.sees(&["pause the partition"]).await;
    terminal.press("1");
    terminal.sees(&[HARMLESS, "k park"]).await;

    hub.stop.cancel();
    terminal.sees(&["no answer since", "Connection refused"]).await;
    terminal.sees(&[HARMLESS]).await;
    terminal.press("q");
    terminal.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_gives_the_terminal_back_and_no_color_is_honoured() {
    let hub = Hub::start().await;
    for signal in ["-TERM", "-INT", "-HUP"] {
        let mut terminal = Terminal::start(&hub, 80, 24, &[("NO_COLOR", "1")]);
        hub.played.lock().unwrap().is_paused = true;
        terminal.sees(&["!  default/0 hub-1 paused"]).await;
        assert!(!has_colours(&terminal.screen()));
        let id = terminal.child.process_id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().await.unwrap().success());
        terminal.ends_well().await;
    }
    let mut terminal = Terminal::start(&hub, 80, 24, &[]);
    terminal.sees(&["default/0"]).await;
    terminal.press("\u{3}");
    terminal.ends_well().await;
}

/// What it prints where there is no terminal.
async fn printed(url: &str, arguments: &[&str], token: Option<&str>) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
    command.args(["top", "--url", url, "--interval", "0.1"]).args(arguments);
    command.env_remove("STREAMER_TOKEN").envs(token.map(|token| ("STREAMER_TOKEN", token)));
    let output = in_time("top ends", command.stdin(Stdio::null()).kill_on_drop(true).output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn without_a_terminal_it_prints_once() {
    let hub = Hub::start().await;
    let (status, text, said) = printed(&hub.url, &[], None).await;
    assert_eq!((status, said.as_str()), (Some(0), ""));
    for part in ["health ok  hub-1", "default/0", "changes 120/s", "gw-1\u{fffd}[2J"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains('\u{1b}'));
    let (status, json, _) = printed(&hub.url, &["-o", "json"], None).await;
    let overview: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status, Some(0));
    assert_eq!(overview["of a later version"], json!({"x": 1}));
}

#[tokio::test]
async fn what_is_wrong_is_said_in_one_line() {
    let hub = Hub::start().await;
    hub.played.lock().unwrap().wants_token = true;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), format!("{TOKEN}\n")).unwrap();
    let file = ["--token-file", token.path().to_str().unwrap()];
    for (arguments, variable) in [(&[][..], Some(TOKEN)), (&file, None), (&file, Some("overruled"))] {
        assert_eq!(printed(&hub.url, arguments, variable).await.0, Some(0), "{arguments:?} {variable:?}");
    }
    for variable in [None, Some(""), Some("another")] {
        let (status, out, said) = printed(&hub.url, &[], variable).await;
        assert_eq!((status, out.as_str(), said.lines().count()), (Some(1), "", 1), "{said}");
        assert!(said.contains("--token-file") && said.contains("STREAMER_TOKEN"), "{said}");
    }
    let (status, _, said) = printed("http://127.0.0.1:1", &[], None).await;
    assert_eq!(status, Some(1));
    assert_eq!(said, "streamer: the hub at http://127.0.0.1:1 cannot be reached: Connection refused (os error 111)\n");
    let (status, _, said) = printed(&format!("{}/elsewhere", hub.url), &[], None).await;
    assert!(status == Some(1) && said.contains("has no overview") && said.lines().count() == 1, "{said}");
    for wrong in [&["--interval", "0"][..], &["--token-file", "/nowhere/token"]] {
        assert_eq!(printed(&hub.url, wrong, None).await.0, Some(2), "{wrong:?}");
    }
}
