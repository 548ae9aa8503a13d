//! A small Hugging Face Hub on 127.0.0.1: repositories in memory, redirects to a second host for large files, and faults on demand.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

/// What goes wrong with a file's bytes, so many times.
#[derive(Clone, Copy)]
pub enum Fault {
    /// The connection ends after so many bytes.
    Break(usize),
    /// The bytes are others.
    Wrong,
    /// More bytes come than were announced.
    Long,
    /// The answer is 503.
    Busy,
    /// The answer leads elsewhere and breaks off before its end.
    Astray,
}

/// A request that was answered.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub headers: HashMap<String, String>,
}

#[derive(Default)]
struct State {
    /// Files by `models/OWNER/NAME` or `datasets/OWNER/NAME`, then commit.
    repositories: HashMap<String, BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
    /// Commits by repository and branch.
    branches: HashMap<(String, String), String>,
    faults: HashMap<String, (Fault, usize)>,
    token: Option<String>,
    requests: Vec<Request>,
}

pub struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // A client that goes away is no failure.
                    let _ = serve(stream, port, &state);
                });
            }
        });
        Self { port, state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Puts files into a repository as a commit, and lets `main` be that commit.
    pub fn commit(&self, repository: &str, number: u32, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> String {
        let commit = format!("{number:040x}");
        let mut state = self.state.lock().unwrap();
        state.repositories.entry(repository.into()).or_default().insert(commit.clone(), files.into_iter().collect());
        state.branches.insert((repository.into(), "main".into()), commit.clone());
        commit
    }

    /// As [`Server::commit`], of the files in a folder.
    pub fn commit_folder(&self, repository: &str, number: u32, folder: &Path) -> String {
        let files = std::fs::read_dir(folder).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_string(), std::fs::read(&path).unwrap())
        });
        self.commit(repository, number, files.collect::<Vec<_>>())
    }

    pub fn require_token(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.into());
    }

    /// Lets something go wrong with a file `times` times.
    pub fn fault(&self, file: &str, fault: Fault, times: usize) {
        self.state.lock().unwrap().faults.insert(file.into(), (fault, times));
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

fn serve(stream: TcpStream, port: u16, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_string();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
        }
    }
    let mut state = state.lock().unwrap();
    state.requests.push(Request { path: path.clone(), headers: headers.clone() });
    let allowed = state.token.as_ref().is_none_or(|token| headers.get("authorization") == Some(&format!("Bearer {token}")));
    if !allowed && !path.starts_with("/cdn/") {
        return answer(stream, "401 Unauthorized", &[], b"no");
    }
    let kinded = |path: &str| match path.strip_prefix("datasets/") {
        Some(rest) => format!("datasets/{rest}"),
        None => format!("models/{path}"),
    };
    if let Some(rest) = path.strip_prefix("/api/") {
        let Some((repository, revision)) = rest.split_once("/revision/") else { return answer(stream, "404 Not Found", &[], b"") };
        let key = (repository.to_string(), revision.replace("%2F", "/"));
        let commit = state.branches.get(&key).cloned().unwrap_or(key.1);
        let Some(files) = state.repositories.get(repository).and_then(|r| r.get(&commit)) else {
            return answer(stream, "404 Not Found", &[], b"{}");
        };
        let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let body = serde_json::json!({"id": repository, "sha": commit, "siblings": siblings}).to_string();
        return answer(stream, "200 OK", &[("Content-Type", "application/json".into())], body.as_bytes());
    }
    let rest = path.strip_prefix("/cdn").unwrap_or(&path);
    let Some((repository, rest)) = rest[1..].split_once("/resolve/") else { return answer(stream, "404 Not Found", &[], b"") };
    let (commit, file) = rest.split_once('/').unwrap_or((rest, ""));
    let found = state.repositories.get(&kinded(repository)).and_then(|r| r.get(commit)).and_then(|files| files.get(file)).cloned();
    let Some(body) = found else { return answer(stream, "404 Not Found", &[], b"") };
    // Listed, and not there.
    if body == b"LOST" {
        return answer(stream, "404 Not Found", &[], b"");
    }
    let hash: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let large = file.ends_with(".safetensors");
    let etag = if large { hash } else { hash[..40].to_string() };
    if large && !path.starts_with("/cdn/") {
        // Another host, which is not to see the token.
        let location = format!("http://localhost:{port}/cdn{path}");
        let size = body.len().to_string();
        let headers =
            [("Location", location), ("X-Repo-Commit", commit.into()), ("X-Linked-Etag", format!("\"{etag}\"")), ("X-Linked-Size", size)];
        return answer(stream, "302 Found", &headers, b"");
    }
    let range =
        headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-').map(|(a, b)| (a.to_string(), b.to_string())));
    let from: usize = range.as_ref().map_or(0, |(a, _)| a.parse().unwrap());
    let probe = range.as_ref().is_some_and(|(_, b)| b == "0");
    let to = if probe { 1.min(body.len()) } else { body.len() };
    let mut part = body[from.min(to)..to].to_vec();
    let mut cut = None;
    if !probe && let Some((fault, times)) = state.faults.get_mut(file).filter(|(_, times)| *times > 0) {
        *times -= 1;
        match *fault {
            Fault::Break(after) => cut = Some(after.min(part.len())),
            Fault::Wrong => part.iter_mut().for_each(|byte| *byte ^= 1),
            Fault::Long => part.extend_from_slice(b"more"),
            Fault::Busy => return answer(stream, "503 Service Unavailable", &[], b""),
            Fault::Astray => {
                let head = "HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
                return (&stream).write_all(head.as_bytes());
            }
        }
    }
    let content_range = format!("bytes {from}-{}/{}", to.saturating_sub(1), body.len());
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let head = [("ETag", format!("\"{etag}\"")), ("X-Repo-Commit", commit.to_string()), ("Content-Range", content_range)];
    drop(state);
    match cut {
        None => answer(stream, status, &head, &part),
        Some(after) => begin(&stream, status, &head, part.len()).and_then(|()| (&stream).write_all(&part[..after])),
    }
}

fn begin(mut stream: &TcpStream, status: &str, headers: &[(&str, String)], length: usize) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
    stream.write_all((text + "\r\n").as_bytes())
}

fn answer(stream: TcpStream, status: &str, headers: &[(&str, String)], body: &[u8]) -> std::io::Result<()> {
    begin(&stream, status, headers, body.len())?;
    (&stream).write_all(body)
}
