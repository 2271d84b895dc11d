//! A real provider of identities, the npm package `oidc-provider`, and a browser that signs in there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;

use super::http1::{Response, request};
use super::npm;
use super::process::Process;

/// Where the provider sends people back to. Nobody listens there: tests carry the answer to the gateway
/// themselves.
pub const REDIRECT: &str = "http://127.0.0.1:1/api/v1/auth/oidc/idp/callback";
/// The client's secret, with what has to be encoded in it.
pub const CLIENT_SECRET: &str = "a secret & more: 100%";

/// The provider; dropped, it is gone.
pub struct OidcServer {
    _process: Process,
    address: SocketAddr,
}

impl OidcServer {
    #[track_caller]
    pub fn start() -> Self {
        let folder = npm::installed("oidc", &["server.mjs"]);
        let mut command = Command::new("node");
        command.arg("server.mjs").arg(REDIRECT).current_dir(&folder);
        let process = Process::start("oidc-provider", command);
        let address = process.address_of("oidc");
        Self { _process: process, address }
    }

    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Keeps cookies, follows redirects and fills in forms, as far as it takes to sign in.
#[derive(Default)]
pub struct Browser {
    /// By name, with their paths.
    cookies: HashMap<String, (String, String)>,
}

impl Browser {
    /// Goes to a URL of the provider and does what it asks for, until it sends us back to the gateway;
    /// gives the path and query there.
    #[track_caller]
    pub fn sign_in(&mut self, url: &str, name: &str) -> String {
        let mut answer = self.ask("GET", url, "");
        for _ in 0..20 {
            if let Some(location) = answer.header("location") {
                let next = absolute(url, location);
                if let Some(path) = next.strip_prefix("http://127.0.0.1:1") {
                    return path.to_owned();
                }
                answer = self.ask("GET", &next, "");
                continue;
            }
            let page = answer.text();
            let form = if page.contains("value=\"login\"") {
                format!("prompt=login&login={}&password=x", name.replace('+', "%2B"))
            } else {
                "prompt=consent".to_owned()
            };
            let action = between(&page, "action=\"", "\"").unwrap_or_else(|| panic!("no form in {page}"));
            answer = self.ask("POST", &absolute(url, action), &form);
        }
        panic!("the provider asks again and again");
    }

    fn ask(&mut self, method: &str, url: &str, form: &str) -> Response {
        let rest = url.strip_prefix("http://").unwrap();
        let (address, path) = rest.split_at(rest.find('/').unwrap());
        let sent = self.cookies.iter().filter(|(_, (_, at))| path.starts_with(at.as_str()));
        let cookies = sent.map(|(name, (value, _))| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
        let mut fields = vec![("cookie", &*cookies)];
        if method == "POST" {
            fields.push(("content-type", "application/x-www-form-urlencoded"));
        }
        let answer = request(address.parse().unwrap(), method, path, &fields, form);
        for cookie in answer.headers_named("set-cookie") {
            let mut parts = cookie.split(';').map(str::trim);
            let (name, value) = parts.next().unwrap().split_once('=').unwrap();
            let path = parts.find_map(|it| it.strip_prefix("path=")).unwrap_or("/");
            self.cookies.insert(name.to_owned(), (value.to_owned(), path.to_owned()));
        }
        answer
    }
}

fn absolute(base: &str, location: &str) -> String {
    if location.starts_with("http") {
        return location.to_owned();
    }
    let origin: Vec<&str> = base.splitn(4, '/').collect();
    format!("{}//{}{location}", origin[0], origin[2])
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    text.split_once(before)?.1.split_once(after).map(|it| it.0)
}
