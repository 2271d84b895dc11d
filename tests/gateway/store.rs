//! The store: one suite for SQLite and for a real PostgreSQL server, and bad weather.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moongate::store::*;
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::runtime::Runtime;

use super::support::*;

const LIFE: Duration = Duration::from_secs(300);

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// One empty database, and how to open it.
struct Bench {
    runtime: Runtime,
    place: Place,
    _folder: Folder,
}

impl Bench {
    fn new(place: impl FnOnce(&Folder) -> Place) -> Self {
        let folder = Folder::new();
        let place = place(&folder);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { runtime, place, _folder: folder }
    }

    fn sqlite() -> Self {
        Self::new(|folder| Place::Sqlite(folder.path().join("deep/moongate.db")))
    }

    fn file(&self) -> &Path {
        let Place::Sqlite(path) = &self.place else { panic!("not a file") };
        path
    }

    fn store(&self) -> Store {
        Store::new(self.place.clone(), self.runtime.handle().clone())
    }

    /// Another connection to the same file, as another process would have one.
    fn connection(&self) -> sqlx::SqliteConnection {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.file());
        self.wait(options.connect()).unwrap()
    }

    fn wait<F: Future>(&self, work: F) -> F::Output {
        self.runtime.block_on(work)
    }
}

fn user(name: &str) -> NewUser {
    NewUser {
        id: format!("id-of-{name}"),
        name: name.to_owned(),
        password_hash: Some("$argon2id$x".to_owned()),
        roles: vec!["user".to_owned(), "a role, \"odd\"".to_owned()],
        tenant: Some("north".to_owned()),
    }
}

fn refresh(number: u8) -> NewRefreshToken {
    NewRefreshToken { hash: [number; 32], expires: now() + 3600 }
}

fn sealed(name: &str, text: &[u8]) -> SealedSecret {
    let (ciphertext, wrapped_key) = (text.to_vec(), vec![0, 255, 7]);
    SealedSecret { name: name.to_owned(), ciphertext, wrapped_key, key_id: "one".to_owned() }
}

type Case = fn(&Bench);

/// What holds for every database.
const SUITE: &[(&str, Case)] = &[
    ("users are kept and found", users_are_kept_and_found),
    ("a name is taken once", a_name_is_taken_once),
    ("a change revokes what was issued before", a_change_revokes_what_was_issued_before),
    ("a federated user is added once", a_federated_user_is_added_once),
    ("a refresh token is good once", a_refresh_token_is_good_once),
    ("of two refreshes at once one wins", of_two_refreshes_at_once_one_wins),
    ("what is over or ended is refused", what_is_over_or_ended_is_refused),
    ("revocations only grow", revocations_only_grow),
    ("API keys are kept, listed and revoked", api_keys_are_kept_listed_and_revoked),
    ("secrets are replaced, and sealed anew all or none", secrets_are_sealed_anew_all_or_none),
    ("what is over is purged", what_is_over_is_purged),
    ("records outlive the process", records_outlive_the_process),
    ("gateways that start at once share the tables", gateways_that_start_at_once),
    ("a later version's tables are left alone", a_later_version_s_tables_are_left_alone),
    ("many calls at once are all answered", many_calls_at_once),
];

#[test]
fn sqlite_passes_the_suite() {
    for (name, case) in SUITE {
        eprintln!("sqlite: {name}");
        case(&Bench::sqlite());
    }
}

#[test]
fn postgresql_passes_the_suite() {
    let mut server = Postgres::start();
    for (name, case) in SUITE {
        eprintln!("postgresql: {name}");
        let url = server.database();
        case(&Bench::new(|_| place_of(&url)));
    }
}

fn place_of(url: &str) -> Place {
    let yaml = format!("postgres: {{ url: '{url}' }}");
    let config: StoreConfig = serde_yaml::from_str(&yaml).unwrap();
    let mut diagnostics = moongate::base::Diagnostics::default();
    Place::compile(Some(&config), &moongate::base::At::ROOT, &mut diagnostics)
}

fn users_are_kept_and_found(bench: &Bench) {
    let store = bench.store();
    let added = bench.wait(store.add_user(user("ada"))).unwrap();
    assert_eq!((added.active, added.version, &added.roles), (true, 1, &user("ada").roles));
    assert_eq!(bench.wait(store.user_named("ada")), Ok(Some(added.clone())));
    assert_eq!(bench.wait(store.user("id-of-ada")), Ok(Some(added)));
    assert_eq!(bench.wait(store.user_named("Ada")), Ok(None), "names are exact");
    let nobody = NewUser { password_hash: None, tenant: None, roles: Vec::new(), ..user("bob") };
    let bob = bench.wait(store.add_user(nobody)).unwrap();
    assert_eq!((bob.password_hash, bob.tenant, bob.roles.len()), (None, None, 0));
    let names = |after: &str, count| -> Vec<String> {
        bench.wait(store.users(after, count, None)).unwrap().into_iter().map(|it| it.name).collect()
    };
    assert_eq!(names("", 10), ["ada", "bob"]);
    assert_eq!(names("", 1), ["ada"]);
    assert_eq!(names("ada", 10), ["bob"]);
    assert_eq!(bench.wait(store.users("", 10, Some("north"))).unwrap().len(), 1);
    assert_eq!(bench.wait(store.users("", 10, Some("south"))), Ok(Vec::new()));
}

fn a_name_is_taken_once(bench: &Bench) {
    let store = bench.store();
    bench.wait(store.add_user(user("ada"))).unwrap();
    let other = NewUser { id: "another".to_owned(), ..user("ada") };
    assert_eq!(bench.wait(store.add_user(other)), Err(StoreError::Conflict));
    assert_eq!(bench.wait(store.user("another")), Ok(None));
}

fn a_change_revokes_what_was_issued_before(bench: &Bench) {
    let store = bench.store();
    bench.wait(store.add_user(user("ada"))).unwrap();
    bench.wait(store.begin_family("f", "id-of-ada", refresh(1))).unwrap();
    let change = UserChange { roles: Some(vec!["admin".to_owned()]), ..UserChange::default() };
    let changed = bench.wait(store.change_user("id-of-ada", change, LIFE)).unwrap().unwrap();
    assert_eq!((changed.version, &*changed.roles), (2, &["admin".to_owned()][..]));
    let revoked = bench.wait(store.revocations(0)).unwrap();
    let expected = Revocation {
        kind: Revoked::Subject,
        id: "id-of-ada".to_owned(),
        issued_until: changed.changed,
        expires: changed.changed + 300,
    };
    assert_eq!(revoked, [expected]);
    let token = |it| bench.wait(store.refresh_token(it)).unwrap().unwrap();
    assert!(token([1; 32]).fresh, "new roles do not sign anybody out");
    let disable = UserChange { active: Some(false), ..UserChange::default() };
    let disabled = bench.wait(store.change_user("id-of-ada", disable, LIFE)).unwrap().unwrap();
    assert_eq!((disabled.active, disabled.version, disabled.password_hash.is_some()), (false, 3, true));
    assert!(!token([1; 32]).fresh, "whoever is disabled can't come back");
    assert_eq!(bench.wait(store.change_user("nobody", UserChange::default(), LIFE)), Ok(None));
}

fn a_federated_user_is_added_once(bench: &Bench) {
    let store = bench.store();
    let first = bench.wait(store.federated_user(user("clinic:7"), LIFE)).unwrap();
    let again = bench.wait(store.federated_user(user("clinic:7"), LIFE)).unwrap();
    assert_eq!(first, again);
    assert_eq!(bench.wait(store.revocations(0)), Ok(Vec::new()));
    let promoted = NewUser { roles: vec!["clinician".to_owned()], ..user("clinic:7") };
    let promoted = bench.wait(store.federated_user(promoted, LIFE)).unwrap();
    assert_eq!((promoted.version, &*promoted.roles), (2, &["clinician".to_owned()][..]));
    assert_eq!(bench.wait(store.revocations(0)).unwrap().len(), 1);
    let disable = UserChange { active: Some(false), ..UserChange::default() };
    bench.wait(store.change_user(&promoted.id, disable, LIFE)).unwrap();
    assert!(!bench.wait(store.federated_user(user("clinic:7"), LIFE)).unwrap().active);
}

fn a_refresh_token_is_good_once(bench: &Bench) {
    let store = bench.store();
    bench.wait(store.begin_family("f", "ada", refresh(1))).unwrap();
    bench.wait(store.begin_family("g", "ada", refresh(9))).unwrap();
    assert_eq!(bench.wait(store.rotate([1; 32], refresh(2), LIFE)), Ok(Rotation::Done));
    assert_eq!(bench.wait(store.rotate([2; 32], refresh(3), LIFE)), Ok(Rotation::Done));
    let reused = bench.wait(store.rotate([1; 32], refresh(4), LIFE));
    assert_eq!(reused, Ok(Rotation::Reused("f".to_owned())));
    let revoked = bench.wait(store.revocations(0)).unwrap();
    assert_eq!(revoked.iter().map(|it| (it.kind, &*it.id)).collect::<Vec<_>>(), [(Revoked::Session, "f")]);
    assert_eq!(bench.wait(store.rotate([3; 32], refresh(5), LIFE)), Ok(Rotation::Refused), "the family has ended");
    assert_eq!(bench.wait(store.rotate([9; 32], refresh(6), LIFE)), Ok(Rotation::Done), "another family goes on");
    assert_eq!(bench.wait(store.refresh_token([4; 32])), Ok(None));
}

fn of_two_refreshes_at_once_one_wins(bench: &Bench) {
    let store = bench.store();
    bench.wait(store.begin_family("f", "ada", refresh(1))).unwrap();
    let tries: Vec<_> = (2..10)
        .map(|number| {
            let store = store.clone();
            bench.runtime.spawn(async move { store.rotate([1; 32], refresh(number), LIFE).await })
        })
        .collect();
    let done: Vec<Rotation> = tries.into_iter().map(|it| bench.wait(it).unwrap().unwrap()).collect();
    assert_eq!(done.iter().filter(|it| **it == Rotation::Done).count(), 1, "{done:?}");
    assert_eq!(done.iter().filter(|it| matches!(it, Rotation::Reused(_))).count(), 7, "{done:?}");
}

fn what_is_over_or_ended_is_refused(bench: &Bench) {
    let store = bench.store();
    let over = NewRefreshToken { expires: now() - 1, ..refresh(1) };
    bench.wait(store.begin_family("f", "ada", over)).unwrap();
    assert_eq!(bench.wait(store.rotate([1; 32], refresh(2), LIFE)), Ok(Rotation::Refused));
    assert_eq!(bench.wait(store.rotate([7; 32], refresh(2), LIFE)), Ok(Rotation::Refused), "never seen");
    bench.wait(store.begin_family("g", "ada", refresh(3))).unwrap();
    bench.wait(store.end_family("g", LIFE)).unwrap();
    let revoked = bench.wait(store.revocations(0)).unwrap();
    assert_eq!(revoked.iter().map(|it| (it.kind, &*it.id)).collect::<Vec<_>>(), [(Revoked::Session, "g")]);
    assert_eq!(bench.wait(store.rotate([3; 32], refresh(4), LIFE)), Ok(Rotation::Refused));
}

fn revocations_only_grow(bench: &Bench) {
    let store = bench.store();
    let revocation = |until: i64| Revocation {
        kind: Revoked::Subject,
        id: "ada".to_owned(),
        issued_until: until,
        expires: now() + until,
    };
    bench.wait(store.revoke(revocation(200))).unwrap();
    bench.wait(store.revoke(revocation(100))).unwrap();
    let token = Revocation { kind: Revoked::Token, ..revocation(50) };
    bench.wait(store.revoke(token)).unwrap();
    let over = Revocation { id: "bob".to_owned(), expires: now() - 1, ..revocation(100) };
    bench.wait(store.revoke(over)).unwrap();
    let mut kept = bench.wait(store.revocations(0)).unwrap();
    kept.sort_by_key(|it| it.issued_until);
    let kept: Vec<_> = kept.iter().map(|it| (it.kind, &*it.id, it.issued_until)).collect();
    assert_eq!(kept, [(Revoked::Token, "ada", 50), (Revoked::Subject, "ada", 200)]);
    assert_eq!(bench.wait(store.revocations(now() + 60)), Ok(Vec::new()), "none is that new");
}

fn api_keys_are_kept_listed_and_revoked(bench: &Bench) {
    let store = bench.store();
    let key = NewApiKey {
        id: "k1".to_owned(),
        name: "billing".to_owned(),
        hash: [3; 32],
        roles: vec!["service".to_owned()],
        scopes: vec!["bench".to_owned()],
        tenant: None,
        expires: Some(now() + 100),
    };
    bench.wait(store.add_api_key(key.clone())).unwrap();
    assert_eq!(bench.wait(store.add_api_key(key.clone())), Err(StoreError::Conflict));
    let endless = NewApiKey { id: "k2".to_owned(), name: "alerts".to_owned(), expires: None, ..key };
    bench.wait(store.add_api_key(endless)).unwrap();
    let kept = bench.wait(store.api_key("k1")).unwrap().unwrap();
    assert_eq!((&*kept.hash, &*kept.scopes, kept.revoked), (&[3; 32][..], &["bench".to_owned()][..], None));
    let listed = bench.wait(store.api_keys()).unwrap();
    assert_eq!(
        listed.iter().map(|it| (&*it.name, it.expires.is_some())).collect::<Vec<_>>(),
        [("alerts", false), ("billing", true)]
    );
    assert_eq!(bench.wait(store.revoke_api_key("k1")), Ok(true));
    assert_eq!(bench.wait(store.revoke_api_key("k3")), Ok(false));
    assert!(bench.wait(store.api_key("k1")).unwrap().unwrap().revoked.is_some());
    assert_eq!(bench.wait(store.revocations(0)).unwrap()[0].kind, Revoked::ApiKey);
}

fn secrets_are_sealed_anew_all_or_none(bench: &Bench) {
    let store = bench.store();
    bench.wait(store.put_secret(sealed("b", b"\x00old"))).unwrap();
    bench.wait(store.put_secret(sealed("b", b"\x00new\xff"))).unwrap();
    bench.wait(store.put_secret(sealed("a", b"x"))).unwrap();
    assert_eq!(bench.wait(store.secret("b")), Ok(Some(sealed("b", b"\x00new\xff"))));
    let entries = bench.wait(store.secret_entries()).unwrap();
    assert_eq!(entries.iter().map(|it| &*it.name).collect::<Vec<_>>(), ["a", "b"]);
    let failed = store.reseal_secrets(|it| (it.name == "a").then(|| sealed("a", b"changed")));
    assert_eq!(bench.wait(failed), Ok(Resealed::Failed("b".to_owned())));
    assert_eq!(bench.wait(store.secret("a")), Ok(Some(sealed("a", b"x"))), "none is half done");
    let with_another = |it: &SealedSecret| Some(SealedSecret { key_id: "two".to_owned(), ..it.clone() });
    assert_eq!(bench.wait(store.reseal_secrets(with_another)), Ok(Resealed::Done(2)));
    assert_eq!(bench.wait(store.reseal_secrets(with_another)), Ok(Resealed::Done(0)), "nothing was left to do");
    assert_eq!(bench.wait(store.remove_secret("a")), Ok(true));
    assert_eq!(bench.wait(store.remove_secret("a")), Ok(false));
    assert_eq!(bench.wait(store.secret("a")), Ok(None));
}

fn what_is_over_is_purged(bench: &Bench) {
    let store = bench.store();
    for number in 0..3 {
        let token = NewRefreshToken { expires: now() - 5, ..refresh(number) };
        bench.wait(store.begin_family("f", "ada", token)).unwrap();
    }
    bench.wait(store.begin_family("f", "ada", refresh(9))).unwrap();
    let over = Revocation { kind: Revoked::Token, id: "x".to_owned(), issued_until: 1, expires: now() - 5 };
    bench.wait(store.revoke(over)).unwrap();
    assert_eq!(bench.wait(store.purge()), Ok(4));
    assert_eq!(bench.wait(store.purge()), Ok(0));
    assert!(bench.wait(store.refresh_token([9; 32])).unwrap().is_some());
}

fn records_outlive_the_process(bench: &Bench) {
    bench.wait(bench.store().add_user(user("ada"))).unwrap();
    assert!(bench.wait(bench.store().user_named("ada")).unwrap().is_some());
}

fn gateways_that_start_at_once(bench: &Bench) {
    let starts: Vec<_> = (0..6)
        .map(|_| {
            let store = bench.store();
            bench.runtime.spawn(async move { store.open().await })
        })
        .collect();
    for start in starts {
        assert_eq!(bench.wait(start).unwrap(), Ok(()));
    }
}

fn a_later_version_s_tables_are_left_alone(bench: &Bench) {
    bench.wait(bench.store().open()).unwrap();
    let insert = "INSERT INTO moongate_migrations (number, done) VALUES (999, 0)";
    bench.wait(async {
        match &bench.place {
            Place::Sqlite(_) => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(bench.file());
                options.connect().await.unwrap().execute(insert).await.unwrap();
            }
            Place::Postgres(url, _) => {
                let mut connection = sqlx::PgConnection::connect(url.expose()).await.unwrap();
                connection.execute(insert).await.unwrap();
            }
        }
    });
    let Err(StoreError::Unavailable(why)) = bench.wait(bench.store().open()) else { panic!("it opened") };
    assert!(why.contains("of a later version"), "{why}");
}

fn many_calls_at_once(bench: &Bench) {
    let store = bench.store();
    bench.wait(store.open()).unwrap();
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let store = store.clone();
            bench.runtime.spawn(async move { store.add_user(user(&format!("u{number}"))).await })
        })
        .collect();
    for call in calls {
        bench.wait(call).unwrap().unwrap();
    }
    assert_eq!(bench.wait(store.users("", 1000, None)).unwrap().len(), 200);
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(done: Result<T, StoreError>) -> String {
    match done {
        Err(StoreError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sqlite_file_is_for_its_owner_alone() {
    let bench = Bench::sqlite();
    std::fs::create_dir_all(bench.file().parent().unwrap()).unwrap();
    std::fs::write(bench.file(), "").unwrap();
    std::fs::set_permissions(bench.file(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let store = bench.store();
    bench.wait(store.add_user(user("ada"))).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let file = PathBuf::from(format!("{}{suffix}", bench.file().display()));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
}

/// Somebody else holds the lock: readers go on, writers are told in time, and later all is well.
#[test]
fn a_locked_sqlite_file_is_unavailable_and_comes_back() {
    let bench = Bench::sqlite();
    let store = bench.store();
    bench.wait(store.add_user(user("ada"))).unwrap();
    let mut other = bench.connection();
    bench.wait(other.execute("BEGIN EXCLUSIVE")).unwrap();
    let why = unavailable(bench.wait(store.add_user(user("bob"))));
    assert!(why.contains("locked"), "{why}");
    assert!(bench.wait(store.user_named("ada")).unwrap().is_some());
    bench.wait(other.execute("COMMIT")).unwrap();
    bench.wait(store.add_user(user("bob"))).unwrap();
}

#[test]
fn a_sqlite_file_that_is_locked_from_the_start_is_told() {
    let bench = Bench::sqlite();
    bench.wait(bench.store().open()).unwrap();
    let mut other = bench.connection();
    bench.wait(other.execute("BEGIN EXCLUSIVE")).unwrap();
    let store = bench.store();
    let why = unavailable(bench.wait(store.open()));
    assert!(why.contains("locked"), "{why}");
    bench.wait(other.execute("COMMIT")).unwrap();
    bench.wait(store.open()).unwrap();
}

#[test]
fn a_place_where_no_file_can_be_is_told_with_its_path() {
    for path in ["/proc/moongate.db", "/dev/null/moongate.db"] {
        let bench = Bench::new(|_| Place::Sqlite(path.into()));
        let why = unavailable(bench.wait(bench.store().open()));
        assert!(why.starts_with(path), "{why}");
    }
    let bench = Bench::new(|folder| Place::Sqlite(folder.path().to_owned()));
    let why = unavailable(bench.wait(bench.store().open()));
    assert!(why.contains("Is a directory"), "{why}");
}

#[test]
fn a_file_that_is_no_database_is_left_as_it_is() {
    let bench =
        Bench::new(|folder| Place::Sqlite(folder.write("notes.txt", "not a database, but long enough".repeat(50))));
    let why = unavailable(bench.wait(bench.store().open()));
    assert!(why.contains("not a database"), "{why}");
    assert!(std::fs::read_to_string(bench.file()).unwrap().starts_with("not a database"));
}

#[test]
fn a_postgresql_server_that_goes_away_is_unavailable_and_comes_back() {
    let mut server = Postgres::start();
    let bench = Bench::new(|_| place_of(&server.database()));
    let store = bench.store();
    bench.wait(store.add_user(user("ada"))).unwrap();
    server.stop();
    unavailable(bench.wait(store.user_named("ada")));
    let why = unavailable(bench.wait(bench.store().open()));
    assert!(why.contains("refused"), "{why}");
    server.restart();
    eventually("the store is back", || bench.wait(store.user_named("ada")).ok().flatten());
}

#[test]
fn a_start_that_cannot_open_its_store_says_so_and_ends() {
    let config = format!("{}\nstore: {{ sqlite: {{ path: /dev }} }}\n", gateway::CONFIG);
    let refused = Gateway::with("{ version: 1, routes: [] }").config(config).start_refused();
    assert_eq!(refused.code, 1);
    // Where no file can be at all, `check` says so already; what is no file is found out when it is opened.
    let (begin, end) = ("the store is not available: /dev: ", "; see `store` in gateway.yaml\n");
    assert!(refused.stderr.starts_with(begin) && refused.stderr.ends_with(end), "{}", refused.stderr);
}

#[test]
fn a_gateway_that_needs_no_store_leaves_no_file_behind() {
    let gateway = Gateway::start("{ version: 1, routes: [] }");
    assert!(!gateway.folder().path().join("data").exists());
}
