// Leaks ten descriptors a second in one function, as leak.c does.
use std::fs::File;
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

static LEAKING: AtomicBool = AtomicBool::new(false);
static LEAKED: AtomicUsize = AtomicUsize::new(0);

mod upload {
    use super::*;

    #[inline(never)]
    pub fn forget_file(path: &str) {
        let file = File::open(path).unwrap(); // LEAK file
        std::mem::forget(file);
        LEAKED.fetch_add(1, Ordering::SeqCst);
    }
}

#[inline(never)]
fn honest(_n: usize) {
    let file = File::open("/etc/passwd").unwrap();
    drop(file);
}

fn main() {
    std::thread::spawn(|| loop {
        std::thread::sleep(Duration::from_millis(100));
        for n in 0..20 {
            honest(n);
        }
        if LEAKING.load(Ordering::SeqCst) {
            upload::forget_file("/etc/hostname");
        }
    });
    println!("ready");
    std::io::stdout().flush().unwrap();
    for _line in std::io::stdin().lock().lines() {
        if LEAKING.swap(!LEAKING.load(Ordering::SeqCst), Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(300));
            println!("{}", LEAKED.load(Ordering::SeqCst));
            std::io::stdout().flush().unwrap();
        }
    }
}
