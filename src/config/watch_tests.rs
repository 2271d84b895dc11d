//! Real files, changed in each of the ways that files are changed.

use super::*;
use std::fs;
use tokio::sync::mpsc::{Receiver as Told, channel};

/// How long a change may take to be told before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let name = format!("moongate-watch-{:016x}", fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Without the poll, unless a test is about it.
fn watch(path: &Path) -> (Watcher, Told<()>) {
    let (changed, told) = channel(1);
    (Watcher::polling(&[path.to_owned()], changed, Duration::from_secs(3600)).unwrap(), told)
}

async fn is_told(told: &mut Told<()>) {
    tokio::time::timeout(PATIENCE, told.recv()).await.expect("a change is told").unwrap();
}

#[tokio::test]
async fn a_write_in_place_is_told() {
    let directory = Directory::new();
    let file = directory.file("routes.yaml");
    fs::write(&file, "a").unwrap();
    let (_watcher, mut told) = watch(&file);
    for content in ["b", "c", "c"] {
        fs::write(&file, content).unwrap();
        is_told(&mut told).await;
    }
}

#[tokio::test]
async fn a_rename_over_the_file_is_told() {
    let directory = Directory::new();
    let (file, new) = (directory.file("routes.yaml"), directory.file("routes.yaml.new"));
    fs::write(&file, "a").unwrap();
    let (_watcher, mut told) = watch(&file);
    for content in ["b", "c"] {
        fs::write(&new, content).unwrap();
        fs::rename(&new, &file).unwrap();
        is_told(&mut told).await;
    }
}

#[tokio::test]
async fn a_file_removed_and_made_anew_is_told() {
    let directory = Directory::new();
    let file = directory.file("routes.yaml");
    fs::write(&file, "a").unwrap();
    let (_watcher, mut told) = watch(&file);
    for _ in 0..2 {
        fs::remove_file(&file).unwrap();
        is_told(&mut told).await;
        fs::write(&file, "a").unwrap();
        is_told(&mut told).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_swapped_symlink_on_the_way_to_the_file_is_told() {
    use std::os::unix::fs::symlink;
    let directory = Directory::new();
    let version = |name: &str| {
        fs::create_dir(directory.file(name)).unwrap();
        fs::write(directory.file(name).join("routes.yaml"), name).unwrap();
    };
    version("..one");
    symlink("..one", directory.file("..data")).unwrap();
    let file = directory.file("routes.yaml");
    symlink("..data/routes.yaml", &file).unwrap();
    let (_watcher, mut told) = watch(&file);
    for (name, old) in [("..two", "..one"), ("..three", "..two")] {
        version(name);
        symlink(name, directory.file("..data_tmp")).unwrap();
        fs::rename(directory.file("..data_tmp"), directory.file("..data")).unwrap();
        is_told(&mut told).await;
        assert_eq!(fs::read_to_string(&file).unwrap(), name);
        fs::remove_dir_all(directory.file(old)).unwrap();
    }
    // The file at the end of the links is watched as well.
    fs::write(directory.file("..three").join("routes.yaml"), "new").unwrap();
    is_told(&mut told).await;
}

#[tokio::test]
async fn a_file_whose_directory_is_yet_to_be_made_is_told() {
    let directory = Directory::new();
    let file = directory.file("conf").join("routes.yaml");
    let (_watcher, mut told) = watch(&file);
    fs::create_dir(directory.file("conf")).unwrap();
    is_told(&mut told).await;
    fs::write(&file, "a").unwrap();
    is_told(&mut told).await;
}

#[tokio::test]
async fn a_change_without_an_event_is_found_by_looking() {
    let directory = Directory::new();
    let file = directory.file("routes.yaml");
    fs::write(&file, "a").unwrap();
    let (changed, mut told) = channel(1);
    let stop = Arc::new(AtomicBool::new(false));
    let (wake, woken) = sync_channel(1);
    let mut watch = Watch::new(vec![file.clone()], changed, Arc::clone(&stop), wake.clone());
    watch.watches = None;
    watch.follow();
    let thread = std::thread::spawn(move || watch.run(&woken, Duration::from_millis(10)));
    fs::write(&file, "longer").unwrap();
    is_told(&mut told).await;
    stop.store(true, Ordering::Release);
    let _ = wake.try_send(());
    thread.join().unwrap();
}

#[tokio::test]
async fn looking_at_a_file_is_no_change_and_neither_is_its_neighbour() {
    let directory = Directory::new();
    let (file, neighbour) = (directory.file("routes.yaml"), directory.file("moongate.log"));
    fs::write(&file, "a").unwrap();
    let (watcher, mut told) = watch(&file);
    fs::read(&file).unwrap();
    fs::write(&neighbour, "a line").unwrap();
    // Whatever those had been, it would have been told with this.
    fs::write(&file, "b").unwrap();
    is_told(&mut told).await;
    fs::read(&file).unwrap();
    fs::write(&neighbour, "another").unwrap();
    drop(watcher);
    assert_eq!(told.recv().await, None);
}

#[tokio::test]
async fn dropping_the_watcher_ends_its_thread() {
    let directory = Directory::new();
    let (watcher, mut told) = watch(&directory.file("routes.yaml"));
    drop(watcher);
    assert_eq!(told.recv().await, None);
}
