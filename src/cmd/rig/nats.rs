//! A NATS server of the rig's own, with JetStream.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::process::{Process, free_port};

/// How long it may take to start, on a busy machine.
const START: Duration = Duration::from_secs(30);
const STORAGE: &str = "jetstream";
const BACKUP: &str = "backup";

/// A NATS server, and what it is started with again and again.
#[derive(Debug)]
pub struct Nats {
    binary: PathBuf,
    folder: PathBuf,
    port: u16,
    /// Settings of its own, in its language.
    config: String,
    process: Process,
}

impl Nats {
    /// Starts it with its storage in `folder`, with `config` beside what it needs, and waits until it answers.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(binary: &Path, folder: &Path, config: &str) -> anyhow::Result<Self> {
        let port = free_port()?;
        let process = spawn(binary, folder, port, config)?;
        let (binary, folder, config) = (binary.to_owned(), folder.to_owned(), config.to_owned());
        let mut nats = Self { binary, folder, port, config, process };
        nats.answers().await?;
        Ok(nats)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    /// Starts it again on its storage, and waits until it answers.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process = spawn(&self.binary, &self.folder, self.port, &self.config)?;
        self.answers().await
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn freeze(&self) -> anyhow::Result<()> {
        self.process.freeze().await
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn thaw(&self) -> anyhow::Result<()> {
        self.process.thaw().await
    }

    /// Everything that it has stored is gone. Only while it does not run.
    ///
    /// # Errors
    /// The system refuses.
    pub fn lose_storage(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_dir_all(self.folder.join(STORAGE))?)
    }

    /// What it has stored, for [`Self::restore`]. Only while it does not run.
    ///
    /// # Errors
    /// The system refuses.
    pub fn back_up(&self) -> anyhow::Result<()> {
        let backup = self.folder.join(BACKUP);
        if backup.exists() {
            std::fs::remove_dir_all(&backup)?;
        }
        copy(&self.folder.join(STORAGE), &backup)
    }

    /// It has stored what it had stored then. Only while it does not run.
    ///
    /// # Errors
    /// The system refuses.
    pub fn restore(&self) -> anyhow::Result<()> {
        self.lose_storage()?;
        copy(&self.folder.join(BACKUP), &self.folder.join(STORAGE))
    }

    /// From now on it has other settings of its own, which it takes while it runs: whom they do not let in is out.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn reconfigure(&mut self, config: &str) -> anyhow::Result<()> {
        config.clone_into(&mut self.config);
        write_config(&self.folder, self.port, config)?;
        self.process.reload().await
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let port = self.port;
        // It greets whoever connects.
        let greets = async || match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(mut stream) => {
                let mut greeting = [0; 4];
                stream.read_exact(&mut greeting).await.is_ok() && &greeting == b"INFO"
            }
            Err(_) => false,
        };
        self.process.until(START, &log(&self.folder), greets).await
    }
}

fn log(folder: &Path) -> PathBuf {
    folder.join("nats.log")
}

fn spawn(binary: &Path, folder: &Path, port: u16, config: &str) -> anyhow::Result<Process> {
    let mut command = Command::new(binary);
    command.arg("-c").arg(write_config(folder, port, config)?);
    Process::start("nats-server", command, &log(folder))
}

fn write_config(folder: &Path, port: u16, config: &str) -> anyhow::Result<PathBuf> {
    let (file, storage) = (folder.join("nats.conf"), folder.join(STORAGE).display().to_string());
    let text = format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {storage:?} }}\n{config}\n");
    std::fs::write(&file, text)?;
    Ok(file)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
