//! The Hub: its names, and what it answers.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use treering::hub::{self, HubName, Settings};

use super::{folder, folder_of, free, two_of};

/// What comes between two answers.
const BETWEEN: u8 = 0xff;
/// A commit of ours.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A name of a model or corpus on the Hub. Where the first byte is 0 or 1: a list of files that the cache has of a commit, a zero byte, and one of these
/// files; or what the Hub answers, one answer after the other.
pub fn hub(data: &[u8]) {
    match data.split_first() {
        Some((0, data)) => {
            let (listing, file) = two_of(data);
            let names = [
                format!("cache/models--o--n/.treering/{COMMIT}.json"),
                format!("cache/models--o--n/snapshots/{COMMIT}/model.safetensors.index.json"),
                format!("cache/models--o--n/snapshots/{COMMIT}/config.json"),
            ];
            free("cache");
            folder_of("", &[(&names[0], listing), (&names[1], file), (&names[2], file)]);
            ask(&format!("hf://o/n@{COMMIT}"));
        }
        // The Hub may send anywhere, and what is on the network is not to be bothered.
        Some((1, data)) if !leads_away(data) => {
            static COUNT: AtomicU64 = AtomicU64::new(0);
            *answers() = data.split(|&byte| byte == BETWEEN).map(<[u8]>::to_vec).collect();
            free("cache");
            // A process asks once what a name stands for.
            ask(&format!("hf://o/n{}", COUNT.fetch_add(1, Ordering::Relaxed)));
            answers().clear();
        }
        Some((1, _)) => {}
        _ => {
            let Ok(text) = std::str::from_utf8(data) else { return };
            let _ = HubName::of(Path::new(text));
            if let Ok(name) = text.parse::<HubName>() {
                let _ = (name.asked().len(), name.root(), name.at(COMMIT));
            }
        }
    }
}

/// Whether an address in an answer may be of another machine.
fn leads_away(data: &[u8]) -> bool {
    const HERE: &[u8] = b"127.0.0.1:";
    data.contains(&b'@') || data.windows(2).enumerate().any(|(at, two)| two == b"//" && !data[at + 2..].starts_with(HERE))
}

/// Takes a model, and then its files as if they were corpora.
fn ask(name: &str) {
    hub::configure(settings);
    if let Ok(path) = hub::local(Path::new(name)) {
        assert!(path.starts_with(folder()), "{}", path.display());
    }
    let _ = hub::configuration(Path::new(name));
    let name: HubName = name.parse().expect("a name of ours");
    if let Ok(path) = hub::local_corpus(&name, &|_| true) {
        assert!(path.starts_with(folder()), "{}", path.display());
    }
}

fn settings() -> treering::Result<Settings> {
    Ok(Settings {
        cache: folder().join("cache"),
        endpoint: endpoint().into(),
        token: Some("secret".into()),
        offline: false,
        retries: 0,
        on_progress: None,
    })
}

fn answers() -> std::sync::MutexGuard<'static, VecDeque<Vec<u8>>> {
    static ANSWERS: Mutex<VecDeque<Vec<u8>>> = Mutex::new(VecDeque::new());
    ANSWERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address of a Hub on this machine, which gives the answers in their order, and then that there is nothing.
fn endpoint() -> &'static str {
    static ENDPOINT: OnceLock<String> = OnceLock::new();
    ENDPOINT.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
        format!("http://{address}")
    })
}

/// Each connection has one question.
fn answer(mut stream: TcpStream) {
    let (mut asked, mut buffer) = (Vec::new(), [0; 4096]);
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => asked.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    let next = answers().pop_front();
    let _ = stream.write_all(next.as_deref().unwrap_or(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"));
}
