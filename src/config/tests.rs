//! Every rule of the configuration, by example.

use std::collections::BTreeSet;
use std::path::Path;

use figment::value::Value;

use super::*;

fn with_file(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    std::fs::write(&file, text).unwrap();
    let env = env.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Config::load(Some(&file), env)
}

/// What is wrong, without the file's folder, which differs each time.
fn fault(text: &str, env: &[(&str, &str)]) -> String {
    let mut error = with_file(text, env).expect_err(text);
    if let Some(name) = Path::new(&error.origin).file_name() {
        error.origin = name.to_string_lossy().into_owned();
    }
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

fn sample() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/streamer.toml")).unwrap()
}

fn keys(value: &Value) -> BTreeSet<String> {
    let mut found = Vec::new();
    fault::leaves(value, &mut Vec::new(), &mut found);
    found.into_iter().map(|path| path.join(".")).collect()
}

#[test]
fn the_sample_file_holds_exactly_the_defaults() {
    assert_eq!(with_file(&sample(), &[]).unwrap(), Config::default());
    // Each key is really written there, not merely left to its default.
    let written: Value = Value::serialize(toml::from_str::<toml::Table>(&sample()).unwrap()).unwrap();
    let mut present = Value::serialize(Config::default()).unwrap();
    drop_empty(&mut present);
    assert_eq!(keys(&written), keys(&present));
}

fn drop_empty(value: &mut Value) {
    match value {
        Value::Dict(_, dict) => {
            dict.retain(|_, value| !matches!(value, Value::Empty(..)));
            dict.values_mut().for_each(drop_empty);
        }
        Value::Array(_, items) => items.iter_mut().for_each(drop_empty),
        _ => {}
    }
}

#[test]
fn the_sample_file_shows_every_optional_setting_too() {
    let uncommented: String = sample()
        .lines()
        .filter(|line| !line.starts_with("layout = "))
        .map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line)))
        .collect();
    let written: Value = Value::serialize(toml::from_str::<toml::Table>(&uncommented).unwrap()).unwrap();
    assert_eq!(keys(&written), keys(&Value::serialize(load::exemplar()).unwrap()));
    // Of the ways to log in one is given.
    let is_other_login = |line: &str| ["token", "nkey", "credentials"].iter().any(|name| line.starts_with(name));
    let one_login: Vec<&str> = uncommented.lines().filter(|line| !is_other_login(line)).collect();
    with_file(&one_login.join("\n"), &[]).unwrap();
}

#[test]
fn every_setting_in_the_sample_says_why() {
    for line in sample().lines().filter(|line| line.contains(" = ") && !line.starts_with("# ")) {
        let comment = line.trim_start_matches("#:").split_once(" # ").map(|(_, comment)| comment);
        assert!(comment.is_some_and(|comment| comment.trim().len() > 10), "{line}");
    }
}

#[test]
fn nothing_given_means_the_defaults() {
    assert_eq!(Config::load(None, []).unwrap(), Config::default());
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    for (text, expected) in [
        ("[http]\nlistne = 1", "hub.toml: http.listne: unknown setting; the nearest known one is http.listen"),
        ("[htpp]\nlisten = 1", "hub.toml: htpp: unknown setting; the nearest known one is http"),
        ("lease_seconds = 1", "hub.toml: lease_seconds: unknown setting; the nearest known one is store.lease_seconds"),
        (
            "[[backends]]\ndatabse = \"a\"",
            "hub.toml: backends[0].databse: unknown setting; the nearest known one is backends[0].database",
        ),
        (
            "[[backends]]\nlayout = { tenat = \"a\" }",
            "hub.toml: backends[0].layout.tenat: unknown setting; the nearest known one is backends[0].layout.tenant",
        ),
        (
            "[[backends]]\nlayout = { tenant = { const = \"a\" } }",
            "hub.toml: backends[0].layout.tenant.const: unknown setting; the nearest known one is backends[0].layout.tenant.constant",
        ),
    ] {
        assert_eq!(fault(text, &[]), expected);
    }
}

#[test]
fn unknown_variables_are_errors_as_well() {
    for (name, expected) in [
        (
            "STREAMER__HTTP__LISTNE",
            "STREAMER__HTTP__LISTNE: http.listne: unknown setting; the nearest known one is http.listen",
        ),
        (
            "STREAMER__BACKENDS__0__URL",
            "STREAMER__BACKENDS__0__URL: backends[0].url: unknown setting; the nearest known one is backends[0].uri",
        ),
        ("STREAMER__STOR__KIND", "STREAMER__STOR__KIND: stor: unknown setting; the nearest known one is store"),
    ] {
        assert_eq!(fault("", &[(name, "x")]), expected);
    }
    assert!(with_file("", &[("STREAMER_MONGOD", "x"), ("PATH", "y")]).is_ok());
}

#[test]
fn variables_override_the_file() {
    let file = "[node]\nid = \"file\"\n[[backends]]\nname = \"b\"\nuri = \"mongodb://file/\"";
    let config = with_file(
        file,
        &[
            ("STREAMER__NODE__ID", "7"),
            ("STREAMER__BACKENDS__0__URI", "mongodb://u:p@env/"),
            ("STREAMER__BACKENDS__0__COLLECTIONS", "a, b"),
            ("STREAMER__BACKENDS__0__LAYOUT", "plain"),
            ("STREAMER__BACKENDS__0__HEARTBEAT_WRITES", "false"),
            ("STREAMER__BACKENDS__0__DATABASE", "1"),
            ("STREAMER__STORE__ENDPOINTS", "[\"http://a:1\", \"http://b:2\"]"),
            ("STREAMER__STORE__KIND", "redb"),
            ("STREAMER__STORE__PATH", "x.redb"),
            ("STREAMER__MEMORY__BYTES", "536870912"),
            ("STREAMER__HTTP__LISTEN", "localhost:9"),
        ],
    )
    .unwrap();
    let backend = &config.backends.0[0];
    assert_eq!((config.node.id.as_str(), backend.name.as_str()), ("7", "b"));
    assert_eq!((backend.uri.as_str(), backend.collections.join("+")), ("mongodb://u:p@env/", "a+b".into()));
    assert_eq!((backend.layout.clone(), backend.heartbeat_writes), (Layout::Plain, false));
    assert_eq!(backend.database.as_deref(), Some("1"));
    assert_eq!(config.store.endpoints, ["http://a:1", "http://b:2"]);
    assert_eq!((config.store.kind, config.memory.bytes), (StoreKind::Redb, 512 << 20));
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:9");
    let table = [("STREAMER__backends__0__Layout", "{tenant={constant=\"acme\"}}")];
    let Layout::Places(places) = &with_file(file, &table).unwrap().backends.0[0].layout else { panic!("a table") };
    assert_eq!(places.tenant, Place::Constant("acme".into()));
}

#[test]
fn a_list_takes_one_more_but_not_a_hole() {
    let second = fault("", &[("STREAMER__BACKENDS__1__URI", "mongodb://b/")]);
    assert_eq!(second, "hub.toml: backends[1].name: is another backend's name, too");
    let far = fault("", &[("STREAMER__BACKENDS__5__URI", "mongodb://b/")]);
    assert_eq!(far, "STREAMER__BACKENDS__5__URI: backends: found a table, expected a list");
}

#[test]
fn wrong_values_give_one_line_that_names_the_setting() {
    for (text, expected) in [
        (
            "[http]\nlisten = \"nonsense\"",
            "hub.toml: http.listen: \"nonsense\" is not an address with a port, such as 127.0.0.1:7700",
        ),
        ("[http]\nlisten = 7700", "hub.toml: http.listen: found 7700, expected a text"),
        ("http = 3", "hub.toml: http: found 3, expected a table"),
        (
            "[quotas]\ngateway = \"many\"",
            "hub.toml: quotas.gateway: found the text \"many\", expected a whole number from 0 to 4294967295",
        ),
        ("[quotas]\ngateway = -1", "hub.toml: quotas.gateway: -1 is not a whole number from 0 to 4294967295"),
        ("[store]\nkind = \"sqlite\"", "hub.toml: store.kind: \"sqlite\" is not one of \"etcd\", \"redb\""),
        (
            "[[backends]]\nlayout = \"syntax\"",
            "hub.toml: backends[0].layout: \"syntax\" is not one of \"syntrix\", \"plain\"",
        ),
        (
            "[[backends]]\nheartbeat_writes = 1",
            "hub.toml: backends[0].heartbeat_writes: found 1, expected true or false",
        ),
        ("[http\nlisten = 1", "hub.toml: line 1, column 6: unclosed table, expected `]`"),
        ("[store]\nendpoints = \"x\"", "hub.toml: store.endpoints: found the text \"x\", expected a list"),
    ] {
        assert_eq!(fault(text, &[]), expected);
    }
    let missing = Config::load(Some(Path::new("/nowhere/hub.toml")), []).unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere/hub.toml: cannot be read: "), "{missing}");
}

#[test]
fn broken_rules_name_the_setting_and_who_set_it() {
    for (text, expected) in [
        (
            "[http]\nlisten = \"0.0.0.0:7700\"",
            "http.listen: 0.0.0.0:7700 is not a loopback address and needs authentication: name a file in auth.tokens",
        ),
        (
            "[grpc]\nlisten = \"[::]:1\"",
            "grpc.listen: [::]:1 is not a loopback address and needs authentication: name a file in auth.tokens",
        ),
        ("[grpc]\nlisten = \"127.0.0.1:7700\"", "grpc.listen: is the same address as http.listen"),
        ("[[backends]]\n[[backends]]", "backends[1].name: is another backend's name, too"),
        ("backends = []", "backends: at least one [[backends]] is needed"),
        ("[[backends]]\npartitions = 0", "backends[0].partitions: must be at least 1"),
        (
            "[[backends]]\npartitions = 40",
            "backends: 40 partitions in all are more than a cursor has room for; use fewer, or shorter names",
        ),
        (
            "[[backends]]\ntenants = [\"\"]",
            "backends[0].tenants[0]: is empty; `*` stands for any characters, `?` for one",
        ),
        (
            "[memory]\nbytes = 600000000\n[[backends]]\npartitions = 12",
            "memory.bytes: must be at least 754974720 for 12 partitions, each with the window, one outbox (sessions.outbox_bytes) and two readings of the source",
        ),
        ("[[backends]]\nuri = \"http://x\"", "backends[0].uri: must start with mongodb:// or mongodb+srv://"),
        ("[store]\nendpoints = []", "store.endpoints: at least one address is needed"),
        (
            "[store]\nendpoints = [\"a:1\"]",
            "store.endpoints[0]: \"a:1\" is not an address such as http://127.0.0.1:2379",
        ),
        ("[store]\nprefix = \"x\"", "store.prefix: must start with / and not end with it, as in /streamer"),
        ("[store]\nlease_seconds = 1", "store.lease_seconds: must be 2 to 3600"),
        ("[[backends]]\nanswer_seconds = 0", "backends[0].answer_seconds: must be 1 to 3600"),
        ("[window]\nbytes = 2147483648", "window.bytes: is more than memory.bytes (1073741824), which holds it"),
        (
            "[memory]\nbytes = 300000000",
            "memory.bytes: must be at least 327155712, for the window, one outbox (sessions.outbox_bytes) and two readings of the source",
        ),
        ("[sessions]\nmax = 0", "sessions.max: must be at least 1"),
        ("[nats]\nurl = \"h:1\"", "nats.url: \"h:1\" is not an address such as nats://127.0.0.1:4222"),
        (
            "[nats]\nurl = \"nats://u:p@h:1\"",
            "nats.url: says who the hub is; that goes into nats.user and nats.password, or nats.token",
        ),
        ("[nats]\ngateways = [\"\"]", "nats.gateways[0]: is empty; `*` stands for any characters, `?` for one"),
        ("[nats]\nstream = \"a.b\"", "nats.stream: a stream's name has 1 to 32 characters of A-Z a-z 0-9 - _"),
        ("[nats]\nconnections = 0", "nats.connections: must be 1 to 64"),
        ("[nats]\nuser = \"u\"", "nats.password: nats.user and nats.password need each other"),
        (
            "[nats]\ntoken = \"t\"\nnkey = \"SU\"",
            "nats.nkey: is given beside nats.token; one of them says who the hub is",
        ),
        ("[nats]\ncertificate = \"c\"", "nats.key: nats.certificate and nats.key need each other"),
        ("[node]\nid = \"\"", "node.id: a name has 1 to 128 characters of A-Z a-z 0-9 . _ : -"),
    ] {
        assert_eq!(fault(text, &[]), format!("hub.toml: {expected}"));
    }
    let filter = fault("", &[("STREAMER__LOG__FILTER", "a=b=c")]);
    assert!(filter.starts_with("STREAMER__LOG__FILTER: log.filter: \"a=b=c\" is no log filter"), "{filter}");
    assert!(with_file("[http]\nlisten = \"[::1]:0\"\n[grpc]\nlisten = \"127.0.0.1:0\"", &[]).is_ok());
}

#[test]
fn the_documented_example_loads() {
    let text = "[store]\nkind = \"redb\"\npath = \"d/s.redb\"\n[[backends]]\nname = \"default\"\n\
        uri = \"mongodb://127.0.0.1:27017/?replicaSet=rs0\"\ndatabase = \"app\"\ncollections = [\"documents\"]\n\
        layout = { tenant = { constant = \"acme\" }, body = \"data\" }";
    let config = with_file(text, &[]).unwrap();
    let places = config.backends.0[0].layout.places();
    assert_eq!(places.tenant, Place::Constant("acme".into()));
    assert_eq!((places.collection, places.body.as_deref(), places.id_prefix), (None, Some("data"), false));
    assert!(Layout::Syntrix.places().id_prefix);
}
