//! Packages that are sent to the platform.

use bugle_testkit::{Answer, Site};
use bytes::Bytes;
use http::Request;

use super::*;

pub(crate) async fn upload(platform: &Platform, tenant: &str, package: &[u8]) -> Answer {
    let request = Request::post("/bugle/v1/packages")
        .header("x-tenant-id", tenant)
        .body(Bytes::copy_from_slice(package))
        .unwrap();
    platform.control.send(request).await.unwrap()
}

async fn as_tenant(platform: &Platform, tenant: &str, method: &str, path: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("x-tenant-id", tenant)
        .body(Bytes::new())
        .unwrap();
    platform.control.send(request).await.unwrap()
}

#[tokio::test]
async fn an_uploaded_package_runs_and_is_kept_while_a_version_uses_it() {
    let site = Site::new();
    let platform = site.start().await;
    let file = package(&site, "zip", "sent");
    let uploaded = upload(&platform, "default", &std::fs::read(&file).unwrap()).await;
    let uploaded = uploaded.expect(201).json();
    assert_eq!(uploaded["sha512"], sha512(&file).as_str());
    let function = platform
        .register(&function("0@test@sent", &uploaded["s3CodePath"]))
        .await;
    let answer = call(&platform, &function).await;
    assert_eq!(answer["part"], "sent");
    assert_eq!(answer["written"], false);
    let path = format!("/bugle/v1/packages/{}", sha512(&file));
    let kept = platform.control.delete(&path).await.expect(400);
    assert!(
        kept.text()
            .contains("a version of a function uses the package")
    );
    let _ = platform
        .control
        .delete(&format!("/serverless/v1/functions/{}", function.name))
        .await
        .expect(200);
    let _ = platform.control.delete(&path).await.expect(204);
    let _ = platform.control.get(&path).await.expect(404);
    platform.finish().await;
}

#[tokio::test]
async fn a_package_survives_kill_nine_as_soon_as_it_is_answered() {
    let site = Site::new();
    let platform = site.start().await;
    let file = package(&site, "gztar", "kept");
    let uploaded = upload(&platform, "default", &std::fs::read(&file).unwrap()).await;
    let uploaded = uploaded.expect(201).json();
    platform.kill().await;
    // What is unpacked can be had again.
    let cache = site.data_dir().join("cache");
    assert!(
        Command::new("rm")
            .arg("-rf")
            .arg(&cache)
            .status()
            .unwrap()
            .success()
    );
    let platform = site.start().await;
    let function = platform
        .register(&function("0@test@kept", &uploaded["s3CodePath"]))
        .await;
    assert_eq!(call(&platform, &function).await["part"], "kept");
    platform.finish().await;
}

#[tokio::test]
async fn one_tenant_never_reaches_the_package_of_another() {
    let site = Site::new();
    let platform = site.start().await;
    let file = package(&site, "zip", "mine");
    let uploaded = upload(&platform, "one", &std::fs::read(&file).unwrap()).await;
    let uploaded = uploaded.expect(201).json();
    let path = format!("/bugle/v1/packages/{}", sha512(&file));
    for method in ["GET", "HEAD", "DELETE"] {
        let answer = as_tenant(&platform, "two", method, &path).await;
        assert_eq!(answer.status, 404, "{method}");
    }
    let listed = as_tenant(&platform, "two", "GET", "/bugle/v1/packages")
        .await
        .expect(200)
        .json();
    assert_eq!(listed["packages"], json!([]));
    // The tenant of this function is another one than the package's.
    let function = platform
        .register(&function("0@test@theirs", &uploaded["s3CodePath"]))
        .await;
    let answer = platform.invoke(&function, "{}").await;
    assert!(
        answer.text().contains("no package with the sha512"),
        "{}",
        answer.text()
    );
    let found = as_tenant(&platform, "one", "HEAD", &path).await.expect(200);
    let length = std::fs::metadata(&file).unwrap().len().to_string();
    assert_eq!(found.headers["content-length"], length.as_str());
    platform.kill().await;
}

#[tokio::test]
async fn a_package_that_cannot_be_used_is_refused_with_its_code() {
    let site = Site::new();
    let options = bugle_testkit::StartOptions::default()
        .config("packages", "max_files", "2")
        .config("packages", "max_package_bytes", "20000");
    let platform = site.start_with(&options).await;
    let file = package(&site, "zip", "large");
    let many = upload(&platform, "default", &std::fs::read(&file).unwrap())
        .await
        .expect(400);
    assert_eq!(many.json()["code"], 4127);
    let long = upload(&platform, "default", &vec![0; 30_000])
        .await
        .expect(413);
    assert_eq!(long.json()["code"], 4130);
    let none = upload(&platform, "default", b"hello").await.expect(400);
    assert_eq!(none.json()["code"], 4104);
    let folder = site.path().join("evil");
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).unwrap();
    let evil = archive(&site, &folder, "gztar", "evil");
    let evil = upload(&platform, "default", &std::fs::read(evil).unwrap())
        .await
        .expect(400);
    assert_eq!(evil.json()["code"], 4128);
    let listed = platform
        .control
        .get("/bugle/v1/packages")
        .await
        .expect(200)
        .json();
    assert_eq!(listed["packages"], json!([]));
    let digest = "0".repeat(128);
    let request = Request::put(format!("/bugle/v1/packages/{digest}"))
        .body(Bytes::from_static(b"PK\x05\x06"))
        .unwrap();
    let other = platform.control.send(request).await.unwrap().expect(400);
    assert!(
        other.text().contains("is not what was registered"),
        "{}",
        other.text()
    );
    platform.finish().await;
}

#[tokio::test]
async fn whoever_sends_too_much_reads_why() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    const SENT: usize = 32 << 20;
    let site = Site::new();
    let options = bugle_testkit::StartOptions::default()
        .config("packages", "max_package_bytes", "100000")
        .config("images", "max_image_mib", "1");
    let platform = site.start_with(&options).await;
    let declared = format!("content-length: {SENT}");
    for path in [
        "/bugle/v1/packages",
        "/bugle/v1/images/archive",
        "/serverless/v1/functions",
        "/serverless/v1/podpools",
        "/v2/default/fgs/functions/echo/invocations",
    ] {
        for framing in [&*declared, "transfer-encoding: chunked"] {
            let mut stream = tokio::net::TcpStream::connect(platform.control.address)
                .await
                .unwrap();
            let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let (mut from, mut to) = stream.split();
            // A client of the simple kind: it reads when it has sent everything.
            let piece = vec![b'x'; 1 << 20];
            for _ in 0..SENT / piece.len() {
                if framing != declared {
                    to.write_all(b"100000\r\n").await.unwrap();
                }
                to.write_all(&piece).await.unwrap();
                if framing != declared {
                    to.write_all(b"\r\n").await.unwrap();
                }
            }
            let mut answer = vec![0; 4096];
            let read = from.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
            assert!(
                answer.starts_with("HTTP/1.1 413"),
                "{path} {framing}: {answer}"
            );
        }
    }
    let large = site.path().join("large.tar");
    std::fs::write(&large, vec![b'x'; SENT]).unwrap();
    let output = tokio::process::Command::new(bugle_testkit::binary())
        .args(["image", "load", "--server", &platform.control.url("")])
        .arg(&large)
        .env("HOME", site.home())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("images.max_image_mib") && said.contains("status 413"),
        "{said}"
    );
    platform.finish().await;
}

#[tokio::test]
async fn bugle_deploy_sends_what_the_platform_cannot_reach_and_sends_it_once() {
    let site = Site::new();
    let platform = site.start().await;
    let folder = site.path().join("elsewhere");
    std::fs::create_dir_all(folder.join("lib")).unwrap();
    std::fs::write(folder.join("index.py"), SOURCE).unwrap();
    std::fs::write(folder.join("lib/part.py"), "NAME = 'deployed'\n").unwrap();
    std::fs::write(
        folder.join("function.toml"),
        "name = 'sent'\nhandler = 'index.handler'\n",
    )
    .unwrap();
    std::fs::write(folder.join(".bugleignore"), "*.secret\n").unwrap();
    std::fs::write(folder.join("my.secret"), "x").unwrap();
    let deploy = |more: &'static [&'static str]| {
        let mut command = tokio::process::Command::new(bugle_testkit::binary());
        command
            .args(["deploy", "--server", &platform.control.url("")])
            .args(more)
            .arg(&folder)
            .env("HOME", site.home());
        async move { command.output().await.unwrap() }
    };
    let first = deploy(&[]).await;
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(first.status.success(), "{said}");
    assert!(
        said.contains("sent ") && said.contains("registered"),
        "{said}"
    );
    let again = deploy(&["--package"]).await;
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        again.status.success() && said.contains("package unchanged"),
        "{said}"
    );
    let status = platform
        .control
        .get("/serverless/v1/functions/0@default@sent")
        .await
        .expect(200)
        .text();
    assert!(status.contains("\"bucketId\":\"uploads\""), "{status}");
    let listed = platform
        .control
        .get("/bugle/v1/packages")
        .await
        .expect(200)
        .json();
    let sha512 = listed["packages"][0]["sha512"].as_str().unwrap().to_owned();
    let sent = platform
        .control
        .get(&format!("/bugle/v1/packages/{sha512}"))
        .await
        .expect(200);
    assert_eq!(&sent.body[..4], [0x28, 0xb5, 0x2f, 0xfd]);
    let stderr = deploy(&["--curl"]).await;
    assert!(
        String::from_utf8_lossy(&stderr.stdout).contains("curl"),
        "{stderr:?}"
    );
    platform.finish().await;
}
