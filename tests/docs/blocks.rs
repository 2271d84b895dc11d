//! The YAML blocks of a page: each must load as the file that it is, or as a part of one.
//!
//! A block with `version:` is a whole `routes.yaml`; one with keys of `gateway.yaml` alone is a whole
//! `gateway.yaml`. A block whose fence says `yaml fragment` is a list of routes: it is loaded inside a
//! file with the policies and upstreams that the pages talk about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::root;

/// What fragments may refer to.
const AROUND: &str = r#"version: 1
policies:
  patient: { timeouts: { request: 2m } }
upstreams:
  players: { discovery: { static: ["127.0.0.1:9101"] } }
  narratives: { discovery: { static: ["127.0.0.1:9102"] } }
routes:
"#;

const GATEWAY_KEYS: [&str; 16] = [
    "listeners",
    "trusted_proxies",
    "trusted_fields",
    "public_url",
    "threads",
    "guard",
    "state",
    "tokens",
    "telemetry",
    "shutdown",
    "cache",
    "store",
    "auth",
    "secrets",
    "resolver",
    "registry",
];

pub(crate) struct Block {
    place: String,
    fragment: bool,
    text: String,
}

/// All YAML blocks of a page.
pub(crate) fn of(page: &Path) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(Block, bool)> = None;
    for (number, line) in fs::read_to_string(page).unwrap().lines().enumerate() {
        match (&mut open, line.trim().strip_prefix("```")) {
            (None, Some(info)) => {
                let place = format!("{}:{}", page.display(), number + 1);
                let mut words = info.split_whitespace();
                let yaml = words.next() == Some("yaml");
                let fragment = words.any(|it| it == "fragment");
                open = Some((Block { place, fragment, text: String::new() }, yaml));
            }
            (Some(_), Some(_)) => blocks.extend(open.take().filter(|(_, yaml)| *yaml).map(|(block, _)| block)),
            (Some((block, _)), None) => {
                block.text += line;
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

impl Block {
    #[track_caller]
    pub(crate) fn check(&self) {
        let keys: Vec<&str> = self.text.lines().filter_map(|it| it.split_once(':')).map(|(key, _)| key).collect();
        let folder = Folder::new();
        let routes = if self.fragment {
            let indented: String = self.text.lines().map(|it| format!("  {it}\n")).collect();
            format!("{AROUND}{indented}")
        } else if keys.contains(&"version") {
            self.text.clone()
        } else {
            let known = keys.iter().any(|it| GATEWAY_KEYS.contains(it));
            assert!(known, "{}: neither a routes.yaml, nor a gateway.yaml, nor marked as a fragment", self.place);
            fs::write(folder.0.join("gateway.yaml"), &self.text).unwrap();
            "version: 1\n".to_owned()
        };
        fs::write(folder.0.join("routes.yaml"), routes).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_moongate"))
            .args(["check", "--config", "gateway.yaml", "--routes", "routes.yaml"])
            .current_dir(&folder.0)
            .env_clear()
            .env("PROXY_JWT_SECRET", "0123456789abcdef0123456789abcdef")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}:\n{}", self.place, String::from_utf8_lossy(&output.stderr));
    }
}

/// A folder with the shipped `gateway.yaml`, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("moongate-docs-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::copy(root().join("conf/gateway.yaml"), path.join("gateway.yaml")).unwrap();
        // The keys that the pages talk about: those of RFC 8037, appendix A.
        fs::create_dir_all(path.join("conf/keys")).unwrap();
        let private = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{private}\n-----END PRIVATE KEY-----\n");
        fs::write(path.join("conf/keys/ed25519.pem"), pem).unwrap();
        let names = ["example.org", "*.example.org"].map(str::to_owned);
        let pair = rcgen::generate_simple_self_signed(names).unwrap();
        fs::create_dir_all(path.join("conf/tls")).unwrap();
        for (place, text) in [
            ("public/index.html", "home"),
            ("site/index.html", "the application"),
            ("pages/404.html", "not here: {request_id}"),
            ("pages/down.html", "{message}"),
        ] {
            let file = path.join(place);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        for (cert, key) in [("cert.pem", "key.pem"), ("example.pem", "example.key")] {
            fs::write(path.join("conf/tls").join(cert), pair.cert.pem()).unwrap();
            fs::write(path.join("conf/tls").join(key), pair.signing_key.serialize_pem()).unwrap();
        }
        let public = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        fs::write(path.join("conf/keys/partner.jwks.json"), public).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
