//! Case B17: JOSE libraries verify tokens as docs/protocol.md shows.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{SystemTime, UNIX_EPOCH},
};

use licet_common::signing::{Draft, Keyring, folder};
use licet_schema::token::{CertificateClaims, ContainerClaims};
use uuid::Uuid;

const PROTOCOL: &str = include_str!("../../../docs/protocol.md");

/// Reads the arguments in Python, as the samples expect.
const PYTHON: &str = "import json, sys\ntoken, jwks = sys.argv[1], json.load(open(sys.argv[2]))\n";
/// The same in JavaScript. Node.js before version 19 has no global `crypto`.
const JAVASCRIPT: &str = "
import { readFileSync } from 'node:fs';
import { webcrypto } from 'node:crypto';
globalThis.crypto ??= webcrypto;
const [token, jwks] = [process.argv[2], JSON.parse(readFileSync(process.argv[3]))];
";

/// The sample that follows this line of the document.
fn sample(title: &str) -> &'static str {
    let (_, rest) = PROTOCOL.split_once(&format!("\n{title}:\n\n```")).unwrap_or_else(|| panic!("a sample {title}"));
    let (_, code) = rest.split_once('\n').expect("the language");
    code.split_once("```").expect("its end").0
}

/// The folder with the libraries.
fn libraries() -> PathBuf {
    std::env::var_os("LICET_TEST_JOSE").expect("LICET_TEST_JOSE: run tests/run.sh").into()
}

fn python(title: &str, token: &str, jwks: &Path) -> Output {
    let program = format!("{PYTHON}{}\nprint(claims['sub'])", sample(title));
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", &program, token]).arg(jwks).env("PYTHONPATH", libraries().join("python"));
    command.output().expect("python3 runs")
}

/// Node.js looks for packages beside the program, so it is stored there under a name of its own.
fn javascript(title: &str, token: &str, jwks: &Path) -> Output {
    let program = libraries().join(format!("{}.mjs", Uuid::new_v4()));
    std::fs::write(&program, format!("{JAVASCRIPT}{}\nconsole.log(claims.sub);", sample(title))).expect("a file");
    let output = Command::new("node").arg(&program).arg(token).arg(jwks).output();
    std::fs::remove_file(&program).expect("the file exists");
    output.expect("node runs")
}

/// A certificate that is issued this many seconds from now.
fn certificate(iss: &str, in_s: i64) -> CertificateClaims {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
    let iat = i64::try_from(now).expect("a time") + in_s;
    CertificateClaims {
        iss: iss.into(),
        jti: Uuid::from_u128(1),
        sub: "alice".try_into().expect("a name"),
        content: "song".try_into().expect("a name"),
        version: 1_i64.try_into().expect("a version"),
        generation: 1,
        iat,
        exp: iat + 3600,
        container: None,
    }
}

fn signed(claims: &CertificateClaims, keyring: &Keyring) -> String {
    Draft::new(claims).expect("valid claims").sign(keyring).expect("a signature").token
}

#[test]
#[ignore = "needs libraries of other languages: run tests/run.sh"]
fn case_b17_jose_libraries_verify_a_certificate_as_the_document_shows() {
    let folder = tempfile::tempdir().expect("a folder");
    let keyring = folder::create(&folder.path().join("keys")).expect("a new key");
    let other = folder::create(&folder.path().join("other")).expect("a new key");
    let jwks = folder.path().join("jwks.json");
    std::fs::write(&jwks, serde_json::to_vec(&keyring.jwks()).expect("JSON")).expect("a file");
    let genuine = certificate("licet", 0);
    let container = ContainerClaims {
        iss: "licet".into(),
        jti: Uuid::from_u128(2),
        sub: genuine.sub.clone(),
        certificates: vec![genuine.jti, Uuid::from_u128(3)],
        iat: genuine.iat,
        exp: genuine.exp,
    };
    let container = Draft::new(&container).expect("valid claims").sign(&keyring).expect("a signature").token;
    let mut altered = signed(&genuine, &keyring);
    let payload = altered.find('.').expect("a payload") + 20;
    altered.replace_range(payload..=payload, if altered[payload..].starts_with('A') { "B" } else { "A" });
    let tokens = [
        ("a new token", signed(&genuine, &keyring), true),
        ("a token from a clock that is 30 s ahead", signed(&certificate("licet", 30), &keyring), true),
        ("an expired token", signed(&certificate("licet", -7200), &keyring), false),
        ("a token of another issuer", signed(&certificate("other", 0), &keyring), false),
        ("a token of another key", signed(&genuine, &other), false),
        ("a container", container, false),
        ("an altered token", altered, false),
    ];
    type Run = fn(&str, &str, &Path) -> Output;
    let samples: [(&str, Run); 3] =
        [("PyJWT 2 (Python)", python), ("joserfc 1 (Python)", python), ("jose 6 (JavaScript)", javascript)];
    for (title, run) in samples {
        for (description, token, is_accepted) in &tokens {
            let output = run(title, token, &jwks);
            let text = String::from_utf8_lossy(&[output.stdout.clone(), output.stderr].concat()).into_owned();
            assert_eq!(output.status.success(), *is_accepted, "{title}: {description}: {text}");
            assert_eq!(output.stdout == b"alice\n", *is_accepted, "{title}: {description}: {text}");
            let is_missing = ["ModuleNotFoundError", "ERR_MODULE_NOT_FOUND", "SyntaxError"];
            assert!(is_missing.iter().all(|error| !text.contains(error)), "{title}: {text}");
        }
    }
}
