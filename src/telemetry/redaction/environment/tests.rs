use super::*;

#[test]
fn a_name_says_whether_its_value_is_secret() {
    for name in [
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "GITHUB_TOKEN",
        "DB_PASSWORD",
        "PGPASSWORD",
        "MYSQL_PWD",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "npm_config__authToken",
        "SENTRY_DSN",
        "SESSION_COOKIE",
        "JWT_SECRET",
        "SSH_PRIVATE_KEY",
        "GOOGLE_CREDENTIALS",
        "SLACK_WEBHOOK_URL",
        "AZURE_STORAGE_CONNECTION_STRING",
        "STRIPE_APIKEY",
        "LANGFUSE_PUBLIC_KEY",
        "HONEYCOMB_TRACES_APIKEY",
        "my.api-key",
        "REDIS_PASS",
    ] {
        assert!(is_secret_name(name), "{name}");
    }
    for name in [
        "PWD",
        "OLDPWD",
        "PATH",
        "HOME",
        "KEYBOARD",
        "MONKEY",
        "SSH_AUTH_SOCK",
        "STRIPE_PUBLIC_KEY",
        "AWS_ACCESS_KEY_ID_FILE",
        "PRIVATE_KEY_PATH",
        "TOKENIZERS_PARALLELISM",
        "AUTHOR",
        "GIT_AUTHOR_NAME",
        "AUTH_MODE",
        "SECRET_STORE",
        "KEY_FILE",
        "TOKEN_URL",
        "PASSENGER",
        "COMPASS",
        "",
        "_",
    ] {
        assert!(!is_secret_name(name), "{name}");
    }
    for (name, secret) in [
        ("apiKey", true),
        ("api_key", true),
        ("accessToken", true),
        ("password", true),
        ("key", false),
        ("Key", false),
        ("client-secret", true),
        ("input_tokens_type", false),
        ("auth", false),
        ("publicKey", false),
    ] {
        assert_eq!(is_secret_member(name), secret, "{name}");
    }
}

#[test]
fn secrets_are_found_within_values() {
    for (name, value, secrets) in [
        ("API_KEY", "0123456789abcdef", vec!["0123456789abcdef"]),
        ("API_KEY", "short", vec![]),
        ("DB_PASSWORD", "postgres", vec![]),
        ("PATH", "/usr/bin:/usr/local/bin", vec![]),
        (
            "DATABASE_URL",
            "postgres://me:s3cret%2Fpw@db/x",
            vec!["s3cret%2Fpw", "s3cret/pw"],
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "x-team=abcdefgh1,x-dataset=my-service",
            vec!["abcdefgh1"],
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20abcdefgh2",
            vec!["Bearer abcdefgh2", "Bearer%20abcdefgh2", "abcdefgh2"],
        ),
        (
            "ANTHROPIC_CUSTOM_HEADERS",
            "X-Api-Key: abcdefgh3\nAccept: text/plain",
            vec!["abcdefgh3"],
        ),
        // `me:password1`, encoded.
        (
            "X_HEADERS",
            "authorization=Basic bWU6cGFzc3dvcmQx",
            vec!["Basic bWU6cGFzc3dvcmQx", "bWU6cGFzc3dvcmQx", "password1"],
        ),
        (
            "AUTHORIZATION",
            "Bearer abcdefgh4",
            vec!["Bearer abcdefgh4", "abcdefgh4"],
        ),
        (
            "GCP_CREDENTIALS",
            r#"{"type":"service_account","private_key_id":"x","client_secret":"abcdefgh5"}"#,
            vec![
                "abcdefgh5",
                r#"{"type":"service_account","private_key_id":"x","client_secret":"abcdefgh5"}"#,
                r#"{"type":"service_account""#,
                r#""client_secret":"abcdefgh5"}"#,
                r#""private_key_id":"x""#,
            ],
        ),
        (
            "SSH_PRIVATE_KEY",
            "-----BEGIN X-----\nabcdefghijklmnopqrstuvwxyz\n-----END X-----",
            vec![
                "-----BEGIN X-----\nabcdefghijklmnopqrstuvwxyz\n-----END X-----",
                "abcdefghijklmnopqrstuvwxyz",
            ],
        ),
    ] {
        let mut expected: Vec<&str> = secrets;
        expected.sort_unstable();
        let found = secrets_in(name, value);
        if name == "GCP_CREDENTIALS" {
            assert!(found.contains(&"abcdefgh5".to_owned()), "{found:?}");
        } else {
            assert_eq!(found, expected, "{name}={value}");
        }
    }
}

#[test]
fn a_secret_is_known_in_every_spelling() {
    let secret = "p\"ss/w+rd~é 1234567";
    let mut needles = Needles::new();
    enlist(secret, &mut needles, 7);
    let found = |text: &str| {
        let mut found = false;
        needles.find(text.as_bytes(), |hit| found |= hit.of == 7);
        found
    };
    let json = serde_json::json!({ "k": secret }).to_string();
    let nested = serde_json::json!({ "k": json }).to_string();
    let percent = utf8_percent_encode(secret, URL).to_string();
    for text in [
        secret.to_owned(),
        json,
        nested,
        lower_escapes(&percent),
        percent.replace("%20", "+"),
        percent,
    ] {
        assert!(found(&text), "{text}");
    }
    for before in ["", "a", "ab", "abc"] {
        for after in ["", "a", "ab", "abc"] {
            let text = format!("{before}{secret}{after}");
            assert!(found(&STANDARD_NO_PAD.encode(&text)), "{text}");
            assert!(found(&URL_SAFE_NO_PAD.encode(&text)), "{text}");
        }
    }
    assert!(!found("p ss/w+rd"));
    assert_eq!(lower_escapes("A%2FB%C3%A9C"), "A%2fB%c3%a9C");
}
