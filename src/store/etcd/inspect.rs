//! A look at an etcd cluster before a hub is started on it.
//!
//! Owns the questions, and one key that is written, read and deleted below the hub's prefix. Judges nothing: what an
//! answer is worth is for its reader to say. A member that is away hides no other's answer.

use std::future::Future;
use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, Client, ConnectOptions, Error, GetOptions, PutOptions};
use futures::future::join_all;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{EtcdConfig, Failure, revision_of};
use crate::clock::Clock;

/// gRPC's code for a revision that is no longer kept.
const OUT_OF_RANGE: i32 = 11;

/// What came of one question; else why there is no answer, in one line.
pub type Answer<T> = Result<T, String>;

/// What one member says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its version.
    pub version: String,
    /// Which cluster it belongs to.
    pub cluster: u64,
    /// Whether it knows who leads.
    pub has_leader: bool,
    /// Whether it takes part in no vote.
    pub is_learner: bool,
    /// What its database takes on disk.
    pub db_bytes: u64,
    /// What it may take, if the member tells.
    pub quota_bytes: Option<u64>,
}

/// Something that is wrong with a member until an operator says that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The database is as large as it may be: nothing is written.
    NoSpace,
    /// Members hold different data.
    Corrupt,
}

/// Whether old revisions are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// The cluster's revision.
    pub revision: i64,
    /// Whether the first one can still be read.
    pub has_first: bool,
}

/// What the cluster is to the hub, asked through those members that answer.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The names of all members.
    pub members: Answer<Vec<String>>,
    /// What is wrong, each kind once.
    pub alarms: Answer<Vec<Alarm>>,
    /// Whether old revisions are given up.
    pub compaction: Answer<Compaction>,
    /// How long a key took that was written under a lease, read and deleted.
    pub round_trip: Answer<Duration>,
}

/// What there is at the configured addresses.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Each address, in the configuration's order.
    pub endpoints: Vec<(String, Answer<Member>)>,
    /// `None` where no member answers.
    pub cluster: Option<Cluster>,
}

/// Looks at the cluster. No question takes longer than `patience`.
pub async fn inspect(config: &EtcdConfig, clock: &Clock, patience: Duration) -> Inspection {
    let asked = config.endpoints.iter().map(|endpoint| async move {
        let answer = timeout(patience, member(endpoint, patience)).await;
        (endpoint.clone(), answer.unwrap_or_else(|_| Err(silent(patience))))
    });
    let endpoints = join_all(asked).await;
    let there: Vec<String> =
        endpoints.iter().filter(|(_, answer)| answer.is_ok()).map(|(endpoint, _)| endpoint.clone()).collect();
    let cluster = match there.is_empty() {
        true => None,
        false => cluster(&there, config, clock, patience).await.ok(),
    };
    Inspection { endpoints, cluster }
}

fn silent(patience: Duration) -> String {
    format!("no answer within {} s", patience.as_secs_f32())
}

async fn ask<T>(patience: Duration, question: impl Future<Output = Result<T, Error>>) -> Answer<T> {
    match timeout(patience, question).await {
        Ok(answer) => answer.map_err(|error| Failure::from(error).reason),
        Err(_) => Err(silent(patience)),
    }
}

async fn connect(endpoints: &[String], patience: Duration) -> Result<Client, Error> {
    Client::connect(endpoints, Some(ConnectOptions::new().with_connect_timeout(patience))).await
}

async fn member(endpoint: &str, patience: Duration) -> Answer<Member> {
    // The client tries again and again, and does not say why it cannot connect.
    if let Some(address) = address(endpoint) {
        TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    }
    let asked = async {
        let mut client = connect(&[endpoint.to_owned()], patience).await?;
        client.status().await
    };
    let status = asked.await.map_err(|error| Failure::from(error).reason)?;
    let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or_default();
    Ok(Member {
        version: status.version().to_owned(),
        cluster: status.header().map_or(0, |header| header.cluster_id()),
        has_leader: status.leader() != 0,
        is_learner: status.is_learner(),
        db_bytes: bytes(status.db_size()),
        quota_bytes: Some(bytes(status.db_size_quota())).filter(|bytes| *bytes > 0),
    })
}

/// `host:port` of an address, if it names a port.
fn address(endpoint: &str) -> Option<&str> {
    let (_, rest) = endpoint.split_once("://")?;
    let authority = rest.split('/').next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()).then_some(host)
}

async fn cluster(
    endpoints: &[String],
    config: &EtcdConfig,
    clock: &Clock,
    patience: Duration,
) -> Result<Cluster, Error> {
    let client = connect(endpoints, patience).await?;
    let (members, alarms, compaction, round_trip) = tokio::join!(
        ask(patience, members(client.clone())),
        ask(patience, alarms(client.clone())),
        ask(patience, compaction(client.clone(), &config.prefix)),
        async { timeout(patience, round_trip(client.clone(), config, clock)).await },
    );
    let round_trip = round_trip.unwrap_or_else(|_| Err(silent(patience)));
    Ok(Cluster { members, alarms, compaction, round_trip })
}

async fn members(mut client: Client) -> Result<Vec<String>, Error> {
    let list = client.member_list().await?;
    Ok(list.members().iter().map(|member| member.name().to_owned()).collect())
}

async fn alarms(mut client: Client) -> Result<Vec<Alarm>, Error> {
    let answer = client.alarm(AlarmAction::Get, AlarmType::None, None).await?;
    let mut alarms = Vec::new();
    for found in answer.alarms() {
        let alarm = match found.alarm() {
            AlarmType::Nospace => Alarm::NoSpace,
            AlarmType::Corrupt => Alarm::Corrupt,
            AlarmType::None => continue,
        };
        if !alarms.contains(&alarm) {
            alarms.push(alarm);
        }
    }
    Ok(alarms)
}

/// Nobody tells whether anybody compacts; whether anybody has is seen by asking for the first revision.
async fn compaction(mut client: Client, prefix: &str) -> Result<Compaction, Error> {
    let now = client.get(prefix, None).await?;
    let revision = revision_of(now.header());
    let has_first = match client.get(prefix, Some(GetOptions::new().with_revision(1))).await {
        Ok(_) => true,
        Err(Error::GRpcStatus(status)) if status.code() as i32 == OUT_OF_RANGE => false,
        Err(error) => return Err(error),
    };
    Ok(Compaction { revision, has_first })
}

/// The key has a lease, so it goes even if nobody deletes it.
async fn round_trip(mut client: Client, config: &EtcdConfig, clock: &Clock) -> Answer<Duration> {
    let key = format!("{}/check/{:016x}", config.prefix.trim_end_matches('/'), rand::random::<u64>());
    let began = clock.now();
    let walked = async {
        let lease = client.lease_grant(config.lease_seconds.max(1) as i64, None).await?.id();
        client.put(key.clone(), "streamer", Some(PutOptions::new().with_lease(lease))).await?;
        let found = client.get(key.clone(), None).await?;
        client.delete(key, None).await?;
        client.lease_revoke(lease).await?;
        Ok::<_, Error>(found.kvs().first().is_some_and(|pair| pair.value() == b"streamer"))
    };
    match walked.await {
        Ok(true) => Ok(clock.now().since(began)),
        Ok(false) => Err("a key that had been written was not there".into()),
        Err(error) => Err(Failure::from(error).reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_what_can_be_connected_to() {
        assert_eq!(address("http://127.0.0.1:2379"), Some("127.0.0.1:2379"));
        assert_eq!(address("https://u:p@etcd:2379/"), Some("etcd:2379"));
        assert_eq!(address("http://[::1]:2379"), Some("[::1]:2379"));
        assert_eq!(address("http://etcd"), None);
        assert_eq!(address("http://[::1]"), None);
        assert_eq!(address("etcd"), None);
    }
}
