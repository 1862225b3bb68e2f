//! Every rule of the table, with a credential made up for it here: none stands in this file as one could be found by a
//! scanner of secrets.

use std::collections::BTreeSet;

use super::super::needles::Needles;
use super::super::scan::{Ends, Scanner};
use super::*;

/// Text that is as random as a credential, always the same.
fn random(alphabet: &str, length: usize) -> String {
    let letters: Vec<char> = alphabet.chars().collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        letters[usize::try_from(state >> 33).unwrap() % letters.len()]
    };
    (0..length).map(|_| next()).collect()
}

fn hex(length: usize) -> String {
    random("0123456789abcdef", length)
}

fn alnum(length: usize) -> String {
    random(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
        length,
    )
}

fn upper(length: usize) -> String {
    random("234567ABCDEFGHIJKLMNOPQRSTUVWXYZ", length)
}

/// A rule, a text with a credential of its kind, and the part of it that must go.
fn positives() -> Vec<(&'static str, String, String)> {
    let mut all = Vec::new();
    let mut whole = |id, parts: &[&str]| {
        let secret = parts.concat();
        all.push((id, secret.clone(), secret));
    };
    whole(
        "anthropic-key",
        &["sk-", "ant-", "api03-", &alnum(93), "AA"],
    );
    whole("openai-key", &["sk-", "proj-", &alnum(74)]);
    whole("openrouter-key", &["sk-", "or-", "v1-", &hex(64)]);
    whole(
        "langfuse-key",
        &[
            "sk-",
            "lf-",
            &hex(8),
            "-",
            &hex(4),
            "-",
            &hex(4),
            "-",
            &hex(4),
            "-",
            &hex(12),
        ],
    );
    whole("sk-key", &["sk-", &alnum(48)]);
    whole("huggingface-token", &["hf", "_", &alnum(34)]);
    whole("groq-key", &["gsk", "_", &alnum(52)]);
    whole("xai-key", &["xai", "-", &alnum(80)]);
    whole("perplexity-key", &["pplx", "-", &alnum(48)]);
    whole("replicate-token", &["r8", "_", &alnum(37)]);
    whole("nvidia-key", &["nvapi", "-", &alnum(64)]);
    whole("langsmith-key", &["lsv2", "_pt_", &hex(32), "_", &hex(10)]);
    whole("e2b-key", &["e2b", "_", &hex(40)]);
    whole("logfire-token", &["pylf", "_v1_us_", &alnum(43)]);
    whole("aws-access-key", &["AK", "IA", &upper(16)]);
    whole("google-api-key", &["AI", "za", &alnum(35)]);
    whole("google-oauth-token", &["ya", "29.", &alnum(60)]);
    whole("google-client-secret", &["GOC", "SPX-", &alnum(28)]);
    whole("google-refresh-token", &["1/", "/0", &alnum(60)]);
    whole("digitalocean-token", &["dop", "_v1_", &hex(64)]);
    whole("alibaba-access-key", &["LT", "AI", &alnum(20)]);
    whole("yandex-token", &["AQ", "VN", &alnum(36)]);
    whole("heroku-key", &["HR", "KU-", &alnum(60)]);
    whole("flyio-token", &["fo", "1_", &alnum(43)]);
    whole("vercel-token", &["vcp", "_", &alnum(56)]);
    whole("supabase-key", &["sb", "p_", &hex(40)]);
    whole("planetscale-token", &["pscale", "_tkn_", &alnum(43)]);
    whole("databricks-token", &["da", "pi", &hex(32)]);
    whole("tailscale-key", &["ts", "key-auth-", &alnum(30)]);
    whole(
        "cloudflare-origin-key",
        &["v1.", "0-", &hex(24), "-", &hex(146)],
    );
    whole("github-token", &["gh", "p_", &alnum(36)]);
    whole(
        "github-fine-grained-token",
        &["github", "_pat_", &alnum(22), "_", &alnum(59)],
    );
    whole("gitlab-token", &["gl", "pat-", &alnum(20)]);
    whole("gitlab-runner-token", &["GR", "1348941", &alnum(20)]);
    whole("bitbucket-token", &["AT", "BB", &alnum(32)]);
    whole("npm-token", &["np", "m_", &alnum(36)]);
    whole("pypi-token", &["py", "pi-AgEIcHlwaS5vcmc", &alnum(120)]);
    whole("rubygems-key", &["ruby", "gems_", &hex(48)]);
    whole("docker-token", &["dckr", "_pat_", &alnum(27)]);
    whole("artifactory-key", &["AK", "Cp", &alnum(69)]);
    whole("clojars-token", &["CLO", "JARS_", &hex(60)]);
    whole(
        "circleci-token",
        &["CCI", "PAT_", &alnum(22), "_", &hex(40)],
    );
    whole("pulumi-token", &["pu", "l-", &hex(40)]);
    whole("terraform-token", &[".atlas", "v1.", &alnum(67)]);
    whole("vault-token", &["hv", "s.", &alnum(95)]);
    whole("doppler-token", &["dp.", "pt.", &alnum(43)]);
    whole("octopus-key", &["AP", "I-", &upper(26)]);
    whole("age-key", &["AGE-SEC", "RET-KEY-1", &upper(58)]);
    whole("onepassword-token", &["op", "s_eyJ", &alnum(250)]);
    whole(
        "slack-token",
        &["xo", "xb-", &random("0123456789", 12), "-", &alnum(24)],
    );
    whole("twilio-key", &["S", "K", &hex(32)]);
    whole("sendgrid-key", &["S", "G.", &alnum(22), ".", &alnum(43)]);
    whole(
        "sendinblue-key",
        &["xkey", "sib-", &hex(64), "-", &alnum(16)],
    );
    whole("mailgun-key", &["ke", "y-", &hex(32)]);
    whole("stripe-key", &["sk", "_live_", &alnum(24)]);
    whole("stripe-webhook-secret", &["wh", "sec_", &alnum(32)]);
    whole("square-token", &["sq0", "atp-", &alnum(22)]);
    whole("shopify-token", &["sh", "pat_", &hex(32)]);
    whole("easypost-key", &["EZ", "AK", &alnum(54)]);
    whole("shippo-token", &["ship", "po_live_", &hex(40)]);
    whole("duffel-token", &["duf", "fel_test_", &alnum(43)]);
    whole(
        "plaid-token",
        &[
            "access-",
            "sandbox-",
            &hex(8),
            "-",
            &hex(4),
            "-",
            &hex(4),
            "-",
            &hex(4),
            "-",
            &hex(12),
        ],
    );
    whole("linear-key", &["lin", "_api_", &alnum(40)]);
    whole(
        "notion-token",
        &["nt", "n_", &random("0123456789", 11), &alnum(35)],
    );
    whole("figma-token", &["fi", "gd_", &alnum(40)]);
    whole("postman-key", &["PM", "AK-", &hex(24), "-", &hex(34)]);
    whole("prefect-key", &["pn", "u_", &alnum(36)]);
    whole(
        "readme-key",
        &[
            "rd",
            "me_",
            &random("0123456789abcdefghijklmnopqrstuvwxyz", 70),
        ],
    );
    whole("typeform-token", &["tf", "p_", &alnum(59)]);
    whole(
        "hubspot-token",
        &[
            "pat-",
            "na1-",
            &hex(8),
            "-",
            &hex(4),
            "-",
            &hex(4),
            "-",
            &hex(4),
            "-",
            &hex(12),
        ],
    );
    whole("contentful-token", &["CF", "PAT-", &alnum(43)]);
    whole("facebook-token", &["EA", "AC", &alnum(120)]);
    whole("grafana-token", &["gl", "sa_", &alnum(32), "_", &hex(8)]);
    whole(
        "honeycomb-key",
        &[
            "hca",
            "ik_",
            &random("0123456789abcdefghijklmnopqrstuvwxyz", 58),
        ],
    );
    whole("sentry-token", &["sntr", "yu_", &hex(64)]);
    whole("new-relic-key", &["NR", "AK-", &upper(27)]);
    whole(
        "dynatrace-token",
        &["dt0", "c01.", &upper(24), ".", &upper(64)],
    );
    whole(
        "private-key",
        &[
            "-----BEGIN RSA PRI",
            "VATE KEY-----\n",
            &alnum(64),
            "\n",
            &alnum(64),
            "\n",
        ],
    );
    whole(
        "putty-key",
        &["Private-", "Lines: 14\n", &alnum(64), "\n", &alnum(64)],
    );
    whole(
        "json-web-token",
        &[
            "ey",
            "J",
            &alnum(30),
            ".ey",
            "J",
            &alnum(60),
            ".",
            &alnum(43),
        ],
    );
    let mut part = |id, before: &str, secret: String, after: &str| {
        all.push((id, format!("{before}{secret}{after}"), secret));
    };
    part("aws-secret-key", "aws_secret_access_key = ", alnum(40), "");
    part(
        "aws-signature",
        "https://b.s3.amazonaws.com/o?X-Amz-Signature=",
        hex(64),
        "&x",
    );
    part(
        "azure-client-secret",
        &alnum(3),
        ["8", "Q~", &alnum(34)].concat(),
        "",
    );
    part(
        "azure-storage-key",
        "AccountName=a;AccountKey=",
        alnum(86),
        "==;",
    );
    part(
        "azure-sas-signature",
        "?sv=2024&sig=",
        format!("{}%3D", alnum(43)),
        "&se=1",
    );
    part(
        "slack-webhook",
        "https://hooks.slack.com/services/",
        format!("T{}/B{}/{}", upper(8), upper(8), alnum(24)),
        "",
    );
    part(
        "discord-webhook",
        "https://discord.com/api/webhooks/123456789012345678/",
        alnum(68),
        "",
    );
    part(
        "teams-webhook",
        "https://x.webhook.office.com/webhookb2/a@b/IncomingWebhook/",
        hex(32),
        "/a",
    );
    part(
        "telegram-token",
        "bot123456789:",
        ["A", "A", &alnum(33)].concat(),
        "/getMe",
    );
    part(
        "url-password",
        "postgres://admin:",
        format!("p{}", hex(12)),
        "@db:5432/x",
    );
    part("url-token", "https://", alnum(40), "@github.com/o/r.git");
    part("authorization", "Authorization: Basic ", alnum(32), "");
    part("bearer-token", "with -H 'X: Bearer ", alnum(32), "'");
    part(
        "assigned-secret",
        "DB_PASSWORD=",
        "hunter2hunter2".into(),
        "\n",
    );
    part(
        "argument-secret",
        "mysql --password ",
        format!("x{}", hex(12)),
        " -e",
    );
    all
}

fn clean(text: &str) -> (String, Vec<String>) {
    let scanner = Scanner::new([], Vec::new());
    let clean = scanner.clean(text, Ends::Whole).0.into_owned();
    let names = clean.split("<redacted:").skip(1);
    let names: BTreeSet<&str> = names
        .filter_map(|rest| Some(rest.split_once('>')?.0))
        .collect();
    let names = names.into_iter().map(str::to_owned).collect();
    (clean, names)
}

#[test]
fn every_line_of_the_table_is_a_rule_that_compiles() {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    for line in lines.clone() {
        let rule = rule(line).unwrap_or_else(|| panic!("no rule: {line}"));
        assert!(rule.compile().is_some(), "{line}");
        for keyword in rule.keywords.split(',') {
            assert!(keyword.len() >= super::super::needles::SHORTEST, "{line}");
            assert_eq!(keyword, keyword.to_ascii_lowercase(), "{line}");
        }
        rule.enlist(&mut Needles::new(), 0);
    }
    let ids: BTreeSet<&str> = all().iter().map(|rule| rule.id).collect();
    assert_eq!(ids.len(), lines.count(), "ids are unique");
}

#[test]
fn every_rule_takes_its_credential_out_of_any_text() {
    let positives = positives();
    let tested: BTreeSet<&str> = positives.iter().map(|(id, ..)| *id).collect();
    let known: BTreeSet<&str> = all().iter().map(|rule| rule.id).collect();
    assert_eq!(tested, known);
    for (id, text, secret) in positives {
        for (before, after) in [
            ("", ""),
            ("see ", " there"),
            ("\"", "\""),
            ("x\n", "\ny"),
            (r"\n", r"\n"),
            ("é=", ","),
        ] {
            let whole = format!("{before}{text}{after}");
            let (clean, found) = clean(&whole);
            let core = &secret[4..secret.len().min(60)];
            assert!(!clean.contains(core), "{id}: {whole} -> {clean}");
            assert!(clean.contains("<redacted:"), "{id}: {clean}");
            assert!(
                found.iter().any(|found| found == id) || !before.is_empty(),
                "{id}: {found:?}"
            );
            assert!(
                clean.starts_with(before) && clean.ends_with(after)
                    || id == "private-key"
                    || id == "putty-key",
                "{id}: {clean}"
            );
        }
    }
}

#[test]
fn what_only_looks_like_a_credential_stays() {
    for text in [
        // Names, and mentions of formats.
        "Set ANTHROPIC_API_KEY to your key; it begins with sk-ant-.",
        "export GITHUB_TOKEN=$GITHUB_TOKEN and password=${PASSWORD}",
        "token: <your-token-here>, secret: {{ secrets.DEPLOY_KEY_2024 }}",
        "const token = response2.headers.access_token;",
        "password = os.environ[\"PASSWORD\"]",
        "client = Client(api_key=settings.anthropic_api_key)",
        "api_key=get_api_key_from_vault2(name)",
        "token = h4x0rFunct10nN4m3V2(arg)",
        "secret_name: projects/acme/secrets/database-password-2",
        "password: required, at least 8 characters",
        "the token is invalid; max_tokens: 128000, output_tokens=1234567890123456",
        "--password /run/secrets/db_password1",
        "Authorization: Bearer authentication",
        "basic authentication, bearer authentication",
        "-----BEGIN CERTIFICATE-----\nMIIB0zCCAX2gAwIBAgIJ\n-----END CERTIFICATE-----",
        "-----BEGIN PRIVATE KEY-----",
        // Paths, ids, hashes, addresses.
        "/home/user/project/src/token_store2/secret_keys.rs:128:9",
        "PWD=/home/user/my-project-2024/build",
        "0b5d7e1c-4f7a-4b39-9d0e-1f2a3b4c5d6e",
        "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "toolu_01A09q90qw90lq917835lq9 msg_01XFDUDYJgAACzvnptvVoYEL req_011CSHoEeqs5C35K2UUqR7Fy",
        "claude-opus-4-5-20251101 claude-opus-5-5[1m]",
        "https://user@example.com/path https://example.com:8080/a@b http://localhost:4318/v1/traces",
        "git@github.com:acme/repository.git ssh://git@example.com:22/x",
        "skip-this-task-list risk-assessment-2024-01-02-final desk-lamp",
        "https://docs.example.com/api-docs/API-reference",
        "2026-11-20T08:53:46.584Z GET /api/webhooks/list 200",
        "\"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==\"",
        "ASIAPACIFIC and AKIARESEARCH",
        "eyJust a word. eyJ.x",
    ] {
        let (clean, found) = clean(text);
        assert_eq!(clean, text, "{found:?}");
    }
}

#[test]
fn a_clipped_credential_is_still_one() {
    for (id, secret, _) in positives() {
        let lenient = [
            "anthropic-key",
            "openai-key",
            "github-token",
            "slack-token",
            "json-web-token",
            "gitlab-token",
        ];
        if lenient.contains(&id) {
            let cut = format!("it said {}…", &secret[..secret.len() * 7 / 10 + 4]);
            assert!(clean(&cut).0.contains("<redacted:"), "{id}: {cut}");
        }
    }
}

#[test]
fn names_and_code_are_no_secrets_but_passwords_and_keys_are() {
    for (is_password, value, expected) in [
        (true, "hunter2hunter2", true),
        (true, "Tr0ub4dor&3", true),
        (true, "correct-horse", false),
        (true, "config.password2", false),
        (true, "12345678", false),
        (true, "required", false),
        (false, "a1B2c3D4e5F6g7H8", true),
        (false, "9f86d081884c7d659a2feaa0c55ad015", true),
        (false, "9f86d081-884c-7d65-9a2f-eaa0c55ad015", true),
        (false, "hunter2hunter2", false),
        (false, "aaaaaaaaaaaaaaa1", false),
        (false, "settings.anthropic_key2", false),
        (false, "getTokenFromStore2", false),
        (false, "/var/run/secrets/token1", false),
        (false, "https://x.example/token1a2b3c4d5e6f", false),
    ] {
        assert_eq!(is_assigned_secret(is_password, value), expected, "{value}");
    }
}

#[test]
fn no_text_takes_a_time_that_grows_with_the_square_of_its_length() {
    let scanner = Scanner::new([], Vec::new());
    let mut units: Vec<String> = all()
        .iter()
        .flat_map(|rule| rule.keywords.split(','))
        .flat_map(|keyword| [keyword.to_owned(), format!("{keyword}-")])
        .collect();
    units.extend(
        [
            "eyJ",
            "eyJ-",
            "eyJ--",
            "eyJaaaaaaaaaa.",
            "sk-",
            "sk-ant-",
            "://a:",
            "password=",
        ]
        .map(str::to_owned),
    );
    for unit in units {
        let text = unit.repeat((10 << 10) / unit.len());
        let began = std::time::Instant::now();
        scanner.clean(&text, Ends::Whole);
        let took = began.elapsed();
        // A square would take many seconds; this is not optimised, and the machine may be busy.
        assert!(
            took < std::time::Duration::from_secs(10),
            "{unit}: {took:?}"
        );
    }
}
