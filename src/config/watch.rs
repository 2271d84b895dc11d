//! Tells when the content of a file may have changed, however it was replaced.
//!
//! Files are rewritten in place, renamed over, deleted and made anew; Kubernetes swaps a symlink
//! in the file's directory. So it is directories that are watched: those of the path as written
//! and of every symlink on the way to the file. What to do about a change is left to the receiver.
//!
//! Of a directory the kernel reports the ends of writes, not for each: a log in the same directory is written to
//! all the time, and would wake us as often. What is written and never closed is found by looking.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use inotify::{Event, EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use parking_lot::Mutex;
use tokio::sync::mpsc::Sender;

/// A change is reported when nothing more has happened for so long: writers write in pieces.
const QUIET: Duration = Duration::from_millis(100);
/// A writer that never rests must not keep a change from being reported.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// The files are looked at this often in case an event was lost, or the file system has none.
const POLL: Duration = Duration::from_secs(3);
/// What may give a name in a directory another content, or the directory itself another place.
const CHANGES: WatchMask = WatchMask::ATTRIB
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::CREATE)
    .union(WatchMask::DELETE)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::ONLYDIR);
/// What befalls a directory as a whole, or all of them.
const AT_LARGE: EventMask =
    EventMask::DELETE_SELF.union(EventMask::MOVE_SELF).union(EventMask::UNMOUNT).union(EventMask::Q_OVERFLOW);
/// Room for events.
const EVENTS: usize = 4096;
/// Symlinks on the way to a file, as in the kernel.
const LINKS_MAX: usize = 40;

/// The files cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The current directory is needed to make a path absolute.
    #[error("cannot resolve {path}: {cause}")]
    Path {
        /// The path as written.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The system has no thread left.
    #[error("cannot start the thread that watches files: {0}")]
    Thread(#[from] io::Error),
}

/// Watches files on a thread of its own until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    wake: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Begins to watch; changes from now on are reported, several in short order as one. Start it
    /// before the files are read for the first time, so that no change falls between. The files
    /// need not exist.
    pub fn start(paths: &[PathBuf], changed: Sender<()>) -> Result<Self, WatchError> {
        Self::polling(paths, changed, POLL)
    }

    fn polling(paths: &[PathBuf], changed: Sender<()>, poll: Duration) -> Result<Self, WatchError> {
        let absolute =
            |path: &PathBuf| std::path::absolute(path).map_err(|cause| WatchError::Path { path: path.clone(), cause });
        let paths: Vec<PathBuf> = paths.iter().map(absolute).collect::<Result<_, _>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        // One slot: a wake that is pending stands for all that follow.
        let (wake, woken) = sync_channel(1);
        let mut watch = Watch::new(paths, changed, Arc::clone(&stop), wake.clone());
        watch.follow();
        let run = move || watch.run(&woken, poll);
        let thread = std::thread::Builder::new().name("config-watch".to_owned()).spawn(run)?;
        Ok(Self { stop, wake, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // If the slot is taken, the thread is about to wake anyway.
        let _ = self.wake.try_send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What events are compared with.
#[derive(Debug, Default)]
struct Known {
    /// Every name on the way to the files: an event at any other place means nothing.
    names: BTreeSet<PathBuf>,
    directories: HashMap<WatchDescriptor, PathBuf>,
}

struct Watch {
    paths: Vec<PathBuf>,
    changed: Sender<()>,
    stop: Arc<AtomicBool>,
    /// Set by an event that concerns a file, before the thread is woken.
    touched: Arc<AtomicBool>,
    known: Arc<Mutex<Known>>,
    watches: Option<Watches>,
    seen: Vec<Option<FileStamp>>,
}

/// What differs between two contents of a file, without reading it.
#[derive(Debug, PartialEq, Eq)]
struct FileStamp {
    canonical: PathBuf,
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Watch {
    fn new(paths: Vec<PathBuf>, changed: Sender<()>, stop: Arc<AtomicBool>, wake: SyncSender<()>) -> Self {
        let touched = Arc::new(AtomicBool::new(false));
        let known = Arc::new(Mutex::new(Known::default()));
        let ear = Ear { touched: touched.clone(), known: known.clone(), stop: stop.clone(), wake };
        let watches = ear.listen().inspect_err(|error| {
            tracing::warn!(event = "config_watch_polling", %error, "no file events, polling only");
        });
        Self { paths, changed, stop, touched, known, watches: watches.ok(), seen: Vec::new() }
    }

    fn run(mut self, woken: &Receiver<()>, poll: Duration) {
        while !self.stop.load(Ordering::Acquire) {
            let event = match woken.recv_timeout(poll) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if event {
                self.settle(woken);
            }
            let touched = self.touched.swap(false, Ordering::AcqRel);
            // Links may lead elsewhere now, and directories be there that were not.
            let differs = self.follow();
            if (touched || differs) && !self.tell() {
                return;
            }
        }
    }

    /// Waits until nothing has happened for a moment.
    fn settle(&self, woken: &Receiver<()>) {
        let start = Instant::now();
        while start.elapsed() < QUIET_MAX && !self.stop.load(Ordering::Acquire) {
            if woken.recv_timeout(QUIET).is_err() {
                return;
            }
        }
    }

    /// False if nobody listens any more. A full channel is as good: the receiver has yet to look.
    fn tell(&self) -> bool {
        use tokio::sync::mpsc::error::TrySendError;
        !matches!(self.changed.try_send(()), Err(TrySendError::Closed(())))
    }

    /// Watches the directories that matter now. True if a file differs from what was seen before.
    fn follow(&mut self) -> bool {
        let ways: Vec<Way> = self.paths.iter().map(|it| Way::to(it)).collect();
        self.known.lock().names = ways.iter().flat_map(|it| it.names.iter().cloned()).collect();
        let wanted = ways.into_iter().flat_map(|it| it.directories).collect();
        self.watch_only(&wanted);
        let stamps: Vec<Option<FileStamp>> = self.paths.iter().map(|it| FileStamp::of(it)).collect();
        let differs = stamps != self.seen;
        self.seen = stamps;
        differs
    }

    fn watch_only(&mut self, wanted: &BTreeSet<PathBuf>) {
        let Some(watches) = &mut self.watches else { return };
        let mut known = self.known.lock();
        let unwanted = |directory: &PathBuf| !directory.as_os_str().is_empty() && !wanted.contains(directory);
        let gone: Vec<_> = known.directories.extract_if(|_, directory| unwanted(directory)).collect();
        for (watch, _) in gone {
            // It may not exist any more; then nothing is watched either.
            let _ = watches.remove(watch);
        }
        // Those that are watched already are watched anew: a directory that was removed and
        // made anew has the same name, but is not watched.
        for directory in wanted {
            if let Ok(watch) = watches.add(directory, CHANGES) {
                known.directories.retain(|it, path| *it == watch || path != directory);
                known.directories.insert(watch, directory.clone());
            }
        }
    }
}

impl Drop for Watch {
    /// Each watch that goes is an event, by which the ear wakes and finds that it is over.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let Some(watches) = &mut self.watches else { return };
        for (watch, _) in self.known.lock().directories.drain() {
            let _ = watches.remove(watch);
        }
    }
}

/// Hears what happens in the directories, on a thread of its own.
struct Ear {
    touched: Arc<AtomicBool>,
    known: Arc<Mutex<Known>>,
    stop: Arc<AtomicBool>,
    wake: SyncSender<()>,
}

impl Ear {
    fn listen(self) -> io::Result<Watches> {
        let mut inotify = Inotify::init()?;
        let watches = inotify.watches();
        // Always there, so that there is always one to go when the ear has to wake.
        let root = inotify.watches().add("/", WatchMask::DELETE_SELF | WatchMask::ONLYDIR)?;
        self.known.lock().directories.insert(root, PathBuf::new());
        let hear = move || {
            let mut room = [0; EVENTS];
            while !self.stop.load(Ordering::Acquire) {
                let Ok(mut events) = inotify.read_events_blocking(&mut room) else { return };
                if events.any(|it| concerns(&it, &self.known.lock())) {
                    self.touched.store(true, Ordering::Release);
                    let _ = self.wake.try_send(());
                }
            }
        };
        std::thread::Builder::new().name("config-events".to_owned()).spawn(hear)?;
        Ok(watches)
    }
}

/// Whether an event may mean other content.
fn concerns<S: AsRef<std::ffi::OsStr>>(event: &Event<S>, known: &Known) -> bool {
    let named = || {
        let directory = known.directories.get(&event.wd)?;
        Some(known.names.contains(&directory.join(event.name.as_ref()?.as_ref())))
    };
    event.mask.intersects(AT_LARGE) || named().unwrap_or_default()
}

impl FileStamp {
    fn of(path: &Path) -> Option<Self> {
        let canonical = path.canonicalize().ok()?;
        let metadata = canonical.metadata().ok()?;
        let (modified, length) = (metadata.modified().ok(), metadata.len());
        Some(Self { canonical, modified, length, inode: inode(&metadata) })
    }
}

#[cfg(unix)]
fn inode(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> u64 {
    0
}

/// The way to a file: every name whose meaning decides what the file is, and where they stand.
#[derive(Default)]
struct Way {
    names: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
}

impl Way {
    /// Walks an absolute path as the kernel does, link by link.
    fn to(path: &Path) -> Self {
        let mut way = Self::default();
        let mut here = PathBuf::new();
        let mut ahead: VecDeque<OsString> = steps(path);
        let mut links = 0;
        while let Some(step) = ahead.pop_front() {
            if step == ".." {
                here.pop();
                continue;
            }
            let parent = here.clone();
            here.push(step);
            let metadata = here.symlink_metadata();
            let is_link = metadata.as_ref().is_ok_and(|it| it.file_type().is_symlink());
            // A missing directory may be made, or come back by another name.
            if is_link || metadata.is_err() || ahead.is_empty() {
                way.names.insert(here.clone());
                way.directories.insert(parent.clone());
            }
            if metadata.is_err() {
                break;
            }
            if let (true, Ok(target)) = (is_link, here.read_link()) {
                links += 1;
                if links > LINKS_MAX {
                    break;
                }
                here = if target.is_absolute() { PathBuf::new() } else { parent };
                let mut steps = steps(&target);
                steps.append(&mut ahead);
                ahead = steps;
            }
        }
        way
    }
}

fn steps(path: &Path) -> VecDeque<OsString> {
    let named = |it: &Component<'_>| !matches!(it, Component::CurDir);
    path.components().filter(named).map(|it| it.as_os_str().to_owned()).collect()
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
