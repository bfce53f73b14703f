//! Code packages: from object stores, good ones and bad ones, and uploaded.
#![cfg(test)]

mod bad_stores;
mod liar;
mod moto;
mod stores;
mod uploads;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bugle_testkit::{FunctionSpec, Platform, Registered, Site};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(30);

/// A function that says what it finds in its package.
const SOURCE: &str = "\
import os
from lib import part

def handler(event, context):
    try:
        open(os.path.join(os.path.dirname(__file__), 'new'), 'w')
        written = True
    except OSError:
        written = False
    return {'part': part.NAME, 'written': written, 'compiled': getattr(part, '__cached__', '')}
";

/// Makes a package of a function, `zip` or `gztar`, and returns its file.
fn package(site: &Site, form: &str, name: &str) -> PathBuf {
    let folder = site.path().join(format!("source-{name}"));
    std::fs::create_dir_all(folder.join("lib")).unwrap();
    std::fs::write(folder.join("index.py"), SOURCE).unwrap();
    std::fs::write(folder.join("lib/part.py"), format!("NAME = {name:?}\n")).unwrap();
    archive(site, &folder, form, name)
}

fn archive(site: &Site, folder: &Path, form: &str, name: &str) -> PathBuf {
    let base = site.path().join(format!("package-{name}"));
    let script =
        "import shutil, sys; print(shutil.make_archive(sys.argv[1], sys.argv[2], sys.argv[3]))";
    let output = Command::new("python3")
        .args(["-c", script])
        .args([&base, Path::new(form), folder])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// What `sha512sum` prints of a file.
fn sha512(file: &Path) -> String {
    let output = Command::new("sha512sum").arg(file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().to_owned()
}

/// A function whose code is the object of a bucket.
fn function(name: &str, s3_code_path: &Value) -> FunctionSpec {
    FunctionSpec::python(name, Path::new(""))
        .with("storageType", "s3")
        .with("s3CodePath", s3_code_path.clone())
        .with("codePath", "")
}

fn object(bucket: &str, object: &str, url: &str, sha512: &str) -> Value {
    json!({"bucketId": bucket, "objectId": object, "bucketUrl": url, "sha512": sha512})
}

async fn call(platform: &Platform, function: &Registered) -> Value {
    platform.invoke(function, "{}").await.expect(200).json()
}
