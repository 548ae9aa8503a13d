//! One file from the Hub into the cache: resumed where it broke off, and taken only where it is whole.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::sync::ApiError;
use sha2::{Digest, Sha256};
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::typestate::WithoutBody;
use ureq::{Body, RequestBuilder};

use super::{Hub, HubName, Progress};
use crate::checkpoint::atomic;
use crate::error::{Error, IoContext, Result};
use crate::files::hex;
use crate::guard;

/// Bytes read at a time.
const CHUNK: usize = 1 << 18;
/// Longest wait for a connection, and for the first byte of an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The wait before a download is taken up again, times the number of the attempt.
const PAUSE: Duration = Duration::from_millis(300);

/// Places that a file is looked for at.
pub(super) const REDIRECTS: u32 = 8;

/// An error, and whether it only means that nobody answered.
pub(super) struct Failure {
    pub error: Error,
    pub unreachable: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, unreachable: false }
    }
}

impl Failure {
    /// What went wrong with `file` of `name` (all of it where that is empty), in words that say what to do.
    pub fn of(hub: &Hub, name: &HubName, file: &str, error: ApiError) -> Self {
        match error {
            ApiError::RequestError(error) => Self::of_request(hub, name, file, &error),
            other => Self { error: Error::file(place(name, file), format!("{}: {other}", hub.settings.endpoint)), unreachable: false },
        }
    }

    fn of_request(hub: &Hub, name: &HubName, file: &str, error: &ureq::Error) -> Self {
        let endpoint = &hub.settings.endpoint;
        let kind = if name.dataset { "data set" } else { "model" };
        let token = match hub.settings.token {
            Some(_) => "the token in use was not accepted, or has no access",
            None => "no token is in use; HF_TOKEN, or `hf auth login`, gives one",
        };
        let message = match error {
            ureq::Error::StatusCode(401) => format!(
                "{endpoint} has no such {kind}, or it is private or gated (401): {token}\n  hint: check the spelling of {:?}",
                name.repository
            ),
            ureq::Error::StatusCode(403) => {
                let page = if name.dataset { format!("datasets/{}", name.repository) } else { name.repository.clone() };
                format!("access is not granted (403): {token}\n  hint: ask for access at {endpoint}/{page}")
            }
            ureq::Error::StatusCode(404) if file.is_empty() => {
                format!("{endpoint} has no {kind} {:?} with a revision \"{}\" (404)", name.repository, name.asked())
            }
            ureq::Error::StatusCode(404) => format!("{endpoint} lists this file and does not have it (404)"),
            ureq::Error::StatusCode(code) => format!("{endpoint} answered with status {code}"),
            other => format!(
                "{endpoint} cannot be reached: {other}\n  hint: check the connection; HF_ENDPOINT names another address, \
                 HF_HUB_OFFLINE=1 uses what is in the cache {}",
                hub.settings.cache.display()
            ),
        };
        let unreachable = !matches!(error, ureq::Error::StatusCode(code) if *code < 500);
        Self { error: Error::file(place(name, file), message), unreachable }
    }
}

/// Runs a call into the client, which panics over some answers, and takes that for an error.
pub(super) fn guarded<T>(
    hub: &Hub,
    name: &HubName,
    file: &str,
    call: impl FnOnce() -> std::result::Result<T, Failure>,
) -> std::result::Result<T, Failure> {
    guard::guarded(call).unwrap_or_else(|| {
        let message = format!("{} answers with something that is no HTTP", hub.settings.endpoint);
        Err(Failure::from(Error::file(place(name, file), message)))
    })
}

/// The name of a file, or of all of it.
fn place(name: &HubName, file: &str) -> String {
    if file.is_empty() { name.to_string() } else { HubName { path: file.into(), ..name.clone() }.to_string() }
}

/// A client that follows so many redirects: it shows the token to the Hub and not to where the Hub sends it.
pub(super) fn agent(redirects: u32) -> ureq::Agent {
    ureq::Agent::config_builder()
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .max_redirects(redirects)
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .build()
        .into()
}

/// What the Hub says of a file before it is fetched. (`hf_hub` has this too, and shows the token to wherever it is sent.)
struct Metadata {
    /// What its content is named after: a SHA-256 for what is stored apart.
    etag: String,
    size: u64,
}

impl Hub {
    /// A file of a pinned name: its place in the cache, where it is put if it is not there.
    pub(super) fn fetch(&self, name: &HubName, file: &str) -> Result<PathBuf> {
        let commit = name.asked();
        let pointer = self.snapshot(name, commit).join(file);
        if pointer.exists() {
            return Ok(pointer);
        }
        if self.settings.offline {
            return Err(self.not_here(name, &format!("its file `{file}`")));
        }
        let url = self.api.repo(Self::repo(name, commit)).url(&escaped(file));
        let metadata = self.retried(|| self.metadata(name, file, &url))?;
        let etag = &metadata.etag;
        let blobs = self.folder(name).join("blobs");
        atomic::create_folders(&blobs)?;
        let blob = blobs.join(etag);
        // The same content may have come with another commit.
        if !fs::metadata(&blob).is_ok_and(|found| found.len() == metadata.size) {
            let lock_path = blobs.join(format!("{etag}.lock"));
            let lock = File::create(&lock_path).at(&lock_path)?;
            // Waits for another process that fetches the same.
            lock.lock().at(&lock_path)?;
            if !fs::metadata(&blob).is_ok_and(|found| found.len() == metadata.size) {
                let part = blobs.join(format!("{etag}.part"));
                self.retried(|| self.transfer(name, file, &url, &metadata, &part))?;
                fs::rename(&part, &blob).at(&blob)?;
            }
            let _ = fs::remove_file(&lock_path);
        }
        let folder = pointer.parent().unwrap_or(Path::new(""));
        atomic::create_folders(folder)?;
        link(&blob, &pointer, file, etag)?;
        Ok(pointer)
    }

    /// A request for (a part of) a file, as it is stored.
    fn request(&self, agent: &ureq::Agent, url: &str, range: Option<String>) -> RequestBuilder<WithoutBody> {
        let mut request = agent.get(url).header("User-Agent", concat!("treering/", env!("CARGO_PKG_VERSION")));
        // Bytes are counted: they must be those of the file.
        request = request.header("Accept-Encoding", "identity");
        if let Some(token) = &self.settings.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        match range {
            Some(range) => request.header("Range", range),
            None => request,
        }
    }

    fn answer(&self, name: &HubName, file: &str, request: RequestBuilder<WithoutBody>) -> std::result::Result<Response<Body>, Failure> {
        guarded(self, name, file, || request.call().map_err(|error| Failure::of_request(self, name, file, &error)))
    }

    fn metadata(&self, name: &HubName, file: &str, url: &str) -> std::result::Result<Metadata, Failure> {
        let wrong = |what: String| Failure::from(Error::file(place(name, file), format!("{} {what}", self.settings.endpoint)));
        let mut url = url.to_string();
        for _ in 0..REDIRECTS {
            let request = self.request(&self.asking, &url, Some("bytes=0-0".into()));
            let response = self.answer(name, file, request)?;
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            let (etag, location) = (header("x-linked-etag").or(header("etag")), header("location").unwrap_or_default());
            // Another place of the same Hub, where it was renamed.
            let here = location.strip_prefix(self.settings.endpoint.as_str()).unwrap_or(location);
            if response.status().is_redirection() && header("x-linked-etag").is_none() && here.starts_with('/') {
                url = format!("{}{here}", self.settings.endpoint);
                continue;
            }
            // A weak tag names the same content.
            let etag = etag.unwrap_or_default().trim_start_matches("W/").trim_matches('"');
            if etag.is_empty() || etag.len() > 128 || !etag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
                return Err(wrong(format!("names its content {etag:?}, which is no hash")));
            }
            // A server that knows no ranges gives all of it, which is not read.
            let whole = if response.status() == 200 { header("content-length") } else { None };
            let size = header("x-linked-size").or_else(|| header("content-range")?.rsplit('/').next()).or(whole);
            let Some(size) = size.and_then(|size| size.parse().ok()) else { return Err(wrong("does not say how long it is".into())) };
            return Ok(Metadata { etag: etag.into(), size });
        }
        Err(wrong(format!("sends from one place to the next, {REDIRECTS} times")))
    }

    /// Tries again, after a pause, what failed for want of an answer or a whole one.
    fn retried<T>(&self, work: impl Fn() -> std::result::Result<T, Failure>) -> Result<T> {
        let mut attempt = 0;
        loop {
            match work() {
                Ok(value) => return Ok(value),
                Err(failure) if failure.unreachable && attempt < self.settings.retries => {
                    attempt += 1;
                    std::thread::sleep(PAUSE * attempt as u32);
                }
                Err(failure) => return Err(failure.error),
            }
        }
    }

    /// Adds to `part` what is missing of the file, and checks the whole.
    fn transfer(&self, name: &HubName, file: &str, url: &str, metadata: &Metadata, part: &Path) -> std::result::Result<(), Failure> {
        let size = metadata.size;
        let mut out = File::options().create(true).append(true).open(part).at(part)?;
        let mut have = out.metadata().at(part)?.len();
        let tell = |bytes_done| match &self.settings.on_progress {
            Some(tell) => tell(Progress { file, bytes_done, bytes_total: size }),
            None => Ok(()),
        };
        if have > size {
            out.set_len(0).at(part)?;
            have = 0;
        }
        tell(have)?;
        if have < size {
            let request = self.request(&self.agent, url, (have > 0).then(|| format!("bytes={have}-")));
            let response = self.answer(name, file, request)?;
            if have > 0 && response.status() != 206 {
                // The whole file comes, not its rest.
                out.set_len(0).at(part)?;
                have = 0;
            }
            let (mut body, mut buffer) = (response.into_body().into_reader(), vec![0; CHUNK]);
            loop {
                let count = match guarded(self, name, file, || Ok(body.read(&mut buffer)))? {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) => {
                        let message = format!(
                            "the connection broke after {have} of {size} bytes: {error}\n  hint: run this again; it goes on from there"
                        );
                        return Err(Failure { error: Error::file(place(name, file), message), unreachable: true });
                    }
                };
                have += count as u64;
                if have > size {
                    break;
                }
                out.write_all(&buffer[..count]).at(part)?;
                tell(have)?;
            }
        }
        let refused = |message: String, unreachable| Failure { error: Error::file(place(name, file), message), unreachable };
        if have < size {
            return Err(refused(
                format!("{have} of {size} bytes came, then the connection ended\n  hint: run this again; it goes on from there"),
                true,
            ));
        }
        out.sync_all().at(part)?;
        let wrong = if have > size {
            Some(format!("more than the {size} bytes came that {} had announced", self.settings.endpoint))
        } else {
            damage(part, &metadata.etag)?
        };
        match wrong {
            None => Ok(()),
            Some(message) => {
                fs::remove_file(part).at(part)?;
                Err(refused(
                    format!(
                        "{message}; it was thrown away\n  hint: run this again; if it stays so, the Hub, or what is between, gives wrong bytes"
                    ),
                    true,
                ))
            }
        }
    }
}

/// What shows that the content is not the one it is named after, where it is named after its SHA-256.
fn damage(part: &Path, etag: &str) -> Result<Option<String>> {
    if etag.len() != 64 || !etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; CHUNK]);
    let mut file = File::open(part).at(part)?;
    loop {
        match file.read(&mut buffer).at(part)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    let found = hex(hash.finalize());
    Ok((!found.eq_ignore_ascii_case(etag)).then(|| format!("what came has the SHA-256 {found}, and {etag} was expected")))
}

/// Makes `pointer`, which is `file` of a snapshot, lead to a blob.
fn link(blob: &Path, pointer: &Path, file: &str, etag: &str) -> Result<()> {
    // A pointer that led to nothing, if one was left.
    let _ = fs::remove_file(pointer);
    #[cfg(unix)]
    {
        // Up from the file's folder, over snapshots/COMMIT.
        let up = "../".repeat(Path::new(file).components().count() + 1);
        let made = std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), pointer);
        if pointer.exists() {
            return Ok(());
        }
        made.at(pointer)?;
        Err(Error::file(pointer, format_args!("does not lead to {}", blob.display())))
    }
    #[cfg(not(unix))]
    {
        let _ = (file, etag);
        fs::copy(blob, pointer).at(pointer).map(drop)
    }
}

/// A file's name as a part of an address.
fn escaped(file: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'/');
    file.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
