//! A large image on its way to the disk, beside the tools that people use for it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use sha2::{Digest as _, Sha256};
use tar::{Builder, Header};
use tempfile::TempDir;

use crate::Effort;
use crate::figures::Figures;
use crate::platform::{Folders, Platform, pause};

/// The layers of the image in MiB, unpacked: a distribution, its packages, an interpreter with its
/// libraries, an application. Together 1 GB.
const LAYERS: [f64; 5] = [80.0, 300.0, 400.0, 150.0, 24.0];

/// What a file of it has on average, in bytes. Images of this size have some ten thousand files.
const FILE: usize = 30_000;

/// What the image is called in its registry.
const NAME: &str = "bench/large:1";

/// `image_pull_ratio` and `image_pull_peak_mb`.
pub(crate) fn pull(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    for (program, package) in [
        ("docker-registry", "docker-registry"),
        ("skopeo", "skopeo"),
        ("umoci", "umoci"),
    ] {
        let found = Command::new(program).arg("--version").output();
        ensure!(found.is_ok(), "{program} is missing; install {package}");
    }
    let registry = Registry::start()?;
    let layers = LAYERS.map(|mib| bytes(mib * effort.image_share));
    registry.fill(&layers)?;
    let (mut ratios, mut seconds, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.image_pulls {
        let (ours, peak) = registry.pulled_by_bugle(binary)?;
        let theirs = registry.pulled_by_others()?;
        ratios.push(ours / theirs);
        seconds.push(ours);
        peaks.push(peak);
    }
    let size = layers.iter().sum::<usize>() >> 20;
    let what = format!("pull and unpack an image of {size} MiB ÷ `skopeo copy` and `umoci unpack`");
    figures.add("image_pull_ratio", "", what, ratios);
    figures.add("image_pull_s", "s", "the same, alone", seconds);
    let what = "peak memory of the platform from its start to the end of the pull";
    figures.add("image_pull_peak_mb", "MB", what, peaks);
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of layers"
)]
fn bytes(mib: f64) -> usize {
    (mib * 1_048_576.0) as usize
}

/// A registry on loopback; killed when dropped.
struct Registry {
    folder: TempDir,
    process: Child,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let config = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n",
            path("data").display()
        );
        fs::write(path("config.yml"), config)?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(path("log"))?)
            .spawn()?;
        let mut registry = Self {
            folder,
            process,
            address: String::new(),
        };
        let begin = Instant::now();
        while registry.address.is_empty() {
            ensure!(
                begin.elapsed().as_secs() < 30,
                "the registry does not start"
            );
            pause();
            let log = fs::read_to_string(registry.folder.path().join("log"))?;
            if let Some((_, rest)) = log.split_once("listening on ") {
                let address = rest.split(['"', ' ', '\n']).next();
                address
                    .unwrap_or_default()
                    .clone_into(&mut registry.address);
            }
        }
        Ok(registry)
    }

    /// Makes the image and pushes it, packed as `skopeo` packs.
    fn fill(&self, layers: &[usize]) -> anyhow::Result<()> {
        let archive = self.folder.path().join("image.tar");
        write_archive(&archive, layers)?;
        let from = format!("docker-archive:{}", archive.display());
        let to = format!("docker://{}/{NAME}", self.address);
        run(Command::new("skopeo").args([
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            &from,
            &to,
        ]))?;
        Ok(fs::remove_file(archive)?)
    }

    /// Seconds of `bugle image pull`, and the peak of the platform's memory in MB.
    fn pulled_by_bugle(&self, binary: &Path) -> anyhow::Result<(f64, f64)> {
        let folders = Folders::new()?;
        let rule = format!("addresses.allowed=http://{}", self.address);
        let platform = Platform::start_with(binary, &folders.data, &folders.code, &[&rule])?;
        settle();
        let begin = Instant::now();
        run(Command::new(binary)
            .args(["image", "pull", &format!("{}/{NAME}", self.address)])
            .env("BUGLE_SERVER", format!("http://{}", platform.control)))?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok((seconds, peak_mb(platform.pid())?))
    }

    /// Seconds of `skopeo copy` and `umoci unpack`.
    fn pulled_by_others(&self) -> anyhow::Result<f64> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        settle();
        let begin = Instant::now();
        let from = format!("docker://{}/{NAME}", self.address);
        let to = format!("oci:{}:1", path("layout"));
        run(Command::new("skopeo").args([
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            &from,
            &to,
        ]))?;
        let image = format!("{}:1", path("layout"));
        run(Command::new("umoci").args(["unpack", "--image", &image, &path("bundle")]))?;
        Ok(begin.elapsed().as_secs_f64())
    }
}

/// What the side before has left to be written does not burden the next one.
fn settle() {
    // Without the program the kernel takes its own time, which is fair as well.
    let _ = Command::new("sync").status();
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn peak_mb(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    Ok(kib.context("VmHWM")? * 1024.0 / 1e6)
}

/// Writes the image as `docker save` does.
fn write_archive(path: &Path, sizes: &[usize]) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(path.parent().context("a folder")?)?;
    let mut source = Source::new();
    let mut layers = Vec::new();
    for (number, &bytes) in sizes.iter().enumerate() {
        let layer = folder.path().join(number.to_string());
        layers.push((write_layer(&layer, number, bytes, &mut source)?, layer));
    }
    let ids: Vec<_> = layers.iter().map(|(id, _)| id.as_str()).collect();
    let config = serde_json::json!({
        "architecture": architecture(), "os": "linux", "config": {"Cmd": ["/app"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    let names: Vec<_> = (0..layers.len())
        .map(|number| format!("{number}/layer.tar"))
        .collect();
    let manifest =
        serde_json::json!([{"Config": "c.json", "RepoTags": ["bench:1"], "Layers": names}]);
    let mut archive = Builder::new(BufWriter::new(File::create(path)?));
    for (name, text) in [
        ("c.json", config.to_string()),
        ("manifest.json", manifest.to_string()),
    ] {
        let mut header = Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, text.as_bytes())?;
    }
    for (name, (_, layer)) in names.iter().zip(&layers) {
        archive.append_path_with_name(layer, name)?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

/// What images call this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes one layer of so many bytes, and returns its digest.
fn write_layer(
    path: &PathBuf,
    number: usize,
    bytes: usize,
    source: &mut Source,
) -> anyhow::Result<String> {
    let output = Hashed {
        output: BufWriter::new(File::create(path)?),
        hasher: Sha256::new(),
    };
    let mut builder = Builder::new(output);
    let (mut written, mut file) = (0, 0);
    while written < bytes {
        let data = source.file();
        let folder = format!("usr/lib/layer{number}/{}", file / 50);
        let mut header = Header::new_gnu();
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        if file % 50 == 0 {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            builder.append_data(&mut header, format!("{folder}/"), io::empty())?;
            header.set_entry_type(tar::EntryType::Regular);
        }
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, format!("{folder}/{file}"), data.as_slice())?;
        written += data.len();
        file += 1;
    }
    let mut output = builder.into_inner()?;
    output.flush()?;
    let sum = output.hasher.finalize();
    let mut digest = "sha256:".to_owned();
    for byte in sum {
        // Writing to a string cannot fail.
        let _ = write!(digest, "{byte:02x}");
    }
    Ok(digest)
}

/// Hashes what it writes.
struct Hashed<W> {
    output: W,
    hasher: Sha256,
}

impl<W: io::Write> io::Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.output.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Makes contents that pack like programs and libraries do, to some 40 %, the same in every run.
struct Source {
    state: u64,
    words: Vec<[u8; 24]>,
}

impl Source {
    fn new() -> Self {
        let mut source = Self {
            state: 0x9e37_79b9_7f4a_7c15,
            words: Vec::new(),
        };
        for _ in 0..2048 {
            let word = std::array::from_fn(|_| source.next().to_le_bytes()[0]);
            source.words.push(word);
        }
        source
    }

    /// Marsaglia's xorshift.
    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// From nothing to twice the average.
    fn file(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.next() % (2 * FILE as u64)).unwrap_or(FILE);
        let mut data = Vec::with_capacity(length + 24);
        while data.len() < length {
            let random = self.next().to_le_bytes();
            if random[7] < 190 {
                let word = usize::from(u16::from_le_bytes([random[0], random[1]])) % 2048;
                data.extend_from_slice(&self.words[word]);
            } else {
                data.extend_from_slice(&random[..7]);
            }
        }
        data.truncate(length);
        data
    }
}
