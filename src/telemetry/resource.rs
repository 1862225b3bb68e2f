//! Who sends the telemetry: the attributes of the OpenTelemetry resource.
//!
//! A pure function of the environment, the files that E2B keeps under `/run/e2b`, and what the shell read about the
//! host. What the user says in OTEL_RESOURCE_ATTRIBUTES beats what was found, and OTEL_SERVICE_NAME beats both.

use opentelemetry::{Key, Value};
use percent_encoding::percent_decode_str;

/// What the shell knows about the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// The host's name, from `uname`.
    pub name: Option<String>,
    /// The machine's architecture as Rust names it, [`std::env::consts::ARCH`].
    pub arch: &'static str,
}

/// Why there is no resource.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// OTEL_RESOURCE_ATTRIBUTES does not hold keys and values.
    #[error(
        "OTEL_RESOURCE_ATTRIBUTES is malformed at member {member}: write it as key=value,key=value, with values percent-encoded"
    )]
    Malformed {
        /// Counts from 1. The text itself is not repeated.
        member: usize,
    },
}

/// The resource's attributes, each key once.
///
/// `lookup` gives a variable's value, `file` a file's text; both give `None` for what is missing or empty.
pub fn attributes(
    lookup: &dyn Fn(&str) -> Option<String>,
    file: &dyn Fn(&str) -> Option<String>,
    host: &Host,
    run_id: &str,
) -> Result<Vec<(Key, Value)>, ResourceError> {
    let sandbox = |variable: &str, path: &str| {
        let found = lookup(variable).or_else(|| file(path))?;
        Some(found.trim().to_owned()).filter(|id| !id.is_empty())
    };
    let found = [
        ("service.name", Some("sandtrace".to_owned())),
        ("service.instance.id", Some(run_id.to_owned())),
        (
            "sandbox.id",
            sandbox("E2B_SANDBOX_ID", "/run/e2b/.E2B_SANDBOX_ID"),
        ),
        (
            "sandbox.template.id",
            sandbox("E2B_TEMPLATE_ID", "/run/e2b/.E2B_TEMPLATE_ID"),
        ),
        ("host.name", host.name.clone()),
        (
            "host.arch",
            Some(host_arch(host.arch).to_owned()).filter(|arch| !arch.is_empty()),
        ),
        ("os.type", Some("linux".to_owned())),
    ];
    let mut attributes: Vec<(Key, Value)> = Vec::new();
    for (key, value) in found {
        if let Some(value) = value {
            set(&mut attributes, key.to_owned(), value);
        }
    }
    for (key, value) in user_attributes(lookup)? {
        set(&mut attributes, key, value);
    }
    if let Some(name) = lookup("OTEL_SERVICE_NAME") {
        set(&mut attributes, "service.name".to_owned(), name);
    }
    // Not the user's to say: the telemetry is made with this SDK's data model.
    let sdk = [
        ("name", "opentelemetry"),
        ("language", "rust"),
        ("version", SDK_VERSION),
    ];
    for (key, value) in sdk {
        set(
            &mut attributes,
            format!("telemetry.sdk.{key}"),
            value.to_owned(),
        );
    }
    Ok(attributes)
}

/// The version of the OpenTelemetry crates; `Cargo.toml` pins it.
const SDK_VERSION: &str = "0.33.1";

fn set(attributes: &mut Vec<(Key, Value)>, key: String, value: String) {
    let key = Key::from(key);
    attributes.retain(|(other, _)| *other != key);
    attributes.push((key, Value::from(value)));
}

fn user_attributes(
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, ResourceError> {
    let text = lookup("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let members = text
        .split(',')
        .enumerate()
        .filter(|(_, member)| !member.trim().is_empty());
    members
        .map(|(index, member)| {
            let malformed = ResourceError::Malformed { member: index + 1 };
            let (key, value) = member.split_once('=').ok_or(malformed)?;
            let decoded = percent_decode_str(value.trim()).decode_utf8();
            match (key.trim(), decoded) {
                ("", _) | (_, Err(_)) => Err(ResourceError::Malformed { member: index + 1 }),
                (key, Ok(value)) => Ok((key.to_owned(), value.into_owned())),
            }
        })
        .collect()
}

/// The semantic conventions' word for an architecture.
fn host_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "x86",
        "arm" => "arm32",
        "powerpc64" => "ppc64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Texts<'a> = &'a [(&'a str, &'a str)];

    fn read(
        variables: Texts<'_>,
        files: Texts<'_>,
    ) -> Result<Vec<(String, String)>, ResourceError> {
        let find = |texts: Texts<'_>, name: &str| {
            let found = texts.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let host = Host {
            name: Some("box".to_owned()),
            arch: "x86_64",
        };
        let found = attributes(
            &|name| find(variables, name),
            &|path| find(files, path),
            &host,
            "run-1",
        )?;
        Ok(found
            .into_iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect())
    }

    fn value<'a>(attributes: &'a [(String, String)], key: &str) -> Option<&'a str> {
        let mut values = attributes.iter().filter(|(k, _)| k == key);
        let found = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{key} is there twice");
        found
    }

    #[test]
    fn the_bare_resource_names_program_run_and_host() {
        let found = read(&[], &[]).unwrap();
        assert_eq!(value(&found, "service.name"), Some("sandtrace"));
        assert_eq!(value(&found, "service.instance.id"), Some("run-1"));
        assert_eq!(value(&found, "host.name"), Some("box"));
        assert_eq!(value(&found, "host.arch"), Some("amd64"));
        assert_eq!(value(&found, "os.type"), Some("linux"));
        assert_eq!(value(&found, "telemetry.sdk.language"), Some("rust"));
        assert_eq!(value(&found, "sandbox.id"), None);
        assert_eq!(value(&found, "service.version"), None);
    }

    #[test]
    fn the_sandbox_is_known_from_the_environment_else_from_its_files() {
        let files = [
            ("/run/e2b/.E2B_SANDBOX_ID", "from-file\n"),
            ("/run/e2b/.E2B_TEMPLATE_ID", " \n"),
        ];
        let found = read(&[], &files).unwrap();
        assert_eq!(value(&found, "sandbox.id"), Some("from-file"));
        assert_eq!(value(&found, "sandbox.template.id"), None);
        let found = read(&[("E2B_SANDBOX_ID", "from-env")], &files).unwrap();
        assert_eq!(value(&found, "sandbox.id"), Some("from-env"));
    }

    #[test]
    fn the_user_beats_what_was_found_and_the_service_name_beats_the_list() {
        let list = (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=listed, service.version=1%2C2,host.name=own,,",
        );
        let found = read(&[list], &[]).unwrap();
        assert_eq!(value(&found, "service.name"), Some("listed"));
        assert_eq!(value(&found, "service.version"), Some("1,2"));
        assert_eq!(value(&found, "host.name"), Some("own"));
        let found = read(&[list, ("OTEL_SERVICE_NAME", "named")], &[]).unwrap();
        assert_eq!(value(&found, "service.name"), Some("named"));
    }

    #[test]
    fn a_malformed_list_is_an_error_that_says_where() {
        for (list, member) in [("a=1,b", 2), ("=1", 1), ("a=%ff", 1)] {
            let error = read(&[("OTEL_RESOURCE_ATTRIBUTES", list)], &[]).unwrap_err();
            assert_eq!(error, ResourceError::Malformed { member }, "{list}");
        }
    }
}
