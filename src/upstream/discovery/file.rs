//! Endpoints that a file lists, in the form of `static`: whoever writes it steers the upstream without a reload.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::compile::{EndpointSpec, listed};
use super::super::config::EndpointConfig;
use super::feed::Poll;
use crate::base::{At, Diagnostics};

/// How often the file is read. It is small, and not every file system tells of changes.
const EVERY: Duration = Duration::from_secs(1);
/// A larger file is none of ours.
const BYTES_MAX: u64 = 1024 * 1024;

pub(super) struct ListFile(PathBuf);

impl ListFile {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Poll for ListFile {
    async fn look(&self) -> Result<(Vec<EndpointSpec>, Duration), String> {
        let size = tokio::fs::metadata(&self.0).await.map_err(|it| it.to_string())?.len();
        if size > BYTES_MAX {
            return Err(format!("{size} bytes are too many; at most {BYTES_MAX}"));
        }
        let text = tokio::fs::read_to_string(&self.0).await.map_err(|it| it.to_string())?;
        Ok((endpoints(&text)?, EVERY))
    }
}

/// All or nothing: a file that is half written, or has a fault, changes nothing.
fn endpoints(text: &str) -> Result<Vec<EndpointSpec>, String> {
    let list: Vec<EndpointConfig> = serde_yaml::from_str(text).map_err(|it| it.to_string())?;
    let mut diagnostics = Diagnostics::default();
    let found = listed(&list, &At::ROOT, &mut diagnostics);
    match (diagnostics.iter().next(), found.names.first()) {
        (Some(fault), _) => Err(format!("{}: {}", fault.path, fault.message)),
        (None, Some(name)) => Err(format!("`{}` is a name; a file lists IP addresses", name.name)),
        (None, None) => Ok(found.endpoints),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lists_endpoints_as_static_does() {
        let found = endpoints("- 127.0.0.1:1\n- { address: \"[::1]:2\", weight: 3, zone: a }\n").unwrap();
        assert_eq!((found[1].address.port(), found[1].weight, found[1].zone.as_deref()), (2, 3, Some("a")));
    }

    #[test]
    fn a_fault_is_told_with_its_place() {
        assert!(endpoints("- 127.0.0.1:1\n- 127.0.0.1:0\n").unwrap_err().starts_with("/1: port 0"));
        assert!(endpoints("- 127.0.0").is_err());
        assert!(endpoints("- backend:80").unwrap_err().contains("lists IP addresses"));
    }
}
