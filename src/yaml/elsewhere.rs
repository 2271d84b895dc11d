//! Keys and words of other gateways, and what they are here. Whoever brings a file from nginx, Kong or Envoy along
//! writes them first; that they are unknown is no news to them, and the list of what is known says too little.

/// One word of theirs.
struct Entry {
    theirs: &'static str,
    /// A key or word that is known at the place: elsewhere the word says something else, or nothing.
    beside: &'static str,
    /// What to do.
    help: &'static str,
}

/// What a key is called here; `known` are those of the place.
pub(super) fn key(theirs: &str, known: &[&str]) -> Option<&'static str> {
    find(KEYS, theirs, known)
}

/// What a word is called here; `known` are those that could stand in its place.
pub(super) fn word(theirs: &str, known: &[&str]) -> Option<&'static str> {
    find(WORDS, theirs, known)
}

/// What a key that is no switch here would switch on; `known` are those of the mapping that it stands for.
pub(super) fn switch(theirs: &str, known: &[&str]) -> Option<&'static str> {
    find(SWITCHES, theirs, known)
}

/// What is to be done without a variable that another gateway has.
pub(super) fn variable(name: &str) -> Option<&'static str> {
    VARIABLES.iter().find(|it| it.0 == name).map(|it| it.1)
}

fn find(entries: &'static [Entry], theirs: &str, known: &[&str]) -> Option<&'static str> {
    let theirs = theirs.to_ascii_lowercase();
    entries.iter().find(|it| it.theirs == theirs && known.contains(&it.beside)).map(|it| it.help)
}

const fn entry(theirs: &'static str, beside: &'static str, help: &'static str) -> Entry {
    Entry { theirs, beside, help }
}

const BELOW: &str = "write `path: \"/a/{*rest}\"` for all that is below `/a`";
const TO_UPSTREAM: &str =
    "name an upstream: `upstream: app`, and under `upstreams`: `app: { discovery: { static: [\"127.0.0.1:9101\"] } }`";
const ENDPOINTS: &str = "write `discovery: { static: [\"127.0.0.1:9101\"] }`";
const BODY: &str = "write `body_limit: 10M`";
const FIRST_BYTE: &str = "write `timeouts: { first_byte: 30s }`";
const ALWAYS_VERIFIED: &str =
    "certificates are always verified: name the authority of a private one with `ca: ca.pem`, and its name with `sni`";
const EXACT: &str = "write `{ exact: TEXT }`, `{ prefix: TEXT }` or `{ present: true }`";
const TOKENS: &str = "write `jwt: {}`; keys and issuers stand under `tokens` in gateway.yaml";
const TO_TLS: &str = "write `tls: { sni: NAME }` in the upstream; `protocol` says `http1` or `http2`";

const SWITCHES: &[Entry] =
    &[entry("websocket", "shutdown_message", "it belongs under `match`: `match: { path: /a, websocket: true }`")];

const KEYS: &[Entry] = &[
    // A route and what it takes.
    entry("prefix", "path", BELOW),
    entry("path_prefix", "path", BELOW),
    entry("location", "path", "write `path: /a`, or `path: \"/a/{*rest}\"` for all that is below"),
    entry("paths", "match", "it belongs under `match`: `match: { paths: [/a, /b] }`"),
    entry("path", "match", "it belongs under `match`: `match: { path: /a }`"),
    entry("prefix", "match", "write `match: { path: \"/a/{*rest}\" }` for all that is below `/a`"),
    entry("location", "match", "write `match: { path: /a }`"),
    entry("host", "hosts", "write `hosts: [api.example.org]`"),
    entry("server_name", "hosts", "write `hosts: [api.example.org]`"),
    entry("server_name", "match", "write `match: { path: /a, hosts: [api.example.org] }`"),
    entry("domains", "hosts", "write `hosts`"),
    entry("method", "methods", "write `methods: [GET]`"),
    entry("regex", "exact", EXACT),
    entry("safe_regex", "exact", EXACT),
    entry("contains", "exact", EXACT),
    entry("suffix", "exact", EXACT),
    // Where it goes.
    entry("service", "upstream", TO_UPSTREAM),
    entry("cluster", "upstream", TO_UPSTREAM),
    entry("backend", "upstream", TO_UPSTREAM),
    entry("url", "upstream", TO_UPSTREAM),
    entry("proxy_pass", "upstream", TO_UPSTREAM),
    entry("strip_path", "rewrite", "write `path: \"/a/{*rest}\"` in `match`, and `rewrite: { path: \"/{rest}\" }`"),
    entry("prefix_rewrite", "rewrite", "write `rewrite: { path: \"/b/{rest}\" }`; `match` captures `{*rest}`"),
    entry("host_rewrite", "rewrite", "write `rewrite: { host: api.example.org }`"),
    entry("preserve_host", "rewrite", "leave it out: upstreams get the client's host, or that in `rewrite.host`"),
    entry("proxy_set_header", "rewrite", "write `rewrite: { headers: { set: { x-name: value } } }`"),
    entry("return", "respond", "write `respond: { status: 200, body: text }` or `redirect: { to: /b }`"),
    entry("direct_response", "respond", "write `respond: { status: 200, body: text }`"),
    entry("add_header", "headers", "write `headers: { set: { x-name: value } }`"),
    entry("plugins", "filters", "each has a key of its own: `auth`, `rate_limits`, `cors`, `cache`, `rewrite`, ..."),
    // Limits of the exchange.
    entry("client_max_body_size", "body_limit", BODY),
    entry("max_body_size", "body_limit", BODY),
    entry("allowed_payload_size", "body_limit", BODY),
    entry("proxy_read_timeout", "timeouts", FIRST_BYTE),
    entry("read_timeout", "timeouts", FIRST_BYTE),
    entry("read_timeout", "first_byte", "write `first_byte: 30s`"),
    entry("proxy_connect_timeout", "timeouts", "write `timeouts: { connect: 2s }`"),
    entry("connect_timeout", "timeouts", "write `timeouts: { connect: 2s }`"),
    entry("connect_timeout", "protocol", "it belongs to routes: `timeouts: { connect: 2s }`"),
    entry("timeout", "timeouts", "write `timeouts: { request: 30s }`"),
    entry("proxy_send_timeout", "timeouts", "write `timeouts: { idle: 60s }`"),
    entry("rate_limit", "rate_limits", "write `rate_limits: [{ per: ip, requests: 10, every: 1s }]`"),
    entry("limit_req", "rate_limits", "write `rate_limits: [{ per: ip, requests: 10, every: 1s }]`"),
    entry("jwt_authn", "auth", "write `auth: { jwt: {} }`"),
    entry("auth_basic", "auth", "write `auth: { jwt: {} }` or `auth: { api_key: {} }`"),
    entry("key_auth", "api_key", "write `api_key: {}`"),
    entry("secret", "jwt", TOKENS),
    entry("issuer", "jwt", TOKENS),
    // Upstreams.
    entry("servers", "discovery", ENDPOINTS),
    entry("server", "discovery", ENDPOINTS),
    entry("targets", "discovery", ENDPOINTS),
    entry("nodes", "discovery", ENDPOINTS),
    entry("hosts", "discovery", ENDPOINTS),
    entry("endpoints", "discovery", ENDPOINTS),
    entry("address", "discovery", ENDPOINTS),
    entry("url", "discovery", ENDPOINTS),
    entry("servers", "static", "write `static: [\"127.0.0.1:9101\"]`"),
    entry("lb_policy", "balance", "write `balance: round_robin`"),
    entry("algorithm", "balance", "write `balance: round_robin`"),
    entry("health_checks", "health", "write `health: { http: /health }`"),
    entry("healthchecks", "health", "write `health: { http: /health }`"),
    entry("keepalive", "keep_alive", "write `keep_alive: { idle: 30s }`"),
    entry("path", "fail_after", "write `http: /health`"),
    entry("uri", "fail_after", "write `http: /health`"),
    entry("interval", "fail_after", "write `every: 5s`"),
    entry("fails", "fail_after", "write `fail_after: 3`"),
    entry("unhealthy_threshold", "fail_after", "write `fail_after: 3`"),
    entry("passes", "pass_after", "write `pass_after: 1`"),
    entry("healthy_threshold", "pass_after", "write `pass_after: 1`"),
    entry("interval", "every", "write `every`"),
    entry("window", "every", "write `every`"),
    entry("verify", "sni", ALWAYS_VERIFIED),
    entry("tls_verify", "sni", ALWAYS_VERIFIED),
    entry("insecure", "sni", ALWAYS_VERIFIED),
    entry("skip_verify", "sni", ALWAYS_VERIFIED),
    entry("insecure_skip_verify", "sni", ALWAYS_VERIFIED),
    entry("tls_verify", "tls", ALWAYS_VERIFIED),
    // Listeners.
    entry("certificate", "cert", "write `cert`"),
    entry("cert_file", "cert", "write `cert`"),
    entry("ssl_certificate", "cert", "write `cert`"),
    entry("certificate_chain", "cert", "write `cert`"),
    entry("private_key", "key", "write `key`"),
    entry("key_file", "key", "write `key`"),
    entry("ssl_certificate_key", "key", "write `key`"),
    entry("certificate_key", "key", "write `key`"),
    entry("ca", "client_ca", "write `client_ca` for the authorities of clients' certificates"),
    entry("listen", "address", "write `address: \"0.0.0.0:8080\"`"),
    entry("port", "limits", "write `address: \"0.0.0.0:8080\"`"),
    entry("listen", "listeners", "write `listeners: { public: [{ address: \"0.0.0.0:8080\" }] }`"),
    entry("worker_processes", "threads", "write `threads: auto`"),
    entry("set_real_ip_from", "trusted_proxies", "write `trusted_proxies: [10.0.0.0/8]`"),
];

const WORDS: &[Entry] = &[
    entry("https", "http2", TO_TLS),
    entry("tls", "http2", TO_TLS),
    entry("h2", "http2", "write `http2`"),
    entry("h2c", "http2", "write `http2`; without `tls` it is spoken with prior knowledge"),
    entry("grpc", "http2", "write `http2`: gRPC is spoken over it"),
    entry("grpcs", "http2", "write `http2`, and `tls: { sni: NAME }` beside it"),
    entry("http", "http1", "write `http1`"),
    entry("http/1.1", "http1", "write `http1`"),
    entry("least_conn", "least_request", "write `least_request`"),
    entry("least_connections", "least_request", "write `least_request`"),
    entry("least-connections", "least_request", "write `least_request`"),
    entry("leastconn", "least_request", "write `least_request`"),
    entry("ewma", "peak_ewma", "write `peak_ewma`"),
    entry("latency", "peak_ewma", "write `peak_ewma`"),
    entry("ip_hash", "consistent_hash", "write `consistent_hash`, and `hash_on: { ip: true }` beside it"),
    entry("ring_hash", "consistent_hash", "write `consistent_hash`, and say what decides with `hash_on`"),
    entry("maglev", "consistent_hash", "write `consistent_hash`, and say what decides with `hash_on`"),
    entry("hash", "consistent_hash", "write `consistent_hash`, and say what decides with `hash_on`"),
    entry("consumer", "user", "write `user` for who a token is of, or `key` for an API key"),
    entry("credential", "key", "write `key` for an API key, or `user` for who a token is of"),
    entry("service", "route", "write `route`"),
    entry("client_ip", "ip", "write `ip`"),
    entry("remote_addr", "ip", "write `ip`"),
    entry("$binary_remote_addr", "ip", "write `ip`"),
];

const VARIABLES: [(&str, &str); 4] = [
    ("request_id", "leave it out: upstreams and clients get the request's id in `X-Request-Id`"),
    ("remote_addr", "leave it out: upstreams get the client's address in `X-Forwarded-For`"),
    ("host", "leave it out: upstreams get the host in `X-Forwarded-Host`"),
    ("scheme", "leave it out: upstreams get the scheme in `X-Forwarded-Proto`"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_means_what_is_known_beside_it() {
        assert_eq!(key("interval", &["http", "fail_after", "every"]), Some("write `every: 5s`"));
        assert_eq!(key("Interval", &["requests", "every"]), Some("write `every`"));
        assert_eq!(key("interval", &["path"]), None);
        assert_eq!(word("h2", &["http1", "http2"]), Some("write `http2`"));
        assert_eq!(word("h2", &["round_robin"]), None);
    }
}
