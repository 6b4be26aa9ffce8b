//! A replica set of the rig's own.
//!
//! Owns what needs several members: elections, and a primary that loses what it had accepted alone.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use bson::doc;
use tokio::time::{Instant, sleep};

use super::mongod::{Mongod, MongodSize, host};
use super::process::ASK_AGAIN;

/// How long an election may take, on a busy machine.
const ELECTION: Duration = Duration::from_secs(60);

/// Some members; the first of one alone is always the primary.
#[derive(Debug)]
pub struct ReplicaSet {
    members: Vec<Mongod>,
    /// To whom something was done last, until it is made good.
    victim: Option<usize>,
}

impl ReplicaSet {
    /// Starts so many members with their data in `folder` and waits until one of them takes writes.
    ///
    /// # Errors
    /// They do not start, or elect nobody.
    pub async fn start(binary: &Path, folder: &Path, members: usize, size: MongodSize) -> anyhow::Result<Self> {
        if members == 1 {
            return Ok(Self { members: vec![Mongod::start(binary, folder, size).await?], victim: None });
        }
        let mut set = Self { members: Vec::new(), victim: None };
        for number in 1..=members {
            set.members.push(Mongod::start_bare(binary, folder, &format!("mongod-{number}"), size).await?);
        }
        let ports: Vec<u16> = set.members.iter().map(Mongod::port).collect();
        set.members[0].initiate(&ports).await?;
        set.leader().await?;
        Ok(set)
    }

    /// Where it is.
    pub fn uri(&self) -> String {
        let hosts: Vec<String> = self.members.iter().map(|member| host(member.port())).collect();
        format!("mongodb://{}/?replicaSet=rs0", hosts.join(","))
    }

    /// SIGSTOP to the primary.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub async fn freeze(&mut self) -> anyhow::Result<()> {
        self.victim = Some(self.leader().await?);
        self.victim()?.freeze().await
    }

    /// SIGCONT to the member that was stopped.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub async fn thaw(&mut self) -> anyhow::Result<()> {
        let thawed = self.victim()?.thaw().await;
        self.victim = None;
        thawed
    }

    /// SIGKILL to the member that has stepped down, on which others may still hang, else to the primary.
    ///
    /// # Errors
    /// There is none, or the system refuses.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if self.victim.is_none() {
            self.victim = Some(self.leader().await?);
        }
        self.victim()?.kill().await
    }

    /// The member that was killed begins again on its data.
    ///
    /// # Errors
    /// There is none, or it does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let restarted = self.victim()?.restart().await;
        self.victim = None;
        restarted
    }

    fn victim(&mut self) -> anyhow::Result<&mut Mongod> {
        let victim = self.victim.context("nothing has been done to any member")?;
        Ok(&mut self.members[victim])
    }

    /// The port of the first member, which is all of a set of one.
    pub fn port(&self) -> u16 {
        self.members[0].port()
    }

    /// The primary gives up its office, and another is elected.
    ///
    /// # Errors
    /// It does not, or nobody is.
    pub async fn step_down(&mut self) -> anyhow::Result<()> {
        let before = self.leader().await?;
        self.members[before].command(doc! { "replSetStepDown": 10, "force": true }).await?;
        let deadline = Instant::now() + ELECTION;
        while self.leader().await? == before {
            if Instant::now() > deadline {
                bail!("the primary stays what it is");
            }
        }
        self.victim = Some(before);
        Ok(())
    }

    /// Kills all but this member, so that what it takes now can be lost.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn isolate(&mut self, leader: usize) -> anyhow::Result<()> {
        for number in (0..self.members.len()).filter(|number| *number != leader) {
            self.members[number].kill().await?;
        }
        Ok(())
    }

    /// Kills the primary that was left alone, lets the others elect one of theirs, and brings it back.
    ///
    /// # Errors
    /// A server does not start, or nobody is elected.
    pub async fn depose(&mut self, leader: usize) -> anyhow::Result<()> {
        self.members[leader].kill().await?;
        for number in (0..self.members.len()).filter(|number| *number != leader) {
            self.members[number].restart().await?;
        }
        self.leader().await?;
        self.members[leader].restart().await
    }

    /// The number of the one member that takes writes.
    ///
    /// # Errors
    /// Nobody is elected.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let deadline = Instant::now() + ELECTION;
        loop {
            for (number, member) in self.members.iter().enumerate() {
                if member.is_primary().await {
                    return Ok(number);
                }
            }
            if Instant::now() > deadline {
                bail!("the replica set has no primary after {} s", ELECTION.as_secs());
            }
            sleep(ASK_AGAIN).await;
        }
    }
}
