//! Code packages in an object store: how long it takes until one runs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::Effort;
use crate::figures::Figures;
use crate::load;
use crate::platform::{Folders, Platform, python};
use crate::warm::EVENT;

/// Writes a package of 1,000 files and 20 MB: sources as people write them, so that they compress as
/// such do, a tenth of them Python.
const MAKE: &str = "
import random, sys, zipfile
words = ['def', 'return', 'self', 'value', 'for', 'in', 'if', 'not', 'None', '0', '1', '(', ')', '\\n    ']
more = random.Random(1)
words += [''.join(more.choice('abcdefghijklmnopqrstuvwxyz_') for _ in range(9)) for _ in range(3000)]
with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as package:
    package.writestr('handler.py', 'def handler(event, context):\\n    return event\\n')
    for number in range(999):
        text = '# '
        while len(text) < 20020:
            text += ' '.join(more.choice(words) for _ in range(200)).replace('\\n', '\\n# ') + ' '
        name = 'lib%d/module%d.%s' % (number % 40, number, 'py' if number % 10 == 0 else 'txt')
        package.writestr(name, text[:20020])
";

/// From the registration of a function whose package is in a store until its first answer, for
/// functions with packages that were never seen.
pub(crate) fn packages(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    let file = folders.data.with_file_name("package.zip");
    let made = Command::new(&python().program)
        .args(["-c", MAKE])
        .arg(&file)
        .status()?;
    ensure!(made.success(), "the package cannot be made: {made}");
    let package: Arc<[u8]> = std::fs::read(&file)?.into();
    let sha512 = sha512(&file)?;
    let store = store(&package)?;
    let endpoint = format!("packages.s3_endpoint=http://{store}");
    let platform = Platform::start_with(binary, &folders.data, &folders.code, &[&endpoint])?;
    // The first call also starts the warm interpreter.
    let folder = folders.function("first")?;
    let first = platform.register("0@bench@first", &folder)?;
    load::once(
        platform.gateway,
        &load::request(platform.gateway, &first, Some(EVENT)),
    )?;

    let mut rounds = Vec::new();
    for number in 0..effort.cold_starts.min(20) {
        let place = json!({
            "storageType": "s3",
            "codePath": "",
            "s3CodePath": {
                "bucketId": "bench", "objectId": format!("package-{number}.zip"), "bucketUrl": "",
                "sha512": sha512,
            },
        });
        let begin = Instant::now();
        let path = platform.register_with(&format!("0@bench@s3-{number}"), &folder, &place)?;
        let request = load::request(platform.gateway, &path, Some(EVENT));
        let (status, body) = load::once(platform.gateway, &request)?;
        rounds.push(begin.elapsed().as_secs_f64() * 1000.0);
        ensure!(status == 200, "{status}: {body}");
    }
    figures.add(
        "s3_package_first_answer_ms",
        "ms",
        "package of 1,000 files, 20 MB: from registration with S3 to the first answer",
        rounds,
    );
    Ok(())
}

fn sha512(file: &Path) -> anyhow::Result<String> {
    let output = Command::new("sha512sum").arg(file).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .split_whitespace()
        .next()
        .context("no digest")?
        .to_owned())
}

/// A store that has this package under every name, and is faster than any that does more.
fn store(package: &Arc<[u8]>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let package = Arc::clone(package);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let package = Arc::clone(&package);
            // It ends with its connection; what the platform makes of that is measured.
            std::thread::spawn(move || serve(&stream, &package));
        }
    });
    Ok(address)
}

fn serve(mut stream: &TcpStream, package: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if requests.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line != "\r\n" {
            continue;
        }
        let length = package.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\netag: \"1\"\r\n\
             last-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(package)?;
    }
}
